"""Stage `ingest` on logs small enough to check by hand, with a real Ray.

Each test is a story of one night's logs; `test_a_messy_night` is the one to read first.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmaug import schema
from llmaug.core.stage import Context, Stage, map_parts, run_stage
from llmaug.errors import UserError
from llmaug.ingest.cleaning import EVENT_COLUMNS, id_hash
from llmaug.ingest.stage import STAGE

pytestmark = pytest.mark.usefixtures("ray_session")
MakeContext = Callable[..., Context]
DAY = datetime(2025, 6, 1, tzinfo=UTC)


def ingest(context: Context) -> dict[str, Any]:
    """Run the stage; its ledger, checked to add up."""
    counts = run_stage(STAGE, context)["counts"]
    assert counts["rows_read"] == counts["accepted"] + counts["quarantined"] + counts["dropped"]
    for total in ("quarantined", "dropped"):
        assert counts[total] == sum(n for k, n in counts.items() if k.startswith(f"{total}."))
    assert counts["accepted"] == len(events(context))
    assert not context.storage.names(context.folder("ingest"), "clean")
    return counts


def table(context: Context, *folder: str) -> list[dict[str, Any]]:
    """All rows of all parts of a folder of the stage."""
    path = "/".join([context.folder("ingest"), *folder])
    return [
        row
        for part in context.storage.parts(path)
        for row in context.storage.read_part(path, part).to_pylist()
    ]


def events(context: Context) -> list[dict[str, Any]]:
    return table(context)


def histories(context: Context) -> dict[str, list[str]]:
    """Items of each user in order."""
    found: dict[str, list[str]] = {}
    for row in events(context):
        found.setdefault(row["user_id"], []).append(row["item_id"])
    return found


def write_parquet(path: Path, rows: list[tuple], names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: list[Any] = list(zip(*rows, strict=True)) or [[]] * len(names)
    pq.write_table(pa.table([pa.array(column) for column in columns], names=names), path)


def write_lines(path: Path, lines: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(raw) + b"\n")


def test_a_messy_night(tmp_path: Path, make_context: MakeContext) -> None:
    """Hive folders, foreign column names, and one of nearly everything that goes wrong."""
    names = ["uid", "sku", "kind", "at", "stars"]
    logs = tmp_path / "logs" / "events"
    day1, day2 = DAY, DAY + timedelta(days=1)

    def at(hours: float, day: datetime = day1) -> datetime:
        return day + timedelta(hours=hours)

    write_parquet(
        logs / "dt=2025-06-01" / "a.parquet",
        [
            ("ann", "tea", "view", at(9), 1.0),
            ("ann", "cup", "view", at(8), None),
            ("ann", "tea", "view", at(9), 1.0),  # the same again: duplicate
            ("ann", "tea", "view", at(9), 2.0),  # another value: none
            ("bob", "tea", "view", at(7), None),
            ("bob", "pot", "ping", at(7), None),  # known, not kept
            ("bob", "pot", "hack", at(7), None),  # unknown
            (None, "pot", "view", at(7), None),
            ("bob", "", "view", at(7), None),
            ("bob", "pot", "view", datetime(2999, 1, 1, tzinfo=UTC), None),
            ("bob", "pot", "view", at(-30), None),  # two days before the range
            *[("bot", f"item{i}", "view", at(i / 60), None) for i in range(6)],
            ("bot", "tea", "view", at(1, day2), None),
        ],
        names,
    )
    # Same user, same time as in a.parquet: the file order decides, tea (a) before mug (b).
    write_parquet(
        logs / "dt=2025-06-02" / "b.parquet",
        [("ann", "mug", "view", at(9), None), ("cat", "tea", "view", at(1, day2), None)],
        names,
    )
    write_parquet(logs / "dt=2025-06-02" / "empty.parquet", [], names)
    write_parquet(logs / "dt=2025-06-09" / "c.parquet", [("x", "y", "view", at(1), 1.0)], names)
    (logs / "dt=2025-06-02" / "torn.parquet").write_bytes(b"PAR1 was to come")
    write_lines(
        tmp_path / "items.jsonl",
        [
            {"item_id": "tea", "name": "Tee", "tags": ["hot", "green"], "price": 3.5},
            {"item_id": "tea", "name": "again"},
            {"name": "no id"},
            {"item_id": "new", "name": "never seen", "tags": "a|b"},
            b"{",
        ],
    )
    (tmp_path / "users.csv").write_text("id,age,city\nann,30,Ulm\nbob,,\n,7,x\n")
    context = make_context(
        ingest={
            "columns": dict(zip(EVENT_COLUMNS, names, strict=True)),
            "start": "2025-06-01",
            "end": "2025-06-02",
            "actions": ["view", "ping"],
            "keep_actions": ["view"],
            "max_events_per_day": 5,
            "max_quarantined": 0.5,
            "max_unreadable_files": 1,
            "items": {
                "path": "{root}/items.jsonl",
                "format": "jsonl",
                "columns": {"title": "name"},
            },
            "users": {
                "path": "{root}/users.csv",
                "format": "csv",
                "columns": {"user_id": "id"},
            },
        }
    )
    counts = ingest(context)
    assert counts == {
        "rows_read": 21,
        "accepted": 6,
        "quarantined": 5,
        "quarantined.null_item_id": 1,
        "quarantined.null_user_id": 1,
        "quarantined.timestamp_out_of_range": 1,
        "quarantined.unknown_action": 1,
        "quarantined.unreadable_file": 1,
        "dropped": 10,
        "dropped.action_not_kept": 1,
        "dropped.bot": 7,
        "dropped.duplicate": 1,
        "dropped.out_of_range_date": 1,
        "users": 3,
        "bot_users": 1,
        "items": 3,
        "files": 4,
        "empty_files": 1,
        "items_table.rows_read": 5,
        "items_table.rows": 2,
        "items_table.quarantined.bad_json": 1,
        "items_table.quarantined.duplicate_id": 1,
        "items_table.quarantined.null_item_id": 1,
        "items_table.in_logs": 1,
        "users_table.rows_read": 3,
        "users_table.rows": 2,
        "users_table.quarantined.null_user_id": 1,
    }
    assert histories(context) == {
        "ann": ["cup", "tea", "tea", "mug"],
        "bob": ["tea"],
        "cat": ["tea"],
    }
    first = next(row for row in events(context) if row["user_id"] == "ann")
    assert first["timestamp"] == at(8) and first["action"] == "view" and first["value"] is None
    assert first["weight"] == 1.0 and first["origin"] == "real" and first["unit_id"] is None

    parts = [f"part-{index:05d}" for index in range(4)]
    assert context.storage.parts(context.folder("ingest")) == parts  # empty ones exist too
    folder = context.folder("ingest")
    assert context.storage.read_part(folder, parts[0]).schema.equals(schema.EVENT)
    quarantined = {(r["file"], r["row"], r["reason"]) for r in table(context, "quarantine")}
    assert quarantined >= {
        ("dt=2025-06-01/a.parquet", 7, "unknown_action"),
        ("dt=2025-06-01/a.parquet", 8, "null_user_id"),
        ("dt=2025-06-01/a.parquet", 9, "null_item_id"),
        ("dt=2025-06-01/a.parquet", 10, "timestamp_out_of_range"),
        ("dt=2025-06-02/torn.parquet", None, "unreadable_file"),
        ("items.jsonl", 2, "duplicate_id"),
        ("items.jsonl", 5, "bad_json"),
        ("users.csv", 3, "null_user_id"),
    }
    items = table(context, "items")
    assert [(r["item_id"], r["title"], r["tags"]) for r in items] == [
        ("tea", "Tee", ["hot", "green"]),
        ("new", "never seen", ["a", "b"]),
    ]
    assert items[0]["price"] == 3.5
    users = [(r["user_id"], dict(r["attributes"])) for r in table(context, "users")]
    assert users == [("ann", {"age": "30", "city": "Ulm"}), ("bob", {})]
    notes = " ".join(context.progress.notes)  # type: ignore[attr-defined]
    assert "5 of 21 rows quarantined" in notes and "1 files hold no rows" in notes
    assert "1 users with more than 5 events on one day" in notes


def test_k_core_and_a_killed_run(tmp_path: Path, make_context: MakeContext) -> None:
    """JSON lines, some torn or not UTF-8; the 2-core falls in three rounds.

    z has one event, so it goes; then u3 has one event left (y) and goes; then y has one left
    and goes; then u2 still has a, b and stays.
    """
    pairs = ["u1a", "u1b", "u2a", "u2b", "u2y", "u3y", "u3z"]
    lines: list[Any] = [
        {"user_id": p[:2], "item_id": p[2], "timestamp": 1_700_000_000 + i}
        for i, p in enumerate(pairs)
    ]
    lines += [b'{"user_id": "u\xff"}', b'{"user_id": "u1", "it']
    write_lines(tmp_path / "logs" / "events" / "x.jsonl", lines)
    write_parquet(tmp_path / "items.parquet", [("a",), ("y",), ("new",)], ["item_id"])
    settings: dict[str, Any] = {
        "format": "jsonl",
        "timestamp_unit": "s",
        "k_core": 2,
        "max_quarantined": 0.3,
        "items": {"path": "{root}/items.parquet"},
    }
    context = make_context(ingest=settings)
    counts = ingest(context)
    assert histories(context) == {"u1": ["a", "b"], "u2": ["a", "b"]}
    assert counts["dropped.k_core"] == 3 and counts["users"] == 2 and counts["items"] == 2
    assert counts["quarantined.not_utf8"] == 1 and counts["quarantined.bad_json"] == 1
    # The items table follows: y fell out of the core, new was never in it.
    assert [row["item_id"] for row in table(context, "items")] == ["a"]
    assert counts["items_table.dropped.k_core"] == 2

    # Killed in the middle: no manifest, leftovers of half a run. The result is the same.
    storage, folder = context.storage, context.folder("ingest")
    before = {name: storage.read(folder, name) for name in storage.names(folder) if "part" in name}
    storage.delete(folder, "_manifest.json")
    storage.delete(folder, "part-00002.json")
    storage.write_part(
        pa.table({"user_id": ["ghost"]}), {"rows_read": 99}, f"{folder}/clean", "part-00009"
    )
    assert ingest(context) == counts
    assert before == {name: storage.read(folder, name) for name in before}
    assert run_stage(STAGE, context)["skipped"]


def test_text_lines_in_line_order(tmp_path: Path, make_context: MakeContext) -> None:
    """Logs without a time: the line number over all files orders them, nothing is a duplicate."""
    logs = tmp_path / "logs" / "events"
    logs.mkdir(parents=True)
    (logs / "1.log").write_text("用户1浏览了商品1\n用户2购买了商品1\n用户1浏览了商品1\n", "utf-8")
    (logs / "2.log").write_text("重启\n用户1购买了商品3\n用户2浏览了商品2\n", "utf-8")
    context = make_context(
        ingest={
            "format": "text",
            "pattern": r"(?P<user_id>用户\d+)(?P<action>浏览|购买)了(?P<item_id>商品\d+)",
            "order": "line",
            "max_events_per_day": 1,
            "max_quarantined": 0.2,
            "num_parts": 1,
        }
    )
    counts = ingest(context)
    assert histories(context) == {"用户1": ["商品1", "商品1", "商品3"], "用户2": ["商品1", "商品2"]}
    assert counts["rows_read"] == 6 and counts["quarantined.pattern_mismatch"] == 1
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    seconds = [(row["timestamp"] - epoch).total_seconds() for row in events(context)]
    assert seconds == [0, 2, 4, 1, 5]
    assert {row["action"] for row in events(context)} == {"浏览", "购买"}


def test_the_same_sample_of_users_every_night(tmp_path: Path, make_context: MakeContext) -> None:
    """CSV with ISO times; the users kept depend on nothing but their ids."""
    users = [f"u{i}" for i in range(200)]
    rows = "".join(f"{user},a,2025-06-01T10:00:00Z\n" for user in users)
    path = tmp_path / "elsewhere" / "x.csv"
    path.parent.mkdir()
    path.write_text("user_id,item_id,timestamp\n" + rows)
    settings = {"path": str(path), "format": "csv", "sample_users": 0.3, "num_parts": 3}
    context = make_context(ingest=settings)
    counts = ingest(context)
    hashes = id_hash(pa.array(users))
    expected = {user for user, h in zip(users, hashes.tolist(), strict=True) if h / 2**64 < 0.3}
    assert set(histories(context)) == expected
    assert 30 < len(expected) < 90 and counts["dropped.sampled_out"] == 200 - len(expected)


def test_one_user_with_100_000_events(tmp_path: Path, make_context: MakeContext) -> None:
    """A bot by default, and then nobody is left; with the cap off it simply works."""
    size = 100_000
    data: dict[str, Any] = {
        "user_id": np.zeros(size, np.int64),
        "item_id": np.arange(size) % 500,
        "timestamp": 1_700_000_000_000 + np.arange(size)[::-1],
    }
    path = tmp_path / "logs" / "events" / "x.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(data), path)
    with pytest.raises(UserError, match="none of 100,000 rows is left: dropped.bot 100,000"):
        ingest(make_context(ingest={"timestamp_unit": "ms"}))
    context = make_context(ingest={"timestamp_unit": "ms", "max_events_per_day": None})
    assert ingest(context)["accepted"] == size
    assert histories(context)["0"][:3] == ["499", "498", "497"]


def test_too_many_bad_rows_stop_the_night(tmp_path: Path, make_context: MakeContext) -> None:
    rows: list[dict[str, Any]] = [
        {"user_id": "u", "item_id": "a", "timestamp": t} for t in (1_700_000_000, 1_700_000_001)
    ]
    rows += [{"user_id": "u", "item_id": None, "timestamp": 1_700_000_002}]
    rows += [{"user_id": "u", "item_id": "a", "timestamp": 1_700_000_000_000}]
    write_lines(tmp_path / "logs" / "events" / "x.jsonl", rows)
    context = make_context(ingest={"format": "jsonl", "timestamp_unit": "s"})
    with pytest.raises(UserError) as error:
        ingest(context)
    text = str(error.value)
    assert "2 of 4 rows quarantined (null_item_id 1, timestamp_out_of_range 1)" in text
    assert "runs/test/ingest/quarantine" in text and "ingest.max_quarantined 1.00%" in text
    assert "x.jsonl row 3: null_item_id" in text
    assert "x.jsonl row 4: timestamp_out_of_range: '1700000000000' read as s" in text


def test_a_wrong_column_is_explained(tmp_path: Path, make_context: MakeContext) -> None:
    """Errors of the workers reach the user as they were written."""
    logs = tmp_path / "logs" / "events"
    write_parquet(logs / "x.parquet", [("u", "a", 5)], ["user", "item_id", "timestamp"])
    with pytest.raises(UserError, match="^x.parquet: no column 'user_id' for user_id; there are"):
        ingest(make_context())
    context = make_context(ingest={"columns": {"user_id": "user"}})
    with pytest.raises(UserError, match="column 'timestamp' is int64 without a unit; set ingest."):
        ingest(context)


def test_a_worker_may_speak_to_the_user(make_context: MakeContext) -> None:
    """Also from a plain map over parts, where Ray Data wraps what the function raises."""

    def work(part: str) -> dict[str, Any]:
        raise UserError(f"{part}: the thing; the fix")

    context = make_context()
    stage = Stage("any", lambda c: dict(map_parts(c, c.folder("any"), ["part-00000"], work)))
    with pytest.raises(UserError, match="^part-00000: the thing; the fix$"):
        run_stage(stage, context)


def test_places_that_hold_nothing(tmp_path: Path, make_context: MakeContext) -> None:
    with pytest.raises(UserError, match="logs/events: no such file, folder or bucket; set ingest"):
        ingest(make_context())
    folder = tmp_path / "logs" / "events" / "dt=2025-06-01"
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match="logs/events: no file in it; set ingest.path"):
        ingest(make_context())
    write_parquet(folder / "x.parquet", [], ["user_id", "item_id", "timestamp"])
    with pytest.raises(UserError, match="Change ingest.start and ingest.end"):
        ingest(make_context(ingest={"start": "2026-01-01"}))
    with pytest.raises(UserError, match="the files hold no rows"):
        ingest(make_context())
    write_parquet(folder / "y.parquet", [("u", "a", DAY)], ["user_id", "item_id", "timestamp"])
    with pytest.raises(UserError, match="ingest.items.path"):
        ingest(make_context(ingest={"items": {"path": "{root}/nowhere"}}))
