"""What the owner of an account asks of the auth server by access requests.

Each request names its operation; it counts once, and only for the account of its token.
"""

import json

from protocol.message import request
from protocol.primitives import PrivateKey, digest, format_time

from device import Device
from session import forged
from walk import first, served
from world import Failed, fresh_nonce, now

LIST = "/owner/devices/list"
NAME = "/owner/devices/name"
END = "/owner/sessions/end"
END_OTHERS = "/owner/sessions/end-others"
SECOND = 10**9


def run(world):
    """An owner with two devices, and a stranger."""
    phone, other = Device(world), Device(world)
    if not world.holds("an account", lambda: phone.create(PrivateKey.random())):
        raise Failed("no account")
    tablet = Device(world, phone.identity)
    world.holds("a second device", lambda: phone.gated("/device/link", tablet.container()))
    for device in (phone, tablet):
        world.holds("a session", device.sign_in)
    world.holds("another account", lambda: other.create(PrivateKey.random()))
    world.holds("its session", other.sign_in)
    world.holds(f"{LIST} has both devices", lambda: lists(phone, {phone.id: True, tablet.id: False}))
    world.holds("and of the other account its own", lambda: lists(other, {other.id: True}))
    world.holds("a refresh", tablet.refresh)
    world.holds("which is the last that is known of it", lambda: seen_later(phone, tablet))
    refusals(world, phone, tablet, other)
    names(world, phone, tablet, other)
    ends(world, phone, tablet, other)
    world.holds("the second device is unlinked",
                lambda: phone.gated("/device/unlink", {"device": tablet.id}))
    world.expect("and asks no more", ask(tablet, LIST), "BA304")
    world.holds("and is not listed", lambda: lists(phone, {phone.id: True}))


def ask(device, path, nonce=None, moment=None, operation=None, about=None, name=None, **more):
    """An owner's request, made by a device."""
    inner = {"device": about} if about else {}
    inner |= {"name": name} if name else {}
    inner |= {"operation": operation or path}
    return device.world.fetch(
        "POST", device.world.auth + path, device.sealed(inner, nonce, moment, **more))


def listed(device):
    """The devices of an account, by their ids."""
    nonce = fresh_nonce()
    answer = device.world.trust(ask(device, LIST, nonce), nonce, "authd")
    return {entry["device"]: entry for entry in json.loads(answer.text)["devices"]}


def lists(device, expected):
    """These are the devices of the account, and which of them asks."""
    entries = listed(device)
    if {name: entry["current"] for name, entry in entries.items()} != expected:
        raise Failed(f"want {expected}, got {entries}")
    for entry in entries.values():
        if not entry["firstSeen"] <= entry["lastSeen"] <= format_time(now() + 5 * SECOND):
            raise Failed(f"seen out of order: {entry}")


def seen_later(device, refreshed):
    """A device was seen after it was registered."""
    entry = listed(device)[refreshed.id]
    if entry["lastSeen"] <= entry["firstSeen"]:
        raise Failed(f"{entry}")


def done(device, path, **more):
    """A request that is carried out; its answer."""
    nonce = fresh_nonce()
    answer = device.world.trust(ask(device, path, nonce, **more), nonce, "authd")
    return json.loads(answer.text)


def names(world, phone, tablet, other):
    """A device's name, and whose it is not to give."""
    def called(name):
        answer = done(phone, NAME, about=tablet.id, name=name)
        entry = listed(phone)[tablet.id]
        if answer != {} or entry.get("name") != name:
            raise Failed(f"want {name}, got {answer}, {entry}")

    for name in ("my tablet", "an older one", None):
        world.holds(f"{NAME} to {name}", lambda name=name: called(name))
    for name in ("x" * 65, "<b>", "sch\u00f6n"):
        world.expect(f"{NAME} to {name[:9]}", ask(phone, NAME, about=tablet.id, name=name), "BA101")
    for path in (NAME, END):
        world.expect(f"{path} of another account's device",
                     ask(phone, path, about=other.id), "BA301")
        world.expect(f"{path} of no device", ask(phone, path, about=digest("none")), "BA301")


def ends(world, phone, tablet, other):
    """An end of sessions, to its last consequence."""
    app = first(world)
    world.holds("the second device has access", lambda: served(tablet, app))
    answer = world.holds(END_OTHERS, lambda: done(phone, END_OTHERS))
    world.report.check("it concerns one device", bool(answer) and answer["devices"] == 1, str(answer))
    inner, keys = tablet.renewal()
    world.refused("its session is not refreshed", "/session/refresh", inner, keys[0], "BA404")
    world.expect("it asks for nothing more", ask(tablet, LIST), "BA401")
    world.eventually("the app's edge refuses it", lambda: refused_at(tablet, app))
    world.holds("the device that asked has access", lambda: served(phone, app))
    world.holds("and a refresh", phone.refresh)
    world.holds("another account is not touched", lambda: served(other, app))
    inner, _ = tablet.proof(tablet.challenge())
    wait = world.post("/session/create", request(fresh_nonce(), inner, tablet.current))
    world.expect("a new session is told when to begin", wait, "BA604")
    world.report.check("which is soon", 1 <= int(wait.header("retry-after") or 0) <= 21, str(wait))
    world.eventually("and begins then", tablet.sign_in)
    world.holds("with access", lambda: served(tablet, app))


def refused_at(device, app):
    """An app's edge says that the token has ended."""
    answer = device.world.fetch(
        "POST", device.world.apps[app] + "/foo/bar", device.sealed({"foo": 1, "bar": 2}))
    if answer.code() != "BA401":
        raise Failed(str(answer))


def refusals(world, phone, tablet, other):
    """What is not the owner's own, not now, or not for this."""
    nonce = fresh_nonce()
    moment = format_time(now())

    def attempt(name, *codes, **more):
        world.expect(name, ask(phone, LIST, nonce, **({"moment": moment} | more)), *codes)

    attempt("a signature by a stranger", "BA201", key=PrivateKey.random())
    attempt("another account's token", "BA201", token=other.token)
    attempt("another device's token", "BA201", token=tablet.token)
    attempt("a token that nobody endorsed", "BA206", token=forged(phone, PrivateKey.random()))
    attempt("a token cut off", "BA402", token=phone.token[:-6])
    attempt("a request 32 s old", "BA501", moment=format_time(now() - 32 * SECOND))
    attempt("a request 10 s ahead", "BA502", moment=format_time(now() + 10 * SECOND))
    attempt("for another operation", "BA101", operation="/device/rotate")
    attempt("another audience", "BA305", audience="https://elsewhere.example" + LIST)
    world.holds("none of this burnt the nonce", lambda: world.trust(
        ask(phone, LIST, nonce, moment), nonce, "authd"))
    attempt("the same again", "BA205")
    attempt("the same nonce at another time", "BA205", moment=format_time(now()))
