"""What Schemathesis does besides: it signs some of what it makes, and holds each error to the table of codes.

Loaded by `check.py` through SCHEMATHESIS_HOOKS; KEELSON_ENDPOINTS names the file that says where everything is.
"""

import functools
import json
import os
import pathlib
import random
import sys

import schemathesis

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "client"))

from device import Device  # noqa: E402 (the path to it is set just above)
from protocol.primitives import PrivateKey, digest, format_time  # noqa: E402
from protocol.refusal import CODES  # noqa: E402
from world import Report, World, fresh_nonce, now  # noqa: E402

STATUSES = dict(CODES.values())
KEYS = [PrivateKey.labelled(f"openapi {number}") for number in range(8)]


@schemathesis.hook
def before_call(context, case, kwargs):
    """Gives half of the messages of the right shape keys that fit, and a signature that holds."""
    body = case.body
    if case.meta is None or not case.meta.generation.mode.is_positive or not isinstance(body, dict):
        return
    if not isinstance(body.get("payload"), dict) or random.random() < 0.5:
        return
    payload, request = body["payload"], body["payload"].get("request")
    signer, following, recovery = random.sample(KEYS, 3)
    if "timestamp" in payload["access"]:
        signer = session().access_key
        fresh = {"nonce": fresh_nonce(), "timestamp": format_time(now()), "token": session().token}
        payload["access"] = fresh
    elif isinstance(request, dict):
        for group in request.values():
            if isinstance(group, dict) and "publicKey" in group:
                derive(group, signer, following, recovery)
    if "signature" in body:
        body["signature"] = signer.sign(json.dumps(payload))


@functools.cache
def session():
    """A device with a session."""
    endpoints = json.loads(pathlib.Path(os.environ["KEELSON_ENDPOINTS"]).read_text())
    device = Device(World(endpoints, Report()))
    device.create(PrivateKey.random())
    device.sign_in()
    return device


def derive(group, signer, following, recovery):
    """Names and keys as the protocol derives them from each other."""
    group["publicKey"], group["rotationHash"] = signer.public, digest(following.public)
    if "device" in group:
        group["device"] = digest(signer.public, group["rotationHash"])
    if "recoveryHash" in group:
        group["recoveryHash"] = digest(recovery.public)
        group["identity"] = digest(signer.public, group["rotationHash"], group["recoveryHash"])


@schemathesis.check
def known_codes(ctx, response, case):
    """An error has a code of the table, with its status; nothing else is an error."""
    if response.status_code < 400 or response.request.method == "HEAD":
        return
    document = json.loads(response.content)
    if "payload" in document:  # an app's own error, signed
        return
    code = document["error"]["code"]
    assert STATUSES.get(code) == response.status_code, f"{code} with status {response.status_code}"
    assert set(document) == {"error"} and set(document["error"]) == {"code", "message", "context"}
