"""Answers of servers, as a device judges them before it asks whose key signed: `nonce` is that of its
request. `ok` is the key that signed and the answer as it stood in the message."""

from protocol.message import Response, response, seal
from protocol.primitives import digest

from .cases import agreed, key, nonce, ok, other_signature, refused

SERVER = key("response server")
NONCE = nonce("request")


def vectors():
    """Answers that hold, misshapen ones, others' and forged ones."""
    good = response(NONCE, SERVER, {"wasFoo": "bar", "wasBar": "foo"})
    payload = good[len('{"payload":'): good.rindex(',"signature"')]
    sealed = lambda text: seal(text, SERVER)
    valid = {
        "a good one": good,
        "an empty object": response(NONCE, SERVER, {}),
        "an array": response(NONCE, SERVER, [1, 2.5, "three"]),
        "null": response(NONCE, SERVER, None),
        "numbers as they stand": response(NONCE, SERVER, '{"a":1.50,"b":1e3}'),
        "white space": sealed(payload.replace(":", ": ").replace(",", ", ")),
    }
    shapes = {
        "empty": "",
        "an error": '{"error":{"code":"BA201","message":"a signature does not verify","context":{}}}',
        "no signature": f'{{"payload":{payload}}}',
        "no response": sealed(payload[: payload.rindex(',"response"')] + "}"),
        "request in place of response": sealed(payload.replace('"response"', '"request"')),
        "no nonce": sealed(payload.replace(f'"nonce":"{NONCE}",', "")),
        "nonce misspelt": sealed(payload.replace(NONCE, NONCE.lower())),
        "no server": sealed(payload.replace(f',"serverIdentity":"{SERVER.public}"', "")),
        "a digest for a server": sealed(payload.replace(SERVER.public, digest("server"))),
        "a third member": good[:-1] + ',"error":{}}',
        "payload twice": good[:-1] + f',"payload":{payload}}}',
        "something after it": good + "{}",
    }
    stranger = key("stranger")
    wrong = {
        "of another request": (response(nonce("another"), SERVER, {}), "IncorrectNonce"),
        "signed by another key": (seal(payload, stranger), "BadSignature"),
        "another key named": (good.replace(SERVER.public, stranger.public), "BadSignature"),
        "a changed answer": (good.replace("wasFoo", "wasFop"), "BadSignature"),
        "a changed signature": (other_signature(good), "BadSignature"),
        "a re-used signature with another nonce": (
            response(nonce("another"), SERVER, {}).replace(nonce("another"), NONCE),
            "BadSignature"),
    }
    cases = [_case(name, body) for name, body in valid.items()]
    cases += [_case(name, body, "InvalidMessage") for name, body in shapes.items()]
    cases += [_case(name, body, code) for name, (body, code) in wrong.items()]
    return cases


def _case(name, body, code=None):
    case = {"name": name, "nonce": NONCE, "body": body}

    def attempt():
        answer = Response(body)
        answer.check(NONCE)
        return {"serverIdentity": answer.server, "response": answer.inner.text}

    case["expect"] = refused(code) if code else ok(attempt())
    return agreed(case, attempt)
