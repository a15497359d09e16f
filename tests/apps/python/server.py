#!/usr/bin/env python3
"""Sample app in Python: answers POST /foo/bar. It knows nothing of the protocol; the edge before it does.

Usage: server.py [ADDRESS:PORT [SECRET_FILE]]    (without arguments: 127.0.0.1 and the port in PORT)

With SECRET_FILE only requests whose header `keelson-edge-secret` holds that secret are answered.
"""

import hmac
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LONGEST_BODY = 1 << 20  # bytes; what an edge forwards by default


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps the edge's connections open
    wbufsize = -1  # head and body leave in one packet
    disable_nagle_algorithm = True
    secret = None

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not length.isascii() or not length.isdigit():
            return self.answer(411, {"error": "content-length is missing"}, close=True)
        if int(length) > LONGEST_BODY:
            return self.answer(413, {"error": "the body is too large"}, close=True)
        body = self.rfile.read(int(length))
        secret = self.headers.get("keelson-edge-secret", "").encode("latin-1")
        if self.secret is not None and not hmac.compare_digest(secret, self.secret):
            return self.answer(403, {"error": "only the edge may call this app"})
        if self.path.partition("?")[0] != "/foo/bar":
            return self.answer(404, {"error": "no such path"})
        try:
            request = json.loads(body)
            answer = {"wasFoo": request["foo"], "wasBar": request["bar"], "serverName": "python"}
        except (ValueError, TypeError, KeyError, RecursionError):
            return self.answer(400, {"error": "the body must be a JSON object with foo and bar"})
        self.answer(200, answer)

    def do_GET(self):
        self.answer(405, {"error": "POST only"})

    def answer(self, status, value, close=False):
        body = json.dumps(value, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if close:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


def main():
    listen = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:" + os.environ.get("PORT", "3000")
    if len(sys.argv) > 2:
        with open(sys.argv[2], "rb") as file:
            App.secret = file.read().rstrip(b"\r\n")
    address, _, port = listen.rpartition(":")
    server = Server((address, int(port)), App)
    # shutdown() waits for the serving loop, so it cannot be called from the loop's own thread.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()


if __name__ == "__main__":
    main()
