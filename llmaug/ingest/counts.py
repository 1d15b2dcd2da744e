"""The shape of what ingest and split count: the counts of their manifests."""

from __future__ import annotations

from llmaug.core.contract import Contract, Tally


class IngestCounts(Tally):
    """Counts of stage `ingest`: rows read = accepted + quarantined + dropped.

    Beside the fields there is a count of each reason (`quarantined.bad_json`, `dropped.bot`), of
    each oddity (`noted.twin_users`), and the ledger of each table beside the logs
    (`items_table.rows_read`). With `ingest.keep_clean` the files are `files.read`, tonight, or
    `files.from_cache`, from an earlier night. Those of nothing are left out.
    """

    prefixes = ("quarantined.", "dropped.", "noted.", "files.", "items_table.", "users_table.")

    rows_read: int
    accepted: int
    """Rows that became events."""
    quarantined: int
    """Rows that could not be read or are no events; they are kept, with the reason."""
    dropped: int
    """Rows that went by a rule of the config."""
    users: int
    """With an event."""
    items: int
    """With an event."""
    bot_users: int
    """Dropped, with all of their events."""
    empty_files: int
    files: int


class SplitCounts(Contract):
    """Counts of stage `split`, in events where it says nothing else."""

    rows: int
    """In the parts of `train`."""
    train: int
    validation: int
    test: int
    thinned_out: int
    """Left out: of users who have more than `split.max_train_events`."""
    train_users: int
    test_users: int
    test_users_with_history: int
    """With a training event too: those whom the evaluation asks about."""
    cutoffs_utc: list[str]
    """Where validation and where test begins; empty unless the split is temporal."""
