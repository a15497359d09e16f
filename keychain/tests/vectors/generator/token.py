"""Access tokens. A case without `check` is parsed and its signature verified against `publicKey`, the
issuing key: `ok` is the claims (times to the millisecond). A case with `check` asks besides whether the token
gives access, or can be refreshed, at `now`."""

import base64
import json
import zlib

from protocol.chain import compact
from protocol.credentials import Token, make_claims, make_token
from protocol.primitives import digest, format_time

from .cases import SKEW, START, agreed, key, nonce, ok, other_character, refused, seconds
from .squeeze import gzip, raw, stored

SERVER, DEVICE, NEXT = key("access server"), key("device access"), key("device access, next")


def claims(**changes):
    """The claims of the example token."""
    device, identity = digest("device"), digest("identity")
    members = make_claims(
        SERVER.public, device, identity, DEVICE.public, digest(NEXT.public), seconds(START))
    return members | changes


def example(issued=START, device_key=DEVICE, **changes):
    """A token that holds."""
    device, identity = digest("device"), digest("identity")
    made = make_claims(
        SERVER.public, device, identity, device_key.public, digest(NEXT.public), seconds(issued))
    return make_token(SERVER, made | changes, gzip)


def vectors():
    """Tokens that hold, misshapen ones, forged ones, and times."""
    return _valid() + _misshapen() + _forged() + _times()


def _case(name, text, expect, public_key=SERVER.public):
    case = {"name": name, "token": text, "publicKey": public_key, "expect": expect}

    def attempt():
        token = Token(text)
        token.check(public_key)
        return _facts(token)

    return agreed(case, attempt)


def _facts(token):
    """The claims as members, with times to the millisecond."""
    members = json.loads(token.json)
    times = ("issuedAt", "expiry", "refreshExpiry")
    return members | {name: format_time(token.claims[name]) for name in times}


def _valid():
    plain = compact(claims())
    roles = {"admin": ["ban"], "user": ["read", "write"]}
    longer = {f"role{n:02}": [f"permission{m:03}" for m in range(40)] for n in range(30)}
    made = {
        "without padding": make_token(SERVER, plain, gzip),
        "with padding": make_token(SERVER, plain, _unaligned(plain), pad=True),
        "stored, not compressed": make_token(SERVER, plain, stored),
        "a file name in the gzip header": make_token(SERVER, plain, _named),
        "two roles": make_token(SERVER, claims(attributes={"permissionsByRole": roles}), gzip),
        "a role without permissions": make_token(
            SERVER, claims(attributes={"permissionsByRole": {"user": []}}), gzip),
        "no role": make_token(SERVER, claims(attributes={"permissionsByRole": {}}), gzip),
        "20 KiB of claims": make_token(
            SERVER, claims(attributes={"permissionsByRole": longer}), stored),
        "members in another order": make_token(
            SERVER, dict(reversed(claims().items())), gzip),
        "nine fractional digits": make_token(
            SERVER, claims(issuedAt=START[:-1] + "123456Z"), gzip),
    }
    cases = []
    for name, text in made.items():
        cases.append(_case(name, text, ok(_facts(Token(text)))))
    signed = make_token(SERVER, plain, gzip)
    high = SERVER.sign(plain, high_s=True) + signed[88:]
    cases.append(_case("high s", high, ok(_facts(Token(signed)))))
    return cases


def _misshapen():
    plain = compact(claims())
    good = make_token(SERVER, plain, gzip)
    body = _packed(good)
    signed = good[:88]

    def packed(content):
        return signed + base64.urlsafe_b64encode(content).decode().rstrip("=")

    def of(**changes):
        return make_token(SERVER, claims(**changes), gzip)

    def without(name):
        return make_token(SERVER, {n: v for n, v in claims().items() if n != name}, gzip)

    def roles(value):
        return of(attributes={"permissionsByRole": value})

    tail = good[:-1] + _next_bits(good[-1]) if len(body) % 3 else None
    text = {
        "empty": "",
        "only the signature": signed,
        "only the signature and one character": signed + "A",
        "shorter than a signature": good[:60],
        "signature of another form": "0A" + good[2:],
        "signature with pad bits set": "0I_" + good[3:],
        "characters beyond ASCII across the signature's end": good[:87] + "\u00e9" + good[89:],
        "the alphabet of plain base64": signed + "+/" + good[90:],
        "a space inside": good[:200] + " " + good[201:],
        "a line feed after it": good + "\n",
        "padding inside": good[:100] + "=" + good[100:],
        "too much padding": good.rstrip("=") + "=" * (4 + -len(body) % 3),
        "bits left over in the last character": tail,
        "not gzip": packed(plain.encode()),
        "raw deflate": packed(raw(plain.encode())),
        "zlib, not gzip": packed(
            b"\x78\xda" + raw(plain.encode()) + zlib.adler32(plain.encode()).to_bytes(4, "big")),
        "an empty gzip member": packed(gzip(b"")),
        "truncated inside the data": packed(body[:100]),
        "truncated inside the header": packed(body[:8]),
        "without its checksum and length": packed(body[:-8]),
        "one byte short": packed(body[:-1]),
        "another checksum": packed(body[:-8] + bytes([body[-8] ^ 1]) + body[-7:]),
        "another length": packed(body[:-4] + bytes([body[-4] ^ 1]) + body[-3:]),
        "a byte after it": packed(body + b"\0"),
        "text after it": packed(body + b"trailing"),
        "a second member": packed(body + body),
        "a second member that is empty": packed(body + gzip(b"")),
        "two members, half the claims each": packed(
            gzip(plain[:50].encode()) + gzip(plain[50:].encode())),
        "another compression method": packed(body[:2] + b"\x07" + body[3:]),
        "a reserved block type": packed(body[:10] + b"\x07" + body[11:]),
        "64 KiB and a byte": packed(gzip(b" " * (64 * 1024 + 1))),
        "a bomb of 5 MB": packed(gzip(b" " * 5_000_000)),
        "64 KiB of white space after the claims": packed(gzip(plain.encode() + b" " * 65536)),
        "not UTF-8": packed(gzip(plain.encode().replace(b"user", b"us\xff\xfe"))),
        "not JSON": packed(gzip(b"claims")),
        "an array": packed(gzip(b"[]")),
        "cut off JSON": packed(gzip(plain[:-1].encode())),
        "two JSON values": packed(gzip(plain.encode() * 2)),
        "a NUL after the claims": packed(gzip(plain.encode() + b"\0")),
        "an extra member": make_token(SERVER, claims() | {"admin": True}, gzip),
        "a member twice": make_token(
            SERVER, plain[:-1] + f',"device":"{digest("x")}"}}', gzip),
        "device as an array": of(device=[]),
        "device misspelt": of(device=digest("x").lower()),
        "serverIdentity off the curve": of(
            serverIdentity="1AAIAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB"),
        "publicKey padded": of(publicKey=DEVICE.public + "="),
        "rotationHash empty": of(rotationHash=""),
        "expiry a number": of(expiry=1767323945678),
        "issuedAt with an offset": of(issuedAt=START[:-1] + "+00:00"),
        "refreshExpiry null": of(refreshExpiry=None),
        "attributes null": of(attributes=None),
        "attributes without roles": of(attributes={}),
        "an attribute that is not known": of(
            attributes={"permissionsByRole": {"user": []}, "more": 1}),
        "roles an array": roles([]),
        "permissions a string": roles({"user": "read"}),
        "a permission that is a number": roles({"user": [1]}),
        "a role twice": make_token(
            SERVER, plain.replace('{"user":', '{"user":[],"user":'), gzip),
        "serverIdentity escaped": make_token(
            SERVER, plain.replace('"1AAI', '"\\u0031AAI', 1), gzip),
        "the nonce of a request in place of a token": nonce("token"),
    }
    for name in claims():
        text[f"no {name}"] = without(name)
    assert text["bits left over in the last character"]
    return [_case(name, token, refused("InvalidToken")) for name, token in text.items()]


