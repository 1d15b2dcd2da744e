"""What became of the rows of a side table: counts that add up, refused rows, and what is odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmaug import schema
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.layout import Refused
from llmaug.ingest.ledger import check_sums, judge_quarantine

LOW_SHARE = 0.5  # of the items of the logs: the user should know that so few are described


@dataclass
class SideTable:
    """What was read of a table, every row of it counted."""

    name: str  # items, users
    rows: pa.Table  # ids unique
    rows_read: int = 0
    refused: list[tuple[str, Refused]] = field(default_factory=list)  # with the file's name
    num_repeated: int = 0  # rows that say again what an earlier one said
    num_forgotten: int = 0  # rows of users who asked to be
    masked: Counter[str] = field(default_factory=Counter)  # personal data in texts, by kind
    emptied: Counter[str] = field(default_factory=Counter)  # fields: rows that are null there

    @property
    def where(self) -> str:
        return f"ingest.{self.name}"

    def reasons(self) -> Counter[str]:
        return Counter(row.reason for _, row in self.refused)


def write_side_table(
    storage: Storage, folder: str, side: SideTable, survivors: pa.Array | None = None
) -> dict[str, int]:
    """Write `folder`/items or users, and the refused rows were written before; returns the
    counts. `survivors` (of the k-core) are the only ids kept, None: all."""
    kept = side.rows
    if survivors is not None:
        kept = kept.filter(pc.is_in(kept[0], survivors))
    lost = {f"quarantined.{reason}": n for reason, n in sorted(side.reasons().items())}
    dropped = {
        "duplicate": side.num_repeated,
        "k_core": side.rows.num_rows - kept.num_rows,
        "forgotten": side.num_forgotten,
    }
    lost |= {f"dropped.{rule}": n for rule, n in dropped.items() if n}
    check_sums(side.where, side.rows_read, kept.num_rows, lost)
    emptied = {f"bad_{name}": n for name, n in sorted(side.emptied.items())}
    masked = {f"masked.{kind}": n for kind, n in sorted(side.masked.items())}
    counts = {"rows_read": side.rows_read, "rows": kept.num_rows, **lost, **emptied, **masked}
    counts = {f"{side.name}_table.{name}": n for name, n in counts.items()}
    storage.write_part(kept, counts, f"{folder}/{side.name}", "part-00000")
    return counts


def write_refused(storage: Storage, folder: str, side: SideTable) -> None:
    """Write the refused rows among those of the logs."""
    rows = [{"file": file, **row._asdict()} for file, row in side.refused]
    table = pa.Table.from_pylist(rows, schema.QUARANTINE)
    storage.write_part(table, {}, f"{folder}/quarantine", f"{side.name}-00000")


def judge(side: SideTable, limit: float, place: str, note: Callable[[str], None]) -> None:
    """Note what was refused; an id that came twice has a row that counts, and stops nobody.

    Raises UserError when more than the share `limit` of the rows was refused.
    """
    reasons = side.reasons()
    num_conflicts = reasons.pop("duplicate_id", 0)
    if num_again := side.num_repeated + num_conflicts:
        note(
            f"{side.where}: {num_again:,} of {side.rows_read:,} rows have the id of an earlier "
            f"one, which is kept ({num_conflicts:,} of them say something else than it)"
        )
    firsts: dict[str, dict[str, Any]] = {}
    for file, row in side.refused:
        firsts.setdefault(row.reason, {"file": file, **row._asdict()})
    examples = [firsts[reason] for reason in sorted(reasons)]
    where = f"{side.where}: "
    judge_quarantine(reasons, side.rows_read, limit, place, lambda: examples, note, where)


def check_overlap(items: SideTable, ids: pa.Array, note: Callable[[str], None]) -> int:
    """How many of the `ids` of the logs the catalogue knows; a note says so where they are few.

    Raises UserError when there is none.
    """
    num_known = int(pc.sum(pc.is_in(ids, items.rows["item_id"])).as_py() or 0)
    if not num_known:
        raise no_overlap(items, ids, len(ids))
    if num_known < LOW_SHARE * len(ids):
        note(
            f"only {num_known:,} of {len(ids):,} items of the logs are in {items.where}: nothing "
            "is known of the others"
        )
    return num_known


def no_overlap(side: SideTable, ids: pa.Array, num_ids: int) -> UserError:
    """No id of the logs, `ids` among them, stands in the table: they are not the same ids."""
    key = side.rows.column_names[0]
    return UserError(
        f"0 of {num_ids:,} {side.name} of the logs are in {side.where}: the logs have "
        f"{_listed(ids)}, the table has {_listed(side.rows[key])}; set {side.where}.columns.{key} "
        "to the column with the ids of the logs"
    )


def _listed(ids: pa.Array) -> str:
    return ", ".join(repr(each) for each in ids[:3].to_pylist()) or "none"
