"""Endorsements of service keys. `chain` is what the verifier has accepted at `now`; it looks for an
endorsement of `publicKey` for `purpose` (by `service`, where that is asked for) with its `window`."""

import json

from protocol.chain import WINDOWS, Chain, compact
from protocol.credentials import Endorsement, make_endorsement
from protocol.primitives import digest, format_time

from .cases import SKEW, agreed, key, ok, other_signature, refused, seconds
from .chain import Tree, clock, straight

SERVICE = key("service")
NOW = 13


def vectors():
    """Endorsements that hold, misshapen ones, and proofs that fail."""
    tree = straight().add("1T", "0", 4, taint=True).add("2T", "1T", 8)
    cases = [_case(tree, name, **facts) for name, facts in _valid(tree).items()]
    good = _made(tree)
    for name, text in _shapes(good).items():
        cases.append(_case(tree, name, text, code="InvalidMessage"))
    cases += [_case(tree, name, **facts) for name, facts in _refused(tree, good).items()]
    return cases


def _made(tree, by="3", purpose="response", expiration=24.0, signer=None, **more):
    event = tree.events[by]
    signer = signer or tree.key(event.number)
    service = more.pop("service", "edge:demo")
    key_ = more.pop("key_", SERVICE)
    number = more.pop("number", None)
    return make_endorsement(signer, event, purpose, key_.public, clock(expiration), service, number)


def _case(tree, name, text, code=None, events="0 1 2 3", now=NOW, window="edge",
          purpose="response", service=None, public_key=None):
    public_key = public_key or SERVICE.public
    chain = Chain(tree.events["0"].id, SKEW)
    chain.merge(tree[events], seconds(clock(now)))
    case = {
        "name": name, "endorsement": text, "prefix": chain.prefix, "now": clock(now),
        "chain": [e.text for e in tree[events]], "skewMillis": SKEW // 10**6, "window": window,
        "purpose": purpose, "publicKey": public_key,
    }
    if service:
        case["service"] = service
    case["expect"] = refused(code) if code else ok(_facts(text))

    def attempt():
        endorsement = Endorsement(text)
        endorsement.check(
            chain, purpose, public_key, service, WINDOWS[window], seconds(clock(now)))
        return _facts(text)

    return agreed(case, attempt)


def _facts(text):
    endorsement = Endorsement(text)
    return {
        "purpose": endorsement.purpose, "publicKey": endorsement.key,
        "expiration": format_time(endorsement.expiration), "service": endorsement.service,
        "number": endorsement.number,
        "identity": endorsement.identity, "generationId": endorsement.generation,
    }


def _valid(tree):
    nanos = _made(tree).replace(clock(24), clock(24)[:-1] + "123456Z")
    return {
        "by the newest generation": {"text": _made(tree)},
        "with a number": {"text": _made(tree, number=7)},
        "number 0": {"text": _made(tree, number=0)},
        "the highest number": {"text": _made(tree, number=2**53 - 1)},
        "no service": {"text": _made(tree, service=None)},
        "for access": {"text": _made(tree, purpose="access"), "purpose": "access"},
        "the service asked for": {"text": _made(tree, service="authd"), "service": "authd"},
        "nine fractional digits": {"text": _resealed(_body(nanos), tree.key(3))},
        "members that are not known": {"text": _resealed(
            _body(_made(tree)).replace('{"purpose"', '{"note":{"a":[1]},"purpose"'), tree.key(3))},
        "members in another order": {"text": _turned(tree)},
        "high s": {"text": _resealed(_body(_made(tree)), tree.key(3), True)},
        "by an older generation, in the window of edge": {
            "text": _made(tree, "0", expiration=17), "now": 16.2},
        "by an older generation, in the window of authd": {
            "text": _made(tree, "0", "access", 30), "now": 27.9, "window": "authd",
            "purpose": "access"},
        "ends in a millisecond": {"text": _made(tree, expiration=NOW + 0.001 / 3600)},
        "by the generation that tainted the one before": {
            "text": _made(tree, "1T"), "events": "0 1T 2T"},
    }


