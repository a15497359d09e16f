"""The protocol of keychain/PROTOCOL.md in Python, written from that page alone.

It shares no line with the Rust crates, so that two readings of one page can be held against each
other: `keychain/tests/vectors/generate.py` makes the vectors with it, and `tests/client/client.py`
speaks to a running system with it. It needs `cryptography` and `blake3`, nothing else.
"""
