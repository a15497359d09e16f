"""The HSM key chain (PROTOCOL.md, the key chain): events, whole chains, and what is live."""

import json

from . import strict
from .primitives import decode, digest, parse_time, verify
from .refusal import require

PLACEHOLDER = "#" * 44
MINUTE = 60 * 10**9
HOUR = 60 * MINUTE
WINDOWS = {"edge": 12 * HOUR + 15 * MINUTE, "authd": 24 * HOUR, "device": 12 * HOUR + MINUTE}
PURPOSE = "key-authorization"


class Event:
    """One published event that has been verified on its own."""

    def __init__(self, text):
        payload, signature = strict.parse(text).members("payload", "signature")
        names = ["id", "prefix", "sequenceNumber", "createdAt", "purpose", "publicKey"]
        members = payload.members(
            *names, "rotationHash", optional=("previous", "taintPrevious"), open_ended=True
        )
        id_, prefix, number, created, purpose, key, rotation, previous, taint = members
        self.text = text
        self.id, self.prefix = _digest(id_), _digest(prefix)
        require(number.text.isdigit(), "InvalidMessage", "the sequence number is no count")
        require(number.value < 2**53, "InvalidMessage", "the sequence number is too large")
        self.number = number.value
        self.previous = previous and _digest(previous)
        self.created = parse_time(created.string())
        self.key = key.string()
        decode("publicKey", self.key)
        self.rotation = _digest(rotation)
        require(taint is None or isinstance(taint.value, bool), "InvalidMessage", "taint")
        self.taint = bool(taint and taint.value)
        require(purpose.string() == PURPOSE, "WrongPurpose", "not a chain event")
        require((previous is None) == (self.number == 0), "BadChain", "`previous`")
        require(self.rotation != digest(self.key), "BadChain", "commits to its own key")
        self._check_address(payload)
        verify(self.key, payload.text, signature.string())

    def _check_address(self, payload):
        blank = payload.text
        for field in ["id"] if self.number else ["id", "prefix"]:
            member = payload.value[field]
            start = member.at - payload.at
            blank = f'{blank[:start]}"{PLACEHOLDER}"{blank[start + len(member.text):]}'
        require(digest(blank) == self.id, "BadChain", "the id is not the digest of the event")
        require(self.number or self.prefix == self.id, "BadChain", "the prefix is not the id")

    def follows(self, last):
        """Whether this event holds as the next one after `last`, time of judging aside."""
        return (
            self.prefix == last.prefix
            and self.number == last.number + 1
            and self.previous == last.id
            and digest(self.key) == last.rotation
            and self.created > last.created
        )


def make_event(key, next_key, created, previous=None, taint=None, change=None):
    """A published event by `key`; `change` edits the ordered members before they are addressed."""
    members = {"id": PLACEHOLDER, "prefix": previous.prefix if previous else PLACEHOLDER}
    members["sequenceNumber"] = previous.number + 1 if previous else 0
    if previous:
        members["previous"] = previous.id
    members["createdAt"] = created
    if taint is not None:
        members["taintPrevious"] = taint
    members["purpose"] = PURPOSE
    members["publicKey"] = key.public
    members["rotationHash"] = digest(next_key.public)
    if change:
        members = change(members)
    address = digest(compact(members))
    members["id"] = address
    if members.get("prefix") == PLACEHOLDER:
        members["prefix"] = address
    payload = compact(members)
    return f'{{"payload":{payload},"signature":"{key.sign(payload)}"}}'


