"""The one table of wire codes: each code with its name and its HTTP status."""

from protocol.refusal import CODES


def vectors():
    """All rows of the table."""
    return [
        {"name": name, "expect": {"code": code, "status": status}}
        for name, (code, status) in CODES.items()
    ]
