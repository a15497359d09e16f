"""Requests to the authentication server, as far as a server can judge them without looking anything
up. `path` is the operation, `body` the message (`bodyHex` where it is not UTF-8) and `key`, at
/session/create, the device's current key, which the server has looked up. `ok` is the cause: the
digest of the path and of the bytes of `payload.request`."""

from protocol.chain import compact
from protocol.message import Message, request, seal
from protocol.primitives import decode, digest, encode

from . import token
from .cases import agreed, key, nonce, ok, other_signature, refused

AUTH, NEXT, RECOVERY, NEXT_RECOVERY = (
    key(label) for label in ("auth 0", "auth 1", "recovery 0", "recovery 1"))
ACCESS, NEXT_ACCESS = key("device access, next"), key("device access, last")
OTHER, OTHER_NEXT = key("auth of another device 0"), key("auth of another device 1")
NONCE = nonce("request")
DEEP = "[" * 1000 + "]" * 1000


def keys(first=AUTH, second=NEXT, **changes):
    """The `authentication` of a device with these keys, members sorted."""
    members = {
        "device": digest(first.public, digest(second.public)),
        "identity": identity(),
        "publicKey": first.public,
        "rotationHash": digest(second.public),
    }
    return dict(sorted((members | changes).items()))


def identity():
    """The identity that AUTH, NEXT and RECOVERY create."""
    return digest(AUTH.public, digest(NEXT.public), digest(RECOVERY.public))


def container(first=OTHER, second=OTHER_NEXT, signer=None, **changes):
    """A link container."""
    payload = compact({"authentication": keys(first, second) | changes})
    signature = (signer or first).sign(payload)
    return {"payload": {"authentication": keys(first, second) | changes}, "signature": signature}


def inner(path, **changes):
    """The `request` of an operation, with changes to its `authentication`."""
    recovery = {"recoveryHash": digest(RECOVERY.public)}
    recovered = {"recoveryHash": digest(NEXT_RECOVERY.public), "recoveryKey": RECOVERY.public}
    access = {"publicKey": ACCESS.public, "rotationHash": digest(NEXT_ACCESS.public)}
    made = {
        "/account/create": {"authentication": keys(**recovery)},
        "/account/recover": {"authentication": keys(OTHER, OTHER_NEXT, **recovered)},
        "/account/delete": {"authentication": keys()},
        "/session/request": {"authentication": {"identity": identity()}},
        "/session/create": {
            "access": access,
            "authentication": {"device": keys()["device"], "nonce": nonce("challenge")}},
        "/session/refresh": {"access": access | {"token": token.example()}},
        "/device/rotate": {"authentication": keys()},
        "/device/link": {"authentication": keys(), "link": container()},
        "/device/unlink": {
            "authentication": keys(), "link": {"device": keys(OTHER, OTHER_NEXT)["device"]}},
        "/recovery/change": {"authentication": keys(**recovery)},
    }[path]
    group = "authentication" if "authentication" in made else "access"
    made[group] = dict(sorted((made[group] | changes).items()))
    return made


def signer(path):
    """Whose signature an operation needs."""
    return {
        "/account/recover": RECOVERY, "/session/request": None, "/session/refresh": ACCESS,
    }.get(path, AUTH)


PATHS = (
    "/account/create", "/account/recover", "/account/delete", "/session/request",
    "/session/create", "/session/refresh", "/device/rotate", "/device/link", "/device/unlink",
    "/recovery/change",
)


def vectors():
    """Every operation; what is misshapen; what is not proven; what must be refused."""
    cases = [_case(path, "a good one", _good(path)) for path in PATHS]
    cases.append(_case("/device/unlink", "itself", _unlink_itself()))
    cases.append(_case("/device/rotate", "high s", _resealed(_payload("/device/rotate"), True)))
    cases.append(_case("/device/rotate", "white space is signed too", _resealed(
        _payload("/device/rotate").replace(":", " : ").replace(",", ",\n"))))
    cases.append(_case("/device/rotate", "members in another order", request(
        NONCE, {"authentication": dict(reversed(keys().items()))}, AUTH)))
    for path in PATHS:
        for name, body in _shapes(path).items():
            cases.append(_case(path, name, body, "InvalidMessage"))
        for name, body in _unproven(path).items():
            cases.append(_case(path, name, body, "BadSignature"))
    for path, name, body, code in _rules():
        cases.append(_case(path, name, body, code))
    return cases


def _case(path, name, body, code=None):
    case = {"name": f"{path}: {name}", "path": path}
    case |= {"body": body} if isinstance(body, str) else {"bodyHex": body.hex()}
    current = None
    if path == "/session/create":
        current = case["key"] = AUTH.public
    case["expect"] = refused(code) if code else ok(_cause(path, body))
    return agreed(case, lambda: Message(path, body, current).cause)


def _cause(path, body):
    """The cause, found without parsing: the request is the last member of the payload."""
    start = body.index('"request"') + len('"request"')
    end = body.rindex("}") if path == "/session/request" else body.rindex(',"signature"')
    text = body[start:end].strip()
    return digest(path, text[1:-1].strip())


