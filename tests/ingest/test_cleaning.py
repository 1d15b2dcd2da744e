"""What becomes of each row of a piece, and what the ledger says of it. No Ray."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmaug.config import IngestConfig
from llmaug.core.sources import Source
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.cleaning import Cleaned, clean_piece, float_twins, id_hash, in_window
from llmaug.ingest.file_rows import _rows_of
from llmaug.ingest.ledger import NOTED, check_sums, judge_quarantine, note_oddities
from llmaug.ingest.people import EVERYBODY
from llmaug.ingest.readers import Piece
from llmaug.ingest.user_parts import _shuffled, _write_part

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = "2025-12-31T00:00:00Z"


def piece(columns: dict[str, Any]) -> Piece:
    table = pa.table(columns)
    return Piece(table, np.arange(1, table.num_rows + 1), [])


def clean(columns: dict[str, Any], /, **config: Any) -> Cleaned:
    """Columns of one row each, but for those given."""
    size = max(len(values) for values in columns.values())
    filled = {"user_id": ["u"] * size, "item_id": ["a"] * size, "timestamp": [GOOD] * size}
    found = piece({**filled, **columns})
    cleaned = clean_piece(found, IngestConfig(**config), "log", NOW)
    check_sums("log", size, cleaned.events.num_rows, {"refused": len(cleaned.refused)})
    return cleaned


def refusals(cleaned: Cleaned) -> list[tuple[Any, ...]]:
    return [(row.row, row.reason, row.detail) for row in cleaned.refused]


def test_words_for_nothing_are_no_ids_no_actions_and_no_values() -> None:
    columns = {
        "user_id": ["u", "\\N", "u", "u", "u"],
        "item_id": ["a", "a", "NULL", "a", "a"],
        "action": ["view", "view", "view", "\\N", "None"],
        "value": ["1", "1", "1", "\\N", "nan"],
    }
    cleaned = clean(columns)
    why = " stands for nothing (ingest.null_values)"
    assert refusals(cleaned) == [
        (2, "null_user_id", repr("\\N") + why),
        (3, "null_item_id", repr("NULL") + why),
    ]
    assert cleaned.events["action"].to_pylist() == ["view", "interact", "interact"]
    assert cleaned.events["value"].to_pylist() == [1.0, None, None]
    assert cleaned.noted["null_word_ids"] == 0


def test_quoted_words_of_json_stay_ids_and_are_noted() -> None:
    columns = {"user_id": ["null", "NaN", "u"], "item_id": ["a", "None", "a"]}
    cleaned = clean(columns, format="jsonl")
    assert cleaned.events["user_id"].to_pylist() == ["null", "NaN", "u"]
    assert cleaned.noted["null_word_ids"] == 2
    chosen = clean(columns, format="jsonl", null_values=["null"])
    assert [row[1] for row in refusals(chosen)] == ["null_user_id"]
    assert chosen.noted["null_word_ids"] == 0


def test_numbers_that_are_no_ids_are_refused_by_name() -> None:
    cleaned = clean({"user_id": [1.0, 2.5, float("nan")], "item_id": ["a", "b", "x" * 2000]})
    assert [(row[0], row[1]) for row in refusals(cleaned)] == [
        (2, "bad_user_id"), (3, "null_user_id"),
    ]  # fmt: skip
    assert cleaned.refused[0].detail == (
        "2.5 is no id: a fraction, or too large for floats to tell it from its neighbours"
    )
    long = clean({"item_id": ["a", "x" * 2000]})
    assert refusals(long) == [(2, "bad_item_id", "more than 1,024 bytes")]


def test_a_column_called_value_that_holds_none_is_passed_over() -> None:
    prose = ["red", "EUR 3", "7", None]
    cleaned = clean({"value": prose})
    assert cleaned.events["value"].to_pylist() == [None] * 4
    assert cleaned.noted["foreign_values"] == 3 and not cleaned.refused
    assert clean({"value": [["a"], None]}).noted["foreign_values"] == 1
    # Named by the config, it is what the user means: a bad value is a bad row.
    named = clean({"value": prose}, columns={"value": "value"})
    assert [row[:2] for row in refusals(named)] == [(1, "bad_value"), (2, "bad_value")]
    with pytest.raises(UserError, match="log: column 'value' is list<item: string>, not a number"):
        clean({"value": [["a"]]}, columns={"value": "value"})
    # Mostly numbers: it is ours, and the others are refused.
    assert refusals(clean({"value": ["1", "2", "EUR 3"]})) == [(3, "bad_value", "'EUR 3'")]


def test_a_time_that_is_not_read_says_how_it_can_be() -> None:
    found = [
        "1/31/2019 3:04:05 PM",
        "3.4.2019",
        "31-01-19 15:04",
        "2019-01-31 15:04:05 Europe/Berlin",
        "soon",
    ]
    details = [row[2] for row in refusals(clean({"timestamp": found}))]
    ask = " does not say which is the day: set ingest.time_format to "
    assert details == [
        f"'{found[0]}'{ask}'%m/%d/%Y %I:%M:%S %p'",
        f"'{found[1]}'{ask}'%m.%d.%Y' or '%d.%m.%Y'",
        f"'{found[2]}'{ask}'%d-%m-%y %H:%M'",
        f"'{found[3]}' names a zone: logs have to write its offset (+01:00) or UTC",
        "'soon'",
    ]
    numbers = clean({"timestamp": [20190131, 31]}, time_format="%Y%m%d")
    assert refusals(numbers) == [(2, "bad_timestamp", "31")]
    read = clean({"timestamp": found[:1]}, time_format="%m/%d/%Y %I:%M:%S %p")
    assert read.events["timestamp"].to_pylist() == [datetime(2019, 1, 31, 15, 4, 5, tzinfo=UTC)]


def test_users_that_are_called_1_and_1_0_are_counted(tmp_path: Path) -> None:
    """They lie in different parts, and nobody holds all users: each 1.0 asks where 1 would be."""
    config, num_parts = IngestConfig(format="csv"), 4
    users = ["1", "2", "3", "1.0", "2.0", "7.0", "1.0", "x.0"]
    assert float_twins(pa.array(users)).to_pylist() == ["1", "2", "7"]
    rows = []
    for number, names in enumerate((users, ["2.00", "9"])):
        found = piece(
            {"user_id": names, "item_id": ["a"] * len(names), "timestamp": [GOOD] * len(names)}
        )
        source = Source(number, "f", f"f{number}", 1, "", {})
        own = _rows_of(found, source, config, EVERYBODY, NOW, 0)
        rows.append(_shuffled(own, source, config, num_parts))
    shuffled = pa.concat_tables(rows)
    counts: Counter[str] = Counter()
    for index in range(num_parts):
        part = shuffled.filter(pa.array(shuffled["part"].to_numpy() == index))
        counts.update(_write_part(index, part, Storage(str(tmp_path)), "out", config))
    assert counts["noted.twin_users"] == 2 and counts["rows_read"] == 10
    parts = [Storage(str(tmp_path)).read_part("out/clean", f"part-{i:05d}") for i in range(4)]
    kept = pa.concat_tables(parts)["user_id"].to_pylist()
    check_sums("x", counts["rows_read"], len(kept), {"d": counts["dropped.duplicate"]})
    assert {id_hash(pa.array([user]))[0] % 4 for user in kept}  # no question became an event
    notes: list[str] = []
    note_oddities(counts, notes.append)
    assert notes == [NOTED["twin_users"].format(2)]


def test_a_ledger_that_does_not_add_up_says_so_with_its_numbers() -> None:
    with pytest.raises(AssertionError, match="items does not add up: 5 rows read, 2 accepted, 2"):
        check_sums("items", 5, 2, {"dropped.duplicate": 2})


def test_too_many_refused_rows_name_the_likely_fix() -> None:
    notes: list[str] = []
    row = {"file": "f", "row": 3, "reason": "null_user_id", "detail": None}
    reasons = {"null_user_id": 2, "bad_json": 1}
    judge_quarantine(reasons, 100, 0.03, "there", lambda: [row], notes.append)
    assert notes == ["3 of 100 rows quarantined (bad_json 1, null_user_id 2); see there"]
    with pytest.raises(UserError, match=r"raise it \(as for visitors without an account\)"):
        judge_quarantine(reasons, 99, 0.03, "there", lambda: [row], notes.append)


ANY = st.lists(
    st.tuples(
        *[
            st.none()
            | st.text(st.characters(codec="utf-8"), max_size=5)
            | st.sampled_from(["u", "1", "1.0", "null", "\\N", GOOD, "1577880077", "2999-01-01"])
        ]
        * 5
    ),
    max_size=20,
)


@settings(deadline=None)
@given(ANY, st.sampled_from(["csv", "jsonl"]), st.sampled_from([None, "s"]))
def test_every_row_is_kept_refused_or_dropped(rows: Any, format: str, unit: str | None) -> None:
    names = ("user_id", "item_id", "action", "timestamp", "value")
    columns = {n: pa.array([row[i] for row in rows], pa.string()) for i, n in enumerate(names)}
    config = IngestConfig(format=format, timestamp_unit=unit, end="2026-01-01")  # type: ignore
    try:
        found = clean_piece(piece(columns), config, "log", NOW)
    except UserError as error:
        assert "without a unit" in str(error)
        return
    inside = int(in_window(found.events, config).sum())
    lost = {"refused": len(found.refused), "dropped": found.events.num_rows - inside}
    check_sums("log", len(rows), inside, lost)
