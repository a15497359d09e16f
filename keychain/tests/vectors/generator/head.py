"""Heads of a chain. `chain` is what the verifier has accepted at `now`; a head that verifies says which
generations are then live for `window`, and either how many milliseconds ago nothing newer existed or
why it does not show that."""

import json

from protocol.chain import WINDOWS, Chain, compact
from protocol.primitives import digest
from protocol.refusal import Refusal
from protocol.statements import Head, make_head

from .cases import SKEW, agreed, key, ok, other_signature, refused, seconds
from .chain import Tree, clock, straight
from .endorsement import _body, _made as made_endorsement, _resealed

NOW = 13


def vectors():
    """Heads that hold, with what they do; misshapen ones; proofs that fail."""
    tree = straight().add("1T", "0", 4, taint=True).add("2T", "1T", 8)
    cases = [_case(tree, name, **facts) for name, facts in _valid(tree).items()]
    good = _made(tree)
    for name, text in _shapes(tree, good).items():
        cases.append(_case(tree, name, text, code="InvalidMessage"))
    cases += [_case(tree, name, **facts) for name, facts in _refused(tree, good).items()]
    return cases


def _made(tree, by="3", denied=(), issued=12.5, expiration=36.5, signer=None, change=None):
    event = tree.events[by]
    signer = signer or tree.key(event.number)
    ids = [tree.events[name].id if name in tree.events else name for name in denied]
    return make_head(signer, event, clock(issued), clock(expiration), ids, change)