def compact(value):
    """JSON as every peer writes it: no white space, members in the order given, no escapes."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def walk(events, prefix, now, skew):
    """Checks a whole chain that is given in order, as an auditor does."""
    require(events and events[0].id == prefix, "BadChain", "it does not begin at the prefix")
    for last, event in zip(events, events[1:]):
        require(event.follows(last), "BadChain", f"event {event.number} does not follow")
    require(events[-1].created <= now + skew, "BadChain", "it goes on into the future")


class Chain:
    """What one verifier knows of a chain, and which generations it holds to be live."""

    def __init__(self, prefix, skew, pin=None, highest=None):
        self.prefix, self.skew, self.pin, self.highest = prefix, skew, pin, highest
        self.known, self.accepted, self.tainted = {}, [], set()
        self.heads = {}  # what the heads of each event stated, joined
        self.blocked = False  # several branches, none of them chosen

    def merge(self, events, now):
        """Takes in what any source offered; what holds and is due is accepted."""
        for event in events:
            if event.prefix == self.prefix:
                self.known[event.id] = event
        if self._rolled_back():  # what was accepted without the remembered event does not bind
            self.accepted, self.tainted = [], set()
        elif self._rivals_of_head():
            self.tainted.add(self.accepted[-1].id)
        self._advance(now)

    def hear(self, head, now, joined, entries):
        """Takes in a head that was already checked; how it stands to earlier ones, and what they lost.

        `joined` and `entries` are the classes of the statements' module, which imports this one.
        """
        if head.event not in self.heads:
            self.heads[head.event] = joined(head)
            outcome = "Newer", entries()
        else:
            known = self.heads[head.event]
            outcome = known.take(head, lambda id_: self._denial_ended(id_, head.issued))
        for known in self.heads.values():
            known.entries.drop_ended(now)
        return outcome

    def stated(self, entries):
        """What counts of all heads heard: the newest event's first, a tainted or denied one's not."""
        counted, heard_later = entries(), False
        for place in range(len(self.accepted) - 1, -1, -1):
            event = self.accepted[place]
            if event.id not in self.heads or event.id in counted.denied:
                continue
            tainted = self._is_tainted(place)
            if tainted and heard_later:
                continue
            own = entries()
            own.join(self.heads[event.id].entries)
            own.denied &= {e.id for e in self.accepted[:place]}
            counted.join(own)
            heard_later = heard_later or not tainted
        return counted

    def _is_tainted(self, place):
        event = self.accepted[place]
        if place + 1 < len(self.accepted):
            tainted = self.accepted[place + 1].taint
        else:
            tainted = any(e.taint and e.follows(event) for e in self.known.values())
        return tainted or event.id in self.tainted

    def _denial_ended(self, id_, at):
        ids = [e.id for e in self.accepted]
        if id_ not in ids:
            return True
        after = self.accepted[ids.index(id_) + 1:]
        return bool(after) and after[0].created + WINDOWS["authd"] <= at

    def _denied(self):
        if not self.heads:
            return set()
        return self.stated(type(next(iter(self.heads.values())).entries)).denied

    def live(self, window, now):
        """The ids of the generations that are live for a verifier with this window, in order."""
        if not self.accepted or self.blocked or self._rivals_of_head():
            return []
        if self._rolled_back():
            return []
        head, denied = self.accepted[-1], self._denied()
        alive = []
        for event, after in zip(self.accepted, self.accepted[1:]):
            in_window = now < after.created + window
            if in_window and not after.taint and event.id not in self.tainted | denied:
                alive.append(event.id)
        if not any(e.taint and e.follows(head) for e in self.known.values()):
            alive.append(head.id)
        return alive

    def _rolled_back(self):
        return self.highest and self.highest not in [e.id for e in self.accepted]

    def _advance(self, now):
        while True:
            ready = [e for e in self._next() if e.created <= now + self.skew]
            self.blocked = False
            if not ready:
                return
            chosen = ready[0] if len(ready) == 1 else self._choose(ready, now)
            if chosen is None:
                self.blocked = True
                return
            if len(ready) > 1:
                self.tainted.add(chosen.id)
            self.accepted.append(chosen)

    def _next(self):
        if not self.accepted:
            return [e for e in self.known.values() if e.number == 0 and e.id == self.prefix]
        return self._after(self.accepted[-1])

    def _after(self, last):
        return [e for e in self.known.values() if e.follows(last)]

    def _choose(self, rivals, now):
        for named in (self.pin, self.highest):
            holding = [e for e in rivals if named and self._reaches(e, named)]
            if holding:
                return holding[0]
        extended = [e for e in rivals if any(
            f.created <= now + self.skew for f in self._after(e))]
        return extended[0] if len(extended) == 1 else None

    def _reaches(self, event, id_):
        return event.id == id_ or any(self._reaches(f, id_) for f in self._after(event))

    def _rivals_of_head(self):
        if len(self.accepted) < 2:
            return []
        head, before = self.accepted[-1], self.accepted[-2]
        return [e for e in self._after(before) if e.id != head.id]


def _digest(node):
    text = node.string()
    decode("digest", text)
    return text