def _good(path, **changes):
    return request(NONCE, inner(path, **changes), signer(path))


def _payload(path):
    return compact({"access": {"nonce": NONCE}, "request": inner(path)})


def _resealed(payload, high_s=None):
    return f'{{"payload":{payload},"signature":"{AUTH.sign(payload, high_s)}"}}'


def _unlink_itself():
    last = {"rotationHash": digest(digest(NEXT.public))}
    return request(NONCE, {
        "authentication": keys(**last), "link": {"device": keys()["device"]}}, AUTH)


def _shapes(path):
    good, payload = _good(path), _payload(path)
    by = signer(path)
    sealed = lambda text: seal(text, by)
    body = inner(path)
    group = next(iter(body))
    cases = {
        "empty": "",
        "one brace": "{",
        "null": "null",
        "an array": f"[{good}]",
        "a string": compact(good),
        "a byte order mark": "\ufeff" + good,
        "something after it": good + "{}",
        "a NUL after it": good + "\0",
        "not UTF-8": good.encode().replace(b'"nonce":"0A', b'"nonce":"\xff\xfe'),
        "a third member": good[:-1] + ',"more":1}',
        "payload twice": good[:-1] + f',"payload":{payload}}}',
        "payload an array": sealed(f"[{payload}]"),
        "payload a string": sealed(compact(payload)),
        "payload null": sealed("null"),
        "no access": sealed(compact({"request": body})),
        "no request": sealed(compact({"access": {"nonce": NONCE}})),
        "request null": sealed(compact({"access": {"nonce": NONCE}, "request": None})),
        "request an array": sealed(compact({"access": {"nonce": NONCE}, "request": [body]})),
        "request twice": sealed(payload[:-1] + f',"request":{compact(body)}}}'),
        "an extra member of payload": sealed(payload[:-1] + ',"more":1}'),
        "an extra member of access": sealed(payload.replace("},", ',"more":1},', 1)),
        "an extra member of request": sealed(payload[:-2] + ',"more":1}}'),
        "nonce null": sealed(payload.replace(f'"{NONCE}"', "null", 1)),
        "nonce empty": sealed(payload.replace(NONCE, "", 1)),
        "nonce with pad bits set": sealed(payload.replace(NONCE, "0A_" + NONCE[3:], 1)),
        "nonce of another form": sealed(payload.replace(NONCE, digest("nonce"), 1)),
        "nonce with an escape": sealed(payload.replace('"0A', '"\\u0030A', 1)),
        "a member name with an escape": sealed(payload.replace('"nonce"', '"\\u006eonce"', 1)),
        "nested 1,000 deep": sealed(
            compact({"access": {"nonce": NONCE}, "request": "#"}).replace('"#"', DEEP)),
    }
    cases["a group nested 1,000 deep"] = sealed(compact(
        {"access": {"nonce": NONCE}, "request": body | {group: "#"}}
    ).replace('"#"', DEEP))
    for member, value in body[group].items():
        for name, changed in _member(member, value).items():
            cases[name] = sealed(payload.replace(*changed))
        without = body | {group: {n: v for n, v in body[group].items() if n != member}}
        cases[f"no {member}"] = sealed(compact({"access": {"nonce": NONCE}, "request": without}))
    cases[f"an extra member of {group}"] = sealed(
        compact({"access": {"nonce": NONCE}, "request": body | {group: body[group] | {"more": 1}}}))
    for other in body:
        without = {n: v for n, v in body.items() if n != other}
        cases[f"no {other}"] = sealed(compact({"access": {"nonce": NONCE}, "request": without}))
        cases[f"{other} null"] = sealed(compact(
            {"access": {"nonce": NONCE}, "request": body | {other: None}}))
    if by is None:
        cases["a signature where there is none"] = seal(payload, AUTH)
        return cases
    signature = good[good.rindex('"0I') + 1: -2]
    cases |= {
        "no signature": f'{{"payload":{payload}}}',
        "signature null": f'{{"payload":{payload},"signature":null}}',
        "signature empty": f'{{"payload":{payload},"signature":""}}',
        "signature twice": good[:-1] + f',"signature":"{signature}"}}',
        "signature a character short": good[:-3] + '"}',
        "signature a character long": good[:-2] + 'A"}',
        "signature padded": good[:-2] + '=="}',
        "signature of another form": good.replace(signature, "0A" + signature[2:]),
        "signature with pad bits set": good.replace(signature, "0I_" + signature[3:]),
    }
    return cases


def _member(member, value):
    """Misspelt values of one member of the first group, as replacements in the payload."""
    if member == "token":
        return {}
    shown = f'"{member}":"{value}"'
    odd = {
        f"{member} null": "null", f"{member} a number": "1", f"{member} empty": '""',
        f"{member} in lower case": f'"{value.lower()}"', f"{member} padded": f'"{value}="',
        f"{member} followed by a NUL": f'"{value}\\u0000"',
        f"{member} a character short": f'"{value[:-1]}"',
        f"{member} in an array": f'["{value}"]',
        f"{member} twice": f'"{value}","{member}":"{value}"',
    }
    if value.startswith("1AAI"):
        off = "1AAIAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB"
        odd[f"{member} off the curve"] = f'"{off}"'
    return {name: (shown, f'"{member}":{text}', 1) for name, text in odd.items()}


