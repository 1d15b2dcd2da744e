"""One file at a time: what readers and cleaning make of good and bad rows. No Ray."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmaug.config import FilesConfig, IngestConfig
from llmaug.core.sources import list_sources, prune
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.cleaning import Cleaned, clean_piece, id_hash
from llmaug.ingest.columns import parse_times
from llmaug.ingest.layout import Layout, Piece
from llmaug.ingest.readers import check_columns, count_rows, read_pieces

NOW = datetime(2026, 1, 1, tzinfo=UTC)
COLUMNS = ("user_id", "item_id", "action", "timestamp", "value")


def layout_of(format: str, columns: dict[str, str] | None = None, **more: Any) -> Layout:
    files = FilesConfig(path="logs", format=format, columns=columns or {}, **more)  # type: ignore
    return Layout("ingest", files, ("user_id", "item_id", "timestamp"), COLUMNS)


def read(path: Path, format: str, columns: dict[str, str] | None = None, **more: Any):
    layout, place = layout_of(format, columns, **more), Storage(str(path))
    sources = list_sources(place, "ingest.path")
    check_columns(place, sources, layout)
    return [piece for source in sources for piece in read_pieces(place, source, layout)]


def rows_of(pieces: list[Piece]) -> list[dict[str, Any]]:
    return [row for piece in pieces for row in piece.table.to_pylist()]


def refusals(pieces: list[Piece]) -> list[tuple[int | None, str]]:
    return [(row.row, row.reason) for piece in pieces for row in piece.refused]


def clean(columns: dict[str, Any], **config: Any) -> Cleaned:
    table = pa.table(columns)
    piece = Piece(table, np.arange(1, table.num_rows + 1), [])
    return clean_piece(piece, IngestConfig(**config), "events.parquet", NOW)


def test_files_are_listed_in_path_order_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.csv", "a/dt=2026-01-02/x.csv", "_SUCCESS", ".tmp/y.csv", "a/.z.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("user_id\n")
    sources = list_sources(Storage(str(tmp_path)), "ingest.path")
    assert [(s.number, s.name) for s in sources] == [(0, "a/dt=2026-01-02/x.csv"), (1, "b.csv")]
    assert sources[0].partition == {"dt": "2026-01-02"}
    one = list_sources(Storage(str(tmp_path / "b.csv")), "ingest.path")
    assert [s.name for s in one] == ["b.csv"]


def test_date_folders_are_pruned(tmp_path: Path) -> None:
    for day in ("2026-01-01", "2026-01-02", "2026-01-03"):
        (tmp_path / f"dt={day}").mkdir()
        (tmp_path / f"dt={day}" / "x.csv").write_text("user_id\n")
    sources = list_sources(Storage(str(tmp_path)), "ingest.path")
    kept = prune(sources, IngestConfig(start="2026-01-02", end="2026-01-02"))  # type: ignore
    assert [(s.number, s.name) for s in kept] == [(0, "dt=2026-01-02/x.csv")]
    with pytest.raises(UserError, match="there are 3 from 2026-01-01 to 2026-01-03"):
        prune(sources, IngestConfig(start="2027-01-01"))  # type: ignore
    (tmp_path / "dt=latest").mkdir()
    (tmp_path / "dt=latest" / "x.csv").write_text("user_id\n")
    with pytest.raises(UserError, match="dt=latest is not a date"):
        prune(list_sources(Storage(str(tmp_path)), "ingest.path"), IngestConfig(end="2026-01-02"))  # type: ignore


def test_json_lines_with_torn_and_foreign_bytes(tmp_path: Path) -> None:
    lines = [
        b'{"user_id": "u1", "item_id": 7, "timestamp": 1.5, "value": null, "more": [1]}',
        b'{"user_id": "u2", "item_',
        b"",
        b'{"user_id": "u\xff", "item_id": "a", "timestamp": 1}',
        b'["u1", "a"]',
        b'{"user_id": {"id": 1}, "item_id": "a", "timestamp": 1}',
        b'{"user_id": "\\ud800", "item_id": "a", "timestamp": 1}',
        '{"user_id": "\\ud83d\\ude00用户", "item_id": "b", "timestamp": "2026"}'.encode(),
    ]
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + b"\n".join(lines)))
    pieces = read(tmp_path, "jsonl")
    assert refusals(pieces) == [
        (2, "bad_json"),
        (4, "not_utf8"),
        (5, "bad_json"),
        (6, "bad_json"),
        (7, "bad_json"),
    ]
    assert [(r["user_id"], r["item_id"], r["timestamp"]) for r in rows_of(pieces)] == [
        ("u1", "7", "1.5"),
        ("😀用户", "b", "2026"),
    ]
    assert pieces[0].rows.tolist() == [1, 8]
    detail = [row.detail or "" for row in pieces[0].refused]
    assert not any("u2" in text for text in detail)  # no personal data


def test_csv_with_a_mark_quotes_and_bad_rows(tmp_path: Path) -> None:
    rows = [
        b"\xef\xbb\xbfuser_id,item_id,timestamp",
        b'u1,"a,\nb",2026-01-01',
        b"u1,b",
        b"u\xe9,b,2026-01-01",
        b'u1,"b"c,2026-01-01',
        "用户2,c,2026-01-02".encode(),
    ]
    (tmp_path / "x.csv").write_bytes(b"\r\n".join(rows))
    pieces = read(tmp_path, "csv")
    assert refusals(pieces) == [(3, "bad_csv"), (4, "not_utf8"), (5, "bad_csv")]
    assert [r["item_id"] for r in rows_of(pieces)] == ["a,\nb", "c"]
    assert rows_of(pieces)[1]["user_id"] == "用户2"


def test_text_lines_are_searched_by_pattern(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text("[09:00] 用户1浏览了商品1\n服务器重启\n用户1购买了商品2\n\n")
    pattern = r"(?P<user_id>用户\d+)(?P<action>浏览|购买)了(?P<item_id>商品\d+)"
    files = FilesConfig(path="logs", format="text", pattern=pattern)
    layout = Layout("ingest", files, ("user_id", "item_id"), COLUMNS)
    place = Storage(str(tmp_path))
    (source,) = list_sources(place, "ingest.path")
    pieces = list(read_pieces(place, source, layout))
    found = [(r["user_id"], r["action"], r["item_id"]) for r in rows_of(pieces)]
    assert found == [("用户1", "浏览", "商品1"), ("用户1", "购买", "商品2")]
    assert refusals(pieces) == [(2, "pattern_mismatch")]
    assert count_rows(place, source, layout) == 3
    with pytest.raises(UserError, match=r"name a group \(\?P<user_id>...\) in ingest.pattern"):
        read(tmp_path, "text", pattern="(x)")
    with pytest.raises(UserError, match="ingest.pattern: not a regular expression"):
        layout_of("text", pattern="(")


@pytest.mark.parametrize("size", [0, 20, 400])
def test_damaged_parquet_is_one_unreadable_file(tmp_path: Path, size: int) -> None:
    table = pa.table({"user_id": ["u1"] * 50, "item_id": ["a"] * 50, "timestamp": [1] * 50})
    pq.write_table(table, tmp_path / "x.parquet")
    data = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(data[:size])
    pieces = read(tmp_path, "parquet")
    assert (rows_of(pieces), refusals(pieces)) == ([], [(None, "unreadable_file")])


def test_damaged_gzip_keeps_the_rows_before_the_damage(tmp_path: Path) -> None:
    line = '{"user_id": "%d", "item_id": "a", "timestamp": 1}\n'
    data = gzip.compress("".join(line % i for i in range(20_000)).encode())
    (tmp_path / "x.jsonl.gz").write_bytes(data[: len(data) // 2])
    pieces = read(tmp_path, "jsonl")
    reasons = refusals(pieces)
    assert reasons[-1] == (None, "unreadable_file")
    users = [row["user_id"] for row in rows_of(pieces)]
    assert users == [str(i) for i in range(len(users))] and len(users) > 1_000


def test_missing_columns_name_the_file_and_the_fix(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("uid,item_id,timestamp\nu1,a,2026-01-01\n")
    with pytest.raises(UserError) as error:
        read(tmp_path, "csv")
    assert str(error.value) == (
        "x.csv: no column 'user_id' for user_id; there are item_id, timestamp, uid; "
        "set ingest.columns.user_id to the right one"
    )
    assert rows_of(read(tmp_path, "csv", {"user_id": "uid"}))[0]["user_id"] == "u1"
    with pytest.raises(UserError, match="no column 'stars' for value"):
        read(tmp_path, "csv", {"user_id": "uid", "value": "stars"})
    with pytest.raises(UserError, match="ingest.columns: unknown \\['user'\\]"):
        read(tmp_path, "csv", {"user": "uid"})


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        (pa.array([1_700_000_000, None]), "s"),
        (pa.array([1_700_000_000_000, None]), "ms"),
        (pa.array([1_700_000_000_000_000, None]), "us"),
        (pa.array([1_700_000_000_000_000_000, None]), "ns"),
        (pa.array([1_700_000_000.0, float("nan")]), "s"),
        (pa.array(["1700000000", ""]), "s"),
        (pa.array(["1.7e9", " "]), "s"),
        (pa.array(["2023-11-14T22:13:20", None]), None),
        (pa.array(["2023-11-14 22:13:20Z", None]), None),
        (pa.array(["2023-11-15T00:13:20.000+02:00", None]), None),
        (pa.array(["20231114T221320", None]), None),
        (pa.array([1_700_000_000, None], pa.timestamp("s")), None),
        (pa.array([1_700_000_000_000_000_000, None], pa.timestamp("ns", "Asia/Tokyo")), None),
    ],
)
def test_every_notation_of_a_time(column: pa.Array, unit: str | None) -> None:
    times = parse_times(pa.chunked_array([column]), unit, "x")
    assert times.us[0] == 1_700_000_000_000_000
    assert times.null.tolist() == [False, True]
    assert not times.bad.any() and not times.beyond.any()


def test_times_that_are_none() -> None:
    text = ["2026-13-01", "yesterday", "2026-01-01", "5", None]
    times = parse_times(pa.chunked_array([text]), None, "x")
    assert times.bad.tolist() == [True, True, False, True, False]
    huge = parse_times(pa.chunked_array([[2**62, 5]]), "s", "x")
    assert huge.beyond.tolist() == [True, False]
    with pytest.raises(UserError) as error:
        parse_times(pa.chunked_array([[5]]), None, "events.parquet")
    assert str(error.value) == (
        "events.parquet: column 'timestamp' is int64 without a unit; "
        "set ingest.timestamp_unit (s, ms, us, ns)"
    )
    with pytest.raises(UserError, match="column 'timestamp' holds numbers without a unit"):
        parse_times(pa.chunked_array([["5", None]]), None, "x")
    with pytest.raises(UserError, match="column 'timestamp' is bool, not a time"):
        parse_times(pa.chunked_array([[True]]), None, "x")


def test_each_bad_row_has_its_reason() -> None:
    good = "2025-12-31T00:00:00Z"
    cleaned = clean(
        {
            "user_id": ["u1", None, "", "u2", "u3", "u4", "u5", "u6", "u7", "u8"],
            "item_id": ["a", "a", "a", None, "a", "a", "a", "a", "a", "a"],
            "action": ["view"] * 8 + ["dance", "view"],
            "timestamp": [good, good, good, good, None, "soon", "2026-01-03", "1970-01-20"]
            + [good] * 2,
            "value": ["1"] * 9 + ["many"],
        },
        actions=["view"],
    )
    assert [(row.row, row.reason) for row in cleaned.refused] == [
        (2, "null_user_id"),
        (3, "null_user_id"),
        (4, "null_item_id"),
        (5, "null_timestamp"),
        (6, "bad_timestamp"),
        (7, "timestamp_out_of_range"),
        (8, "timestamp_out_of_range"),
        (9, "unknown_action"),
        (10, "bad_value"),
    ]
    details = {row.row: row.detail for row in cleaned.refused}
    assert details[6] == "'soon'" and details[9] == "'dance'" and details[10] == "'many'"
    assert "more than a day in the future: are the units mixed?" in (details[7] or "")
    assert "before ingest.earliest 1990-01-01" in (details[8] or "")
    assert cleaned.events["user_id"].to_pylist() == ["u1"]


def test_mixed_units_are_caught() -> None:
    times = [1_700_000_000, 1_700_000_000_000, 2**63 - 1]
    cleaned = clean(
        {"user_id": ["u"] * 3, "item_id": ["a"] * 3, "timestamp": times}, timestamp_unit="s"
    )
    assert [(row.row, row.reason) for row in cleaned.refused] == [
        (2, "timestamp_out_of_range"),
        (3, "timestamp_out_of_range"),
    ]
    assert (cleaned.refused[0].detail or "").startswith("1700000000000 read as s is more than")
    far = pa.array([1_700_000_000, 2**62], pa.timestamp("us"))  # a year past 9999 prints as well
    cleaned = clean({"user_id": ["u"] * 2, "item_id": ["a"] * 2, "timestamp": far})
    assert [row.reason for row in cleaned.refused] == ["timestamp_out_of_range"] * 2


def test_hashes_are_the_same_on_every_machine() -> None:
    assert id_hash(pa.array(["用户1", "u2", "用户1"])).tolist() == [
        int.from_bytes(digest, "big")
        for digest in map(_blake, ("用户1", "u2", "用户1"))
    ]  # fmt: skip


def _blake(text: str) -> bytes:
    import hashlib

    return hashlib.blake2b(text.encode(), digest_size=8).digest()
