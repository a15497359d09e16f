"""Heads and key revocations by the HSM's generations (PROTOCOL.md, statements)."""

from . import strict
from .chain import compact
from .primitives import decode, parse_time, verify
from .refusal import require

LISTED_LIMIT = 64
TEXT_LIMIT = 4096


def make_head(hsm_key, event, issued, expiration, denied=(), change=None):
    """The head of `event`; `change` edits the ordered members of the payload before they are signed."""
    payload = {
        "purpose": "chain-head", "eventId": event.id, "sequenceNumber": event.number,
        "issuedAt": issued, "expiration": expiration, "denied": list(denied),
    }
    return _made(hsm_key, event, payload, change)


def make_key_revocation(hsm_key, event, keys, issued, expiration, change=None):
    """The revocation of `keys`; `change` edits the payload, as for a head."""
    payload = {
        "purpose": "key-revocation", "publicKeys": list(keys),
        "issuedAt": issued, "expiration": expiration,
    }
    return _made(hsm_key, event, payload, change)


def _made(hsm_key, event, payload, change):
    payload = change(payload) if change else payload
    hsm = {"identity": event.prefix, "generationId": event.id}
    body = compact({"payload": payload, "hsm": hsm})
    return f'{{"body":{body},"signature":"{hsm_key.sign(body)}"}}'


class Statement:
    """What both kinds have: who signed, what, and the two times."""

    def __init__(self, text, purpose, *names):
        require(len(text.encode()) <= TEXT_LIMIT, "TooLarge", "a statement of more than 4 KiB")
        self.text = text
        self.body, signature = strict.parse(text).members("body", "signature", open_ended=True)
        self.signature = signature.string()
        decode("signature", self.signature)
        payload, hsm = self.body.members("payload", "hsm", open_ended=True)
        (stated,) = payload.members("purpose", open_ended=True)
        require(stated.string() == purpose, "WrongPurpose", f"it is no {purpose}")
        identity, generation = hsm.members("identity", "generationId", open_ended=True)
        self.identity, self.generation = identity.string(), generation.string()
        decode("digest", self.identity)
        decode("digest", self.generation)
        issued, expiration, *self.members = payload.members(
            "issuedAt", "expiration", *names, open_ended=True
        )
        self.issued, self.expiration = parse_time(issued.string()), parse_time(expiration.string())
        require(self.expiration > self.issued, "InvalidMessage", "it ends before it begins")

    def signer(self, chain, window, now):
        """The event of the live generation that signed this; refuses if there is none."""
        require(self.identity == chain.prefix, "DeadKey", "it is of another HSM")
        require(self.generation in chain.live(window, now), "DeadKey", "generation not live")
        event = next(e for e in chain.accepted if e.id == self.generation)
        verify(event.key, self.body.text, self.signature)
        return event


class Head(Statement):
    """A head; `check` tells whether it holds, `age` how fresh it shows a chain to be."""

    def __init__(self, text):
        super().__init__(text, "chain-head", "eventId", "sequenceNumber", "denied")
        event, number, denied = self.members
        self.event = event.string()
        decode("digest", self.event)
        plain = number.text.isdigit() and number.value < 2**53
        require(plain, "InvalidMessage", "the sequence number is no count")
        self.number = number.value
        self.denied = _list("digest", denied)
        require(self.event not in self.denied, "InvalidMessage", "it denies itself")

    def check(self, chain, window, now):
        """Refuses unless a live generation signed this about itself."""
        event = self.signer(chain, window, now)
        own = self.event == event.id and self.number == event.number
        require(own, "BadChain", "it names another event than its generation's")

    def age(self, chain, now):
        """How many nanoseconds ago nothing newer existed; refuses if this does not show it."""
        require(self.event == chain.accepted[-1].id, "DeadKey", "a newer event is known")
        require(self.issued <= now + chain.skew, "FutureRequest", "from the future")
        require(now < self.expiration, "DeadKey", "it has ended")
        return max(0, now - self.issued)


class KeyRevocation(Statement):
    """A key revocation; `check` tells whether it holds."""

    def __init__(self, text):
        super().__init__(text, "key-revocation", "publicKeys")
        self.keys = _list("publicKey", *self.members)
        require(self.keys, "InvalidMessage", "it names no key")

    def check(self, chain, window, now):
        """Refuses unless a live generation signed this, and it has not ended."""
        require(now < self.expiration, "DeadKey", "it has ended")
        self.signer(chain, window, now)


def _list(kind, node):
    require(isinstance(node.value, list), "InvalidMessage", "a list was expected")
    texts = [item.string() for item in node.value]
    require(len(texts) <= LISTED_LIMIT, "TooLarge", "it lists too many")
    for text in texts:
        decode(kind, text)
    require(len(set(texts)) == len(texts), "InvalidMessage", "it lists one twice")
    return texts
