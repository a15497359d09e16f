"""Messages of devices and the answers to them (PROTOCOL.md, messages)."""

from . import strict
from .chain import compact
from .credentials import Token
from .primitives import decode, digest, parse_time, verify
from .refusal import require

AUTHENTICATION = ("device", "identity", "publicKey", "rotationHash")
KINDS = {
    "device": "digest", "identity": "digest", "publicKey": "publicKey", "rotationHash": "digest",
    "recoveryHash": "digest", "recoveryKey": "publicKey", "nonce": "nonce",
}
OPERATIONS = {
    "/account/create": {"authentication": AUTHENTICATION + ("recoveryHash",)},
    "/account/recover": {"authentication": AUTHENTICATION + ("recoveryHash", "recoveryKey")},
    "/account/delete": {"authentication": AUTHENTICATION},
    "/session/request": {"authentication": ("identity",)},
    "/session/create": {
        "access": ("publicKey", "rotationHash"), "authentication": ("device", "nonce"),
    },
    "/session/refresh": {"access": ("publicKey", "rotationHash", "token")},
    "/device/rotate": {"authentication": AUTHENTICATION},
    "/device/link": {"authentication": AUTHENTICATION, "link": None},
    "/device/unlink": {"authentication": AUTHENTICATION, "link": ("device",)},
    "/recovery/change": {"authentication": AUTHENTICATION + ("recoveryHash",)},
}


def seal(payload, key=None):
    """The message around a payload (members, or their JSON), signed if there is a key."""
    text = payload if isinstance(payload, str) else compact(payload)
    if key is None:
        return f'{{"payload":{text}}}'
    return f'{{"payload":{text},"signature":"{key.sign(text)}"}}'


def request(nonce, inner, key=None):
    """A request to the authentication server: `inner` is its `request` member."""
    return seal({"access": {"nonce": nonce}, "request": inner}, key)


class Message:
    """One request to the authentication server that passed every rule needing no state."""

    def __init__(self, path, body, key=None):
        names = ("payload",) if path == "/session/request" else ("payload", "signature")
        payload, *signature = strict.parse(body).members(*names)
        access, inner = payload.members("access", "request")
        (nonce,) = access.members("nonce")
        self.nonce = _primitive("nonce", nonce)
        shape = OPERATIONS[path]
        groups = dict(zip(shape, inner.members(*shape)))
        self.fields = {g: self._group(g, groups[g], shape[g]) for g in shape}
        self.cause = digest(path, inner.text)
        if signature:
            signer = key or self._signer()
            decode("signature", signature[0].string())
            verify(signer, payload.text, signature[0].string())
        self._check(path)

    def _group(self, name, node, wanted):
        if wanted is None:
            return Container(node)
        fields = {}
        for member, part in zip(wanted, node.members(*wanted)):
            if member == "token":
                fields[member] = Token(part.string())
            else:
                fields[member] = _primitive(member, part)
        return fields

    def _signer(self):
        authentication = self.fields.get("authentication", {})
        keys = self.fields.get("access") or authentication
        return authentication.get("recoveryKey") or keys["publicKey"]

    def _check(self, path):
        for keys in self.fields.values():
            if isinstance(keys, dict) and "rotationHash" in keys:
                check_keys(keys)
        authentication = self.fields.get("authentication", {})
        if path in ("/account/create", "/account/recover"):
            check_device(authentication)
        if path == "/account/create":
            hashes = [authentication[n] for n in ("publicKey", "rotationHash", "recoveryHash")]
            named = authentication["identity"] == digest(*hashes)
            require(named, "InvalidIdentity", "the identity is not derived from its keys")
        if "recoveryKey" in authentication:
            same = authentication["recoveryHash"] == digest(authentication["recoveryKey"])
            require(not same, "InvalidHash", "commits to the recovery key just revealed")
        if path == "/device/link":
            other = self.fields["link"].fields["identity"] != authentication["identity"]
            require(not other, "MismatchedIdentities", "the container is of another identity")


class Container:
    """The link container that a new device signs."""

    def __init__(self, node):
        payload, signature = node.members("payload", "signature")
        (authentication,) = payload.members("authentication")
        parts = authentication.members(*AUTHENTICATION)
        self.fields = {n: _primitive(n, p) for n, p in zip(AUTHENTICATION, parts)}
        decode("signature", signature.string())
        verify(self.fields["publicKey"], payload.text, signature.string())
        check_keys(self.fields)
        check_device(self.fields)


def check_keys(keys):
    """Refuses a key that commits to itself: what it signed could be sent again by anyone."""
    same = keys["rotationHash"] == digest(keys["publicKey"])
    require(not same, "InvalidHash", "commits to the key just revealed")


def check_device(keys):
    """Refuses a device id that is not derived from the device's first keys."""
    derived = digest(keys["publicKey"], keys["rotationHash"])
    require(keys["device"] == derived, "InvalidDevice", "the device is not derived from its keys")


def access_request(nonce, timestamp, token, inner, key, audience=None):
    """A request to an app: `inner` is JSON, or what becomes JSON."""
    access = {"nonce": nonce, "timestamp": timestamp, "token": token}
    if audience is not None:
        access["audience"] = audience
    text = inner if isinstance(inner, str) else compact(inner)
    return seal(f'{{"access":{compact(access)},"request":{text}}}', key)


SECOND = 10**9


class AccessRequest:
    """A request to an app that passed every check needing neither a chain nor a store."""

    def __init__(self, body, now, skew):
        payload, signature = strict.parse(body).members("payload", "signature")
        access, inner = payload.members("access", "request")
        nonce, moment, token, audience = access.members(
            "nonce", "timestamp", "token", optional=("audience",)
        )
        decode("signature", signature.string())
        self.nonce = _primitive("nonce", nonce)
        self.timestamp = parse_time(moment.string())
        self.audience = audience and audience.string()
        self.request = inner.text
        self.token = Token(token.string())
        self.token.check_access(now, skew)
        require(self.timestamp >= now - 30 * SECOND, "StaleRequest", "more than 30 s old")
        require(self.timestamp <= now + skew, "FutureRequest", "ahead of the clock")
        verify(self.token.claims["publicKey"], payload.text, signature.string())


def response(nonce, server_key, inner):
    """A signed answer by a response key."""
    access = compact({"nonce": nonce, "serverIdentity": server_key.public})
    text = inner if isinstance(inner, str) else compact(inner)
    return seal(f'{{"access":{access},"response":{text}}}', server_key)


class Response:
    """A signed answer; `check` tells whether it is the answer to our request."""

    def __init__(self, body):
        self.payload, signature = strict.parse(body).members("payload", "signature")
        self.signature = signature.string()
        access, inner = self.payload.members("access", "response")
        nonce, server = access.members("nonce", "serverIdentity")
        self.nonce = _primitive("nonce", nonce)
        self.server = server.string()
        decode("publicKey", self.server)
        self.inner = inner

    def check(self, nonce):
        """Refuses unless the named server key signed an answer to this nonce."""
        require(self.nonce == nonce, "IncorrectNonce", "the answer is to another request")
        verify(self.server, self.payload.text, self.signature)


def _primitive(name, node):
    text = node.string()
    decode(KINDS[name], text)
    return text
