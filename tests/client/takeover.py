"""Taking over an account, and what a stranger may not do.

Each attempt is refused with its code, and afterwards nothing has changed: the victim's next keys, its
devices, its recovery key and its access are what they were.
"""

from protocol.primitives import PrivateKey, digest

from device import Device, spaced
from walk import cut_off, first, served
from world import Failed, unequal_case


def run(world):
    """A victim with two devices and a stranger with an account of his own."""
    recovery, stranger_recovery = PrivateKey.random(), PrivateKey.random()
    victim, stranger = Device(world), Device(world)
    created = world.holds("the victim's account", lambda: victim.create(recovery))
    if not world.holds("a stranger's account", lambda: stranger.create(stranger_recovery)):
        raise Failed("no accounts")
    second = Device(world, victim.identity)
    world.holds("the victim's second device",
                lambda: victim.gated("/device/link", second.container()))
    world.holds("its session", second.sign_in)
    creations(world, victim, created, recovery)
    for path, link, more in gated_operations(world, victim, second):
        failing_steps(world, victim, stranger, path, link, more)
    links(world, victim, stranger, second)
    unlinks(world, victim, stranger, second)
    recoveries(world, victim, stranger, recovery)
    world.holds("the victim's keys still step on", lambda: victim.gated("/device/rotate"))
    world.holds("the second device's too", lambda: second.gated("/device/rotate"))
    world.holds("its session still gives access", lambda: served(second, first(world)))
    new = Device(world, victim.identity)
    world.holds("the recovery key is the one of the creation",
                lambda: new.recover(recovery, PrivateKey.random()))
    spent(world, victim, recovery)


def creations(world, victim, created, recovery):
    """An identity is created once."""
    keys = Device(world)
    keys.identity = digest(keys.current.public, digest(keys.next.public), digest(recovery.public))
    good = keys.first(recoveryHash=digest(recovery.public))
    world.expect("creation of an identity that exists, in other bytes",
                 world.post("/account/create", spaced(created, victim.first_keys[0])), "BA602")
    for name, changes, code in (
        ("another identity", {"identity": victim.identity}, "BA102"),
        ("another device", {"device": victim.id}, "BA103"),
        ("a commitment to its own key", own_commitment(keys, recovery), "BA104"),
    ):
        inner = {"authentication": good | changes}
        world.refused(f"creation with {name}", "/account/create", inner, keys.current, code)
    world.refused("creation signed by another key", "/account/create",
                  {"authentication": good}, recovery, "BA201")


def own_commitment(keys, recovery):
    """A device that would reveal the same key for ever, all else in order."""
    key, own = keys.current.public, digest(keys.current.public)
    return {"rotationHash": own, "device": digest(key, own),
            "identity": digest(key, own, digest(recovery.public))}


def gated_operations(world, victim, second):
    """Every gated operation of the victim, with what it needs."""
    thief = Device(world, victim.identity)
    return (
        ("/device/rotate", None, {}),
        ("/device/link", thief.container(), {}),
        ("/device/unlink", {"device": second.id}, {}),
        ("/recovery/change", None, {"recoveryHash": digest(PrivateKey.random().public)}),
        ("/account/delete", None, {}),
    )


def failing_steps(world, victim, stranger, path, link, more):
    """A gated operation whose rotation step fails."""
    def attempt(name, *codes, key=None, **changes):
        inner, (used, _) = victim.step(link, key, **(more | changes))
        world.refused(f"{path} {name}", path, inner, used, *codes)

    attempt("with a stranger's key", "BA202", key=PrivateKey.random())
    attempt("with the key of today", "BA202", "BA205", key=victim.current)
    attempt("with a commitment to its own key", "BA104",
            rotationHash=digest(victim.next.public))
    attempt("for a device that is not there", "BA301", device=digest("no such device"))
    attempt("for a device that differs in case", "BA301", device=unequal_case(victim.id))
    inner, _ = victim.step(link, **more)
    world.refused(f"{path} signed by a stranger", path, inner, PrivateKey.random(), "BA201")
    for name, identity in (
        ("under an identity that is not there", digest("no such identity")),
        ("under an identity that differs in case", unequal_case(victim.identity)),
        ("under another account", stranger.identity),
    ):
        # A link names its identity twice; both have to change for the store to be asked.
        there = Device(world, identity).container() if path == "/device/link" else link
        inner, (used, _) = victim.step(there, **(more | {"identity": identity}))
        world.refused(f"{path} {name}", path, inner, used, "BA301")


def links(world, victim, stranger, second):
    """Containers that must not be taken."""
    path, thief = "/device/link", Device(world)

    def attempt(name, container, *codes):
        inner, (key, _) = victim.step(container)
        world.refused(f"{path}: {name}", path, inner, key, *codes)

    attempt("the container is of another identity", thief.container(stranger.identity), "BA302")
    attempt("the container's identity differs in case",
            thief.container(unequal_case(victim.identity)), "BA302")
    attempt("the container is signed by the linking device",
            thief.container(victim.identity, victim.next), "BA201")
    attempt("the container's device is another",
            thief.container(victim.identity, device=digest("another")), "BA103")
    own = digest(thief.current.public)
    attempt("the container commits to its own key", thief.container(
        victim.identity, rotationHash=own, device=digest(thief.current.public, own)), "BA104")
    attempt("the container of a device that is linked already", second.container(), "BA602")
    attempt("the container of the linking device itself", victim.container(), "BA602")
    thief.identity = victim.identity
    world.refused("the thief has no session", *cut_off(thief), "BA301")


def unlinks(world, victim, stranger, second):
    """Devices that are not the account's own."""
    path = "/device/unlink"
    world.holds("the stranger's session", stranger.sign_in)
    for name, device in (
        ("of another account's device", stranger.id),
        ("of a device that is not there", digest("no such device")),
        ("of its own device, spelt in another case", unequal_case(second.id)),
    ):
        inner, (key, _) = victim.step({"device": device})
        world.refused(f"{path} {name}", path, inner, key, "BA301")
    for app in world.apps:
        world.holds(f"the other account's device keeps its access at {app}",
                    lambda app=app: served(stranger, app))


def recoveries(world, victim, stranger, recovery):
    """Recovery keys that do not fit."""
    path, wrong, following = "/account/recover", PrivateKey.random(), PrivateKey.random()
    thief = Device(world, victim.identity)
    world.refused(f"{path} with a key that was not committed to", path,
                  thief.recovering(wrong, following), wrong, "BA202")
    world.refused(f"{path} that commits to the same key again", path,
                  thief.recovering(recovery, recovery), recovery, "BA104")
    world.refused(f"{path} signed by the new device", path,
                  thief.recovering(recovery, following), thief.current, "BA201")
    inner = thief.recovering(recovery, following)
    inner["authentication"]["device"] = digest("another")
    world.refused(f"{path} with another device", path, inner, recovery, "BA103")
    for name, identity, codes in (
        ("of an identity that is not there", digest("no such identity"), ("BA301",)),
        ("of an identity that differs in case", unequal_case(victim.identity), ("BA301",)),
        ("of another account", stranger.identity, ("BA202",)),
    ):
        thief.identity = identity
        world.refused(f"{path} {name}", path, thief.recovering(recovery, following), recovery,
                      *codes)


def spent(world, victim, recovery):
    """A recovery key that was revealed is worth nothing."""
    thief = Device(world, victim.identity)
    inner = thief.recovering(recovery, PrivateKey.random())
    world.refused("the recovery key a second time", "/account/recover", inner, recovery, "BA205")