def _case(tree, name, text, code=None, events="0 1 2 3", now=NOW, window="edge", live="0 1 2 3",
          age=1800.0, not_fresh=None):
    at = seconds(clock(now))
    case = {
        "name": name, "head": text, "prefix": tree.events["0"].id, "now": clock(now),
        "chain": [e.text for e in tree[events]], "skewMillis": SKEW // 10**6, "window": window,
    }
    fresh = refused(not_fresh) if not_fresh else {"ageMillis": round(age * 1000)}
    outcome = {"live": [e.id for e in tree[live]], "fresh": fresh}
    case["expect"] = refused(code) if code else ok(outcome)

    def attempt():
        chain = Chain(tree.events["0"].id, SKEW)
        chain.merge(tree[events], at)
        head = Head(text)
        head.check(chain, WINDOWS[window], at)
        chain.deny(head)
        try:
            shown = {"ageMillis": head.age(chain, at) // 10**6}
        except Refusal as refusal:
            shown = {"code": refusal.code}
        return {"live": chain.live(WINDOWS[window], at), "fresh": shown}

    return agreed(case, attempt)


def _valid(tree):
    note = lambda members: {"note": {"a": [1]}, **members}
    many = [digest(str(number)) for number in range(64)]
    return {
        "by the newest generation": {"text": _made(tree)},
        "made now": {"text": _made(tree, issued=NOW), "age": 0},
        "ahead by less than the skew": {"text": _made(tree, issued=NOW + 5 / 3600), "age": 0},
        "ahead by more than the skew": {
            "text": _made(tree, issued=NOW + 5.001 / 3600), "not_fresh": "FutureRequest"},
        "ends in a millisecond": {"text": _made(tree, expiration=NOW + 0.001 / 3600)},
        "ends now": {"text": _made(tree, expiration=NOW), "not_fresh": "DeadKey"},
        "by an older generation that is live": {
            "text": _made(tree, "2", issued=11.9), "not_fresh": "DeadKey"},
        "by what is the newest known": {
            "text": _made(tree, "2", issued=11.9), "events": "0 1 2", "live": "0 1 2",
            "age": 1.1 * 3600},
        "one denied": {"text": _made(tree, denied=["1"]), "live": "0 2 3"},
        "all older ones denied": {"text": _made(tree, denied=["0", "1", "2"]), "live": "3"},
        "denied in another order": {"text": _made(tree, denied=["2", "0"]), "live": "1 3"},
        "denied and expired": {
            "text": _made(tree, denied=["1"], expiration=NOW), "live": "0 2 3",
            "not_fresh": "DeadKey"},
        "denied and from the future": {
            "text": _made(tree, denied=["1"], issued=NOW + 1), "live": "0 2 3",
            "not_fresh": "FutureRequest"},
        "denied by an older generation": {
            "text": _made(tree, "2", ["1"], 11.9), "live": "0 2 3", "not_fresh": "DeadKey"},
        "a later generation denied": {
            "text": _made(tree, "1", ["2", "3"], 7), "not_fresh": "DeadKey"},
        "an unknown generation denied": {"text": _made(tree, denied=[digest("unknown")])},
        "as many denied as can be": {"text": _made(tree, denied=many)},
        "an older one denied whose window has passed": {
            "text": _made(tree, denied=["0"]), "now": 16.3, "live": "1 2 3", "age": 3.8 * 3600},
        "members that are not known": {"text": _made(tree, change=note)},
        "members in another order": {"text": _turned(tree)},
        "nine fractional digits": {"text": _resealed(
            _body(_made(tree)).replace(clock(12.5), clock(12.5)[:-1] + "000000Z"), tree.key(3))},
        "high s": {"text": _resealed(_body(_made(tree)), tree.key(3), True)},
    }


def _shapes(tree, good):
    body, signature = _body(good), good[good.rindex('"0I') + 1: -2]
    sealed = lambda text: _resealed(text, tree.key(3))
    denied = '"denied":[]'
    zero = f'"{tree.events["0"].id}"'
    return {
        "empty": "",
        "an array": f"[{good}]",
        "the body alone": body,
        "no signature": f'{{"body":{body}}}',
        "body twice": good[:-1] + f',"body":{body}}}',
        "signature padded": good.replace(signature, signature + "=="),
        "something after it": good + "x",
        "no purpose": sealed(body.replace('"purpose":"chain-head",', "")),
        "no event": sealed(body.replace(f'"eventId":"{tree.events["3"].id}",', "")),
        "no sequence number": sealed(body.replace('"sequenceNumber":3,', "")),
        "no time of issue": sealed(body.replace(f'"issuedAt":"{clock(12.5)}",', "")),
        "no expiration": sealed(body.replace(f'"expiration":"{clock(36.5)}",', "")),
        "no list of the denied": sealed(body.replace("," + denied, "")),
        "the denied no list": sealed(body.replace(denied, '"denied":{}')),
        "the denied null": sealed(body.replace(denied, '"denied":null')),
        "a number denied": sealed(body.replace(denied, '"denied":[1]')),
        "a digest misspelt": sealed(body.replace(denied, '"denied":["F' + zero[2:] + "]")),
        "a denied one with an escape": sealed(body.replace(denied, '"denied":["\\u0045' + zero[2:] + "]")),
        "one denied twice": sealed(body.replace(denied, f'"denied":[{zero},{zero}]')),
        "its own generation denied": _made(tree, denied=["0", "3"]),
        "the sequence number a text": sealed(body.replace('Number":3', 'Number":"3"')),
        "the sequence number with a zero before it": sealed(body.replace('Number":3', 'Number":03')),
        "the sequence number a fraction": sealed(body.replace('Number":3', 'Number":3.0')),
        "ends when it begins": _made(tree, expiration=12.5),
        "ends before it begins": _made(tree, expiration=12),
        "no hsm": sealed(body[: body.index(',"hsm"')] + "}"),
        "no generation": sealed(body[: body.index(',"generationId"')] + "}}"),
    }


def _refused(tree, good):
    foreign = Tree("foreign").add("0")
    stranger = make_head(foreign.key(0), foreign.events["0"], clock(12.5), clock(36.5))
    many = [digest(str(number)) for number in range(65)]
    other = lambda **members: lambda payload: {**payload, **members}
    purpose = lambda name: _made(tree, change=other(purpose=name))
    return {
        "longer than 4 KiB": {"text": good + " " * 4096, "code": "TooLarge"},
        "too many denied": {"text": _made(tree, denied=many), "code": "TooLarge"},
        "an endorsement": {"text": made_endorsement(tree), "code": "WrongPurpose"},
        "the purpose of endorsements": {"text": purpose("response"), "code": "WrongPurpose"},
        "the purpose of events": {"text": purpose("key-authorization"), "code": "WrongPurpose"},
        "the purpose of key revocations": {"text": purpose("key-revocation"), "code": "WrongPurpose"},
        "of another HSM": {"text": stranger, "code": "DeadKey"},
        "an unknown generation": {"text": good, "events": "0 1 2", "code": "DeadKey"},
        "a tainted generation": {
            "text": _made(tree, "0", issued=3), "events": "0 1T 2T", "now": 9, "code": "DeadKey"},
        "its window has passed": {"text": _made(tree, "0", issued=3), "now": 16.3, "code": "DeadKey"},
        "another event than its generation's": {
            "text": _made(tree, change=other(eventId=tree.events["2"].id)), "code": "BadChain"},
        "another sequence number than its event's": {
            "text": _made(tree, change=other(sequenceNumber=2)), "code": "BadChain"},
        "a sequence number to come": {
            "text": _made(tree, change=other(sequenceNumber=4)), "code": "BadChain"},
        "signed by another generation": {
            "text": _made(tree, signer=tree.key(2)), "code": "BadSignature"},
        "signed by a stranger": {"text": _made(tree, signer=key("stranger")), "code": "BadSignature"},
        "a changed signature": {"text": other_signature(good), "code": "BadSignature"},
        "a later time than was signed": {
            "text": good.replace(clock(12.5), clock(12.9)), "code": "BadSignature"},
        "a denial put in": {
            "text": good.replace('"denied":[]', f'"denied":["{tree.events["0"].id}"]'),
            "code": "BadSignature"},
        "a denial taken out": {
            "text": _made(tree, denied=["0"]).replace(f'["{tree.events["0"].id}"]', "[]"),
            "code": "BadSignature"},
        "a space put in": {"text": good.replace('"denied":[', '"denied": ['), "code": "BadSignature"},
    }


def _turned(tree):
    body = json.loads(_body(_made(tree)))
    turned = {name: dict(reversed(part.items())) for name, part in reversed(body.items())}
    text = compact(turned)
    return f'{{"signature":"{tree.key(3).sign(text)}","body":{text}}}'
