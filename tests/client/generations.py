"""Generations of the HSM: rotation and taint, under a session.

What the HSM service answers is in PROTOCOL.md's small print. A rotation disturbs nobody; a taint makes
every server take new keys, after which the same device goes on.
"""

import json

from protocol.credentials import Endorsement
from protocol.primitives import PrivateKey, format_time

from device import Device
from walk import served
from world import Failed, now, send

HOUR = 3600 * 10**9


def run(world):
    """Needs the sockets of the HSM service, which a client elsewhere has not."""
    if not world.admin or not world.endorse:
        print("  (no sockets of the HSM service are named)")
        return
    endorsing(world)
    device = Device(world)
    if not world.holds("an account", lambda: device.create(PrivateKey.random())):
        raise Failed("no account")
    world.holds("a session", device.sign_in)
    answer = administer(world, "/rotate", {})
    new = answer and answer.get("newPublicKey")
    world.eventually("the new generation is published", lambda: published(world, new))
    for app in world.apps:
        world.holds(f"the session has access at {app}", lambda app=app: served(device, app))
    world.holds("and refreshes", device.refresh)
    head = world.chain.accepted[-1].id
    tainted = administer(world, "/taint", {"generationId": head, "reason": "a rehearsal"})
    named = tainted and (tainted.get("taintedGenerationId") == head)
    world.report.check("the taint names the generation asked for", named, str(tainted))
    world.eventually("the taint is published", lambda: dead(world, head))
    repeated = administer(world, "/taint", {"generationId": head, "reason": "a rehearsal"})
    world.report.check("tainting it again answers the first result again", repeated == tainted,
                       f"{tainted} {repeated}")
    world.eventually("the authentication server has new keys", device.sign_in)
    for app in world.apps:
        world.eventually(f"{app} has new keys", lambda app=app: served(device, app))
    world.holds("the session refreshes", device.refresh)
    world.holds("the device rotates", lambda: device.gated("/device/rotate"))


def administer(world, path, body):
    """A command to the HSM service; its answer."""
    answer = send("POST", "http://localhost" + path, json.dumps(body), unix=world.admin)
    world.report.check(f"POST {path}", answer.status == 200, str(answer))
    return json.loads(answer.body) if answer.status == 200 else None


def published(world, public_key):
    """The generation with that key is in the published chain, which verifies."""
    if public_key not in [event.key for event in world.learn_chain()]:
        raise Failed(f"{public_key} is not published")


def dead(world, generation):
    """The generation is not live for a device any more."""
    world.learn_chain()
    if generation in world.chain.live(12 * HOUR, now()):
        raise Failed(f"{generation} is live")


def endorsing(world):
    """What the HSM service endorses for a caller that is no authentication server."""
    key = PrivateKey.random()

    def ask(**changes):
        payload = {"purpose": "response", "publicKey": key.public,
                   "expiration": format_time(now() + HOUR)} | changes
        return send("POST", "http://localhost/sign", json.dumps({"payload": payload}),
                    unix=world.endorse)

    answer = ask()
    good = answer.status == 200
    if good:
        endorsement = Endorsement(answer.body.decode().rstrip("\n"))
        world.holds("an endorsement verifies", lambda: endorsement.check(
            world.chain, "response", key.public, None, 12 * HOUR, now()))
        service = endorsement.service or ""
        world.report.check("it names the service by policy", service.startswith("edge:"), service)
    world.report.check("a response key is endorsed", good, str(answer))
    world.expect("a key for tokens is not", ask(purpose="access"), "BA303", "BA208")
    for name, changes in (
        ("another purpose", {"purpose": "key-authorization"}),
        ("no purpose", {"purpose": ""}),
        ("a service of the caller's own", {"service": "authd"}),
        ("a key off the curve", {"publicKey": "1AAIAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB"}),
        ("a year", {"expiration": format_time(now() + 8760 * HOUR)}),
        ("an hour ago", {"expiration": format_time(now() - HOUR)}),
        ("another form of time", {"expiration": "tomorrow"}),
    ):
        answer = ask(**changes)
        refused = 400 <= answer.status < 500 and answer.code() is not None
        world.report.check(f"refused: {name}", refused, str(answer))
