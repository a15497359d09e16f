"""What the owner of an account asks of the auth server by access requests.

Each request names its operation; it counts once, and only for the account of its token.
"""

import json

from protocol.primitives import PrivateKey, format_time

from device import Device
from session import forged
from world import Failed, fresh_nonce, now

LIST = "/owner/devices/list"
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
    world.holds("which is the last that is known of the device", lambda: seen_later(phone, tablet))
    refusals(world, phone, tablet, other)
    world.holds("the second device is unlinked",
                lambda: phone.gated("/device/unlink", {"device": tablet.id}))
    world.expect("and asks no more", ask(tablet, LIST), "BA304")
    world.holds("and is not listed", lambda: lists(phone, {phone.id: True}))


def ask(device, path, nonce=None, moment=None, operation=None, **more):
    """An owner's request, made by a device."""
    inner = {"operation": operation or path}
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
