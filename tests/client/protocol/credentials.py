"""Endorsements by the HSM and access tokens (PROTOCOL.md, endorsement and access token)."""

import base64
import re
import zlib

from . import strict
from .chain import compact
from .primitives import decode, format_time, parse_time, verify
from .refusal import require

PURPOSES = ("access", "response")
TOKEN_LIMIT = 64 * 1024
MINUTE = 60 * 10**9
HOUR = 60 * MINUTE
NAME = re.compile(r"[ !#-%'-;=?-\[\]-~]{1,64}")  # printable ASCII without " & < > \\


def make_endorsement(hsm_key, generation, purpose, public_key, expiration, service=None, number=None):
    """The endorsement of `public_key` by the generation's key."""
    payload = {"purpose": purpose, "publicKey": public_key, "expiration": expiration}
    if service is not None:
        payload["service"] = service
    if number is not None:
        payload["number"] = number
    hsm = {"identity": generation.prefix, "generationId": generation.id}
    body = compact({"payload": payload, "hsm": hsm})
    return f'{{"body":{body},"signature":"{hsm_key.sign(body)}"}}'


class SignRequest:
    """What a service asks the HSM service to endorse."""

    def __init__(self, body):
        (payload,) = strict.parse(body).members("payload")
        purpose, key, expiration = payload.members("purpose", "publicKey", "expiration")
        self.purpose, self.key = purpose.string(), key.string()
        require(self.purpose in PURPOSES, "InvalidMessage", "unknown purpose")
        decode("publicKey", self.key)
        self.expiration = parse_time(expiration.string())


class Endorsement:
    """An endorsement answer; `check` tells whether it holds."""

    def __init__(self, text):
        self.text = text
        self.body, signature = strict.parse(text).members("body", "signature", open_ended=True)
        self.signature = signature.string()
        payload, hsm = self.body.members("payload", "hsm", open_ended=True)
        members = payload.members(
            "purpose", "publicKey", "expiration", optional=("service", "number"), open_ended=True
        )
        self.purpose, self.key = members[0].string(), members[1].string()
        decode("publicKey", self.key)
        decode("signature", self.signature)
        self.expiration = parse_time(members[2].string())
        self.service = members[3] and members[3].string()
        self.number = None
        if members[4] is not None:
            plain = members[4].text.isdigit() and members[4].value < 2**53
            require(plain, "InvalidMessage", "the number is no count")
            self.number = members[4].value
        require(self.purpose in PURPOSES, "WrongPurpose", "unknown purpose")
        identity, generation = hsm.members("identity", "generationId", open_ended=True)
        self.identity, self.generation = identity.string(), generation.string()
        decode("digest", self.identity)
        decode("digest", self.generation)

    def check(self, chain, purpose, public_key, service, window, now):
        """Refuses unless a live generation endorsed this key for this purpose and service."""
        require(self.key == public_key, "WrongPurpose", "it endorses another key")
        require(self.identity == chain.prefix, "DeadKey", "it is of another HSM")
        require(self.purpose == purpose, "WrongPurpose", f"it is for {self.purpose}")
        if service is not None:
            require(self.service == service, "WrongPurpose", f"it is for {self.service}")
        require(self.generation in chain.live(window, now), "DeadKey", "generation not live")
        require(now < self.expiration, "DeadKey", "it has ended")
        signer = next(e for e in chain.accepted if e.id == self.generation)
        verify(signer.key, self.body.text, self.signature)

    def check_not_revoked(self, stated, now):
        """Refuses if the entries that count revoke the key, or the service up to this number."""
        require(stated.keys.get(self.key, now) <= now, "Revoked", "the key is revoked")
        up_to, end = stated.services.get(self.service, (-1, now))
        covered = end > now and (self.number or 0) <= up_to
        require(not covered, "Revoked", "the service is revoked up to a later endorsement")


CLAIMS = (
    "serverIdentity", "device", "identity", "publicKey", "rotationHash",
    "issuedAt", "expiry", "refreshExpiry", "attributes",
)