def _shapes(good):
    body, signature = _body(good), good[good.rindex('"0I') + 1: -2]
    sealed = lambda text: _resealed(text, key("chain 3"))
    return {
        "empty": "",
        "an array": f"[{good}]",
        "the body alone": body,
        "payload for body": good.replace('{"body":', '{"payload":'),
        "no signature": f'{{"body":{body}}}',
        "body twice": good[:-1] + f',"body":{body}}}',
        "signature of another form": good.replace(signature, "0A" + signature[2:]),
        "signature padded": good.replace(signature, signature + "=="),
        "something after it": good + "x",
        "no purpose": sealed(body.replace('"purpose":"response",', "")),
        "no expiration": sealed(body.replace(f',"expiration":"{clock(24)}"', "")),
        "expiration with an offset": sealed(body.replace(clock(24), clock(24)[:-1] + "+00:00")),
        "public key misspelt": sealed(body.replace('"1AAI', '"1AAJ')),
        "public key twice": sealed(
            body.replace('"expiration"', f'"publicKey":"{SERVICE.public}","expiration"')),
        "number a text": sealed(body.replace('"edge:demo"', '"edge:demo","number":"1"')),
        "number with a zero before it": sealed(body.replace('"edge:demo"', '"edge:demo","number":01')),
        "number beyond what peers read": sealed(
            body.replace('"edge:demo"', f'"edge:demo","number":{2**53}')),
        "number a fraction": sealed(body.replace('"edge:demo"', '"edge:demo","number":1.0')),
        "number negative": sealed(body.replace('"edge:demo"', '"edge:demo","number":-1')),
        "service a number": sealed(body.replace('"edge:demo"', "1")),
        "no hsm": sealed(body[: body.index(',"hsm"')] + "}"),
        "no generation": sealed(body[: body.index(',"generationId"')] + "}}"),
        "identity misspelt": sealed(body.replace('"identity":"E', '"identity":"F')),
    }


def _refused(tree, good):
    foreign = Tree("foreign").add("0")
    stranger = make_endorsement(
        foreign.key(0), foreign.events["0"], "response", SERVICE.public, clock(24))
    event = tree.events["3"]
    wrong_identity = compact({
        "payload": {"purpose": "response", "publicKey": SERVICE.public, "expiration": clock(24)},
        "hsm": {"identity": digest("another"), "generationId": event.id}})
    return {
        "of another key": {
            "text": good, "public_key": key("another service").public, "code": "WrongPurpose"},
        "for access where a response key is asked for": {
            "text": _made(tree, purpose="access"), "code": "WrongPurpose"},
        "for responses where an access key is asked for": {
            "text": good, "purpose": "access", "code": "WrongPurpose"},
        "an unknown purpose": {
            "text": _made(tree, purpose="responses"), "code": "WrongPurpose"},
        "the purpose of events": {
            "text": _made(tree, purpose="key-authorization"), "code": "WrongPurpose"},
        "the purpose in capitals": {
            "text": _made(tree, purpose="RESPONSE"), "code": "WrongPurpose"},
        "by another service than asked for": {
            "text": good, "service": "authd", "code": "WrongPurpose"},
        "no service where one is asked for": {
            "text": _made(tree, service=None), "service": "authd", "code": "WrongPurpose"},
        "a service that begins alike": {
            "text": _made(tree, service="authd2"), "service": "authd", "code": "WrongPurpose"},
        "of another HSM": {"text": stranger, "code": "DeadKey"},
        "another identity, signed by our generation": {
            "text": _resealed(wrong_identity, tree.key(3)), "code": "DeadKey"},
        "an unknown generation": {"text": good, "events": "0 1 2", "code": "DeadKey"},
        "a tainted generation": {
            "text": _made(tree, "0", expiration=14), "events": "0 1T 2T", "now": 9,
            "code": "DeadKey"},
        "the window of edge has passed": {
            "text": _made(tree, "0", expiration=30), "now": 16.3, "code": "DeadKey"},
        "the window of devices has passed": {
            "text": _made(tree, "0", expiration=30), "now": 16.1, "window": "device",
            "code": "DeadKey"},
        "the window of authd has passed": {
            "text": _made(tree, "0", "access", 40), "now": 28.1, "window": "authd",
            "purpose": "access", "code": "DeadKey"},
        "ended a millisecond ago": {
            "text": _made(tree, expiration=NOW - 0.001 / 3600), "code": "DeadKey"},
        "ends now": {"text": _made(tree, expiration=NOW), "code": "DeadKey"},
        "signed by another generation": {
            "text": _made(tree, signer=tree.key(2)), "code": "BadSignature"},
        "signed by itself": {"text": _made(tree, signer=SERVICE), "code": "BadSignature"},
        "a changed signature": {"text": other_signature(good), "code": "BadSignature"},
        "a longer life than was signed": {
            "text": good.replace(clock(24), clock(25)), "code": "BadSignature"},
        "a service put in": {
            "text": _made(tree, service=None).replace(
                f'"{clock(24)}"}}', f'"{clock(24)}","service":"authd"}}'),
            "service": "authd", "code": "BadSignature"},
        "a space put in": {
            "text": good.replace('"purpose":"', '"purpose": "'), "code": "BadSignature"},
    }


def _turned(tree):
    body = json.loads(_body(_made(tree)))
    turned = {name: dict(reversed(part.items())) for name, part in reversed(body.items())}
    text = compact(turned)
    return f'{{"signature":"{tree.key(3).sign(text)}","body":{text}}}'


def _body(text):
    return text[len('{"body":'): text.rindex(',"signature"')]


def _resealed(body, signer, high_s=None):
    return f'{{"body":{body},"signature":"{signer.sign(body, high_s)}"}}'
