"""A strict JSON reader that keeps, for every value, the exact characters it was read from.

A signature covers bytes as they stand on the wire, so a verifier needs the slice and never writes
again what it verifies. Members that occur twice are refused, and so is anything that RFC 8259 does
not allow (Python's own reader takes NaN and lone surrogates).
"""

import re

from .refusal import require

DEPTH = 64  # no message of the protocol is deeper than eight
SPACE = re.compile(r"[ \t\n\r]*")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
STRING = re.compile(r'"((?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*)"')
ESCAPE = re.compile(r'\\u([dD][89abAB]..)\\u([dD][c-fC-F]..)|\\u(....)|\\(.)')
PLAIN = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Node:
    """One JSON value: its Python form, the characters it came from, and where they begin."""

    def __init__(self, value, text, at):
        self.value = value
        self.text = text
        self.at = at
        self.escaped = False  # whether the name of a member is written with an escape

    def members(self, *wanted, optional=(), open_ended=False):
        """The nodes of exactly the wanted members, then of the optional ones (None if absent)."""
        require(isinstance(self.value, dict), "InvalidMessage", "an object was expected")
        require(not self.escaped, "InvalidMessage", "an escape in a member's name")
        missing = set(wanted) - set(self.value)
        require(not missing, "InvalidMessage", f"missing members: {sorted(missing)}")
        unknown = set(self.value) - set(wanted) - set(optional)
        require(open_ended or not unknown, "InvalidMessage", f"unknown members: {sorted(unknown)}")
        return [self.value.get(name) for name in (*wanted, *optional)]

    def string(self):
        """The string, which must stand on the wire without escapes."""
        require(isinstance(self.value, str), "InvalidMessage", "a string was expected")
        require(self.text == f'"{self.value}"', "InvalidMessage", "an escape where none belongs")
        return self.value


def parse(body):
    """The node of a whole JSON document."""
    if isinstance(body, bytes):
        try:
            body = body.decode("utf-8")
        except UnicodeDecodeError:
            require(False, "InvalidMessage", "the body is not UTF-8")
    node, end = _value(body, _skip(body, 0), 0)
    require(_skip(body, end) == len(body), "InvalidMessage", "something follows the document")
    return node


def _skip(text, at):
    return SPACE.match(text, at).end()


def _value(text, at, depth):
    require(depth < DEPTH, "InvalidMessage", "nested too deeply")
    first = text[at: at + 1]
    if first == "{":
        return _object(text, at, depth)
    if first == "[":
        return _array(text, at, depth)
    if first == '"':
        return _string(text, at)
    for word, value in (("true", True), ("false", False), ("null", None)):
        if text.startswith(word, at):
            return Node(value, word, at), at + len(word)
    number = NUMBER.match(text, at)
    require(number, "InvalidMessage", f"no JSON value at character {at}")
    spelled = number.group()
    integer = spelled.lstrip("-").isdigit()
    return Node(int(spelled) if integer else float(spelled), spelled, at), number.end()


def _object(text, at, depth):
    members, start, escaped = {}, at, False
    at = _skip(text, at + 1)
    if text[at: at + 1] == "}":
        return Node(members, text[start: at + 1], start), at + 1
    while True:
        name, at = _string(text, _skip(text, at))
        require(name.value not in members, "InvalidMessage", f"member `{name.value}` twice")
        escaped |= "\\" in name.text
        at = _skip(text, at)
        require(text[at: at + 1] == ":", "InvalidMessage", "a colon was expected")
        members[name.value], at = _value(text, _skip(text, at + 1), depth + 1)
        at = _skip(text, at)
        if text[at: at + 1] == "}":
            whole = Node(members, text[start: at + 1], start)
            whole.escaped = escaped
            return whole, at + 1
        require(text[at: at + 1] == ",", "InvalidMessage", "a comma was expected")
        at += 1


def _array(text, at, depth):
    items, start = [], at
    at = _skip(text, at + 1)
    if text[at: at + 1] == "]":
        return Node(items, text[start: at + 1], start), at + 1
    while True:
        item, at = _value(text, _skip(text, at), depth + 1)
        items.append(item)
        at = _skip(text, at)
        if text[at: at + 1] == "]":
            return Node(items, text[start: at + 1], start), at + 1
        require(text[at: at + 1] == ",", "InvalidMessage", "a comma was expected")
        at += 1


def _string(text, at):
    found = STRING.match(text, at)
    require(found, "InvalidMessage", f"no string at character {at}")
    return Node(ESCAPE.sub(_unescape, found.group(1)), found.group(), at), found.end()


def _unescape(found):
    high, low, unit, plain = found.groups()
    if plain:
        return PLAIN[plain]
    if high:
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + (int(low, 16) - 0xDC00))
    require(not 0xD800 <= int(unit, 16) < 0xE000, "InvalidMessage", "half a surrogate pair")
    return chr(int(unit, 16))
