"""The ledger of ingest: rows read = accepted + quarantined + dropped, for the logs and for the
tables beside them; what of it the user is told, and what is too much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow.compute as pc

from llmaug.core.storage import Storage
from llmaug.errors import UserError

_TWINS = (
    "stand in the logs as 1 and as 1.0, and count as two each; write their ids as text or whole "
    "numbers everywhere"
)
NOTED = {
    "null_word_ids": (
        "{:,} events have a word such as null or nan for an id, which is kept as text; list it in "
        "ingest.null_values if it stands for nobody"
    ),
    "foreign_values": (
        "{:,} rows hold no number in the column that is called value, which is passed over; set "
        "ingest.columns.value to the right one, or to null"
    ),
    "twin_users": f"{{:,}} users {_TWINS}",
    "twin_items": f"{{:,}} items {_TWINS}",
}
"""What may be odd about rows that were accepted."""
HINTS = {
    "null_user_id": "as for visitors without an account",
    "null_item_id": "as for events without an item",
    "bad_value": "or pass the column over with ingest.columns.value: null",
}
"""What may be the fix where most rows were quarantined for a reason."""


def check_sums(where: str, rows_read: int, accepted: int, counts: Mapping[str, int]) -> None:
    """The promise that no row disappears; `counts` are those quarantined or dropped.

    Raises AssertionError with the numbers: it is we who lost count, not the logs.
    """
    lost = sum(counts.values())
    assert rows_read == accepted + lost, (
        f"ledger of {where} does not add up: {rows_read} rows read, {accepted} accepted, "
        f"{lost} lost: {dict(counts)}"
    )


def below(counts: Mapping[str, int], *prefixes: str) -> dict[str, int]:
    """The counts called `prefix.something`, without those of nothing."""
    starts = tuple(f"{prefix}." for prefix in prefixes)
    return {name: n for name, n in sorted(counts.items()) if n and name.startswith(starts)}


def judge_quarantine(
    reasons: Mapping[str, int],
    rows_read: int,
    limit: float,
    place: str,
    examples: Callable[[], Iterable[dict[str, Any]]],
    note: Callable[[str], None],
    where: str = "",
) -> None:
    """Note how many rows were quarantined for which of `reasons`, and that they are in `place`.

    Raises UserError, with one row for each reason, where they are more than the share `limit`.
    """
    quarantined = sum(reasons.values())
    if not quarantined:
        return
    listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))
    text = f"{where}{quarantined:,} of {rows_read:,} rows quarantined ({listed}); see {place}"
    if quarantined <= limit * rows_read:
        note(text)
        return
    shown = "".join(
        f"\n  {row['file']} row {row['row'] or '-'}: {row['reason']}: {row['detail'] or ''}"
        for row in examples()
    )
    hint = HINTS.get(max(reasons, key=lambda reason: reasons[reason]), "")
    raise UserError(
        f"{text}. That is more than ingest.max_quarantined {limit:.2%}: mend the config or the "
        f"logs, or raise it{hint and f' ({hint})'}.{shown}"
    )


def one_of_each(storage: Storage, folder: str, reasons: set[str]) -> list[dict[str, Any]]:
    """One quarantined event of each reason, from as few parts as that takes."""
    found: dict[str, dict[str, Any]] = {}
    for part in storage.parts(folder):
        if not part.startswith("part-"):  # of a table beside the logs
            continue
        rows = storage.read_part(folder, part)
        for reason in rows["reason"].unique().to_pylist():
            first = rows.filter(pc.equal(rows["reason"], reason)).slice(0, 1)
            found.setdefault(reason, first.to_pylist()[0])
        if set(found) >= reasons:
            break
    return [found[reason] for reason in sorted(found)]


def note_oddities(counts: Counter[str], note: Callable[[str], None]) -> None:
    """Say what may be wrong with rows that were accepted."""
    for name, count in below(counts, "noted").items():
        note(NOTED[name.removeprefix("noted.")].format(count))
