"""Bodies of `POST /sign`, by which a service asks the HSM service for an endorsement. `ok` is what is
asked for. Which service asks is not in it, and nobody may put it there."""

from protocol.chain import compact
from protocol.credentials import SignRequest
from protocol.primitives import format_time

from .cases import START, agreed, key, ok, refused

ASKED = {"purpose": "response", "publicKey": key("service").public, "expiration": START}


def vectors():
    """Good ones, then what is refused."""
    good = compact({"payload": ASKED})
    turned = compact({"payload": dict(reversed(ASKED.items()))})
    cases = [
        _case("a good one", good), _case("for access", _asking(purpose="access")),
        _case("members in another order", turned), _case("white space", good.replace(":{", ": { ")),
        _case("nine fractional digits", _asking(expiration=START[:-1] + "123456Z")),
    ]
    for name, purpose in (
        ("an unknown purpose", "sign"), ("an empty purpose", ""),
        ("the purpose of events", "key-authorization"), ("the purpose in capitals", "Response"),
        ("the purpose of heads", "chain-head"),
    ):
        cases.append(_case(name, _asking(purpose=purpose), "InvalidMessage"))
    for name, body in _shapes(good).items():
        cases.append(_case(name, body, "InvalidMessage"))
    return cases


def _shapes(good):
    cases = {
        "empty": "", "null": "null", "an array": f"[{good}]", "the payload alone": good[11:-1],
        "something after it": good + "{}", "a second member": good[:-1] + ',"more":1}',
        "a signature": good[:-1] + ',"signature":"0I"}',
        "a service of the caller's own": _asking(service="authd"),
        "a member that is not known": _asking(more=1),
        "payload twice": good[:-1] + "," + good[1:],
        "purpose twice": good.replace('{"purpose"', '{"purpose":"access","purpose"'),
        "purpose with an escape": good.replace('"response"', '"\\u0072esponse"'),
        "purpose null": _asking(purpose=None), "key padded": _asking(publicKey=ASKED["publicKey"] + "="),
        "a digest for a key": _asking(publicKey="E" + "A" * 43), "key null": _asking(publicKey=None),
        "expiration with an offset": _asking(expiration=START[:-1] + "+00:00"),
        "expiration a number": _asking(expiration=1767323045678),
    }
    for member in ASKED:
        without = {name: value for name, value in ASKED.items() if name != member}
        cases[f"no {member}"] = compact({"payload": without})
    return cases


def _asking(**changes):
    return compact({"payload": ASKED | changes})


def _case(name, body, code=None):
    case = {"name": name, "body": body}

    def attempt():
        asked = SignRequest(body)
        return {"purpose": asked.purpose, "publicKey": asked.key,
                "expiration": format_time(asked.expiration)}

    case["expect"] = refused(code) if code else ok(attempt())
    return agreed(case, attempt)
