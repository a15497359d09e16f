"""Access requests, as far as an app server can judge them without a chain or a store: shape, the
token's shape and times, the timestamp, and the signature by the key that the token names. `ok` is what
the request says; its `request` is as it stood in the message."""

from protocol.chain import compact
from protocol.message import AccessRequest, access_request, seal
from protocol.primitives import digest, format_time

from . import token
from .cases import SKEW, START, agreed, key, nonce, ok, other_signature, refused, seconds

DEVICE = token.DEVICE
NONCE = nonce("access")
ISSUED = seconds(START)
MOMENT = "2026-01-02T03:10:00.000Z"
BODY = {"foo": "bar", "bar": "foo"}
BODIES = {
    "an empty object": "{}",
    "an array": "[1,2,3]",
    "a string": '"text"',
    "null": "null",
    "a number beyond 2^53": "9007199254740993",
    "numbers as they stand": '{"a":1.0,"b":1e400,"c":-0,"d":0.10}',
    "escapes as they stand": '{"a":"\\u0041\\/\\ud83d\\ude00"}',
    "text beyond ASCII": '{"a":"sch\u00f6n \U0001f511"}',
    "white space": ' { "a" : [ 1 ,\n2 ] } ',
    "a member called signature": '{"payload":{},"signature":"0I"}',
    "angle brackets and an ampersand": '{"a":"<b>&</b>"}',
}


def vectors():
    """Requests that hold, times, misshapen ones, forged ones."""
    good = make()
    cases = [_case("a good one", good)]
    for name, body in BODIES.items():
        cases.append(_case(f"request: {name}", make(inner=body)))
    cases.append(_case("an audience", make(audience="https://app.example/foo/bar")))
    cases.append(_case("nine fractional digits", make(moment=MOMENT[:-1] + "123456Z")))
    cases.append(_case("high s", _resealed(good, True)))
    cases += _times(good)
    cases += [_case(name, body, "InvalidMessage") for name, body in _shapes(good).items()]
    cases += [_case(name, body, code) for name, (body, code) in _refused(good).items()]
    return cases


def make(inner=None, moment=MOMENT, audience=None, text=None, signer=DEVICE):
    """An access request by the device."""
    text = token.example() if text is None else text
    return access_request(NONCE, moment, text, BODY if inner is None else inner, signer, audience)


