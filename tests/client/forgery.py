"""Malformed messages, at each of the ten operations.

What is not exactly a message of the protocol is refused before anything is looked up.
"""

from protocol.chain import compact
from protocol.message import OPERATIONS, request, seal
from protocol.primitives import PrivateKey, digest

from device import Device
from session import forged_for
from world import fresh_nonce

DEEP = "[" * 20_000 + "]" * 20_000


def run(world):
    """Messages of a device that has no account: nothing gets as far as asking for one."""
    device = Device(world)
    key = device.current
    for path in OPERATIONS:
        inner = example(device, path)
        unsigned = path == "/session/request"
        good = request(fresh_nonce(), inner, None if unsigned else key)
        for name, body, code in malformed(good, inner, key, unsigned):
            world.expect(f"{path}: {name}", world.post(path, body), code)


def example(device, path):
    """The `request` of an operation, of the right shape."""
    device.identity = digest("identity")
    recovery = PrivateKey.labelled("recovery")
    proof, _ = device.proof(fresh_nonce())
    return {
        "/account/create": {"authentication": device.first(
            recoveryHash=digest(recovery.public))},
        "/account/recover": device.recovering(recovery, device.current),
        "/session/request": {"authentication": {"identity": device.identity}},
        "/session/create": proof,
        "/session/refresh": {"access": proof["access"] | {"token": forged_for(device, device.current)}},
        "/device/link": {"authentication": device.first(), "link": device.container()},
        "/device/unlink": {"authentication": device.first(), "link": {"device": device.id}},
        "/recovery/change": {"authentication": device.first(
            recoveryHash=digest(recovery.public))},
    }.get(path, {"authentication": device.first()})


def malformed(good, inner, key, unsigned):
    """Messages that are none."""
    nonce = fresh_nonce()
    payload = compact({"access": {"nonce": nonce}, "request": inner})

    def sealed(text):
        return seal(text, None if unsigned else key)

    yield "nothing", "", "BA101"
    yield "no JSON", "payload", "BA101"
    yield "an array", f"[{good}]", "BA101"
    yield "a NUL after it", good + "\0", "BA101"
    yield "something after it", good + "{}", "BA101"
    yield "not UTF-8", good.encode().replace(b"nonce", b"non\xffe", 1), "BA101"
    yield "UTF-16", good.encode("utf-16"), "BA101"
    yield "payload twice", good[:-1] + f',"payload":{payload}}}', "BA101"
    yield "request twice", sealed(payload[:-1] + f',"request":{compact(inner)}}}'), "BA101"
    yield "a member too many", sealed(payload[:-1] + ',"more":1}'), "BA101"
    yield "a member too many in request", sealed(payload[:-2] + ',"more":1}}'), "BA101"
    yield "no access", sealed(compact({"request": inner})), "BA101"
    yield "no request", sealed(compact({"access": {"nonce": nonce}})), "BA101"
    yield "an empty nonce", sealed(payload.replace(nonce, "")), "BA101"
    yield "a nonce with a NUL", sealed(payload.replace(nonce, nonce[:-1] + "\\u0000")), "BA101"
    yield "nested 20,000 deep", sealed(payload[:-1] + f',"more":{DEEP}}}'), "BA101"
    yield "nested in request", sealed(
        compact({"access": {"nonce": nonce}, "request": "#"}).replace('"#"', DEEP)), "BA101"
    yield "10 MB", sealed(payload[:-1] + f',"more":"{"x" * 10_000_000}"}}'), "BA105"
    if unsigned:
        yield "a signature where there is none", seal(payload, key), "BA101"
        return
    signature = good[good.rindex('"0I') + 1: -2]
    yield "no signature", f'{{"payload":{payload}}}', "BA101"
    yield "signature null", f'{{"payload":{payload},"signature":null}}', "BA101"
    yield "an empty signature", f'{{"payload":{payload},"signature":""}}', "BA101"
    yield "a short signature", good.replace(signature, signature[:-1]), "BA101"
    yield "a long signature", good.replace(signature, signature + "A"), "BA101"
    yield "a padded signature", good.replace(signature, signature + "=="), "BA101"
    yield "a signature in DER", good.replace(signature, "MEUCIQ" + signature[6:]), "BA101"
    if '"publicKey":"1AAI' in good:
        at = payload.index('"publicKey":"1AAI') + len('"publicKey":"')
        off = "1AAIAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB"
        yield "a key off the curve", sealed(payload[:at] + off + payload[at + 48:]), "BA101"
