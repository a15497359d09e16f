"""Refusals and the one table of wire codes (PROTOCOL.md, errors)."""

CODES = {
    "InvalidMessage": ("BA101", 400),
    "InvalidIdentity": ("BA102", 400),
    "InvalidDevice": ("BA103", 400),
    "InvalidHash": ("BA104", 400),
    "TooLarge": ("BA105", 413),
    "NoSuchRoute": ("BA106", 404),
    "MethodNotAllowed": ("BA107", 405),
    "BadSignature": ("BA201", 401),
    "RotationMismatch": ("BA202", 401),
    "IncorrectNonce": ("BA203", 401),
    "UnknownChallenge": ("BA204", 401),
    "Replay": ("BA205", 409),
    "UnknownKey": ("BA206", 401),
    "DeadKey": ("BA207", 401),
    "WrongPurpose": ("BA208", 401),
    "BadChain": ("BA209", 401),
    "UnknownDevice": ("BA301", 401),
    "MismatchedIdentities": ("BA302", 403),
    "Forbidden": ("BA303", 403),
    "Revoked": ("BA304", 403),
    "AudienceMismatch": ("BA305", 403),
    "ExpiredToken": ("BA401", 401),
    "InvalidToken": ("BA402", 400),
    "FutureToken": ("BA403", 401),
    "RefreshExpired": ("BA404", 401),
    "RefreshSpent": ("BA405", 409),
    "StaleRequest": ("BA501", 401),
    "FutureRequest": ("BA502", 401),
    "Conflict": ("BA602", 409),
    "Unavailable": ("BA603", 503),
    "TooMany": ("BA604", 429),
    "Internal": ("BA605", 500),
    "NoRoom": ("BA606", 503),
    "StaleHead": ("BA607", 503),
    "StaleRevocations": ("BA608", 503),
    "BadAnswer": ("BA701", 502),
    "AppUnavailable": ("BA702", 502),
}


class Refusal(Exception):
    """Something did not hold; `code` is what a peer is told, `because` is for a reader of logs."""

    def __init__(self, name, because):
        self.name = name
        self.code, self.status = CODES[name]
        super().__init__(f"{self.code} {name}: {because}")


def require(condition, name, because):
    """Raises the named refusal unless the condition holds."""
    if not condition:
        raise Refusal(name, because)