def _case(name, body, code=None, now=MOMENT):
    case = {"name": name, "now": now, "skewMillis": SKEW // 10**6}
    case |= {"body": body} if isinstance(body, str) else {"bodyHex": body.hex()}

    def attempt():
        request = AccessRequest(body, seconds(now), SKEW)
        return {
            "nonce": request.nonce, "timestamp": format_time(request.timestamp),
            "token": request.token.text, "audience": request.audience,
            "request": request.request,
        }

    case["expect"] = refused(code) if code else ok(attempt())
    return agreed(case, attempt)


def _times(good):
    def at(offset):
        return format_time(seconds(MOMENT, offset))

    minutes = 15 * 60
    last = format_time(seconds(START, minutes - 0.001))
    ended = format_time(seconds(START, minutes))
    early = format_time(seconds(START, -5.001))
    return [
        _case("30 s old", good, now=at(30)),
        _case("older than 30 s", good, "StaleRequest", at(30.001)),
        _case("an hour old, the token not", make(text=token.example("2026-01-02T04:00:00.000Z")),
              "StaleRequest", "2026-01-02T04:10:00.000Z"),
        _case("ahead by the skew", good, now=at(-5)),
        _case("ahead by more than the skew", good, "FutureRequest", at(-5.001)),
        _case("in the last millisecond of the token", make(moment=last), now=last),
        _case("at the end of the token", make(moment=ended), "ExpiredToken", ended),
        _case("before the token, beyond the skew", make(moment=early), "FutureToken", early),
        _case("before the token, within the skew", make(moment=format_time(ISSUED - SKEW)),
              now=format_time(ISSUED - SKEW)),
    ]


def _shapes(good):
    payload = _payload(good)
    sealed = lambda text: seal(text, DEVICE)
    cases = {
        "empty": "",
        "null": "null",
        "an array": f"[{good}]",
        "something after it": good + "x",
        "a NUL before it": "\0" + good,
        "cut off": good[:-1],
        "not UTF-8": good.encode().replace(b'"foo":"bar"', b'"foo":"b\xe9r"'),
        "overlong UTF-8": good.encode().replace(b'"foo":"bar"', b'"foo":"b\xc0\xafr"'),
        "half a surrogate pair in UTF-8": good.encode().replace(
            b'"foo":"bar"', b'"foo":"b\xed\xa0\x80r"'),
        "no signature": f'{{"payload":{payload}}}',
        "signature twice": good[:-1] + good[good.rindex(',"signature"'):],
        "payload twice": good[:-1] + f',"payload":{payload}}}',
        "a third member": good[:-1] + ',"more":1}',
        "no access": sealed('{"request":{}}'),
        "no request": sealed(payload[: payload.rindex(',"request"')] + "}"),
        "request twice": sealed(payload[:-1] + ',"request":{}}'),
        "an extra member of payload": sealed(payload[:-1] + ',"more":{}}'),
        "an extra member of access": sealed(payload.replace("},", ',"more":1},', 1)),
        "audience a number": sealed(payload.replace("},", ',"audience":1},', 1)),
        "audience null": sealed(payload.replace("},", ',"audience":null},', 1)),
        "audience twice": sealed(
            payload.replace("},", ',"audience":"a","audience":"a"},', 1)),
        "no token": sealed(payload.replace(f',"token":"{token.example()}"', "")),
        "token null": sealed(payload.replace(f'"{token.example()}"', "null")),
        "token in an array": sealed(payload.replace(
            f'"{token.example()}"', f'["{token.example()}"]')),
        "nonce empty": sealed(payload.replace(NONCE, "")),
        "nonce misspelt": sealed(payload.replace(NONCE, NONCE + "=")),
        "no nonce": sealed(payload.replace(f'"nonce":"{NONCE}",', "")),
        "no timestamp": sealed(payload.replace(f'"timestamp":"{MOMENT}",', "")),
        "timestamp with an offset": sealed(payload.replace(MOMENT, MOMENT[:-1] + "+00:00")),
        "timestamp a number": sealed(payload.replace(f'"{MOMENT}"', "1767323400000")),
        "a trailing comma in request": sealed(payload[:-2] + ",}}"),
        "a single quote": sealed(payload.replace('"foo":"bar"', "'foo':'bar'")),
        "a comment": sealed(payload[:-1] + "/* */}"),
        "NaN": sealed(payload.replace('"foo":"bar"', '"foo":NaN')),
        "a control character in a string": sealed(payload.replace('"foo":"bar"', '"foo":"b\nr"')),
        "brackets that do not match": sealed(payload.replace('{"foo"', '[{"foo"')),
    }
    signature = good[good.rindex('"0I') + 1: -2]
    cases["signature padded"] = good.replace(signature, signature + "==")
    cases["signature in lower case"] = good.replace(signature, signature.lower())
    return cases


def _refused(good):
    stranger = key("stranger")
    payload = _payload(good)
    another = token.example(device_key=stranger)
    start = good.rindex('"0I') + 1
    return {
        "token empty": (make(text=""), "InvalidToken"),
        "token cut off": (make(text=token.example()[:-9]), "InvalidToken"),
        "token a digest": (make(text=digest("token")), "InvalidToken"),
        "signed by a stranger": (make(signer=stranger), "BadSignature"),
        "signed by the issuer": (make(signer=token.SERVER), "BadSignature"),
        "signed by the device's next key": (make(signer=token.NEXT), "BadSignature"),
        "the token of another device": (make(text=another), "BadSignature"),
        "a changed signature": (other_signature(good), "BadSignature"),
        "a signature of zeros": (good[:start] + "0I" + "A" * 86 + '"}', "BadSignature"),
        "a changed request": (good.replace('"bar":"foo"', '"bar":"fop"'), "BadSignature"),
        "a changed nonce": (good.replace(NONCE, nonce("other")), "BadSignature"),
        "another time in milliseconds": (good.replace(MOMENT, MOMENT[:-2] + "1Z"), "BadSignature"),
        "the same time spelt otherwise": (good.replace(MOMENT, MOMENT[:-5] + "Z"), "BadSignature"),
        "an audience put in": (
            good.replace("},", ',"audience":"https://app.example"},', 1), "BadSignature"),
        "an audience taken out": (
            make(audience="https://a").replace(',"audience":"https://a"', ""), "BadSignature"),
        "white space put in": (good.replace('"request":', '"request" :'), "BadSignature"),
        "members exchanged": (_exchanged(payload, good[start:-2]), "BadSignature"),
        "the signature over the request alone": (
            good[:start] + DEVICE.sign(compact(BODY)) + '"}', "BadSignature"),
    }


def _payload(message):
    return message[len('{"payload":'): message.rindex(',"signature"')]


def _resealed(message, high_s):
    payload = _payload(message)
    return f'{{"payload":{payload},"signature":"{DEVICE.sign(payload, high_s)}"}}'


def _exchanged(payload, signature):
    at = payload.index(',"request"')
    turned = "{" + payload[at + 1: -1] + "," + payload[1:at] + "}"
    return f'{{"payload":{turned},"signature":"{signature}"}}'
