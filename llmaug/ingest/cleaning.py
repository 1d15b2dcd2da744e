"""Rows to clean events: a reason for each row that cannot be used, a rule for each dropped.

Pure functions from tables to tables; `ingest` runs them inside Ray Data.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.config import NULL_WORDS, IngestConfig
from llmaug.errors import UserError
from llmaug.ingest.columns import (
    MAX_ID_BYTES,
    MICROSECONDS,
    id_column,
    mask_of,
    number_column,
    parse_times,
    text_column,
)
from llmaug.ingest.layout import DETAIL_LEN, Piece, Refused
from llmaug.ingest.time_text import advice, microseconds

DAY_US = 86_400_000_000
FLOAT_ID = r"^-?\d+[.]0+$"
EVENT_COLUMNS = ("user_id", "item_id", "action", "timestamp", "value")
CLEANED = pa.schema(
    {
        "user_id": pa.string(),
        "item_id": pa.string(),
        "action": pa.string(),
        "timestamp": pa.timestamp("us", "UTC"),
        "value": pa.float32(),
        "row": pa.int64(),
    }
)
"""Events of a file, and the row that each was."""


ALWAYS = 2**63 - 1


class Cleaned(NamedTuple):
    """What became of one Piece; every row of it is in one of the first two."""

    events: pa.Table  # user_id, item_id, action, timestamp, value, row
    refused: list[Refused]
    noted: dict[str, int]  # accepted rows of which the user should know
    until_us: int  # read later than this, a row of the future may not be refused any more


def clean_piece(
    piece: Piece, config: IngestConfig, file: str, now: datetime, first_line: int = 0
) -> Cleaned:
    """Check and convert the rows of `piece`.

    `first_line` is the running number of the file's first row (used with `order: line`).
    Raises UserError when a column has a type that cannot be used.
    """
    table, rows = piece.table, piece.rows
    size = len(rows)
    if not size:
        return Cleaned(CLEANED.empty_table(), piece.refused, {}, ALWAYS)
    reasons = Reasons(size)
    words = config.null_words(config.format)
    action, broken_action = _actions(table, config, file)
    reasons.put(broken_action, "not_utf8")
    user_id = checked_ids(table["user_id"], "user_id", file, words, reasons)
    item_id = checked_ids(table["item_id"], "item_id", file, words, reasons)
    until_us = ALWAYS
    if config.order == "line":
        us = (first_line + rows - 1) * MICROSECONDS["s"]
    else:
        us, until_us = _checked_times(table["timestamp"], config, file, now, reasons)
    if config.actions is not None:
        known = pc.is_in(action, pa.array(config.actions, pa.string()))
        reasons.put(~mask_of(known), "unknown_action", action)
    value, foreign = _values(table, config, file, reasons)
    events = pa.table(
        {
            "user_id": user_id,
            "item_id": item_id,
            "action": action,
            "timestamp": pa.array(us).cast(pa.timestamp("us", "UTC")),
            "value": value,
            "row": pa.array(rows, pa.int64()),
        }
    ).filter(pa.array(~reasons.refused))
    odd = pa.array(NULL_WORDS if not words else [], pa.string())
    worded = pc.or_(pc.is_in(events["user_id"], odd), pc.is_in(events["item_id"], odd))
    noted = {"null_word_ids": int(pc.sum(worded).as_py() or 0), "foreign_values": foreign}
    return Cleaned(events, piece.refused + reasons.rows(rows), noted, until_us)


def in_window(events: pa.Table, config: IngestConfig) -> np.ndarray:
    """(N,) bool: which events lie within `start` .. `end`."""
    us = _us(events)
    inside = np.ones(len(us), bool)
    if config.order == "line":
        return inside
    if config.start:
        inside &= us >= _midnight(config.start)
    if config.end:
        inside &= us < _midnight(config.end) + DAY_US
    return inside


class Reasons:
    """The first reason that each row was refused for."""

    def __init__(self, size: int) -> None:
        self.refused = np.zeros(size, bool)
        self._found: dict[int, tuple[str, str | None]] = {}

    def put(
        self, mask: np.ndarray, reason: str, shown: pa.Array | None = None, why: str = ""
    ) -> None:
        """Refuse the rows of `mask`; the detail is their field in `shown`, then `why`."""
        new = np.flatnonzero(mask & ~self.refused)
        self.refused[new] = True
        for at in new:
            detail = shorten(shown[int(at)]) + why if shown is not None else why or None
            self._found[int(at)] = (reason, detail)

    def rows(self, rows: np.ndarray) -> list[Refused]:
        return [Refused(int(rows[at]), *found) for at, found in sorted(self._found.items())]


def checked_ids(
    column: pa.ChunkedArray, name: str, file: str, null_words: Sequence[str], reasons: Reasons
) -> pa.Array:
    """The ids in `column`; a row without a usable one has its reason in `reasons`."""
    found = id_column(column, name, file, null_words)
    reasons.put(found.not_utf8, "not_utf8")
    why = " stands for nothing (ingest.null_values)"
    reasons.put(found.null_word, f"null_{name}", column, why)
    why = " is no id: a fraction, or too large for floats to tell it from its neighbours"
    reasons.put(found.bad, f"bad_{name}", column, why)
    reasons.put(found.long, f"bad_{name}", why=f"more than {MAX_ID_BYTES:,} bytes")
    reasons.put(mask_of(pc.is_null(found.ids)), f"null_{name}")
    return found.ids


def twin_of_each(ids: pa.Array) -> pa.Array:
    """(N,) ids: `1` for an id `1.0`, what it is called where no float came in between; null for
    any other."""
    is_float = pc.match_substring_regex(ids, FLOAT_ID)
    if not pc.any(is_float).as_py():
        return pa.nulls(len(ids), pa.string())
    plain = pc.replace_substring_regex(ids, r"[.]0+$", "")
    return pc.if_else(is_float, plain, pa.scalar(None, pa.string()))


def float_twins(ids: pa.Array) -> pa.Array:
    """Those of `twin_of_each`, each once."""
    return pc.unique(twin_of_each(ids).drop_null())


def id_hash(ids: pa.Array) -> np.ndarray:
    """A stable 64-bit hash of each id: the same in every run and on every machine."""
    coded = ids.dictionary_encode()
    values = coded.dictionary.cast(pa.binary()).to_pylist()
    digests = b"".join(hashlib.blake2b(value, digest_size=8).digest() for value in values)
    return np.frombuffer(digests, ">u8").astype(np.uint64)[coded.indices.to_numpy()]


def shorten(value: pa.Scalar) -> str:
    """Short repr of one field."""
    try:
        plain = value.as_py()
        shown = plain.isoformat() if isinstance(plain, date) else repr(plain)
    except UnicodeDecodeError:
        shown = repr(value.cast(pa.binary()).as_py())
    except (ValueError, OverflowError):  # a year past 9999
        shown = f"{value.type} {value.value}"
    return shown if len(shown) <= DETAIL_LEN else shown[: DETAIL_LEN - 3] + "..."


def clean_users(events: pa.Table, config: IngestConfig, counts: Counter[str]) -> pa.Table:
    """Events of whole users, sorted by user, time and file order, less duplicates, actions
    that are not kept and bots; what is dropped is added to `counts`.

    With `order: line` there are no times: equal events are not duplicates and no day has too
    many.
    """
    keys = ("user_id", "timestamp", "source", "row")
    events = events.sort_by([(key, "ascending") for key in keys])
    has_times = config.order == "timestamp"
    if has_times:
        events = _dropped(events, _repeated(events), "duplicate", counts)
    if config.keep_actions is not None:
        kept = pc.is_in(events["action"], pa.array(config.keep_actions, pa.string()))
        events = _dropped(events, ~kept.to_numpy(), "action_not_kept", counts)
    if has_times and config.max_events_per_day is not None:
        bots = _bots(events, config.max_events_per_day)
        names = events["user_id"].filter(pa.array(bots))
        counts.update({"bot_users": len(pc.unique(names))} if len(names) else {})
        events = _dropped(events, bots, "bot", counts)
    return events


def _dropped(events: pa.Table, mask: np.ndarray, reason: str, counts: Counter[str]) -> pa.Table:
    if not mask.any():
        return events
    counts[f"dropped.{reason}"] += int(mask.sum())
    return events.filter(pa.array(~mask))


def _repeated(events: pa.Table) -> np.ndarray:
    """Rows that equal an earlier one in all columns of EVENT_COLUMNS."""
    users, us = _codes(events["user_id"]), _us(events)
    tie = np.zeros(len(users), bool)
    same = (users[1:] == users[:-1]) & (us[1:] == us[:-1])
    tie[1:] |= same
    tie[:-1] |= same
    at = np.flatnonzero(tie)  # only rows that share user and time can be equal
    tied = events.select(EVENT_COLUMNS).take(pa.array(at)).append_column("at", pa.array(at))
    first = tied.group_by(list(EVENT_COLUMNS)).aggregate([("at", "min")])["at_min"].to_numpy()
    tie[first] = False
    return tie


def _bots(events: pa.Table, max_per_day: int) -> np.ndarray:
    """All rows of the users with more than `max_per_day` events on one day (UTC)."""
    users, days = _codes(events["user_id"]), _us(events) // DAY_US
    if not len(users):
        return np.zeros(0, bool)
    starts = np.flatnonzero(
        np.r_[True, (users[1:] != users[:-1]) | (days[1:] != days[:-1])]
    )  # fmt: skip
    sizes = np.diff(np.r_[starts, len(users)])
    return np.isin(users, users[starts[sizes > max_per_day]])


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy()


def _us(events: pa.Table) -> np.ndarray:
    return events["timestamp"].cast(pa.int64()).to_numpy()


# -- columns of a piece ------------------------------------------------------------------


def _checked_times(
    column: pa.ChunkedArray, config: IngestConfig, file: str, now: datetime, reasons: Reasons
) -> tuple[np.ndarray, int]:
    """The times, and until when they are judged so (`Cleaned.until_us`)."""
    words = config.null_words(config.format)
    times = parse_times(
        column, config.timestamp_unit, file, time_format=config.time_format, null_words=words
    )
    earliest = microseconds(config.earliest)
    latest = microseconds(now + timedelta(days=1))
    soon = times.us[(times.us > latest) & ~times.beyond]
    until_us = int(soon.min()) - DAY_US if len(soon) else ALWAYS
    late = times.beyond | (times.us > latest)
    numbers = config.timestamp_unit and not pa.types.is_temporal(column.type)
    unit = f" read as {config.timestamp_unit}" if numbers else ""
    hint = "are the units mixed?"
    reasons.put(times.null, "null_timestamp")
    for why, mask in _advised(column, times.bad & ~reasons.refused).items():
        reasons.put(mask, "bad_timestamp", column, why)
    why = f"{unit} is more than a day in the future: {hint}"
    reasons.put(late, "timestamp_out_of_range", column, why)
    why = f"{unit} is before ingest.earliest {config.earliest.date()}: {hint}"
    reasons.put(times.us < earliest, "timestamp_out_of_range", column, why)
    return times.us, until_us


def _advised(column: pa.ChunkedArray, bad: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of the `bad` rows by what there is to say about them."""
    found: dict[str, np.ndarray] = {}
    if bad.any():
        text = text_column(column, "timestamp", "")[0]
        for at in np.flatnonzero(bad):
            why = advice(text[int(at)].as_py() or "")
            found.setdefault(why, np.zeros(len(bad), bool))[at] = True
    return found


