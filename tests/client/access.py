"""Access requests, at every app's edge.

A nonce counts once and is not burnt by a refused request; times, token and signature each have
their code; and what an app echoes comes back as it went.
"""

import json

from protocol.message import seal
from protocol.primitives import PrivateKey, digest, format_time

from device import Device
from session import forged
from walk import BODY, served
from world import Failed, fresh_nonce, now

SECOND = 10**9
ECHOES = (
    "", "plain", "a \"quoted\" \\ backslash / slash", "\b\f\n\r\t\u0001\u001f\u007f", "<b>&'</b>",
    0, -1, 2**53 - 1, -(2**53 - 1), 0.5, -0.25, 123.456, 0.0001, 1234567890.125, 1e15 + 0.5,
    True, False, None, [], {}, [1, [2, [3, {"a": []}]]], {"b": 1, "a": {"z": None, "y": [0.1]}},
    {"7": "seven", "42": "then", "b": 1, "a": 2, "01": 3, "-1": 4},
)
SPELLINGS = (
    "1.0", "-0", "0.0", "1E5", "1e21", "1e-7", "0.000001", "1.50",
    r'"sch\u00f6n \ud83d\udd11 \u2028"', '"schön 🔑"', r'"\u003c\/\u0041"',
    '{"b":1,"10":2,"9":3,"a":4}', ' { "a" : [ 1 , 2 ] } ',
)


def run(world):
    """A device with a session, before each app."""
    device, other = Device(world), Device(world)
    if not world.holds("an account", lambda: device.create(PrivateKey.random())):
        raise Failed("no account")
    world.holds("a session", device.sign_in)
    world.holds("another account", lambda: other.create(PrivateKey.random()))
    world.holds("its session", other.sign_in)
    for app in world.apps:
        echoes(world, device, app)
        spellings(world, device, app)
        app_errors(world, device, app)
        times_and_nonces(world, device, app)
        forgeries(world, device, other, app)


def echoes(world, device, app):
    """What survives JavaScript and Python goes through unchanged."""
    def all_of_them():
        for value in ECHOES:
            answer = device.access(app, {"foo": value, "bar": [value]})
            got = json.loads(answer["wasFoo"].text), json.loads(answer["wasBar"].text)
            if json.dumps(got, sort_keys=True) != json.dumps((value, [value]), sort_keys=True):
                raise Failed(f"{value!r} came back as {got!r}")

    world.holds(f"{app}: {len(ECHOES)} values come back as they went", all_of_them)


def spellings(world, device, app):
    """What JavaScript spells in its own way is spelt so before it is signed."""
    url = world.apps[app] + "/foo/bar"

    def all_of_them():
        for spelling in SPELLINGS:
            nonce = fresh_nonce()
            message = device.sealed(f'{{"foo":{spelling},"bar":[{spelling}]}}', nonce)
            world.trust(world.fetch("POST", url, message), nonce, None, rewritten=False)

    world.holds(f"{app}: {len(SPELLINGS)} spellings are answered", all_of_them)
    if app != "typescript":  # which has changed the number before the edge sees it
        message = device.sealed({"foo": 2**53 + 1, "bar": 0})
        world.expect(f"{app}: a number that JavaScript would change is not sent",
                     world.fetch("POST", url, message), "BA701")


def app_errors(world, device, app):
    """An app's own refusals are signed, with their status."""
    world.holds(f"{app}: an app's 404 is signed", lambda: device.access(
        app, BODY, "/no/such/path", 404))
    world.holds(f"{app}: an app's 400 is signed", lambda: device.access(app, {"foo": 1}, status=400))


def times_and_nonces(world, device, app):
    """Once, and now."""
    url = world.apps[app] + "/foo/bar"

    def attempt(name, message, *codes):
        world.expect(f"{app}: {name}", world.fetch("POST", url, message), *codes)

    def at(seconds):
        return format_time(now() + round(seconds * SECOND))

    nonce = fresh_nonce()
    good = device.sealed(BODY, nonce)
    attempt("a signature by a stranger", device.sealed(BODY, nonce, key=PrivateKey.random()), "BA201")
    attempt("a request 32 s old", device.sealed(BODY, nonce, at(-32)), "BA501")
    attempt("a request a day old", device.sealed(BODY, nonce, at(-86400)), "BA501")
    attempt("a request 10 s ahead", device.sealed(BODY, nonce, at(10)), "BA502")
    attempt("another audience", device.sealed(
        BODY, nonce, audience="https://elsewhere.example/foo/bar"), "BA305")
    world.holds(f"{app}: none of this burnt the nonce",
                lambda: world.trust(world.fetch("POST", url, good), nonce, None))
    attempt("the same again", good, "BA205")
    attempt("the same nonce with another request", device.sealed({"foo": 1, "bar": 2}, nonce), "BA205")
    world.holds(f"{app}: 20 s old is not too old", lambda: accepted(world, device, app, at(-20)))
    world.holds(f"{app}: 2 s ahead is not too early", lambda: accepted(world, device, app, at(2)))


def accepted(world, device, app, moment):
    """A request made at some moment is answered."""
    nonce = fresh_nonce()
    answer = world.fetch("POST", world.apps[app] + "/foo/bar", device.sealed(BODY, nonce, moment))
    world.trust(answer, nonce, None)


def forgeries(world, device, other, app):
    """What is not the device's own."""
    url = world.apps[app] + "/foo/bar"

    def attempt(name, message, *codes):
        world.expect(f"{app}: {name}", world.fetch("POST", url, message), *codes)

    good = device.sealed(BODY)
    payload = good[len('{"payload":'): good.rindex(',"signature"')]
    attempt("another request under the signature", good.replace('"bar"', '"baz"', 1), "BA201")
    attempt("a flipped bit in the signature", flipped(good, -20), "BA201")
    attempt("white space put in", good.replace('"request":', '"request": '), "BA201")
    attempt("another account's token", device.sealed(BODY, token=other.token), "BA201")
    attempt("the token's next key", device.sealed(BODY, key=device.access_next), "BA201")
    attempt("a token with another's signature", device.sealed(
        BODY, token=other.token[:88] + device.token[88:]), "BA201")
    attempt("a token that nobody endorsed", device.sealed(
        BODY, token=forged(device, PrivateKey.random())), "BA206")
    attempt("a token cut off", device.sealed(BODY, token=device.token[:-6]), "BA402")
    attempt("no token", device.sealed(BODY, token=""), "BA402")
    attempt("a digest for a token", device.sealed(BODY, token=digest("token")), "BA402")
    attempt("a second member called request", seal(payload[:-1] + ',"request":{}}',
                                                   device.access_key), "BA101")
    attempt("a member that is not known", seal(
        payload.replace("},", ',"more":1},', 1), device.access_key), "BA101")
    attempt("no signature", f'{{"payload":{payload}}}', "BA101")
    attempt("nested 100,000 deep", device.sealed("[" * 100_000 + "]" * 100_000), "BA101")
    attempt("not UTF-8", device.sealed({"foo": "x", "bar": "y"}).encode().replace(
        b'"foo":"x"', b'"foo":"\xff"'), "BA101")
    attempt("10 MB", device.sealed({"foo": "x" * 10_000_000, "bar": "y"}), "BA105")
    world.holds(f"{app}: and still serves", lambda: served(device, app))


def flipped(text, at):
    """The text with one bit of base64url changed."""
    return text[:at] + ("B" if text[at] != "B" else "D") + text[at + 1:]
