#!/usr/bin/env python3
"""Writes the vector files beside this script; with `--check`, only says whether they are current.

It needs Python 3.11 and the packages `cryptography` (45 or later) and `blake3`. Keys, nonces and
times are fixed and signatures are deterministic, so every run writes the same bytes.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[2] / "tests" / "client")]

from generator import (  # noqa: E402 (the path to it is set just above)
    access, cesr, chain, digest, endorsement, errors, event, head, message, passphrase, response,
    signing, time, token,
)

MODULES = (
    access, cesr, chain, digest, endorsement, errors, event, head, message, passphrase,
    response, signing, time, token,
)


def main():
    """Makes each file in turn; the exit code is 1 if `--check` found one that is not current."""
    check = sys.argv[1:] == ["--check"]
    stale = []
    for module in MODULES:
        name = module.__name__.split(".")[-1]
        cases = module.vectors()
        names = [case["name"] for case in cases]
        assert len(names) == len(set(names)), f"{name}: a name stands twice"
        about = " ".join(module.__doc__.split())
        text = json.dumps({"about": about, "vectors": cases}, indent=1) + "\n"
        path = HERE / f"{name}.json"
        if check and (not path.exists() or path.read_text() != text):
            stale.append(path.name)
        if not check:
            path.write_text(text)
        print(f"{name}.json: {len(cases)} vectors")
    if stale:
        print("not current:", ", ".join(stale), file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
