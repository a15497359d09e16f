"""Digests: `ok` is the digest of the texts in `parts`, one after the other without a separator. A
key is digested as its text, never as its bytes."""

from protocol.primitives import digest

from .cases import key, ok


def vectors():
    """Plain texts, then the derivations of a device and an identity."""
    first, second, recovery = (key(label).public for label in ("one", "two", "recovery"))
    parts = {
        "nothing": [],
        "an empty text": [""],
        "one letter": ["a"],
        "text beyond ASCII": ["Schlüssel \U0001f511"],
        "a NUL": ["\0"],
        "1,025 bytes, more than one chunk": ["x" * 1025],
        "a commitment to a key": [first],
        "a device: first key and commitment": [first, digest(second)],
        "an identity: first key and both commitments": [first, digest(second), digest(recovery)],
        "the same characters cut elsewhere": [first + digest(second)[:7], digest(second)[7:]],
        "the same parts in another order": [digest(second), first],
    }
    return [
        {"name": name, "parts": texts, "expect": ok(digest(*texts))}
        for name, texts in parts.items()
    ]
