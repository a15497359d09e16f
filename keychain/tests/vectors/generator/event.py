"""One published event on its own: shape, purpose, self-address and signature. `ok` is what the event
says. Whether it continues a chain is the matter of `chain.json`."""

from protocol.chain import PLACEHOLDER, Event, compact, make_event
from protocol.primitives import digest, format_time

from .cases import START, agreed, key, ok, other_signature, refused

ONE, TWO, THREE = key("event 0"), key("event 1"), key("event 2")


def vectors():
    """Valid events, then every way of breaking one."""
    first = make_event(ONE, TWO, START)
    second = make_event(TWO, THREE, "2026-01-02T04:04:05.678Z", Event(first))
    cases = [_case(name, text, None) for name, text in _valid(first).items()]
    for name, (text, code) in (_shapes(first, second) | _proofs(first, second)).items():
        cases.append(_case(name, text, code))
    return cases


def _case(name, text, code):
    expect = refused(code) if code else ok(_facts(text))
    return agreed({"name": name, "event": text, "expect": expect}, lambda: _facts(text))


def _facts(text):
    event = Event(text)
    return {
        "id": event.id, "prefix": event.prefix, "sequenceNumber": event.number,
        "previous": event.previous, "createdAt": format_time(event.created),
        "taintPrevious": event.taint, "publicKey": event.key, "rotationHash": event.rotation,
    }


def _valid(first):
    base, later = Event(first), "2026-01-02T04:04:05.678Z"
    backwards = lambda members: dict(reversed(members.items()))
    return {
        "event 0": first,
        "event 1": make_event(TWO, THREE, later, base),
        "event 1, taint": make_event(TWO, THREE, later, base, taint=True),
        "event 1, an explicit false taint": make_event(TWO, THREE, later, base, taint=False),
        "nine fractional digits": make_event(TWO, THREE, later[:-1] + "123456Z", base),
        "no fractional digits": make_event(TWO, THREE, later[:-5] + "Z", base),
        "members in another order": make_event(TWO, THREE, later, base, change=backwards),
        "event 0, members in another order": make_event(ONE, TWO, START, change=backwards),
        "sequence number 2^53 - 1": make_event(
            TWO, THREE, later, base, change=lambda m: m | {"sequenceNumber": 2**53 - 1}),
        "high s": _resealed(second_payload(later, base), TWO, high_s=True),
        "low s": _resealed(second_payload(later, base), TWO, high_s=False),
        "a member that is not known": make_event(
            TWO, THREE, later, base, change=lambda m: m | {"note": {"id": base.id}}),
        "signature before payload": _swapped(first),
        "white space around the members of the envelope": first.replace(
            '{"payload":', '{ "payload" :\n', 1).replace(',"signature":', '\t,\r\n"signature": '),
    }


def second_payload(created, base):
    """The payload of event 1, as its bytes stand."""
    return _payload(make_event(TWO, THREE, created, base))


def _shapes(first, second):
    base = Event(first)
    payload = _payload(second)

    def changed(**values):
        return lambda members: members | values

    def without(name):
        return lambda members: {n: v for n, v in members.items() if n != name}

    def made(change, key_=TWO):
        return make_event(key_, THREE, "2026-01-02T04:04:05.678Z", base, change=change)

    cases = {
        "empty": "",
        "null": "null",
        "an array": "[]",
        "a string": '"event"',
        "the payload alone": payload,
        "an array of the two members": f'[{payload},"{_signature(second)}"]',
        "the payload as a string": f'{{"payload":"{{}}","signature":"{_signature(second)}"}}',
        "no signature": f'{{"payload":{payload}}}',
        "signature null": f'{{"payload":{payload},"signature":null}}',
        "a third member in the envelope": second[:-1] + ',"more":1}',
        "payload twice": second[:-1] + f',"payload":{payload}}}',
        "signature twice": second[:-1] + f',"signature":"{_signature(second)}"}}',
        "something after it": second + "{}",
        "a NUL after it": second + "\0",
        "a comma too many": second[:-1] + ",}",
        "cut off": second[:-1],
        "a byte order mark": "\ufeff" + second,
        "previous null": made(changed(previous=None)),
        "taint null": made(changed(taintPrevious=None)),
        "taint a string": made(changed(taintPrevious="true")),
        "taint a number": made(changed(taintPrevious=1)),
        "sequence number a string": made(changed(sequenceNumber="1")),
        "sequence number negative": made(changed(sequenceNumber=-1)),
        "sequence number 1.0": made(changed(sequenceNumber=1.0)),
        "sequence number 2^53": made(changed(sequenceNumber=2**53)),
        "sequence number 2^64 + 1": made(changed(sequenceNumber=2**64 + 1)),
        "sequence number null": made(changed(sequenceNumber=None)),
        "createdAt without a zone": made(changed(createdAt="2026-01-02T04:04:05.678")),
        "createdAt a number": made(changed(createdAt=1767326645678)),
        "public key padded": made(changed(publicKey=TWO.public + "=")),
        "public key off the curve": made(changed(publicKey="1AAIAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB")),
        "rotationHash with pad bits": made(changed(rotationHash="E_" + base.rotation[2:])),
        "rotationHash a key": made(changed(rotationHash=THREE.public)),
        "prefix in lower case": made(changed(prefix=base.prefix.lower())),
        "signature in another form": second.replace('"signature":"0I', '"signature":"0A'),
        "signature of 86 characters": second.replace('"signature":"0I', '"signature":"'),
    }
    for name in ("prefix", "sequenceNumber", "createdAt", "purpose", "publicKey", "rotationHash"):
        cases[f"no {name}"] = made(without(name))
    cases["id escaped"] = _resealed(payload.replace('"id":"E', '"id":"\\u0045'), TWO)
    cases["a member name escaped"] = _resealed(payload.replace('"id"', '"\\u0069d"'), TWO)
    cases["createdAt twice"] = _resealed(
        payload[:-1] + f',"createdAt":"{START}"}}', TWO)
    cases["sequence number 01"] = _resealed(
        payload.replace('"sequenceNumber":1', '"sequenceNumber":01'), TWO)
    cases["sequence number 1e0"] = _resealed(
        payload.replace('"sequenceNumber":1', '"sequenceNumber":1e0'), TWO)
    return {name: (text, "InvalidMessage") for name, text in cases.items()}


