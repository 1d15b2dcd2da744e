"""Keyed pseudonyms of user ids: the same id and key give the same one, and without the key nobody
can go back, nor try out ids (HMAC, RFC 2104; a plain hash of an id is found by hashing all ids).

The key comes from the environment and stays in memory. What is stored is its own digest, the key
id, by which it is known again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from llmaug.errors import UserError

MIN_KEY_BYTES = 16
_MARK = "p_"  # no id of the logs is taken for a pseudonym, nor a pseudonym for an id
_PSEUDONYM = re.compile(rf"{_MARK}[0-9a-f]{{32}}")
_KEY_ID = b"llmaug: id of a key of pseudonyms"


@dataclass(frozen=True)
class Pseudonyms:
    """A key, and the pseudonyms that it gives."""

    key: bytes = field(repr=False)  # tracebacks show arguments

    @property
    def key_id(self) -> str:
        """16 hex digits that say which key it was, and nothing of the key."""
        return hmac.new(self.key, _KEY_ID, hashlib.sha256).hexdigest()[:16]

    def of(self, user_id: str) -> str:
        """`p_` and the first 128 bits of HMAC-SHA256 of the id, as hex digits."""
        return _MARK + hmac.digest(self.key, user_id.encode(), "sha256").hex()[:32]

    def of_all(self, user_ids: pa.Array) -> pa.Array:
        """The same of (N,) ids."""
        coded = user_ids.dictionary_encode()
        names = pa.array(map(self.of, coded.dictionary.to_pylist()), pa.string())
        return names.take(coded.indices)


def is_pseudonym(user_id: str) -> bool:
    return _PSEUDONYM.fullmatch(user_id) is not None


def from_environment(key_env: str) -> Pseudonyms:
    """The key in the environment variable `key_env`. Raises UserError where there is none, or one
    that could be guessed."""
    key = os.environ.get(key_env, "").encode()
    advice = f"make one with `openssl rand -hex 32`, keep it, and set {key_env} to it"
    if not key:
        raise UserError(
            f"privacy.pseudonyms.key_env: the environment has no {key_env}: the key of the "
            f"pseudonyms. If there is none yet, {advice}"
        )
    if len(key) < MIN_KEY_BYTES:
        raise UserError(
            f"privacy.pseudonyms.key_env: {key_env} holds {len(key)} bytes, which can be guessed; "
            f"at least {MIN_KEY_BYTES}: {advice}"
        )
    return Pseudonyms(key)


def stored_names(user_ids: Iterable[str], key_env: str, key_id: str | None) -> dict[str, str]:
    """{id as somebody asks: id under which a run has that user}: the pseudonym of an id of the
    logs, and a pseudonym as it is. key_id: of the key that the run was made with.

    Raises UserError where ids of the logs are asked for and the environment has not that key.
    """
    asked = list(user_ids)
    if all(map(is_pseudonym, asked)):
        return {user: user for user in asked}
    own = from_environment(key_env)
    if key_id is not None and own.key_id != key_id:
        raise UserError(
            f"{key_env} holds another key (id {own.key_id}) than the one that this run gave its "
            f"users pseudonyms with (id {key_id}): set {key_env} to that one, or ask for "
            "pseudonyms"
        )
    return {user: user if is_pseudonym(user) else own.of(user) for user in asked}