def make_claims(server, device, identity, public_key, rotation, issued, refresh_expiry=None,
                roles=None):
    """The claims of a token issued at `issued` (nanoseconds), in their one order."""
    return {
        "serverIdentity": server, "device": device, "identity": identity,
        "publicKey": public_key, "rotationHash": rotation,
        "issuedAt": format_time(issued), "expiry": format_time(issued + 15 * MINUTE),
        "refreshExpiry": format_time(refresh_expiry or issued + 12 * HOUR),
        "attributes": {"permissionsByRole": roles or {"user": ["read", "write"]}},
    }


def make_token(server_key, claims, squeeze, pad=False):
    """A token over `claims` (members, or their JSON), compressed by `squeeze`."""
    text = claims if isinstance(claims, str) else compact(claims)
    packed = base64.urlsafe_b64encode(squeeze(text.encode())).decode()
    return server_key.sign(text) + (packed if pad else packed.rstrip("="))


class Token:
    """A token as parsed; `check` tells whether a key issued it."""

    def __init__(self, text):
        require(len(text) > 88, "InvalidToken", "too short")
        self.text, self.signature = text, text[:88]
        try:
            decode("signature", self.signature)
            self.json = _inflate(_base64url(text[88:]))
            node = strict.parse(self.json)
            self.claims = self._claims(node)
        except Exception as cause:
            require(False, "InvalidToken", str(cause))

    def check(self, public_key):
        """Refuses unless `public_key` signed the claims."""
        verify(public_key, self.json, self.signature)

    def check_access(self, now, skew):
        """Refuses a token that has ended, or that is not yet issued by our clock and the skew."""
        require(now + skew >= self.claims["issuedAt"], "FutureToken", "issued in the future")
        require(now < self.claims["expiry"], "ExpiredToken", "it has ended")
        lives = self.claims["expiry"] - self.claims["issuedAt"]
        require(lives <= 15 * MINUTE + skew, "InvalidToken", "it lives too long")

    def check_refresh(self, now, skew):
        """Refuses a token that can no longer be refreshed."""
        require(now + skew >= self.claims["issuedAt"], "FutureToken", "issued in the future")
        require(now < self.claims["refreshExpiry"], "RefreshExpired", "no refresh any more")

    def _claims(self, node):
        claims = dict(zip(CLAIMS, node.members(*CLAIMS)))
        for name in CLAIMS[:5]:
            kind = "publicKey" if name in ("serverIdentity", "publicKey") else "digest"
            decode(kind, claims[name].string())
            claims[name] = claims[name].value
        for name in CLAIMS[5:8]:
            claims[name] = parse_time(claims[name].string())
        (roles,) = claims["attributes"].members("permissionsByRole")
        require(isinstance(roles.value, dict), "InvalidToken", "roles are no object")
        claims["attributes"] = {r: _permissions(r, n) for r, n in roles.value.items()}
        return claims


def _permissions(role, node):
    require(isinstance(node.value, list), "InvalidToken", "permissions are no list")
    names = [item.string() for item in node.value]
    for name in (role, *names):
        require(NAME.fullmatch(name), "InvalidToken", "a name that some peers would escape")
        require(not name.isdigit(), "InvalidToken", "integer-like name")
    return names


def _base64url(text):
    body = text.rstrip("=")
    require(re.fullmatch(r"[A-Za-z0-9_-]*", body, re.ASCII), "InvalidToken", "alphabet")
    padding = "=" * (-len(body) % 4)
    require(text in (body, body + padding), "InvalidToken", "wrong padding")
    raw = base64.urlsafe_b64decode(body + padding)
    again = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    require(again == body, "InvalidToken", "bits left over in the last character")
    return raw


def _inflate(packed):
    stream = zlib.decompressobj(wbits=31)
    text = stream.decompress(packed, TOKEN_LIMIT + 1)
    require(len(text) <= TOKEN_LIMIT, "InvalidToken", "inflates to more than 64 KiB")
    require(stream.eof, "InvalidToken", "truncated")
    require(not stream.unused_data, "InvalidToken", "something follows the stream")
    return text.decode("utf-8")
