"""Who asked to be forgotten: `forgotten/` below the root, one file a user, named by a hash.

The hash is keyed with a salt of the root's own, so lists of hashed ids made elsewhere do not fit.
Whoever can read the root and tries out ids can still tell whether one of them is here: that is
what ingest does every night, with any key of pseudonyms or none.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llmaug.core.storage import Storage
from llmaug.core.stored import damaged

FOLDER = "forgotten"
_SALT = "salt.json"
_USERS = "users"


@dataclass(frozen=True)
class Forgotten:
    """Hashes of the users whose events are dropped when logs are read."""

    salt: str
    hashes: frozenset[str]

    def hash_of(self, user_id: str) -> str:
        """32 hex digits of HMAC-SHA256 by the salt."""
        return hmac.digest(bytes.fromhex(self.salt), user_id.encode(), "sha256").hex()[:32]

    def mask(self, user_ids: pa.Array) -> np.ndarray:
        """(N,) bool: which of (N,) ids are of such users."""
        if not self.hashes:
            return np.zeros(len(user_ids), bool)
        coded = user_ids.dictionary_encode()
        known = [self.hash_of(user) in self.hashes for user in coded.dictionary.to_pylist()]
        return np.array(known, bool)[coded.indices.to_numpy(zero_copy_only=False)]


NOBODY = Forgotten("", frozenset())


def read_forgotten(storage: Storage) -> Forgotten:
    """Those of a root; nobody where none was ever asked for. Raises UserError where the salt is
    lost: then nobody could be told any more."""
    names = storage.names(FOLDER, _USERS)
    hashes = frozenset(name.removesuffix(".json") for name in names if name.endswith(".json"))
    salt = storage.read_json(FOLDER, _SALT)
    if hashes and not _is_salt(salt):
        raise damaged(storage, "the salt of the forgotten users is gone", FOLDER, _SALT)
    return Forgotten(salt["salt"] if _is_salt(salt) else "", hashes)


def remember_to_forget(storage: Storage, user_id: str, receipt: str) -> str:
    """Put a user on the list; returns the hash. receipt: name of the file that says what was
    deleted."""
    storage.create({"salt": secrets.token_hex(32)}, FOLDER, _SALT)
    salt = storage.read_json(FOLDER, _SALT)
    if not _is_salt(salt):
        raise damaged(storage, "no salt", FOLDER, _SALT)
    hashed = Forgotten(salt["salt"], NOBODY.hashes).hash_of(user_id)
    storage.create({"receipt": receipt}, FOLDER, _USERS, f"{hashed}.json")
    return hashed


def _is_salt(value: object) -> bool:
    salt = value.get("salt") if isinstance(value, dict) else None
    return isinstance(salt, str) and len(salt) == 64 and set(salt) <= set("0123456789abcdef")
