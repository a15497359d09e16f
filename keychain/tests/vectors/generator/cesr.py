"""Primitives in CESR's text domain. `kind` says what `text` is parsed as; `ok` is the bytes that it
stands for, in hex, whose encoding is the text again. Everything that is not the one spelling of a
value is refused."""

from blake3 import blake3

from protocol.primitives import ALPHABET, KINDS, decode, encode

from .cases import agreed, key, ok, refused

BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def vectors():
    """All cases: accepted spellings first."""
    cases = []
    for kind, raw, name in _valid():
        cases.append(_case(kind, name, encode(kind, raw), ok(raw.hex())))
    for kind in KINDS:
        good = _example(kind)
        for name, text in (_misspelt(kind, good) | _misfit(kind, good)).items():
            cases.append(_case(kind, name, text, refused("InvalidMessage")))
    for name, point in _no_points().items():
        cases.append(_case("publicKey", name, "1AAI" + _base64(point), refused("InvalidMessage")))
    return cases


def _case(kind, name, text, expect):
    case = {"name": f"{kind}: {name}", "kind": kind, "text": text, "expect": expect}
    return agreed(case, lambda: decode(kind, text).hex())


def _valid():
    for kind, (_, size, _) in KINDS.items():
        if kind == "publicKey":
            for label in ("one", "two", "three", "four"):
                yield kind, decode(kind, key(label).public), f"a key, `{label}`"
            continue
        yield kind, bytes(size), "all bits zero"
        yield kind, b"\xff" * size, "all bits one"
        yield kind, bytes(range(size)), "counting bytes"
        yield kind, blake3(kind.encode()).digest(length=size), "arbitrary bytes"


def _example(kind):
    if kind == "publicKey":
        return key("one").public
    return encode(kind, blake3(b"example").digest(length=KINDS[kind][1]))


def _misspelt(kind, good):
    """The right length, but not base64url or not with zero pad bits."""
    lead = KINDS[kind][0]
    middle = len(good) // 2
    cases = {
        "a plus sign": good[:middle] + "+" + good[middle + 1:],
        "a slash": good[:middle] + "/" + good[middle + 1:],
        "an equals sign at the end": good[:-1] + "=",
        "a space inside": good[:middle] + " " + good[middle + 1:],
        "a NUL inside": good[:middle] + "\0" + good[middle + 1:],
        "a line feed at the end": good[:-1] + "\n",
        "a full-width digit": good[:middle] + "\uff11" + good[middle + 1:],
        "an Arabic digit": good[:middle] + "\u0661" + good[middle + 1:],
        "a letter with an accent": good[:-1] + "\u00e9",
        "a quotation mark": good[:middle] + '"' + good[middle + 1:],
        "a dot": good[:middle] + "." + good[middle + 1:],
        "all `#`": "#" * len(good),
        "lead in lower case": lead.lower() + good[len(lead):],
        "no lead but zero bits": "A" * len(lead) + good[len(lead):],
        "reversed": good[::-1],
    }
    for other, (other_lead, _, _) in KINDS.items():
        if other != kind:
            text = (other_lead + good[len(other_lead):])[: len(good)]
            cases[f"lead of a {other}"] = text
    if lead == "1AAI":
        cases["lead `1AAA`"] = "1AAA" + good[4:]
        cases["lead `1AAJ` (not transferable)"] = "1AAJ" + good[4:]
        return cases
    value = BASE64URL.index(good[len(lead)])
    free = 2 if len(lead) == 1 else 4  # pad bits that the lead does not cover
    for bit in range(free):
        changed = BASE64URL[value | 1 << (5 - bit)]
        cases[f"pad bit {bit} set"] = lead + changed + good[len(lead) + 1:]
    return cases


def _misfit(kind, good):
    """Another length."""
    return {
        "empty": "",
        "only the lead": KINDS[kind][0],
        "one character short": good[:-1],
        "one character long": good + "A",
        "four characters short": good[:-4],
        "four characters long": good + "AAAA",
        "padded with `=`": good + "=",
        "padded with `==`": good + "==",
        "a line feed after it": good + "\n",
        "a carriage return and line feed after it": good + "\r\n",
        "a space before it": " " + good,
        "a NUL after it": good + "\0",
        "twice": good + good,
        "a byte order mark before it": "\ufeff" + good,
    }


def _no_points():
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    x = decode("publicKey", key("one").public)[1:]
    return {
        "infinity as zero bytes": bytes(33),
        "x = 0 marked as the point at infinity": b"\x00" + x,
        "x on no point": b"\x02" + (1).to_bytes(32, "big"),
        "x on no point, odd": b"\x03" + (1).to_bytes(32, "big"),
        "x = p": b"\x02" + prime.to_bytes(32, "big"),
        "x = p + 5, which is a point's x modulo p": b"\x02" + (prime + 5).to_bytes(32, "big"),
        "x = 2^256 - 1": b"\x02" + b"\xff" * 32,
        "first byte 01": b"\x01" + x,
        "first byte 04 (uncompressed)": b"\x04" + x,
        "first byte 05": b"\x05" + x,
        "first byte 06 (hybrid)": b"\x06" + x,
        "first byte ff": b"\xff" + x,
    }


def _base64(raw):
    bits = int.from_bytes(raw, "big")
    text = "".join(BASE64URL[bits >> shift & 63] for shift in range(len(raw) * 8 - 6, -6, -6))
    assert ALPHABET.fullmatch(text)
    return text