def _midnight(day: date) -> int:
    return microseconds(datetime.combine(day, time(), UTC))


def _actions(table: pa.Table, config: IngestConfig, file: str) -> tuple[pa.Array, np.ndarray]:
    if "action" not in table.column_names:
        size = table.num_rows
        return pa.repeat(config.default_action, size), np.zeros(size, bool)
    action, broken = text_column(table["action"], "action", file)
    words = pa.array(config.null_words(config.format), pa.string())
    action = pc.if_else(pc.is_in(action, words), pa.scalar(None, pa.string()), action)
    return action.fill_null(config.default_action), broken


def _values(
    table: pa.Table, config: IngestConfig, file: str, reasons: Reasons
) -> tuple[pa.Array, int]:
    """The column `value`, and in how many rows it was passed over: one that the config does not
    name, and that mostly holds something else than numbers, is somebody else's."""
    size = table.num_rows
    nothing = pa.nulls(size, pa.float32())
    if "value" not in table.column_names:
        return nothing, 0
    column = table["value"]
    num_values = size - column.null_count
    ours = "value" in config.columns or config.format == "text"
    try:
        value, bad = number_column(column, "value", file, config.null_words(config.format))
    except UserError:
        if ours:
            raise
        return nothing, num_values
    if not ours and 2 * bad.sum() > num_values:
        return nothing, num_values
    reasons.put(bad, "bad_value", column)
    return value, 0
