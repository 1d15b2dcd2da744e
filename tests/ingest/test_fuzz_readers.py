"""Any bytes at all: every line is a row or a reason, and nothing but a sentence is raised."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmaug.core.sources import list_sources
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.layout import Piece
from llmaug.ingest.lines import FOREIGN
from llmaug.ingest.readers import count_rows, read_pieces
from tests.ingest.test_readers import layout_of, refusals, rows_of

FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FIELD = st.one_of(TEXT, st.integers(-(2**70), 2**70), st.floats(), st.none(), st.booleans())
# Mostly what the formats are made of, so that parsers get past the first character.
SYNTAX = st.sampled_from(
    [b'"', b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r\n", b"\\", b"\xff", b"\x00", b"u1",
     b'{"user_id": "u1", "item_id": "a", "timestamp": 1}', b"user_id,item_id,timestamp\n",
     b"u1,a,1\n", b'"u1","a\nb",1\n', b"\xef\xbb\xbf", b"\xed\xa0\x80", b"'", b" ", b"\x85"]
)  # fmt: skip
BYTES = st.one_of(st.binary(max_size=400), st.lists(SYNTAX, max_size=40).map(b"".join))


def read_bytes(folder: Path, data: bytes, format: str, **more: Any) -> list[Piece]:
    (folder / "x").write_bytes(data)
    place = Storage(str(folder))
    layout = layout_of(format, **more)
    if data.startswith((*FOREIGN, b"PK")):
        return []  # refused by name; see test_lines
    (source,) = list_sources(place, "ingest.path")
    pieces = list(read_pieces(place, source, layout))
    rows = [int(row) for piece in pieces for row in piece.rows]
    assert rows == sorted(set(rows)), "numbers ascend and are unique"
    highest = max([*rows, *(row or 0 for row, _ in refusals(pieces))], default=0)
    assert count_rows(place, source, layout) == highest
    return pieces


def lines_of(data: bytes) -> list[bytes]:
    """The lines with more than blanks and byte order marks, as bytes alone tell them."""
    return [
        line
        for line in data.split(b"\n")
        if line.decode("utf-8", "replace").lstrip("\ufeff").strip()
    ]


def is_plain(data: bytes) -> bool:
    """Not taken for a packed file, another format or another encoding."""
    starts = (b"\x1f\x8b", b"BZh", b"\xfd7z", b"(\xb5", b"\x04\"", b"PK", b"PAR1", b"ORC", b"Obj",
              b"\xff\x06", b"SQL", b"\xff\xfe", b"\xfe\xff")  # fmt: skip
    return not data.startswith(starts)


@FUZZ
@given(BYTES)
def test_every_line_of_text_is_a_row_or_a_reason(tmp_path: Path, data: bytes) -> None:
    pieces = read_bytes(tmp_path, data, "text", pattern=r"(?P<user_id>u\d+)")
    if is_plain(data):
        assert len(rows_of(pieces)) + len(refusals(pieces)) == len(lines_of(data))


@FUZZ
@given(BYTES)
def test_every_line_of_json_is_rows_or_reasons(tmp_path: Path, data: bytes) -> None:
    pieces = read_bytes(tmp_path, data, "jsonl")
    lines = lines_of(data)
    if is_plain(data) and lines and b"{" not in data and b"[" not in data:
        assert len(refusals(pieces)) >= len(lines), "no object anywhere"
    if is_plain(data) and lines:
        assert rows_of(pieces) or refusals(pieces) or not data.strip(b"[], \t\r\n\xef\xbb\xbf")


@FUZZ
@given(BYTES)
def test_every_line_of_csv_belongs_to_a_row_or_a_reason(tmp_path: Path, data: bytes) -> None:
    data = b"user_id,item_id,timestamp\n" + data
    pieces = read_bytes(tmp_path, data, "csv")
    num = len(rows_of(pieces)) + len(refusals(pieces))
    lines = lines_of(data)[1:]
    assert num <= len(lines)
    if b'"' not in data:
        assert num == len(lines)


@FUZZ
@given(st.lists(st.fixed_dictionaries({"user_id": TEXT, "item_id": TEXT, "value": FIELD})))
def test_what_was_written_as_json_comes_back(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    found = rows_of(read_bytes(tmp_path, data, "jsonl"))
    for key in ("user_id", "item_id"):
        assert [row[key] for row in found] == [row[key] for row in rows]


@FUZZ
@given(st.lists(st.tuples(TEXT, TEXT)), st.sampled_from([",", "\t", ";"]))
def test_what_was_written_as_csv_comes_back(
    tmp_path: Path, rows: list[tuple[str, str]], delimiter: str
) -> None:
    rows = [(a, b) for a, b in rows if not any(c in a + b for c in "\n\r\ufeff")]
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("user_id", "item_id"), *rows])
    pieces = read_bytes(tmp_path, file.getvalue().encode(), "csv", delimiter=delimiter)
    assert refusals(pieces) == []
    assert [(row["user_id"], row["item_id"]) for row in rows_of(pieces)] == rows


@FUZZ
@given(st.data())
def test_a_damaged_parquet_file_is_rows_or_unreadable(tmp_path: Path, data: st.DataObject) -> None:
    table = pa.table(
        {"user_id": ["u1", "u2"] * 40, "item_id": [None, "b"] * 40, "timestamp": range(80),
         "more": [{"a": [1, 2]}, None] * 40}
    )  # fmt: skip
    file = io.BytesIO()
    pq.write_table(table, file, compression=data.draw(st.sampled_from(["none", "snappy", "zstd"])))
    raw = np.frombuffer(file.getvalue(), np.uint8).copy()
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.sampled_from([len(raw), len(raw) // 2, len(raw) - 9]))]
    try:
        pieces = read_bytes(tmp_path, raw.tobytes(), "parquet")
    except UserError:
        return  # a column name was hit
    assert rows_of_ids(pieces) <= 80 or refusals(pieces)


def rows_of_ids(pieces: list[Piece]) -> int:
    return sum(len(piece.rows) for piece in pieces)


@pytest.mark.parametrize("format", ["jsonl", "csv", "text"])
def test_the_same_bytes_packed_are_the_same_rows(tmp_path: Path, format: str) -> None:
    import gzip

    data = b'user_id,item_id,timestamp\n{"user_id": "u1"}\nu1,"a\n\xff\n,,\n"u1",a,1\n'
    more = {"pattern": "(?P<user_id>u1)"} if format == "text" else {}
    plain = read_bytes(tmp_path, data, format, **more)
    packed = read_bytes(tmp_path, gzip.compress(data), format, **more)
    assert (rows_of(plain), refusals(plain)) == (rows_of(packed), refusals(packed))
