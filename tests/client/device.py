"""A device: its keys, its session, and the requests it makes. State moves on only after an answer that
holds, as PROTOCOL.md demands of devices."""

from protocol.chain import compact
from protocol.credentials import Token
from protocol.message import access_request, seal
from protocol.primitives import PrivateKey, digest, format_time

from world import Failed, fresh_nonce, now


class Device:
    """One device of one account."""

    def __init__(self, world, identity=None):
        self.world = world
        self.current, self.next = PrivateKey.random(), PrivateKey.random()
        self.first_keys = self.current, self.next
        self.id = digest(self.current.public, digest(self.next.public))
        self.identity = identity
        self.access_key = self.access_next = self.token = None

    # What it says.

    def first(self, **more):
        """The `authentication` of a device's first keys."""
        return sorted_members(self._authentication(*self.first_keys) | more)

    def container(self, identity=None, signer=None, **changes):
        """The link container of a new device."""
        if identity:
            changes["identity"] = identity
        payload = {"authentication": self.first(**changes)}
        return {"payload": payload, "signature": (signer or self.first_keys[0]).sign(compact(payload))}

    def step(self, link=None, key=None, **more):
        """The `request` of a gated operation, and the next keys; `key` is revealed in place of ours."""
        key, fresh = key or self.next, PrivateKey.random()
        authentication = sorted_members(self._authentication(key, fresh) | more)
        inner = {"authentication": authentication} | ({"link": link} if link else {})
        return inner, (key, fresh)

    def _authentication(self, key, following):
        return {
            "device": self.id, "identity": self.identity, "publicKey": key.public,
            "rotationHash": digest(following.public),
        }

    # What it does.

    def create(self, recovery):
        """Creates an account."""
        commitment = digest(recovery.public)
        self.identity = digest(self.current.public, digest(self.next.public), commitment)
        inner = {"authentication": self.first(recoveryHash=commitment)}
        self._empty(self.world.ask("/account/create", inner, self.current))
        return inner

    def recover(self, recovery, following):
        """Takes an account over with its recovery key."""
        inner = self.recovering(recovery, following)
        self._empty(self.world.ask("/account/recover", inner, recovery))
        return inner

    def recovering(self, recovery, following):
        """The `request` of a recovery."""
        return {"authentication": self.first(
            recoveryHash=digest(following.public), recoveryKey=recovery.public)}

    def gated(self, path, link=None, **more):
        """A gated operation."""
        inner, keys = self.step(link, **more)
        self._empty(self.world.ask(path, inner, keys[0]))
        self.current, self.next = keys
        return inner

    def unlink_itself(self):
        """Leaves the account: commits to nothing that has a key."""
        inner, (key, _) = self.step({"device": self.id})
        inner["authentication"]["rotationHash"] = digest(inner["authentication"]["rotationHash"])
        self._empty(self.world.ask("/device/unlink", inner, key))

    def challenge(self, identity=None):
        """A challenge for a session."""
        inner = {"authentication": {"identity": identity or self.identity}}
        return self.world.ask("/session/request", inner)["authentication"].value["nonce"].string()

    def proof(self, challenge, device=None):
        """The `request` of a session, and the session's keys."""
        keys = PrivateKey.random(), PrivateKey.random()
        return {
            "access": {"publicKey": keys[0].public, "rotationHash": digest(keys[1].public)},
            "authentication": {"device": device or self.id, "nonce": challenge},
        }, keys

    def sign_in(self):
        """A session."""
        inner, keys = self.proof(self.challenge())
        response = self.world.ask("/session/create", inner, self.current)
        self._take(response, keys)

    def renewal(self):
        """The `request` of a refresh, and the session's next keys."""
        keys = self.access_next, PrivateKey.random()
        access = {"publicKey": keys[0].public, "rotationHash": digest(keys[1].public)}
        return {"access": access | {"token": self.token}}, keys

    def refresh(self):
        """A further token."""
        inner, keys = self.renewal()
        response = self.world.ask("/session/refresh", inner, keys[0])
        self._take(response, keys)
        return inner, keys

    def access(self, app, inner, path="/foo/bar", status=200):
        """A request to an app; its verified answer."""
        nonce = fresh_nonce()
        answer = self.world.fetch("POST", self.world.apps[app] + path, self.sealed(inner, nonce))
        # Which name an app's edge goes by is not the client's to know; authd it is not.
        return self.world.trust(answer, nonce, None, status).value

    def sealed(self, inner, nonce=None, moment=None, **more):
        """The message of a request to an app."""
        values = {"token": self.token, "key": self.access_key} | more
        return access_request(
            nonce or fresh_nonce(), moment or format_time(now()), values["token"], inner,
            values["key"], values.get("audience"))

    def _take(self, response, keys):
        token = response["access"].value["token"].string()
        claims = Token(token).claims
        ours = (self.identity, self.id, keys[0].public, digest(keys[1].public))
        said = tuple(claims[n] for n in ("identity", "device", "publicKey", "rotationHash"))
        if said != ours:
            raise Failed(f"the token is another's: {claims}")
        self.token, (self.access_key, self.access_next) = token, keys

    @staticmethod
    def _empty(response):
        if response != {}:
            raise Failed(f"want an empty response, got {response}")


def sorted_members(members):
    """Members in the order of the protocol."""
    return dict(sorted(members.items()))


def spaced(inner, key):
    """The same request in other bytes, signed."""
    text = compact(inner).replace('":', '": ')
    return seal(f'{{"access":{{"nonce":"{fresh_nonce()}"}},"request":{text}}}', key)
