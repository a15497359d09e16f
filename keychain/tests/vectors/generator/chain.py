"""Chains. A case with `whole` is an auditor's walk over events given in order. A case with `steps` is
a verifier at work: at each step it takes in a set of events at `now`, and `ok` says which events it
has accepted since it began (left out where that says nothing) and which generations are then live for each window (`at`, if it is there,
is when that is asked). `pin` is the configured event and `highest` what the verifier remembers from
before, if any (with the configured event that its branch held then)."""

from protocol.chain import WINDOWS, Chain, Event, make_event, walk
from protocol.primitives import format_time

from .cases import SKEW, START, agreed, key, ok, refused, seconds

HOUR = 3600


class Tree:
    """A made chain with branches: each event is named, and knows its keys."""

    def __init__(self, label="chain"):
        self.label, self.events = label, {}

    def add(self, name, after=None, at=0.0, taint=None, line="", next_line=None, change=None,
            signer=None):
        """Event `name` after another, `at` hours after START; `line` is whose keys go on."""
        last = self.events.get(after)
        number = last.number + 1 if last else 0
        key_ = signer or self.key(number, line)
        next_key = self.key(number + 1, line if next_line is None else next_line)
        text = make_event(key_, next_key, clock(at), last, taint=taint, change=change)
        self.events[name] = Event(text)
        return self

    def key(self, number, line=""):
        """The key of a generation; `line` tells a thief's from the owner's."""
        return key(f"{self.label}{line} {number}")

    def __getitem__(self, names):
        return [self.events[name] for name in names.split()]


def clock(hours):
    """The timestamp `hours` after START."""
    return format_time(seconds(START, hours * HOUR))


def straight():
    """Four generations, four hours apart."""
    return (Tree().add("0").add("1", "0", 4).add("2", "1", 8).add("3", "2", 12))


def vectors():
    """Whole walks, then growth, taint and time, then contested chains, then what is remembered."""
    return _walks() + _growth() + _time() + _contested() + _remembered()


