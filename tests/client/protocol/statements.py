"""Heads: the one statement of the HSM's newest generation (PROTOCOL.md, statements)."""

from . import strict
from .chain import compact
from .primitives import decode, format_time, parse_time, verify
from .refusal import require

DENIED_LIMIT = KEYS_LIMIT = 64
SERVICES_LIMIT = 32
SERVICE_LENGTH = 72
TEXT_LIMIT = 16 * 1024
LONGEST = 24 * 3600 * 10**9  # of an endorsement, without the skew


def make_head(hsm_key, event, number, issued, expiration, denied=(), revoked=(), audit=None, change=None):
    """A head of `event`; `change` edits the ordered members of the payload before they are signed."""
    payload = {
        "purpose": "chain-head", "eventId": event.id, "sequenceNumber": event.number, "number": number,
        "issuedAt": issued, "expiration": expiration, "denied": list(denied), "revoked": list(revoked),
    }
    if audit:
        payload["audit"] = {"number": audit[0], "digest": audit[1]}
    payload = change(payload) if change else payload
    hsm = {"identity": event.prefix, "generationId": event.id}
    body = compact({"payload": payload, "hsm": hsm})
    return f'{{"body":{body},"signature":"{hsm_key.sign(body)}"}}'


class Entries:
    """What heads list: ids, ends of keys, and numbers and ends of services."""

    def __init__(self):
        self.denied, self.keys, self.services = set(), {}, {}

    def join(self, other):
        """Takes in all that another lists; nothing is ever taken out."""
        self.denied |= other.denied
        for key, end in other.keys.items():
            self.keys[key] = max(end, self.keys.get(key, end))
        for name, (number, end) in other.services.items():
            known = self.services.get(name, (number, end))
            self.services[name] = (max(number, known[0]), max(end, known[1]))

    def drop_ended(self, now):
        """Leaves out the revocations that have ended."""
        self.keys = {key: end for key, end in self.keys.items() if end > now}
        self.services = {name: it for name, it in self.services.items() if it[1] > now}

    def lacking(self, other, at, ended):
        """What stands here, has not ended at `at`, and the other does not list."""
        lost = Entries()
        lost.denied = {id_ for id_ in self.denied - other.denied if not ended(id_)}
        lost.keys = {k: end for k, end in self.keys.items() if end > at and k not in other.keys}
        lost.services = {
            name: (number, end) for name, (number, end) in self.services.items()
            if end > at and other.services.get(name, (-1, 0))[0] < number
        }
        return lost

    def written(self):
        """As the vectors show it."""
        return {
            "denied": sorted(self.denied),
            "keys": [[key, format_time(end)] for key, end in sorted(self.keys.items())],
            "services": [[name, number, format_time(end)]
                         for name, (number, end) in sorted(self.services.items())],
        }


