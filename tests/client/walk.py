"""The ten operations, as an honest device does them.

Then what PROTOCOL.md promises about a lost reply: an exact repeat is answered again.
"""

from protocol.chain import walk as walk_chain
from protocol.credentials import Token
from protocol.primitives import PrivateKey, digest

from device import Device, spaced
from world import SKEW, Failed, now

BODY = {"foo": "bar", "bar": "foo"}


def run(world):
    """One account from its creation to its deletion."""
    holds = world.holds
    events = holds("the published chain verifies, as it stands and rewritten", world.learn_chain)
    holds("it is one chain of the pinned identity",
          lambda: walk_chain(events, world.identity, now(), SKEW))
    recovery, following, last = (PrivateKey.random() for _ in range(3))
    phone = Device(world)
    create = holds("/account/create", lambda: phone.create(recovery))
    if not create:
        raise Failed("no account")
    holds("/account/create, repeated", lambda: again(world, "/account/create", create, phone.current))
    rotation = holds("/device/rotate", lambda: phone.gated("/device/rotate"))
    holds("/device/rotate, repeated",
          lambda: again(world, "/device/rotate", rotation, phone.current))
    holds("/device/rotate to where the device stands, in other bytes",
          lambda: in_other_bytes(world, rotation, phone.current))
    holds("/session/request and /session/create", phone.sign_in)
    for app in world.apps:
        holds(f"an access request at {app}", lambda app=app: served(phone, app))
    refreshing(world, phone)
    tablet = Device(world, phone.identity)
    link = holds("/device/link", lambda: phone.gated("/device/link", tablet.container()))
    holds("/device/link, repeated", lambda: again(world, "/device/link", link, phone.current))
    holds("a session of the linked device", tablet.sign_in)
    holds("an access request of the linked device", lambda: served(tablet, first(world)))
    holds("/device/rotate of the linked device", lambda: tablet.gated("/device/rotate"))
    change = holds("/recovery/change", lambda: phone.gated(
        "/recovery/change", recoveryHash=digest(following.public)))
    holds("/recovery/change, repeated",
          lambda: again(world, "/recovery/change", change, phone.current))
    unlinking(world, phone, tablet)
    new = Device(world, phone.identity)
    recover = holds("/account/recover", lambda: new.recover(following, last))
    holds("/account/recover, repeated",
          lambda: again(world, "/account/recover", recover, following))
    world.refused("the devices before are cut off", *cut_off(phone), "BA301")
    holds("the recovered device has a session", new.sign_in)
    holds("and access", lambda: served(new, first(world)))
    delete = holds("/account/delete", lambda: new.gated("/account/delete"))
    holds("/account/delete, repeated",
          lambda: again(world, "/account/delete", delete, new.current))
    world.refused("a deleted account is gone", *cut_off(new), "BA301")


def refreshing(world, phone):
    """A session goes on."""
    before = Token(phone.token).claims
    made = world.holds("/session/refresh", phone.refresh)
    if not made:
        return
    after = Token(phone.token).claims
    world.report.check("a refresh keeps the end of the session and moves the end of access",
                       after["refreshExpiry"] == before["refreshExpiry"]
                       and after["expiry"] >= before["expiry"], f"{before} {after}")
    inner, keys = made
    response = world.holds("/session/refresh, repeated",
                           lambda: world.ask("/session/refresh", inner, keys[0]))
    if response:
        repeated = Token(response["access"].value["token"].string()).claims
        world.report.check("with the same times", repeated == after, f"{after} {repeated}")
    world.holds("an access request with the new token", lambda: served(phone, first(world)))


def unlinking(world, phone, tablet):
    """One device removes another, and one itself."""
    unlink = world.holds("/device/unlink", lambda: phone.gated(
        "/device/unlink", {"device": tablet.id}))
    world.holds("/device/unlink, repeated",
                lambda: again(world, "/device/unlink", unlink, phone.current))
    world.refused("an unlinked device gets no session", *cut_off(tablet), "BA301")
    inner, keys = tablet.renewal()
    world.refused("nor a refresh", "/session/refresh", inner, keys[0], "BA301")
    for app in world.apps:
        world.eventually(f"nor access at {app}", lambda app=app: revoked(tablet, app))
    watch = Device(world, phone.identity)
    world.holds("a third device", lambda: phone.gated("/device/link", watch.container()))
    world.holds("/device/unlink of itself", watch.unlink_itself)
    world.refused("it gets no session", *cut_off(watch), "BA301")


def again(world, path, inner, key):
    """The same request with another nonce is answered again."""
    response = world.ask(path, inner, key)
    if response != {}:
        raise Failed(f"want an empty response, got {response}")


def in_other_bytes(world, inner, key):
    """The same rotation spelt otherwise."""
    message = spaced(inner, key)
    nonce = message.split('"nonce":"')[1][:24]
    world.trust(world.post("/device/rotate", message), nonce, "authd")


def served(device, app):
    """An app answers what it was asked."""
    answer = {n: node.value for n, node in device.access(app, BODY).items()}
    if answer != {"wasFoo": "bar", "wasBar": "foo", "serverName": app}:
        raise Failed(f"{app} answered {answer}")


def revoked(device, app):
    """An app refuses the device as revoked."""
    answer = device.world.fetch("POST", device.world.apps[app] + "/foo/bar", device.sealed(BODY))
    if (answer.code(), answer.status) != ("BA304", 403):
        raise Failed(f"want BA304, got {answer}")


def cut_off(device):
    """A session creation that must be refused, for `World.refused`."""
    inner, _ = device.proof(device.challenge())
    return "/session/create", inner, device.current


def first(world):
    """Any app."""
    return next(iter(world.apps))
