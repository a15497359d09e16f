"""Revocations of service keys. `chain` is what the verifier has accepted at `now`; a revocation that
verifies for its `window` says which keys it refuses."""

from protocol.chain import WINDOWS, Chain
from protocol.statements import KeyRevocation, make_key_revocation

from .cases import SKEW, agreed, key, ok, other_signature, refused, seconds
from .chain import Tree, clock, straight
from .endorsement import _body, _made as made_endorsement, _resealed
from .head import _made as made_head

NOW = 13
ONE, TWO = key("revoked 1").public, key("revoked 2").public


def vectors():
    """Revocations that hold, misshapen ones, and proofs that fail."""
    tree = straight().add("1T", "0", 4, taint=True).add("2T", "1T", 8)
    cases = [_case(tree, name, **facts) for name, facts in _valid(tree).items()]
    good = _made(tree)
    for name, text in _shapes(tree, good).items():
        cases.append(_case(tree, name, text, code="InvalidMessage"))
    cases += [_case(tree, name, **facts) for name, facts in _refused(tree, good).items()]
    return cases


def _made(tree, by="3", keys=(ONE,), issued=12.5, expiration=36.5, signer=None, change=None):
    event = tree.events[by]
    signer = signer or tree.key(event.number)
    return make_key_revocation(signer, event, keys, clock(issued), clock(expiration), change)


def _case(tree, name, text, code=None, events="0 1 2 3", now=NOW, window="edge", keys=(ONE,)):
    at = seconds(clock(now))
    case = {
        "name": name, "keyRevocation": text, "prefix": tree.events["0"].id, "now": clock(now),
        "chain": [e.text for e in tree[events]], "skewMillis": SKEW // 10**6, "window": window,
        "expect": refused(code) if code else ok(list(keys)),
    }

    def attempt():
        chain = Chain(tree.events["0"].id, SKEW)
        chain.merge(tree[events], at)
        revocation = KeyRevocation(text)
        revocation.check(chain, WINDOWS[window], at)
        return revocation.keys

    return agreed(case, attempt)


def _valid(tree):
    note = lambda members: {"note": {"a": [1]}, **members}
    many = [key(f"revoked {number}").public for number in range(64)]
    return {
        "one key": {"text": _made(tree)},
        "two keys": {"text": _made(tree, keys=(ONE, TWO)), "keys": (ONE, TWO)},
        "two keys in another order": {"text": _made(tree, keys=(TWO, ONE)), "keys": (TWO, ONE)},
        "as many keys as can be": {"text": _made(tree, keys=many), "keys": many},
        "from the future": {"text": _made(tree, issued=20)},
        "ends in a millisecond": {"text": _made(tree, expiration=NOW + 0.001 / 3600)},
        "by an older generation that is live": {"text": _made(tree, "0", issued=3), "now": 16.2},
        "by the generation that tainted the one before": {
            "text": _made(tree, "1T", issued=5), "events": "0 1T 2T"},
        "members that are not known": {"text": _made(tree, change=note)},
        "high s": {"text": _resealed(_body(_made(tree)), tree.key(3), True)},
    }


def _shapes(tree, good):
    body = _body(good)
    sealed = lambda text: _resealed(text, tree.key(3))
    keys = f'"publicKeys":["{ONE}"]'
    return {
        "empty": "",
        "an array": f"[{good}]",
        "the body alone": body,
        "no signature": f'{{"body":{body}}}',
        "something after it": good + "x",
        "no purpose": sealed(body.replace('"purpose":"key-revocation",', "")),
        "no keys": sealed(body.replace(keys + ",", "")),
        "an empty list": _made(tree, keys=()),
        "the keys no list": sealed(body.replace(keys, f'"publicKeys":"{ONE}"')),
        "a number for a key": sealed(body.replace(keys, '"publicKeys":[1]')),
        "a key misspelt": sealed(body.replace('"1AAI', '"1AAJ')),
        "a digest for a key": sealed(body.replace(ONE, tree.events["0"].id)),
        "one key twice": _made(tree, keys=(ONE, TWO, ONE)),
        "no time of issue": sealed(body.replace(f'"issuedAt":"{clock(12.5)}",', "")),
        "no expiration": sealed(body.replace(f',"expiration":"{clock(36.5)}"', "")),
        "ends when it begins": _made(tree, issued=36.5),
        "no hsm": sealed(body[: body.index(',"hsm"')] + "}"),
    }


def _refused(tree, good):
    foreign = Tree("foreign").add("0")
    stranger = make_key_revocation(
        foreign.key(0), foreign.events["0"], [ONE], clock(12.5), clock(36.5))
    many = [key(f"revoked {number}").public for number in range(65)]
    purpose = lambda name: _made(tree, change=lambda payload: {**payload, "purpose": name})
    return {
        "longer than 4 KiB": {"text": good + " " * 4096, "code": "TooLarge"},
        "too many keys": {"text": _made(tree, keys=many), "code": "TooLarge"},
        "an endorsement": {"text": made_endorsement(tree), "code": "WrongPurpose"},
        "a head": {"text": made_head(tree), "code": "WrongPurpose"},
        "the purpose of endorsements": {"text": purpose("access"), "code": "WrongPurpose"},
        "the purpose of heads": {"text": purpose("chain-head"), "code": "WrongPurpose"},
        "of another HSM": {"text": stranger, "code": "DeadKey"},
        "an unknown generation": {"text": good, "events": "0 1 2", "code": "DeadKey"},
        "a tainted generation": {
            "text": _made(tree, "0", issued=3), "events": "0 1T 2T", "now": 9, "code": "DeadKey"},
        "its window has passed": {"text": _made(tree, "0", issued=3), "now": 16.3, "code": "DeadKey"},
        "ends now": {"text": _made(tree, expiration=NOW), "code": "DeadKey"},
        "signed by another generation": {
            "text": _made(tree, signer=tree.key(2)), "code": "BadSignature"},
        "a changed signature": {"text": other_signature(good), "code": "BadSignature"},
        "another key than was signed": {"text": good.replace(ONE, TWO), "code": "BadSignature"},
        "a longer life than was signed": {
            "text": good.replace(clock(36.5), clock(48)), "code": "BadSignature"},
    }
