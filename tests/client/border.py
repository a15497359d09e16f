"""The HTTP border: methods, paths, CORS and sizes, on every server that devices reach.

Browsers read every answer, errors included; what is no route is 404 and what is no method of it 405.
"""

import json

from protocol.message import OPERATIONS
from protocol.primitives import PrivateKey

from world import send


def run(world):
    """Every server in turn."""
    for path in OPERATIONS:
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            world.expect(f"{method} {path}", world.fetch(method, world.auth + path), "BA107")
        options(world, world.auth, path)
    for path in ("/", "/health", "/no/such/path", "/account/create/more"):
        options(world, world.auth, path)
    for path in ("/no/such/path", "/account", "/account/create/", "//account/create",
                 "/Account/Create", "/account%2fcreate", "/../account/create"):
        world.expect(f"POST {path}", world.fetch("POST", world.auth + path, "{}"), "BA106")
    health(world, world.auth)
    directory(world)
    for app, base in world.apps.items():
        for path in ("/", "/foo/bar", "/no/such/path"):
            options(world, base, path)
        for method in ("GET", "PUT", "DELETE"):
            world.expect(f"{app}: {method} /foo/bar", world.fetch(method, base + "/foo/bar"), "BA107")
        world.expect(f"{app}: nothing", world.fetch("POST", base + "/foo/bar", ""), "BA101")


def directory(world):
    """The key directory service."""
    base, report = world.keys, world.report
    for path in ("/", "/keys", "/keys/no-key", "/hsm/keys", "/health", "/no/such/path"):
        options(world, base, path)
    for path in ("/", "/keys", "/hsm/keys", "/health"):
        answer = world.fetch("GET", base + path)
        json_answer = (answer.header("content-type") or "").startswith("application/json")
        report.check(f"GET {path} is JSON", answer.status == 200 and json_answer, str(answer))
        world.expect(f"POST {path}", world.fetch("POST", base + path, "{}"), "BA107")
    health(world, base)
    listing = json.loads(world.fetch("GET", base + "/keys").body)
    for key, endorsement in listing.items():
        one = world.fetch("GET", f"{base}/keys/{key}")
        same = one.status == 200 and json.loads(one.body) == endorsement
        report.check(f"/keys/{key[:12]}… is as listed", same, str(one))
    stranger = PrivateKey.random().public
    for path in (f"/keys/{stranger}", "/keys/no-key", "/keys/", "/no/such/path"):
        world.expect(f"GET {path[:20]}", world.fetch("GET", base + path), "BA106")


def health(world, base):
    """The health of a server that works."""
    answer = world.fetch("GET", base + "/health")
    healthy = answer.status == 200 and json.loads(answer.body).get("status") == "healthy"
    world.report.check(f"{base.rsplit(':', 1)[0]}:… is healthy", healthy, str(answer))


def options(world, base, path):
    """What a browser asks before it sends a message."""
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "content-type"}
    answer = send("OPTIONS", base + path, None, asked)
    wanted = {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "POST, GET, OPTIONS",
        "access-control-allow-headers": "Content-Type, Authorization",
    }
    got = {name: answer.header(name) for name in wanted}
    world.report.check(f"OPTIONS {path}", answer.status == 200 and got == wanted,
                       f"{answer.status} {got}")
