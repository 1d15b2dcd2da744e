"""Section `privacy`."""

from __future__ import annotations

from pydantic import Field

from llmaug.config.base import Section


class PseudonymsConfig(Section):
    """User ids become keyed digests when the logs are read, before anything else sees them."""

    key_env: str = Field(default="LLMAUG_PSEUDONYM_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable with the key, of the machine that the command runs on (at least 16
    bytes; `openssl rand -hex 32` makes one). Another key gives other pseudonyms, and everything
    is made anew. Manifests have a digest of it, the key id."""
    keep_mapping: bool = True
    """Keep in `ingest/pseudonyms/` which id is behind which pseudonym. Nothing reads it but
    `llmaug forget`, where the key is gone: restrict who may read it, or delete it."""


class PrivacyConfig(Section):
    """What of a training history identifies its user, for the filters and the audit alike: a run
    of `run_len` events that fewer than `min_run_users` real users have (k-anonymity of runs)."""

    pseudonyms: PseudonymsConfig | None = None
    """Pseudonyms in place of user ids, in events and in the users table. None: ids stay."""
    mask_text: bool = True
    """Mask e-mail addresses, telephone numbers, numbers of cards and Chinese identity cards, IP
    addresses and URLs with a password in titles, descriptions and tags of items and in attributes
    of users, when they are read: `<email>` stands in their place. Counts are in the manifest."""
    run_len: int = Field(default=5, ge=2, le=32)
    """Events of a run, in their order. The filter `copied` looks at runs of this length, too."""
    min_run_users: int = Field(default=5, ge=2, le=1000)
    """Who shares a run with fewer real users than this, itself included, is known by it."""
    max_skips: int = Field(default=0, ge=0, le=2)
    """Near copies: a run may leave out up to so many events between its first and its last, in a
    real history as in a generated one (skip-grams; Guthrie et al. 2006). Then it is found although
    one of its events was swapped, put in or taken away. Counts some times as many runs (5 at 1 and
    15 at 2, where `run_len` is 5), and more honest histories share one: a larger `run_len` goes
    with it."""
    new_users_only: bool = False
    """No synthetic event may stand in the history of a real person, who is never said to have done,
    written or liked what they did not: strategies that add to real histories are refused."""