def _walks():
    tree = straight()
    foreign = Tree("foreign").add("0").add("1", "0", 4)
    odd = straight()
    odd.add("same time", "0", 0).add("earlier", "0", -1).add("later", "0", 5)
    odd.add("wrong key", "0", 4, signer=key("stranger"))
    odd.add("wrong previous", "0", 4, change=lambda m: m | {"previous": foreign["1"][0].id})
    odd.add("skipped", "0", 4, change=lambda m: m | {"sequenceNumber": 2})
    odd.add("other prefix", "0", 4, change=lambda m: m | {"prefix": foreign["0"][0].id})
    cases = {
        "four events": (tree["0 1 2 3"], None),
        "one event": (tree["0"], None),
        "no event": ([], "BadChain"),
        "without its first event": (tree["1 2 3"], "BadChain"),
        "a hole": (tree["0 1 3"], "BadChain"),
        "an event twice": (tree["0 1 1 2"], "BadChain"),
        "the last event twice": (tree["0 1 1"], "BadChain"),
        "two events exchanged": (tree["0 2 1 3"], "BadChain"),
        "backwards": (tree["3 2 1 0"], "BadChain"),
        "two events with one sequence number": (odd["0 1 later"], "BadChain"),
        "createdAt unchanged": ([*odd["0"], odd.events["same time"]], "BadChain"),
        "createdAt going back": ([*odd["0"], odd.events["earlier"]], "BadChain"),
        "a key that was not committed to": ([*odd["0"], odd.events["wrong key"]], "BadChain"),
        "another previous": ([*odd["0"], odd.events["wrong previous"]], "BadChain"),
        "a sequence number left out": ([*odd["0"], odd.events["skipped"]], "BadChain"),
        "another prefix": ([*odd["0"], odd.events["other prefix"]], "BadChain"),
        "events of another chain after it": (tree["0 1"] + foreign["0 1"], "BadChain"),
        "another chain": (foreign["0 1"], "BadChain"),
        "into the future": (Tree().add("0").add("1", "0", 25)["0 1"], "BadChain"),
        "into the future within the skew": (Tree().add("0").add("1", "0", 24 + 4 / HOUR)["0 1"], None),
    }
    made = []
    for name, (events, code) in cases.items():
        case = {"name": f"whole: {name}", "prefix": tree["0"][0].id, "now": clock(24)}
        case |= {"skewMillis": SKEW // 10**6, "whole": [e.text for e in events]}
        case["expect"] = refused(code) if code else ok()
        prefix = tree["0"][0].id
        made.append(agreed(case, lambda events=events: walk(
            events, prefix, seconds(clock(24)), SKEW) is None))
    return made


def _merge(name, tree, steps, pin=None, highest=None):
    """A verifier's case: each step is (hours, names, accepted, edge, authd, device[, asked at])."""
    chain = Chain(tree["0"][0].id, SKEW, *(n and tree.events[n].id for n in (pin, highest)))
    case = {"name": name, "prefix": chain.prefix, "skewMillis": SKEW // 10**6, "steps": []}
    if pin:
        case["pin"] = chain.pin
    if highest:
        event = tree.events[highest]
        case["highest"] = {"id": event.id, "sequenceNumber": event.number}
        if pin:
            case["highest"]["pin"] = chain.pin
    for hours, names, accepted, *live, in steps:
        asked = live.pop() if len(live) == 4 else hours
        events = tree[names]
        chain.merge(events, seconds(clock(hours)))
        windows = {
            window: [tree.events[n].id for n in wanted.split()]
            for window, wanted in zip(("edge", "authd", "device"), live)
        }
        expect = {"live": windows}
        if accepted is not None:
            expect = {"accepted": [tree.events[n].id for n in accepted.split()]} | expect
        step = {"now": clock(hours), "events": [e.text for e in events], "expect": ok(expect)}
        if asked != hours:
            step["at"] = clock(asked)
        got = _state(chain, asked)
        assert expect == {n: got[n] for n in expect}, f"{name}, step {len(case['steps'])}: {got}"
        case["steps"].append(step)
    return case


def _state(chain, hours):
    now = seconds(clock(hours))
    live = {window: chain.live(WINDOWS[window], now) for window in ("edge", "authd", "device")}
    return {"accepted": [e.id for e in chain.accepted], "live": live}


def _same(hours, names, accepted, live):
    return (hours, names, accepted, live, live, live)


def _growth():
    tree = straight()
    tree.add("wrong key", "0", 4, signer=key("stranger"))
    tree.add("same time", "0", 0)
    foreign = Tree("foreign").add("0").add("1", "0", 4)
    tree.events |= {f"foreign{n}": e for n, e in foreign.events.items()}
    tree.events |= {"stranger": tree.events.pop("wrong key"), "sametime": tree.events.pop("same time")}
    return [
        _merge("nothing known", tree, [_same(13, "", "", "")]),
        _merge("one event", tree, [_same(13, "0", "0", "0")]),
        _merge("all at once", tree, [_same(13, "0 1 2 3", "0 1 2 3", "0 1 2 3")]),
        _merge("all at once, backwards", tree, [_same(13, "3 2 1 0", "0 1 2 3", "0 1 2 3")]),
        _merge("one by one", tree, [
            _same(1, "0", "0", "0"), _same(5, "1", "0 1", "0 1"),
            _same(9, "2", "0 1 2", "0 1 2"), _same(13, "3", "0 1 2 3", "0 1 2 3")]),
        _merge("a hole: what follows it waits", tree, [
            _same(13, "0 1 3", "0 1", "0 1"), _same(13, "2", "0 1 2 3", "0 1 2 3")]),
        _merge("the first event comes last", tree, [
            _same(13, "3 1 2", "", ""), _same(13, "0", "0 1 2 3", "0 1 2 3")]),
        _merge("everything again", tree, [
            _same(13, "0 1 2 3", "0 1 2 3", "0 1 2 3"),
            _same(13, "0 1 2 3 3 2 1 0", "0 1 2 3", "0 1 2 3")]),
        _merge("less than before", tree, [
            _same(13, "0 1 2 3", "0 1 2 3", "0 1 2 3"), _same(13, "0 1", "0 1 2 3", "0 1 2 3")]),
        _merge("events of another chain are ignored", tree, [
            _same(5, "foreign0 0 foreign1 1", "0 1", "0 1")]),
        _merge("a key that was not committed to is no rival", tree, [
            _same(5, "0 stranger", "0", "0"), _same(5, "1", "0 1", "0 1")]),
        _merge("an event not later than the one before is none", tree, [
            _same(5, "0 sametime", "0", "0"), _same(5, "1", "0 1", "0 1")]),
    ]


def _time():
    tree = straight().add("T", "1", 8, taint=True).add("T3", "T", 12)
    tree.add("F", "3", 40).add("FT", "3", 40, taint=True).add("FT5", "FT", 41)
    tree.add("N", "1", 8, taint=False)
    second = 1 / HOUR
    return [
        _merge("windows end one by one", tree, [
            (13, "0 1 2 3", "0 1 2 3", "0 1 2 3", "0 1 2 3", "0 1 2 3"),
            (16 + 30 / HOUR, "", "0 1 2 3", "0 1 2 3", "0 1 2 3", "0 1 2 3"),
            (16 + 90 / HOUR, "", "0 1 2 3", "0 1 2 3", "0 1 2 3", "1 2 3"),
            (16.25 - second, "", "0 1 2 3", "0 1 2 3", "0 1 2 3", "1 2 3"),
            (16.25 + second, "", "0 1 2 3", "1 2 3", "0 1 2 3", "1 2 3"),
            (28 - second, "", "0 1 2 3", "3", "0 1 2 3", "3"),
            (28 + second, "", "0 1 2 3", "3", "1 2 3", "3"),
            (9000, "", "0 1 2 3", "3", "3", "3")]),
        _merge("a taint ends the generation before at once", tree, [
            _same(9, "0 1", "0 1", "0 1"), _same(9, "T", "0 1 T", "0 T"),
            _same(13, "T3", "0 1 T T3", "0 T T3")]),
        _merge("an explicit false taints nothing", tree, [_same(9, "0 1 N", "0 1 N", "0 1 N")]),
        _merge("an event within the skew is accepted", tree, [
            _same(4 - 4 * second, "0 1", "0 1", "0 1")]),
        _merge("an event beyond the skew is held back", tree, [
            _same(4 - 6 * second, "0 1", "0", "0"), _same(4 - 4 * second, "", "0 1", "0 1")]),
        _merge("what follows a held event is held with it", tree, [
            _same(12 - 6 * second, "0 1 2 3", "0 1 2", "0 1 2"),
            _same(12, "", "0 1 2 3", "0 1 2 3")]),
        _merge("an event that is far ahead does not hurt its predecessors", tree, [
            _same(13, "0 1 2 3 F", "0 1 2 3", "0 1 2 3")]),
        _merge("a taint from the future applies at once", tree, [
            _same(13, "0 1 2 3 FT", "0 1 2 3", "0 1 2"),
            (40, "", "0 1 2 3 FT", "FT", "FT", "FT")]),
        _merge("a taint from the future still holds when more follows it", tree, [
            _same(13, "0 1 2 3 FT5 FT", "0 1 2 3", "0 1 2")]),
    ]


def _contested():
    tree = straight().add("1t", "0", 5, next_line=" thief")
    tree.add("2t", "1t", 9, line=" thief").add("3t", "2t", 10, line=" thief")
    tree.add("1u", "0", 6, next_line=" another").add("3x", "2", 13)
    tree.add("2r", "1", 9, next_line=" thief").add("4", "3", 16)
    return [
        _merge("a rival of the head leaves nothing live", tree, [
            _same(7, "0 1", "0 1", "0 1"), _same(7, "1t", "0 1", "")]),
        _merge("a rival and the head in one set: nothing is live", tree, [
            _same(7, "0 1 1t", "0", "")]),
        _merge("the head's own branch goes on: the contested generation is tainted", tree, [
            _same(7, "0 1", "0 1", "0 1"), _same(7, "1t", "0 1", ""),
            _same(9, "2", "0 1 2", "0 2"), _same(13, "3", "0 1 2 3", "0 2 3")]),
        _merge("the rival's branch goes on: nothing is live, and nobody changes over", tree, [
            _same(7, "0 1", "0 1", "0 1"), _same(11, "1t 2t 3t", "0 1", ""),
            _same(11, "2", "0 1 2", "0 2")]),
        _merge("a rival below the head is ignored", tree, [
            _same(9, "0 1 2", "0 1 2", "0 1 2"), _same(11, "1t 2t 3t", "0 1 2", "0 1 2")]),
        _merge("the longer branch is not better", tree, [
            _same(9, "0 1 2", "0 1 2", "0 1 2"), _same(13, "1t 2t 3t", "0 1 2", "0 1 2"),
            _same(13, "3", "0 1 2 3", "0 1 2 3")]),
        _merge("neither was seen before: exactly one goes on, and is followed", tree, [
            _same(9, "0 1 1t 2", "0 1 2", "0 2")]),
        _merge("neither was seen before: the one that goes on later is followed", tree, [
            _same(7, "0 1t 1", "0", ""), _same(9, "2", "0 1 2", "0 2")]),
        _merge("neither was seen before: both go on, nothing is live", tree, [
            _same(11, "0 1 2 1t 2t", "0", ""), _same(13, "3", "0", "")]),
        _merge("three rivals, one goes on", tree, [
            _same(9, "0 1 1t 1u", "0", ""), _same(9, "2", "0 1 2", "0 2")]),
        _merge("a rival of a later head", tree, [
            _same(13, "0 1 2", "0 1 2", "0 1 2"), _same(13, "2r", "0 1 2", ""),
            _same(13, "3", "0 1 2 3", "0 1 3"),
            (16.2, "4", "0 1 2 3 4", "0 1 3 4", "0 1 3 4", "1 3 4")]),
        _merge("an event named by configuration decides", tree, [
            _same(11, "0 1 2 1t 2t", "0 1 2", "0 2")], pin="1"),
        _merge("an event named by configuration decides for the other", tree, [
            _same(11, "0 1 2 1t 2t", "0 1t 2t", "0 2t")], pin="1t"),
        _merge("configuration names an event further up", tree, [
            _same(11, "0 1 2 1t 2t", "0 1 2", "0 2")], pin="2"),
        _merge("an old name in configuration does not settle a later contest", tree, [
            _same(9, "0 1 2", "0 1 2", "0 1 2"), _same(13, "2r", "0 1 2", ""),
            _same(13, "3", "0 1 2 3", "0 1 3")], pin="1"),
    ]


def _remembered():
    tree = straight().add("1t", "0", 5, next_line=" thief")
    tree.add("2t", "1t", 9, line=" thief").add("2r", "1", 9, next_line=" thief")
    tree.add("3r", "2r", 10, line=" thief")
    return [
        _merge("the remembered event is there", tree, [
            _same(9, "0 1 2", "0 1 2", "0 1 2")], highest="2"),
        _merge("more than the remembered event is there", tree, [
            _same(13, "0 1 2 3", "0 1 2 3", "0 1 2 3")], highest="1"),
        _merge("the remembered event is missing: rolled back", tree, [
            _same(9, "0 1", "0 1", ""), _same(9, "2", "0 1 2", "0 1 2")], highest="2"),
        _merge("a longer chain without the remembered event", tree, [
            _same(13, "0 1t 2t", None, ""), _same(13, "1 2", "0 1 2", "0 2")], highest="1"),
        _merge("the remembered branch is kept, though only the other goes on", tree, [
            _same(11, "0 1 1t 2t", "0 1", ""), _same(11, "2", "0 1 2", "0 2")], highest="1"),
        _merge("an old name in configuration does not unseat what is remembered", tree, [
            _same(11, "0 1 2 2r 3r", "0 1 2", ""), _same(13, "3", "0 1 2 3", "0 1 3")],
            pin="1", highest="2"),
    ]
