"""Keys, signatures, digests, nonces and timestamps as text (PROTOCOL.md, primitives)."""

import base64
import datetime
import re

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .refusal import require

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

# kind: lead characters, bytes carried, length of the text
KINDS = {
    "publicKey": ("1AAI", 33, 48),
    "signature": ("0I", 64, 88),
    "digest": ("E", 32, 44),
    "nonce": ("0A", 16, 24),
}
ALPHABET = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)


def encode(kind, raw):
    """The one text of `raw` bytes."""
    lead, size, length = KINDS[kind]
    assert len(raw) == size
    if kind == "publicKey":
        return lead + _base64url(raw)
    text = lead + _base64url(bytes(length * 3 // 4 - size) + raw)[len(lead):]
    assert len(text) == length
    return text


def decode(kind, text):
    """The bytes that `text` stands for; anything but the one canonical spelling is refused."""
    lead, size, length = KINDS[kind]
    require(isinstance(text, str), "InvalidMessage", f"{kind} is not a string")
    require(len(text) == length, "InvalidMessage", f"{kind} of {len(text)} characters")
    require(ALPHABET.fullmatch(text), "InvalidMessage", f"{kind} outside the alphabet")
    require(text.startswith(lead), "InvalidMessage", f"{kind} with another lead")
    raw = base64.urlsafe_b64decode("A" * len(lead) + text[len(lead):])
    pad, raw = raw[: len(raw) - size], raw[len(raw) - size:]
    require(not any(pad), "InvalidMessage", f"{kind} with pad bits set")
    require(encode(kind, raw) == text, "InvalidMessage", f"{kind} not canonical")
    if kind == "publicKey":
        _point(raw)
    return raw


def digest(*texts):
    """BLAKE3-256 of the UTF-8 texts one after the other, as text."""
    return encode("digest", blake3("".join(texts).encode()).digest())


class PrivateKey:
    """A P-256 private key, known by the text of its public key."""

    def __init__(self, scalar):
        self.scalar = scalar
        self._key = ec.derive_private_key(scalar, ec.SECP256R1())
        point = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        self.public = encode("publicKey", point)

    @classmethod
    def labelled(cls, label):
        """A throw-away key that anybody can make again from its label."""
        seed = blake3(("throw-away key: " + label).encode()).digest()
        return cls(int.from_bytes(seed, "big") % (ORDER - 1) + 1)

    @classmethod
    def from_seed(cls, seed):
        """The key whose scalar is the 32 bytes, which must name one."""
        scalar = int.from_bytes(seed, "big")
        require(0 < scalar < ORDER, "InvalidMessage", "the seed is no scalar of the curve")
        return cls(scalar)

    @classmethod
    def random(cls):
        """A fresh key."""
        return cls(ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value)

    def sign(self, message, high_s=None):
        """The signature of `message`, by RFC 6979 always the same one; `high_s` picks a half."""
        scheme = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
        r, s = decode_dss_signature(self._key.sign(_bytes(message), scheme))
        if high_s is not None and (s > ORDER // 2) != high_s:
            s = ORDER - s
        return encode("signature", r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def verify(public_key, message, signature):
    """Refuses unless `signature` over `message` is by `public_key`."""
    raw = decode("signature", signature)
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    try:
        key = _point(decode("publicKey", public_key))
        key.verify(der, _bytes(message), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        require(False, "BadSignature", "the signature is not by this key over these bytes")


TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?Z", re.ASCII
)
EPOCH = datetime.datetime(1970, 1, 1)


def parse_time(text):
    """Nanoseconds since 1970 of an RFC 3339 timestamp in UTC, with 0 to 9 fractional digits."""
    require(isinstance(text, str), "InvalidMessage", "a timestamp is a string")
    parts = TIMESTAMP.fullmatch(text)
    require(parts, "InvalidMessage", f"no timestamp: {text!r}")
    *whole, fraction = parts.groups()
    try:
        moment = datetime.datetime(*map(int, whole))
    except ValueError:
        require(False, "InvalidMessage", f"no such moment: {text}")
    seconds = (moment - EPOCH) // datetime.timedelta(seconds=1)
    return seconds * 10**9 + int((fraction or "").ljust(9, "0"))


def format_time(nanoseconds):
    """Exactly milliseconds and `Z`, the one form that is emitted."""
    milliseconds = nanoseconds // 10**6
    moment = EPOCH + datetime.timedelta(milliseconds=milliseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03}Z"


def _base64url(raw):
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(message):
    return message.encode() if isinstance(message, str) else message


def _point(raw):
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)
    except ValueError:
        require(False, "InvalidMessage", "the key is not a point on the curve")
