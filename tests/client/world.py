"""The system under test as a client meets it: HTTP, trust in answers, and the list of checks."""

import http.client
import json
import secrets
import socket
import time
import urllib.parse

from protocol import strict
from protocol.chain import WINDOWS, Chain, Event, compact
from protocol.credentials import Endorsement
from protocol.message import Response, request
from protocol.primitives import encode
from protocol.refusal import CODES, Refusal

SKEW = 5 * 10**9
PATIENCE = 30  # seconds that anything may take that is not immediate
STATUSES = {code: status for code, status in CODES.values()}


class Failed(Exception):
    """A check did not hold; what depends on it cannot go on."""


class Report:
    """Counts and prints every check."""

    def __init__(self):
        self.passed, self.failed, self.section = 0, [], ""

    def begin(self, section):
        """Names what the next checks are about."""
        self.section = section
        print(f"{section}:")

    def check(self, name, holds, detail=""):
        """Prints one check; the detail is shown if it does not hold."""
        if holds:
            self.passed += 1
            print(f"  ok    {name}")
        else:
            self.failed.append(f"{self.section}: {name}")
            print(f"  FAIL  {name}: {detail}")
        return holds

    def finish(self):
        """Prints the sum; the exit code."""
        for name in self.failed:
            print(f"failed: {name}")
        print(f"{self.passed} passed, {len(self.failed)} failed")
        return 1 if self.failed else 0


class Answer:
    """An HTTP answer, its body whole."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def header(self, name):
        """The value of a header, or none."""
        return self.headers.get(name.lower())

    def code(self):
        """The code of a well-formed error; none if it is none."""
        try:
            error = json.loads(self.body)
        except ValueError:
            return None
        if not isinstance(error, dict) or set(error) != {"error"}:
            return None
        inner = error["error"]
        if not isinstance(inner, dict) or set(inner) != {"code", "message", "context"}:
            return None
        return inner["code"]

    def __str__(self):
        return f"{self.status} {self.body[:300]!r}"


def send(method, url, body=None, headers=None, unix=None):
    """One HTTP exchange; `unix` is the path of a socket to go through."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE)
    if unix:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE)
        connection.sock.connect(unix)
    if isinstance(body, str):
        body = body.encode()
    target = parts.path or "/"
    if parts.query:
        target += "?" + parts.query
    sent = {"Content-Type": "application/json"} if body is not None else {}
    try:
        try:
            connection.request(method, target, body, sent | (headers or {}))
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all was sent: the answer may be there all the same
        answer = connection.getresponse()
        seen = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, seen, answer.read())
    finally:
        connection.close()


class World:
    """The endpoints of a running system, and what a client has learnt of its HSM key chain."""

    def __init__(self, endpoints, report):
        self.identity, self.auth = endpoints["identity"], endpoints["auth"]
        self.keys, self.apps = endpoints["keys"], endpoints["apps"]
        self.admin, self.endorse = endpoints.get("admin"), endpoints.get("endorse")
        self.report = report
        self.chain = Chain(self.identity, SKEW)
        self.closed = set()  # answers that a browser could not have read
        self.answers = []  # signed ones, for a look at them from JavaScript

    def fetch(self, method, url, body=None, headers=None):
        """An exchange with a server that browsers use; notes answers that they could not read."""
        answer = send(method, url, body, headers)
        if answer.header("access-control-allow-origin") != "*":
            self.closed.add(f"{method} {url}: {answer.status}")
        return answer

    def learn_chain(self):
        """Takes in the published chain, each event verified as it stands and as clients rewrite it."""
        answer = self.fetch("GET", self.keys + "/hsm/keys")
        published = strict.parse(answer.body).value
        events = [Event(node.text) for node in published]
        for node, event in zip(published, events):
            assert Event(compact(json.loads(node.text))).id == event.id
        self.chain.merge(events, now())
        return events

    def trust(self, answer, nonce, service, status=200, rewritten=True):
        """The `response` of an answer that holds, down to the pinned identity, and `rewritten` too as
        clients in Python write it again."""
        if answer.status != status:
            raise Failed(f"want {status}, got {answer}")
        if not (answer.header("content-type") or "").startswith("application/json"):
            raise Failed(f"content type {answer.header('content-type')}")
        try:
            response = Response(answer.body)
            response.check(nonce)
            if rewritten:
                Response(compact(json.loads(answer.body))).check(nonce)
            self._trust_key(response.server, service)
        except Refusal as refusal:
            raise Failed(f"{refusal} in {answer}") from refusal
        self.answers.append(answer.body.decode())
        return response.inner

    def _trust_key(self, key, service):
        answer = self.fetch("GET", f"{self.keys}/keys/{key}")
        if answer.status != 200:
            raise Failed(f"no endorsement of {key}: {answer}")
        text = answer.body.decode()
        endorsement = Endorsement(text)
        if endorsement.generation not in self.chain.known:
            self.learn_chain()
        for form in (endorsement, Endorsement(compact(json.loads(text)))):
            form.check(self.chain, "response", key, service, WINDOWS["device"], now())

    def post(self, path, body):
        """A body as it is to an operation of the authentication server."""
        return self.fetch("POST", self.auth + path, body)

    def ask(self, path, inner, key=None):
        """A request to the authentication server; its verified `response`."""
        nonce = fresh_nonce()
        answer = self.post(path, request(nonce, inner, key))
        return self.trust(answer, nonce, "authd").value

    def expect(self, name, answer, *codes):
        """Checks that an answer is the refusal with one of the codes, in the form of refusals."""
        good = answer.code() in codes and answer.status == STATUSES[answer.code()]
        return self.report.check(name, good, f"want {' or '.join(codes)}, got {answer}")

    def refused(self, name, path, inner, key, *codes):
        """Checks that a well-made request to the authentication server is refused."""
        return self.expect(name, self.post(path, request(fresh_nonce(), inner, key)), *codes)

    def holds(self, name, attempt):
        """Checks that an attempt succeeds; its value, or none."""
        try:
            value = attempt()
        except (Failed, Refusal, OSError, http.client.HTTPException) as failure:
            self.report.check(name, False, str(failure))
            return None
        self.report.check(name, True)
        return True if value is None else value

    def eventually(self, name, attempt):
        """Checks that an attempt succeeds within the patience."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                value = attempt()
            except (Failed, Refusal, OSError, http.client.HTTPException) as failure:
                if time.monotonic() > deadline:
                    self.report.check(name, False, f"still not after {PATIENCE} s: {failure}")
                    return None
                time.sleep(0.05)
                continue
            self.report.check(name, True)
            return True if value is None else value


def now():
    """Nanoseconds since 1970."""
    return time.time_ns()


def fresh_nonce():
    """A random nonce."""
    return encode("nonce", secrets.token_bytes(16))


def unequal_case(digest):
    """Another well-formed digest, which differs in the case of one letter."""
    at = next(at for at in range(2, len(digest)) if digest[at].isalpha())
    return digest[:at] + digest[at].swapcase() + digest[at + 1:]
