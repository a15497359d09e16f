"""gzip written by hand, so that the same bytes come out whatever zlib a machine has."""

import zlib

HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"


def gzip(text):
    """One member: fixed Huffman codes, runs of one byte as matches."""
    return member(_fixed(text), text)


def stored(text):
    """One member that stores its bytes as they are."""
    blocks = [text[at: at + 65535] for at in range(0, len(text), 65535)] or [b""]
    body = b""
    for place, block in enumerate(blocks):
        size = len(block)
        last = place == len(blocks) - 1
        body += bytes([last]) + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little")
        body += block
    return member(body, text)


def member(deflated, text):
    """The gzip member around a deflate stream of `text`."""
    trailer = zlib.crc32(text).to_bytes(4, "little") + (len(text) % 2**32).to_bytes(4, "little")
    return HEADER + deflated + trailer


def raw(text):
    """The deflate stream alone."""
    return _fixed(text)


class _Bits:
    def __init__(self):
        self.value, self.count, self.out = 0, 0, bytearray()

    def put(self, code, length):
        """A Huffman code, most significant bit first."""
        for bit in range(length - 1, -1, -1):
            self.value |= (code >> bit & 1) << self.count
            self.count += 1
            if self.count == 8:
                self.out.append(self.value)
                self.value, self.count = 0, 0

    def done(self):
        """Everything, filled up with zero bits."""
        if self.count:
            self.out.append(self.value)
        return bytes(self.out)


def _fixed(text):
    bits = _Bits()
    bits.put(0b110, 3)  # the last block; fixed codes (01, least significant bit first)
    at = 0
    while at < len(text):
        byte = text[at]
        bits.put(*((0x30 + byte, 8) if byte < 144 else (0x190 + byte - 144, 9)))
        at += 1
        run = text[at: at + 258]
        while len(run) == 258 and run.count(byte) == 258:
            bits.put(0xC0 + 285 - 280, 8)  # 258 bytes …
            bits.put(0, 5)  # … from one byte back
            at += 258
            run = text[at: at + 258]
    bits.put(0, 7)
    return bits.done()
