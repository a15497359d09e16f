"""Heads of a chain. `chain` is what the verifier has accepted at `now`; it hears each of `heads` in turn
(`later` is merged before the last of them). If all verify, `heard` says how each stands to earlier ones of
its event and what of those was lost, `stated` what counts then, `live` which generations are live for
`window`, and `fresh` either how many milliseconds ago nothing newer existed, by the last head, or why it
does not show that."""

import json

from protocol.chain import WINDOWS, Chain, compact
from protocol.primitives import digest
from protocol.refusal import Refusal
from protocol.statements import Entries, Head, Joined, make_head

from .cases import SKEW, agreed, key, ok, other_signature, refused, seconds
from .chain import Tree, clock, straight
from .endorsement import _body, _made as made_endorsement, _resealed

NOW = 13
ONE, TWO = key("revoked 1").public, key("revoked 2").public


def vectors():
    """Heads that hold, with what they do; several in turn; misshapen ones; proofs that fail."""
    tree = straight().add("1T", "0", 4, taint=True).add("2T", "1T", 8).add("4T", "3", 12.8, taint=True)
    cases = [_case(tree, name, [text], **facts) for name, (text, facts) in _valid(tree).items()]
    cases += [_case(tree, name, texts, **facts) for name, (texts, facts) in _in_turn(tree).items()]
    good = _made(tree)
    for name, text in _shapes(tree, good).items():
        cases.append(_case(tree, name, [text], code="InvalidMessage"))
    cases += [_case(tree, name, [text], **facts) for name, (text, facts) in _refused(tree, good).items()]
    return cases


def _made(tree, by="3", number=1, denied=(), revoked=(), issued=12.5, expiration=24.5, signer=None,
          audit=None, change=None):
    event = tree.events[by]
    signer = signer or tree.key(event.number)
    ids = [tree.events[name].id if name in tree.events else name for name in denied]
    ends = clock(issued), clock(expiration)
    return make_head(signer, event, number, *ends, ids, revoked, audit, change)


def _key(public, until=36.0):
    return {"publicKey": public, "until": clock(until)}


def _service(name, number, until=36.0):
    return {"service": name, "endorsedUpTo": number, "until": clock(until)}


def _case(tree, name, texts, code=None, events="0 1 2 3", now=NOW, window="edge", live="0 1 2 3",
          age=1800.0, not_fresh=None, orders=None, lost=None, stated=None, later=None):
    at = seconds(clock(now))
    case = {
        "name": name, "heads": texts, "prefix": tree.events["0"].id, "now": clock(now),
        "chain": [e.text for e in tree[events]], "skewMillis": SKEW // 10**6, "window": window,
    }
    if later:
        case["later"] = [e.text for e in tree[later]]
    fresh = refused(not_fresh) if not_fresh else {"ageMillis": round(age * 1000)}
    orders = orders or ["Newer"] * len(texts)
    lost = lost or {}
    heard = [{"order": order, "lost": _shown(tree, lost.get(place))}
             for place, order in enumerate(orders)]
    outcome = {"live": [e.id for e in tree[live]], "fresh": fresh, "heard": heard,
               "stated": _shown(tree, stated)}
    case["expect"] = refused(code) if code else ok(outcome)
    return agreed(case, lambda: _attempt(tree, case, at, window, later))


def _shown(tree, entries):
    denied, keys, services = entries or ((), (), ())
    return {
        "denied": sorted(tree.events[name].id for name in denied),
        "keys": [[public, clock(until)] for public, until in sorted(keys)],
        "services": [[name, number, clock(until)] for name, number, until in sorted(services)],
    }


