"""Recovery keys from words. `ok` is the seed, in hex, which is the private scalar, and its public key."""

from blake3 import blake3
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from protocol.primitives import PrivateKey

from .cases import ok

PASSPHRASES = {
    "six words": "correct horse battery staple orbit velvet",
    "words beyond ASCII, as typed": "schl\u00fcssel \u9375 \U0001f511",
}


def vectors():
    """Few: each costs 256 MiB and nine passes."""
    cases = []
    for name, words in PASSPHRASES.items():
        salt = blake3((words + "salt").encode()).digest()
        kdf = Argon2id(salt=salt, length=32, iterations=9, lanes=1, memory_cost=262144)
        seed = kdf.derive(words.encode())
        public = PrivateKey.from_seed(seed).public
        cases.append({
            "name": name, "passphrase": words,
            "expect": ok({"seed": seed.hex(), "publicKey": public})})
    return cases
