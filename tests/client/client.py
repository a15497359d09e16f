#!/usr/bin/env python3
"""A client that knows only PROTOCOL.md, against a running system.

Usage: client.py ENDPOINTS    (the JSON file that `opsctl dev --endpoints ENDPOINTS` writes)

It walks the ten operations, an owner's requests and the access requests at every app, verifies each answer down to the
pinned HSM identity, as it stands and as clients rewrite it, and then does what it must not: every
refusal is held to its code, its status and its form. It prints a line a check, and exits 1 if one
failed. It needs Python 3.11, the packages `cryptography` (45 or later) and `blake3`, and Node 20.
"""

import json
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import access  # noqa: E402 (the path to them is set just above)
import border  # noqa: E402
import forgery  # noqa: E402
import generations  # noqa: E402
import owner  # noqa: E402
import session  # noqa: E402
import takeover  # noqa: E402
import walk  # noqa: E402
from world import Failed, Report, World  # noqa: E402


def main():
    """Runs every section; one that cannot go on does not keep the next from running."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 64
    report = Report()
    world = World(json.loads(pathlib.Path(sys.argv[1]).read_text()), report)
    for module in (walk, takeover, session, access, owner, forgery, border, generations):
        report.begin(module.__doc__.splitlines()[0].rstrip("."))
        try:
            module.run(world)
        except Failed as failure:
            report.check("the section goes on to its end", False, str(failure))
    report.begin("Every answer")
    report.check("is open to browsers", not world.closed, ", ".join(sorted(world.closed)[:5]))
    report.check(f"verifies in JavaScript ({len(world.answers)} signed ones)", *in_javascript(world))
    return report.finish()


def in_javascript(world):
    """Whether each signed answer verifies after JSON.parse and JSON.stringify; else which do not."""
    script = pathlib.Path(__file__).with_name("reserialise.mjs")
    run = subprocess.run(["node", script], input=json.dumps(world.answers), text=True,
                         capture_output=True, timeout=120, check=False)
    return bool(world.answers) and run.returncode == 0, run.stdout[:2000] + run.stderr[:2000]


if __name__ == "__main__":
    sys.exit(main())