def _attempt(tree, case, at, window, later):
    chain = Chain(tree.events["0"].id, SKEW)
    chain.merge([e for e in tree.events.values() if e.text in case["chain"]], at)
    heard, shown = [], None
    for place, text in enumerate(case["heads"]):
        if later and place + 1 == len(case["heads"]):
            chain.merge(tree[later], at)
        head = Head(text)
        head.check(chain, WINDOWS[window], at)
        order, lost = chain.hear(head, at, Joined, Entries)
        heard.append({"order": order, "lost": lost.written()})
        try:
            shown = {"ageMillis": head.age(chain, at) // 10**6}
        except Refusal as refusal:
            shown = {"code": refusal.code}
    return {"live": chain.live(WINDOWS[window], at), "fresh": shown, "heard": heard,
            "stated": chain.stated(Entries).written()}


def _valid(tree):
    note = lambda members: {"note": {"a": [1]}, **members}
    names = [f"edge:{number:064}" for number in range(32)]
    keys = sorted(key(f"revoked {number}").public for number in range(64))
    denied = sorted(digest(str(number)) for number in range(64))
    everything = [_key(public) for public in keys] + [_service(name, 2**53 - 1) for name in names]
    all_listed = ([], [(public, 36.0) for public in keys], [(name, 2**53 - 1, 36.0) for name in names])
    return {
        "by the newest generation": (_made(tree), {}),
        "made now": (_made(tree, issued=NOW), {"age": 0}),
        "ahead by less than the skew": (_made(tree, issued=NOW + 5 / 3600), {"age": 0}),
        "ahead by more than the skew": (
            _made(tree, issued=NOW + 5.001 / 3600), {"not_fresh": "FutureRequest"}),
        "ends in a millisecond": (_made(tree, expiration=NOW + 0.001 / 3600), {}),
        "ends now": (_made(tree, expiration=NOW), {"not_fresh": "DeadKey"}),
        "the highest number": (_made(tree, number=2**53 - 1), {}),
        "the end of an audit trail": (_made(tree, audit=(12, digest("line 12"))), {}),
        "the first line of an audit trail": (_made(tree, audit=(0, digest("line 0"))), {}),
        "by an older generation that is live": (
            _made(tree, "2", issued=11.9), {"not_fresh": "DeadKey"}),
        "by what is the newest known": (
            _made(tree, "2", issued=11.9),
            {"events": "0 1 2", "live": "0 1 2", "age": 1.1 * 3600}),
        "one denied": (_made(tree, denied=["1"]), {"live": "0 2 3", "stated": (["1"], (), ())}),
        "all older ones denied": (
            _made(tree, denied=["0", "1", "2"]),
            {"live": "3", "stated": (["0", "1", "2"], (), ())}),
        "denied in another order": (
            _made(tree, denied=["2", "0"]), {"live": "1 3", "stated": (["0", "2"], (), ())}),
        "denied and expired": (
            _made(tree, denied=["1"], expiration=NOW),
            {"live": "0 2 3", "not_fresh": "DeadKey", "stated": (["1"], (), ())}),
        "denied and from the future": (
            _made(tree, denied=["1"], issued=NOW + 1, expiration=36),
            {"live": "0 2 3", "not_fresh": "FutureRequest", "stated": (["1"], (), ())}),
        "denied by an older generation": (
            _made(tree, "2", denied=["1"], issued=11.9),
            {"live": "0 2 3", "not_fresh": "DeadKey", "stated": (["1"], (), ())}),
        "a later generation denied": (
            _made(tree, "1", denied=["2", "3"], issued=7), {"not_fresh": "DeadKey"}),
        "an unknown generation denied": (_made(tree, denied=[digest("unknown")]), {}),
        "an older one denied whose window has passed": (
            _made(tree, denied=["0"]),
            {"now": 16.3, "live": "1 2 3", "age": 3.8 * 3600, "stated": (["0"], (), ())}),
        "a key revoked": (
            _made(tree, revoked=[_key(ONE)]), {"stated": ((), [(ONE, 36.0)], ())}),
        "a key revoked for as long as can be": (
            _made(tree, revoked=[_key(ONE, 36.5 + 5 / 3600)]),
            {"stated": ((), [(ONE, 36.5 + 5 / 3600)], ())}),
        "a service revoked": (
            _made(tree, revoked=[_service("edge:shop", 7)]),
            {"stated": ((), (), [("edge:shop", 7, 36.0)])}),
        "a service revoked that has no endorsement": (
            _made(tree, revoked=[_service("edge:shop", 0)]),
            {"stated": ((), (), [("edge:shop", 0, 36.0)])}),
        "all that can be listed": (
            _made(tree, denied=denied, revoked=everything, audit=(2**53 - 1, digest("line"))),
            {"stated": all_listed}),
        "members that are not known": (_made(tree, change=note), {}),
        "members in another order": (_turned(tree), {}),
        "nine fractional digits": (_resealed(
            _body(_made(tree)).replace(clock(12.5), clock(12.5)[:-1] + "000000Z"), tree.key(3)), {}),
        "high s": (_resealed(_body(_made(tree)), tree.key(3), True), {}),
    }


def _in_turn(tree):
    one = _made(tree, number=1, denied=["0"], revoked=[_key(ONE), _service("edge:shop", 7)])
    stated = (["0"], [(ONE, 36.0)], [("edge:shop", 7, 36.0)])
    more = _made(tree, number=2, denied=["0", "1"], revoked=[
        _key(ONE), _key(TWO, 36.2), _service("edge:shop", 9, 36.2)])
    both = (["0", "1"], [(ONE, 36.0), (TWO, 36.2)], [("edge:shop", 9, 36.2)])
    nothing = _made(tree, number=3)
    forged = {"denied": ["0", "1", "2"], "revoked": [_service("authd", 2**53 - 1)]}
    return {
        "a later one says more": ([one, more], {"live": "2 3", "stated": both}),
        "the earlier one comes later": (
            [more, one], {"live": "2 3", "stated": both, "orders": ["Newer", "Older"]}),
        "the same again": (
            [one, one], {"live": "1 2 3", "stated": stated, "orders": ["Newer", "Same"]}),
        "the same signed once more": (
            [one, _resealed(_body(one), tree.key(3), True)],
            {"live": "1 2 3", "stated": stated, "orders": ["Newer", "Same"]}),
        "a later one says less": (
            [one, nothing], {"live": "1 2 3", "stated": stated, "lost": {1: stated}}),
        "an earlier one that said more comes later": (
            [nothing, one], {"live": "1 2 3", "stated": stated, "orders": ["Newer", "Older"],
                             "lost": {1: stated}}),
        "a later one has a lower number of a service": (
            [more, _made(tree, number=4, denied=["0", "1"], revoked=[
                _key(ONE), _key(TWO, 36.2), _service("edge:shop", 8)])],
            {"live": "2 3", "stated": both, "lost": {1: ((), (), [("edge:shop", 9, 36.2)])}}),
        "what has ended is left out": (
            [_made(tree, number=1, issued=12.1, denied=["0"], revoked=[_key(ONE, 12.9)]),
             _made(tree, number=2, issued=28.1, expiration=40, denied=[])],
            {"now": 28.2, "live": "3", "stated": (["0"], (), ()), "age": 360.0}),
        "two bodies with one number": (
            [one, _made(tree, number=1, denied=["1"])],
            {"live": "2 3", "orders": ["Newer", "Theft"],
             "stated": (["0", "1"], [(ONE, 36.0)], [("edge:shop", 7, 36.0)])}),
        "a head of the event before": (
            [_made(tree, "2", number=9, denied=["1"], issued=11.9), _made(tree, denied=["0"])],
            {"live": "2 3", "stated": (["0", "1"], (), ())}),
        "a taint voids what the tainted one stated": (
            [_made(tree, **forged), _made(tree, "4T", issued=12.9)],
            {"live": "0 1 2 4T", "later": "4T", "age": 360.0}),
        "a taint, and the denial anew": (
            [_made(tree, **forged), _made(tree, "4T", issued=12.9, denied=["0"])],
            {"live": "1 2 4T", "later": "4T", "age": 360.0, "stated": (["0"], (), ())}),
        "a denial voids what the denied one stated": (
            [_made(tree, "2", denied=["0", "1"], issued=11.9), _made(tree, denied=["2"])],
            {"live": "0 1 3", "stated": (["2"], (), ())}),
    }


def _shapes(tree, good):
    body, signature = _body(good), good[good.rindex('"0I') + 1: -2]
    sealed = lambda text: _resealed(text, tree.key(3))
    denied, revoked = '"denied":[]', '"revoked":[]'
    zero = f'"{tree.events["0"].id}"'
    listing = lambda *entries: _made(tree, revoked=entries)
    without = lambda entry, name: {k: v for k, v in entry.items() if k != name}
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
        "no number": sealed(body.replace('"number":1,', "")),
        "no time of issue": sealed(body.replace(f'"issuedAt":"{clock(12.5)}",', "")),
        "no expiration": sealed(body.replace(f'"expiration":"{clock(24.5)}",', "")),
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
        "number 0": _made(tree, number=0),
        "the number a text": sealed(body.replace('"number":1', '"number":"1"')),
        "the number with a zero before it": sealed(body.replace('"number":1', '"number":01')),
        "the number beyond what peers read": _made(tree, number=2**53),
        "no list of the revoked": sealed(body.replace("," + revoked, "")),
        "the revoked no list": sealed(body.replace(revoked, '"revoked":{}')),
        "a text revoked": sealed(body.replace(revoked, f'"revoked":["{ONE}"]')),
        "neither a key nor a service revoked": listing({"until": clock(36)}),
        "a key and a service in one": listing({**_service("edge:shop", 7), "publicKey": ONE}),
        "a key without an end": listing(without(_key(ONE), "until")),
        "a key misspelt": listing(_key("1AAJ" + ONE[4:])),
        "a digest for a key": listing(_key(tree.events["0"].id)),
        "one key twice": listing(_key(ONE), _key(TWO), _key(ONE, 35)),
        "a key revoked for longer than any endorsement": listing(_key(ONE, 36.5 + 5.001 / 3600)),
        "a service without an end": listing(without(_service("edge:shop", 7), "until")),
        "a service without a number": listing(without(_service("edge:shop", 7), "endorsedUpTo")),
        "a service whose number is a text": listing(_service("edge:shop", "7")),
        "a service whose number peers cannot read": listing(_service("edge:shop", 2**53)),
        "a service without a name": listing(_service("", 7)),
        "a service with too long a name": listing(_service("e" * 73, 7)),
        "one service twice": listing(_service("edge:shop", 7), _service("edge:shop", 8)),
        "a service revoked for longer than any endorsement": listing(
            _service("edge:shop", 7, 36.5 + 5.001 / 3600)),
        "the audit trail a number": _made(tree, change=lambda it: {**it, "audit": 7}),
        "the audit trail without a digest": _made(tree, change=lambda it: {**it, "audit": {"number": 7}}),
        "the audit trail without a number": _made(
            tree, change=lambda it: {**it, "audit": {"digest": digest("x")}}),
        "ends when it begins": _made(tree, expiration=12.5),
        "ends before it begins": _made(tree, expiration=12),
        "no hsm": sealed(body[: body.index(',"hsm"')] + "}"),
        "no generation": sealed(body[: body.index(',"generationId"')] + "}}"),
    }


