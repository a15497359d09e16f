#!/usr/bin/env python3
"""Holds authd and an edge to their OpenAPI documents, with Schemathesis.

Usage: check.py ENDPOINTS [EXAMPLES]    (the JSON file that `opsctl dev --endpoints ENDPOINTS` writes)

Each document is read from the running server. EXAMPLES is how many messages are made for each operation in
the fuzzing phase (8 unless given), besides those of the coverage phase. Exit code 1 if an answer is not as the document says, or
if no message got past its signature: then the run would have said nothing of what lies behind it.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
# The apps of `opsctl dev` answer alike: one edge stands for all.
APP = "rust"
CREATED = re.compile(r'^authd_operations_total\{op="/account/create",code="ok"\} ([1-9]\d*)$', re.M)
ADMITTED = re.compile(r'^edge_decisions_total\{decision="admitted",code=""\} ([1-9]\d*)$', re.M)


def main():
    """Every server; the worst exit code."""
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 64
    file = pathlib.Path(sys.argv[1]).resolve()
    endpoints = json.loads(file.read_text())
    examples = sys.argv[2] if len(sys.argv) == 3 else "8"
    servers = (endpoints["auth"], endpoints["apps"][APP])
    status = max(hold(server, examples, file) for server in servers)
    metrics = endpoints["metrics"]
    for daemon, deep in (("authd", CREATED), (f"edge-{APP}", ADMITTED)):
        if not deep.search(read(metrics[daemon])):
            print(f"{daemon}: no signed message was accepted")
            status = max(status, 1)
    return status


def hold(server, examples, file):
    """Runs Schemathesis against a server."""
    command = [
        pathlib.Path(sys.executable).with_name("schemathesis"),
        "--config-file", HERE / "schemathesis.toml",
        "run", f"{server}/openapi.json",
        "--phases", "coverage,fuzzing", "--max-examples", examples,
        "--continue-on-failure", "--suppress-health-check", "all", "--warnings", "off",
    ]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE), "KEELSON_ENDPOINTS": str(file),
    }
    with tempfile.TemporaryDirectory() as folder:  # for what it keeps between runs
        return subprocess.run(command, env=environment, cwd=folder, check=False).returncode


def read(url):
    """The text at a URL."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


if __name__ == "__main__":
    sys.exit(main())
