"""What every vector file shares: expectations, fixed keys and times, and edits of signed things."""

from blake3 import blake3

from protocol.primitives import PrivateKey, encode, parse_time
from protocol.refusal import CODES, Refusal

START = "2026-01-02T03:04:05.678Z"
SKEW = 5 * 10**9


def ok(value=True):
    """The expectation of success, with what must come out."""
    return {"ok": value}


def refused(name):
    """The expectation of the refusal of that name."""
    return {"code": CODES[name][0]}


def outcome(attempt):
    """What the Python implementation makes of it."""
    try:
        return ok(attempt())
    except Refusal as refusal:
        return {"code": refusal.code}


def agreed(case, attempt):
    """The case, after the Python implementation has come to the same expectation."""
    got = outcome(attempt)
    assert got == case["expect"], f"{case['name']}: expected {case['expect']}, got {got}"
    return case


def key(label):
    """A throw-away key."""
    return PrivateKey.labelled(label)


def nonce(label):
    """A fixed nonce."""
    return encode("nonce", blake3(label.encode()).digest(length=16))


def seconds(text, offset=0):
    """Nanoseconds of a timestamp, moved by seconds."""
    return parse_time(text) + round(offset * 10**9)


def other_character(text, at):
    """The text with the character at a place changed to another of base64url."""
    changed = "B" if text[at] != "B" else "C"
    at %= len(text)
    return text[:at] + changed + text[at + 1:]


def other_signature(message):
    """A message whose signature differs in one character somewhere inside."""
    start = message.rindex('"signature":"0I') + len('"signature":"0I')
    return other_character(message, start + 40)
