"""Sessions, and what is refused on the way to one.

A challenge counts once and for its identity; a token is refreshed by one successor alone.
"""

import concurrent.futures
import gzip
import json

from protocol.credentials import Token, make_claims, make_token
from protocol.message import request
from protocol.primitives import PrivateKey, digest

from device import Device
from walk import first, served
from world import Failed, fresh_nonce, now, unequal_case

RACERS = 8


def run(world):
    """A device that signs in and refreshes."""
    device, other = Device(world), Device(world)
    if not world.holds("an account", lambda: device.create(PrivateKey.random())):
        raise Failed("no account")
    world.holds("another account", lambda: other.create(PrivateKey.random()))
    challenges(world, device, other)
    unknown_looks_like_revoked(world, device)
    world.holds("a session", device.sign_in)
    world.holds("a session of the other account", other.sign_in)
    forged_refreshes(world, device, other)
    races(world, device)
    world.holds("the other account's session was not touched", other.refresh)


def challenges(world, device, other):
    """What answers to a challenge are refused."""
    path = "/session/create"

    def attempt(name, challenge, *codes, key=None, **more):
        inner, _ = device.proof(challenge, **more)
        world.refused(f"{path} {name}", path, inner, key or device.current, *codes)

    world.holds("anybody gets a challenge for an identity that is not there",
                lambda: device.challenge(digest("no such identity")))
    attempt("with a challenge that was never issued", fresh_nonce(), "BA204")
    challenge = device.challenge()
    attempt("signed by a stranger", challenge, "BA201", key=PrivateKey.random())
    attempt("signed by the device's next key", challenge, "BA201", key=device.next)
    attempt("for a device that is not there", challenge, "BA301", device=digest("no such device"))
    attempt("for a device that differs in case", challenge, "BA301",
            device=unequal_case(device.id))
    attempt("for another account's device", challenge, "BA204", "BA301", device=other.id,
            key=other.current)
    inner, keys = device.proof(challenge)
    inner["access"]["rotationHash"] = digest(keys[0].public)
    world.refused(f"{path} with a commitment to its own key", path, inner, device.current, "BA104")
    attempt("with the challenge of another account", other.challenge(), "BA204", "BA301")
    attempt("with the challenge of an identity that differs in case",
            device.challenge(unequal_case(device.identity)), "BA204", "BA301")
    inner, _ = device.proof(challenge)
    world.holds("none of this spent the challenge",
                lambda: world.ask(path, inner, device.current))
    world.refused(f"{path} with a spent challenge", path, inner, device.current, "BA204")
    attempt("with a spent challenge and other keys", challenge, "BA204")


def unknown_looks_like_revoked(world, device):
    """Whether a device exists does not show."""
    gone, never = Device(world, device.identity), Device(world, device.identity)
    world.holds("a device", lambda: device.gated("/device/link", gone.container()))
    world.holds("is unlinked", lambda: device.gated("/device/unlink", {"device": gone.id}))
    answers = []
    for stranger in (gone, never):
        inner, _ = stranger.proof(stranger.challenge())
        answers.append(world.post("/session/create", request(fresh_nonce(), inner, stranger.current)))
    same = answers[0].body == answers[1].body and answers[0].status == answers[1].status == 401
    world.report.check("a revoked device and an unknown one get the same answer", same,
                       " and ".join(map(str, answers)))


def forged_refreshes(world, device, other):
    """Refreshes that prove nothing."""
    path = "/session/refresh"

    def attempt(name, *codes, token=None, key=None, **changes):
        inner, keys = device.renewal()
        used = key or keys[0]
        inner["access"] |= {"publicKey": used.public} | changes
        inner["access"]["token"] = token or inner["access"]["token"]
        world.refused(f"{path} {name}", path, inner, used, *codes)

    attempt("with a stranger's key", "BA202", key=PrivateKey.random())
    attempt("with the key of today", "BA202", key=device.access_key)
    attempt("with a commitment to its own key", "BA104",
            rotationHash=digest(device.access_next.public))
    attempt("of another account's token", "BA202", token=other.token)
    attempt("of a token with another signature", "BA201",
            token=other.token[:88] + device.token[88:])
    attempt("of a token cut off", "BA402", token=device.token[:-6])
    attempt("of a token with something after it", "BA402", token=device.token + "AAAA")
    attempt("of a signature without a token", "BA402", token=device.token[:88])
    forger = PrivateKey.random()
    attempt("of a token by an issuer that nobody endorsed", "BA206", token=forged(device, forger))
    issuer = Token(device.token).claims["serverIdentity"]
    attempt("of a token in the issuer's name", "BA201", token=forged(device, forger, issuer))
    inner, keys = device.renewal()
    world.refused(f"{path} signed by a stranger", path, inner, PrivateKey.random(), "BA201")
    world.holds("none of this spent the session", device.refresh)


def forged(device, forger, issuer=None):
    """A token as good as the device's, but by a key of one's own."""
    return forged_for(device, device.access_key, digest(device.access_next.public), forger, issuer)


def forged_for(device, key, commitment=None, forger=None, issuer=None):
    """A token for any keys, by anybody."""
    forger = forger or PrivateKey.random()
    members = make_claims(
        issuer or forger.public, device.id, device.identity, key.public,
        commitment or digest("next"), now())
    return make_token(forger, members, gzip.compress)


def races(world, device):
    """Of many refreshes at once, one successor wins."""
    attempts = []
    for _ in range(RACERS):
        inner, keys = device.renewal()
        nonce = fresh_nonce()
        attempts.append((nonce, request(nonce, inner, keys[0]), keys))
    with concurrent.futures.ThreadPoolExecutor(RACERS) as pool:
        answers = list(pool.map(lambda it: world.post("/session/refresh", it[1]), attempts))
    won = [n for n, answer in enumerate(answers) if answer.status == 200]
    lost = [answer for answer in answers if answer.code() == "BA405"]
    fair = len(won) == 1 and len(lost) == RACERS - 1
    if not world.report.check(f"of {RACERS} refreshes at once one wins", fair,
                              " ".join(map(str, answers))):
        return
    nonce, _, keys = attempts[won[0]]
    response = world.trust(answers[won[0]], nonce, "authd").value
    device.token = json.loads(response["access"].text)["token"]
    device.access_key, device.access_next = keys
    world.holds("the winner has access", lambda: served(device, first(world)))
    world.holds("and goes on", device.refresh)
    nonce, body, _ = attempts[won[0]]
    world.expect("the one before the last is not repeated", world.post("/session/refresh", body),
                 "BA405")