def _proofs(first, second):
    base, payload = Event(first), _payload(second)
    wrong_id = payload.replace(Event(second).id, digest("another"))
    wrong_time = payload.replace("04:04:05", "04:04:06")
    both = _payload(first).replace(base.id, digest("another"))
    prefix_only = _payload(first).replace(f'"prefix":"{base.id}"', f'"prefix":"{digest("x")}"')
    spaced = _resealed(payload.replace('"sequenceNumber":1', '"sequenceNumber": 1'), TWO)
    filled = payload.replace(Event(second).id, PLACEHOLDER)
    only_id = make_event(ONE, TWO, START, change=lambda m: m | {"prefix": digest("elsewhere")})
    return {
        "previous in event 0": (
            make_event(ONE, TWO, START, change=lambda m: m | {"previous": base.id}), "BadChain"),
        "no previous in event 1": (
            make_event(TWO, THREE, "2026-01-02T04:04:05.678Z", base,
                       change=lambda m: {n: v for n, v in m.items() if n != "previous"}),
            "BadChain"),
        "another purpose": (
            make_event(TWO, THREE, "2026-01-02T04:04:05.678Z", base,
                       change=lambda m: m | {"purpose": "access"}), "WrongPurpose"),
        "an empty purpose": (
            make_event(TWO, THREE, "2026-01-02T04:04:05.678Z", base,
                       change=lambda m: m | {"purpose": ""}), "WrongPurpose"),
        "the purpose in capitals": (
            make_event(TWO, THREE, "2026-01-02T04:04:05.678Z", base,
                       change=lambda m: m | {"purpose": "Key-Authorization"}), "WrongPurpose"),
        "another id": (_resealed(wrong_id, TWO), "BadChain"),
        "another time under the same id": (_resealed(wrong_time, TWO), "BadChain"),
        "event 0: another id and prefix": (_resealed(both, ONE), "BadChain"),
        "event 0: another prefix": (_resealed(prefix_only, ONE), "BadChain"),
        "event 0: addressed without its prefix": (only_id, "BadChain"),
        "event 1: addressed as event 0 is": (_addressed_as_first(base), "BadChain"),
        "white space put in": (spaced, "BadChain"),
        "a commitment to its own key": (
            make_event(TWO, TWO, "2026-01-02T04:04:05.678Z", base), "BadChain"),
        "a signature by another key": (_resealed(payload, ONE), "BadSignature"),
        "a signature over the placeholder form": (
            f'{{"payload":{payload},"signature":"{TWO.sign(filled)}"}}', "BadSignature"),
        "the signature of another event": (
            second.replace(_signature(second), _signature(first)), "BadSignature"),
        "a signature with one character changed": (other_signature(second), "BadSignature"),
        "a signature of zeros": (
            second.replace(_signature(second), "0I" + "A" * 86), "BadSignature"),
        "a signature of ones": (
            second.replace(_signature(second), "0ID" + "_" * 85), "BadSignature"),
    }


def _addressed_as_first(base):
    members = {
        "id": PLACEHOLDER, "prefix": PLACEHOLDER, "sequenceNumber": 1, "previous": base.id,
        "createdAt": "2026-01-02T04:04:05.678Z", "purpose": "key-authorization",
        "publicKey": TWO.public, "rotationHash": digest(THREE.public),
    }
    address = digest(compact(members))
    return _resealed(compact(members | {"id": address, "prefix": base.id}), TWO)


def _payload(event):
    return event[len('{"payload":'): event.rindex(',"signature"')]


def _signature(event):
    return event[event.rindex('"0I') + 1: -2]


def _resealed(payload, key_, high_s=None):
    return f'{{"payload":{payload},"signature":"{key_.sign(payload, high_s)}"}}'


def _swapped(event):
    return f'{{"signature":"{_signature(event)}","payload":{_payload(event)}}}'