def _forged():
    good = make_token(SERVER, claims(), gzip)
    other = make_token(SERVER, claims(device=digest("another device")), gzip)
    text = {
        "signed by another key": make_token(key("stranger"), claims(), gzip),
        "signed by the device": make_token(DEVICE, claims(), gzip),
        "the signature of another token": other[:88] + good[88:],
        "a changed signature": other_character(good, 40),
        "a signature of zeros": "0I" + "A" * 86 + good[88:],
        "a claim changed after signing": good[:88] + make_token(
            SERVER, claims(attributes={"permissionsByRole": {"admin": ["ban"]}}), gzip)[88:],
    }
    cases = [_case(name, token, refused("BadSignature")) for name, token in text.items()]
    cases.append(_case(
        "looked up under another key", good, refused("BadSignature"), key("another").public))
    return cases


def _times():
    second, minute, hour = 1, 60, 3600
    moments = [
        ("access", "at issue", 0, None),
        ("access", "issued ahead, within the skew", -5 * second, None),
        ("access", "issued ahead, beyond the skew", -5.001 * second, "FutureToken"),
        ("access", "a millisecond before its end", 15 * minute - 0.001, None),
        ("access", "at its end", 15 * minute, "ExpiredToken"),
        ("access", "after its end", 16 * minute, "ExpiredToken"),
        ("refresh", "at issue", 0, None),
        ("refresh", "issued ahead, beyond the skew", -6 * second, "FutureToken"),
        ("refresh", "after the end of access", 16 * minute, None),
        ("refresh", "a millisecond before its end", 12 * hour - 0.001, None),
        ("refresh", "at its end", 12 * hour, "RefreshExpired"),
    ]
    text, cases = example(), []
    for check, name, offset, code in moments:
        now = seconds(START, offset)
        case = {
            "name": f"{check}: {name}", "token": text, "publicKey": SERVER.public,
            "check": check, "now": format_time(now), "skewMillis": SKEW // 10**6,
            "expect": refused(code) if code else ok(),
        }
        ask = Token(text).check_access if check == "access" else Token(text).check_refresh
        cases.append(agreed(case, lambda ask=ask, now=now: ask(now, SKEW) is None))
    return cases + _lives()


def _lives():
    """How long a token may live: 15 minutes and the skew."""
    cases = []
    for name, lives, code in (
        ("15 minutes and the skew", 15 * 60 + 5, None),
        ("a millisecond longer", 15 * 60 + 5.001, "InvalidToken"),
        ("a day", 86400, "InvalidToken"),
    ):
        text = make_token(SERVER, claims(expiry=format_time(seconds(START, lives))), gzip)
        now = seconds(START, 60)
        case = {
            "name": f"access: a life of {name}", "token": text, "publicKey": SERVER.public,
            "check": "access", "now": format_time(now), "skewMillis": SKEW // 10**6,
            "expect": refused(code) if code else ok(),
        }
        ask = Token(text).check_access
        cases.append(agreed(case, lambda ask=ask, now=now: ask(now, SKEW) is None))
    return cases


def _packed(token):
    body = token[88:]
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


def _unaligned(plain):
    """A compressor whose output needs padding in base64."""
    choices = [gzip, stored, _named]
    return next(c for c in choices if len(c(plain.encode())) % 3)


def _named(text):
    made = gzip(text)
    return made[:3] + b"\x08" + made[4:10] + b"claims\0" + made[10:]


def _next_bits(last):
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return alphabet[alphabet.index(last) | 1]