def _refused(tree, good):
    foreign = Tree("foreign").add("0")
    stranger = make_head(foreign.key(0), foreign.events["0"], 1, clock(12.5), clock(24.5))
    ids = [digest(str(number)) for number in range(65)]
    keys = [_key(key(f"revoked {number}").public) for number in range(65)]
    services = [_service(f"edge:{number}", 7) for number in range(33)]
    other = lambda **members: lambda payload: {**payload, **members}
    purpose = lambda name: _made(tree, change=other(purpose=name))
    return {
        "longer than 20 KiB": (good + " " * 20480, {"code": "TooLarge"}),
        "too many denied": (_made(tree, denied=ids), {"code": "TooLarge"}),
        "too many keys": (_made(tree, revoked=keys), {"code": "TooLarge"}),
        "too many services": (_made(tree, revoked=services), {"code": "TooLarge"}),
        "an endorsement": (made_endorsement(tree), {"code": "WrongPurpose"}),
        "the purpose of endorsements": (purpose("response"), {"code": "WrongPurpose"}),
        "the purpose of events": (purpose("key-authorization"), {"code": "WrongPurpose"}),
        "the purpose that key revocations had": (purpose("key-revocation"), {"code": "WrongPurpose"}),
        "of another HSM": (stranger, {"code": "DeadKey"}),
        "an unknown generation": (good, {"events": "0 1 2", "code": "DeadKey"}),
        "a tainted generation": (
            _made(tree, "0", issued=3), {"events": "0 1T 2T", "now": 9, "code": "DeadKey"}),
        "its window has passed": (_made(tree, "0", issued=3), {"now": 16.3, "code": "DeadKey"}),
        "another event than its generation's": (
            _made(tree, change=other(eventId=tree.events["2"].id)), {"code": "BadChain"}),
        "another sequence number than its event's": (
            _made(tree, change=other(sequenceNumber=2)), {"code": "BadChain"}),
        "a sequence number to come": (
            _made(tree, change=other(sequenceNumber=4)), {"code": "BadChain"}),
        "signed by another generation": (_made(tree, signer=tree.key(2)), {"code": "BadSignature"}),
        "signed by a stranger": (_made(tree, signer=key("stranger")), {"code": "BadSignature"}),
        "a changed signature": (other_signature(good), {"code": "BadSignature"}),
        "a later time than was signed": (
            good.replace(clock(12.5), clock(12.9)), {"code": "BadSignature"}),
        "a higher number than was signed": (
            good.replace('"number":1', '"number":2'), {"code": "BadSignature"}),
        "a denial put in": (
            good.replace('"denied":[]', f'"denied":["{tree.events["0"].id}"]'),
            {"code": "BadSignature"}),
        "a denial taken out": (
            _made(tree, denied=["0"]).replace(f'["{tree.events["0"].id}"]', "[]"),
            {"code": "BadSignature"}),
        "a revocation taken out": (
            _made(tree, revoked=[_key(ONE)]).replace(compact([_key(ONE)]), "[]"),
            {"code": "BadSignature"}),
        "a space put in": (good.replace('"denied":[', '"denied": ['), {"code": "BadSignature"}),
    }


def _turned(tree):
    body = json.loads(_body(_made(tree)))
    turned = {name: dict(reversed(part.items())) for name, part in reversed(body.items())}
    text = compact(turned)
    return f'{{"signature":"{tree.key(3).sign(text)}","body":{text}}}'