def _unproven(path):
    if signer(path) is None:
        return {}
    good, payload = _good(path), _payload(path)
    start = good.rindex('"0I') + 1
    cases = {
        "signed by a stranger": seal(payload, key("stranger")),
        "a changed signature": other_signature(good),
        "a signature of zeros": good[:start] + "0I" + "A" * 86 + '"}',
        "a signature of ones": good[:start] + "0ID" + "_" * 85 + '"}',
        "a changed nonce": good.replace(NONCE, nonce("another"), 1),
        "white space put in": good.replace('"request":', '"request": ', 1),
        "the signature over the request alone": good[:start] + signer(path).sign(
            compact(inner(path))) + '"}',
        "r and s exchanged": _exchanged(good, start),
    }
    if path == "/account/recover":
        cases["signed by the new device"] = seal(payload, OTHER)
    if path == "/session/create":
        cases["signed by the access key"] = seal(payload, ACCESS)
    if path == "/session/refresh":
        cases["signed by the key that the token names"] = seal(payload, token.DEVICE)
    if path == "/device/link":
        cases["signed by the new device"] = seal(payload, OTHER)
        cases["the container's signature changed"] = request(NONCE, inner(path) | {
            "link": container(signer=key("stranger"))}, AUTH)
        cases["the container signed by the other device"] = request(NONCE, inner(path) | {
            "link": container(signer=AUTH)}, AUTH)
    return cases


def _exchanged(good, start):
    raw = decode("signature", good[start: start + 88])
    return good[:start] + encode("signature", raw[32:] + raw[:32]) + '"}'


def _rules():
    own = digest(AUTH.public)
    gated = (
        "/account/create", "/account/delete", "/device/rotate", "/device/link",
        "/device/unlink", "/recovery/change",
    )
    for path in gated:
        more = {"device": digest(AUTH.public, own)}
        if path == "/account/create":
            more["identity"] = digest(AUTH.public, own, digest(RECOVERY.public))
        yield path, "commits to its own key", _good(path, rotationHash=own, **more), "InvalidHash"
    yield ("/account/recover", "commits to its own key", _good(
        "/account/recover", rotationHash=digest(OTHER.public),
        device=digest(OTHER.public, digest(OTHER.public))), "InvalidHash")
    yield ("/account/recover", "commits to the same recovery key", _good(
        "/account/recover", recoveryHash=digest(RECOVERY.public)), "InvalidHash")
    for path in ("/session/create", "/session/refresh"):
        changed = inner(path)
        changed["access"]["rotationHash"] = digest(ACCESS.public)
        yield path, "commits to its own key", request(NONCE, changed, signer(path)), "InvalidHash"
    another = digest("another")
    for path in ("/account/create", "/account/recover"):
        yield path, "another device", _good(path, device=another), "InvalidDevice"
    yield ("/account/create", "another identity",
           _good("/account/create", identity=another), "InvalidIdentity")
    yield ("/account/create", "the device as the identity",
           _good("/account/create", identity=keys()["device"]), "InvalidIdentity")
    yield from _links()


def _links():
    path, another = "/device/link", digest("another")

    def linking(link):
        return request(NONCE, inner(path) | {"link": link}, AUTH)

    good = container()
    cases = {
        "the container is of another identity": (
            linking(container(identity=another)), "MismatchedIdentities"),
        "the container's identity differs in case alone": (
            linking(container(identity=_other_case(identity()))), "MismatchedIdentities"),
        "the container's device is another": (linking(container(device=another)), "InvalidDevice"),
        "the container's device is the linking one": (
            linking(container(device=keys()["device"])), "InvalidDevice"),
        "the container commits to its own key": (linking(container(
            OTHER, OTHER, device=digest(OTHER.public, digest(OTHER.public)))), "InvalidHash"),
        "the container without signature": (
            linking({"payload": good["payload"]}), "InvalidMessage"),
        "the container empty": (linking({}), "InvalidMessage"),
        "the container with a third member": (linking(good | {"more": 1}), "InvalidMessage"),
        "the container's payload with more": (
            linking({"payload": good["payload"] | {"more": 1}, "signature": good["signature"]}),
            "InvalidMessage"),
        "the container's keys with more": (linking(container(more=1)), "InvalidMessage"),
        "the container's device null": (linking(container(device=None)), "InvalidMessage"),
        "the container of a whole request": (
            linking({"payload": inner("/device/rotate"), "signature": ""}), "InvalidMessage"),
    }
    for name, (body, code) in cases.items():
        yield path, name, body, code


def _other_case(text):
    """The same digest but for the case of one letter; still a well-formed digest."""
    at = next(i for i in range(2, len(text)) if text[i].isalpha())
    return text[:at] + text[at].swapcase() + text[at + 1:]