class Head:
    """A head; `check` tells whether it holds, `age` how fresh it shows a chain to be."""

    def __init__(self, text):
        require(len(text.encode()) <= TEXT_LIMIT, "TooLarge", "a statement of more than 16 KiB")
        self.text = text
        self.body, signature = strict.parse(text).members("body", "signature", open_ended=True)
        self.signature = signature.string()
        decode("signature", self.signature)
        payload, hsm = self.body.members("payload", "hsm", open_ended=True)
        (stated,) = payload.members("purpose", open_ended=True)
        require(stated.string() == "chain-head", "WrongPurpose", "it is no head")
        identity, generation = hsm.members("identity", "generationId", open_ended=True)
        self.identity, self.generation = identity.string(), generation.string()
        decode("digest", self.identity)
        decode("digest", self.generation)
        event, sequence, number, issued, expiration, denied, revoked, audit = payload.members(
            "eventId", "sequenceNumber", "number", "issuedAt", "expiration", "denied", "revoked",
            optional=("audit",), open_ended=True)
        self.event = event.string()
        decode("digest", self.event)
        self.sequence, self.number = _count(sequence), _count(number)
        require(self.number > 0, "InvalidMessage", "heads count from 1")
        self.issued, self.expiration = parse_time(issued.string()), parse_time(expiration.string())
        require(self.expiration > self.issued, "InvalidMessage", "it ends before it begins")
        self.entries = _entries(denied, revoked)
        require(self.event not in self.entries.denied, "InvalidMessage", "it denies itself")
        if audit is not None:
            line, digest = audit.members("number", "digest", open_ended=True)
            _count(line)
            decode("digest", digest.string())

    def check(self, chain, window, now):
        """Refuses unless a live generation signed this about itself."""
        require(self.identity == chain.prefix, "DeadKey", "it is of another HSM")
        require(self.generation in chain.live(window, now), "DeadKey", "generation not live")
        event = next(e for e in chain.accepted if e.id == self.generation)
        verify(event.key, self.body.text, self.signature)
        own = self.event == event.id and self.sequence == event.number
        require(own, "BadChain", "it names another event than its generation's")
        ends = [*self.entries.keys.values(), *(end for _, end in self.entries.services.values())]
        last = self.issued + LONGEST + chain.skew
        require(all(end <= last for end in ends), "InvalidMessage", "longer than any endorsement")

    def age(self, chain, now):
        """How many nanoseconds ago nothing newer existed; refuses if this does not show it."""
        require(self.event == chain.accepted[-1].id, "DeadKey", "a newer event is known")
        require(self.issued <= now + chain.skew, "FutureRequest", "from the future")
        require(now < self.expiration, "DeadKey", "it has ended")
        return max(0, now - self.issued)


class Joined:
    """The heads of one event, joined."""

    def __init__(self, head):
        self.number, self.body = head.number, head.body.text
        self.entries = Entries()
        self.entries.join(head.entries)

    def take(self, head, ended):
        """How a further head stands to these, and what the newer of the two lost; it is joined."""
        lost = Entries()
        if head.number > self.number:
            order, lost = "Newer", self.entries.lacking(head.entries, head.issued, ended)
            self.number, self.body = head.number, head.body.text
        elif head.number < self.number:
            order, lost = "Older", head.entries.lacking(self.entries, head.issued, ended)
        else:
            order = "Same" if head.body.text == self.body else "Theft"
        self.entries.join(head.entries)
        return order, lost


def _count(node):
    plain = node.text.isdigit() and node.value < 2**53
    require(plain, "InvalidMessage", "it is no count")
    return node.value


def _entries(denied, revoked):
    entries = Entries()
    for item in _items(denied):
        _once(item.string(), entries.denied)
        decode("digest", item.string())
        entries.denied.add(item.string())
    for item in _items(revoked):
        key, service, until, number = item.members(
            optional=("publicKey", "service", "until", "endorsedUpTo"), open_ended=True)
        require((key is None) != (service is None), "InvalidMessage", "neither a key nor a service")
        require(until is not None, "InvalidMessage", "a revocation without an end")
        end = parse_time(until.string())
        if key is not None:
            decode("publicKey", key.string())
            _once(key.string(), entries.keys)
            entries.keys[key.string()] = end
        else:
            require(number is not None, "InvalidMessage", "a service without a number")
            name = service.string()
            require(0 < len(name.encode()) <= SERVICE_LENGTH, "InvalidMessage", "no name of a service")
            _once(name, entries.services)
            entries.services[name] = (_count(number), end)
    require(len(entries.denied) <= DENIED_LIMIT, "TooLarge", "too many denied")
    require(len(entries.keys) <= KEYS_LIMIT, "TooLarge", "too many keys")
    require(len(entries.services) <= SERVICES_LIMIT, "TooLarge", "too many services")
    return entries


def _items(node):
    require(isinstance(node.value, list), "InvalidMessage", "a list was expected")
    return node.value


def _once(text, known):
    require(text not in known, "InvalidMessage", "it lists one twice")
