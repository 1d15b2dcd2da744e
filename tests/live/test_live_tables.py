"""Files of live results to tables: every format, and rows that cannot be used are counted."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmaug.errors import UserError
from llmaug.live.tables import LiveTable, read_live
from llmaug.schema import EXPOSURE, FEEDBACK, LOGGED_CHOICE
from tests.tables import hour


def feedback(path: Path, columns: list[str] | None = None, **how: Any) -> LiveTable:
    return read_live(str(path), "--feedback", FEEDBACK, columns, **how)


def test_formats_mix_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,action,timestamp,value\nu1,rate,2025-06-01,4.5\n")
    line = b'{"user_id": 2, "action": "click", "timestamp": "2025-06-01T01:00:00Z"}\n'
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(line))
    rows = {"user_id": ["u3"], "action": ["click"], "timestamp": [hour(2)], "item_id": ["i"]}
    pq.write_table(pa.table(rows), tmp_path / "c.parquet")
    found = feedback(tmp_path)
    assert found.table.schema == FEEDBACK and found.rows_read == 3
    assert [tuple(row.values()) for row in found.table.to_pylist()] == [
        ("u1", "rate", hour(0), None, 4.5),
        ("2", "click", hour(1), None, None),
        ("u3", "click", hour(2), "i", None),
    ]
    assert found.refused == {} and found.warnings("feedback") == []


def test_ids_meet_those_of_other_tables_and_of_the_logs(tmp_path: Path) -> None:
    """BigQuery's times, floats of pandas, and a word for nobody."""
    (tmp_path / "a.csv").write_text(
        "user_id,action,timestamp\n 1 ,click,2025-06-01 01:00:00 UTC\nnull,click,2025-06-01\n"
    )
    rows = {"user_id": [1.0, 1.5], "action": ["click"] * 2, "timestamp": [hour(2)] * 2}
    pq.write_table(pa.table(rows), tmp_path / "b.parquet")
    found = feedback(tmp_path)
    assert found.table["user_id"].to_pylist() == ["1", "1"]
    assert found.table["timestamp"].to_pylist() == [hour(1), hour(2)]
    assert found.refused == {"bad_user_id": 1, "null_user_id": 1} and found.rows_read == 4


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    good = '{"user_id": "u", "action": "click", "timestamp": 1748736000000}'
    lines = [
        good,
        '{"user_id": "", "action": "click", "timestamp": 1}',
        '{"user_id": "u", "timestamp": 1}',
        '{"user_id": "u", "action": "click", "timestamp": "soon", "value": "x"}',  # once
        '{"user_id": "u", "action": "click", "timestamp": 1, "value": "good"}',
        '{"user_id": ',
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    found = feedback(tmp_path, timestamp_unit="ms")
    assert found.table["timestamp"].to_pylist() == [hour(0)]
    assert found.refused == {
        "bad_json": 1,
        "bad_timestamp": 1,
        "bad_value": 1,
        "null_action": 1,
        "null_user_id": 1,
    }
    assert found.rows_read == 6 == found.table.num_rows + sum(found.refused.values())
    [warning] = found.warnings("feedback")
    assert warning.startswith("feedback: not all of 6 rows could be used: bad_json 1, ")


def test_a_value_that_cannot_be_used_is_shown(tmp_path: Path) -> None:
    rows = ["user_id,action,timestamp", "u,click,2025-06-01", "u,click,soon", "u,click,later"]
    (tmp_path / "said.csv").write_text("\n".join(rows))
    found = feedback(tmp_path)
    assert found.refused == {"bad_timestamp": 2}
    [warning] = found.warnings("feedback")
    assert warning.endswith("of 3 rows could be used: bad_timestamp 2 (such as 'soon' in said.csv)")


def test_rows_of_which_none_can_be_used_are_not_called_no_rows(tmp_path: Path) -> None:
    (tmp_path / "said.csv").write_text("user_id,action,timestamp\nu,click,31/01/2026 10 Uhr\n")
    with pytest.raises(UserError, match="none of 1 rows can be used: bad_timestamp 1") as caught:
        feedback(tmp_path)
    assert "'31/01/2026 10 Uhr' in said.csv" in caught.value.message
    assert "--timestamp-unit" in caught.value.message


def test_numbers_that_must_be_there(tmp_path: Path) -> None:
    rows = {
        "user_id": ["u1", "u2", "u3"],
        "item_id": ["a", "a", "a"],
        "propensity": [0.5, None, 0.25],
        "reward": [1.0, 0.0, float("nan")],
        "new_probability": [0.5, 0.5, None],
    }
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    found = read_live(str(tmp_path), "--log", LOGGED_CHOICE)
    assert found.table["user_id"].to_pylist() == ["u1"]
    assert found.refused == {"null_propensity": 1, "null_reward": 1}


def test_a_damaged_file_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,action,timestamp\nu1,click,2025-06-01\n")
    (tmp_path / "b.parquet").write_bytes(b"torn")
    found = feedback(tmp_path)
    assert found.table.num_rows == 1 and found.refused == {"unreadable_file": 1}


def test_variants_may_be_folders_and_columns_have_other_names(tmp_path: Path) -> None:
    for variant in ("old", "new"):
        (tmp_path / f"arm={variant}").mkdir()
        text = f"uid,timestamp\nuser-{variant},2025-06-01\n"
        (tmp_path / f"arm={variant}" / "x.csv").write_text(text)
    columns = ["variant=arm", "user_id=uid"]
    found = read_live(str(tmp_path), "--exposures", EXPOSURE, columns).table.to_pylist()
    assert [(row["user_id"], row["variant"]) for row in found] == [
        ("user-new", "new"),
        ("user-old", "old"),
    ]


def test_what_the_user_can_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set --feedback to where the data lies"):
        feedback(tmp_path / "nowhere")
    (tmp_path / "x.csv").write_text("user_id,action,timestamp\nu1,click,5\n")
    with pytest.raises(UserError, match=r"set --timestamp-unit \(s, ms, us, ns\)"):
        feedback(tmp_path)
    with pytest.raises(UserError, match="units are s, ms, us, ns"):
        feedback(tmp_path, timestamp_unit="h")
    with pytest.raises(UserError, match="name it with --feedback-columns action=..."):
        feedback(tmp_path, ["action=verb"], timestamp_unit="s")
    for wrong in ("value", "value=", "stars=value"):
        with pytest.raises(UserError, match=f"--feedback-columns {wrong}: write OURS=THEIRS"):
            feedback(tmp_path, [wrong])
    (tmp_path / "y.xlsx").write_text("")
    with pytest.raises(UserError, match=r"y.xlsx: unknown kind of file; names end in .parquet"):
        feedback(tmp_path, timestamp_unit="s")
