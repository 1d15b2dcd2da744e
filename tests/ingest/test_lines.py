"""Files as people have them: packed, encoded, joined, torn, linked. Nothing is lost unseen."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmaug.core.sources import list_sources
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest import records
from llmaug.ingest.layout import Piece
from tests.ingest.test_readers import read, refusals, rows_of

JSON_LINE = '{"user_id": "u%d", "item_id": "café", "timestamp": 1}\n'
JSON = "".join(JSON_LINE % n for n in range(1_000)).encode()


def users(pieces: list[Piece]) -> list[str]:
    return [row["user_id"] for row in rows_of(pieces)]


def parquet_of(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def zipped(data: bytes, *names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names or ("a.jsonl",):
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    "pack",
    [
        bytes,
        gzip.compress,
        lambda data: gzip.compress(data[:5_000]) + gzip.compress(data[5_000:]),
        bz2.compress,
        lzma.compress,
        lambda data: pa.compress(data, codec="zstd", asbytes=True),
        lambda data: pa.compress(data[:99], "zstd", True) + pa.compress(data[99:], "zstd", True),
        zipped,
    ],
)
def test_what_a_file_is_packed_with_is_told_by_its_bytes(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "events").write_bytes(pack(JSON))
    pieces = read(tmp_path, "jsonl")
    assert users(pieces) == [f"u{n}" for n in range(1_000)] and refusals(pieces) == []


@pytest.mark.parametrize("kind", ["gzip", "bz2", "xz", "zstd"])
def test_a_packed_file_that_was_cut_off_is_unreadable_after_its_last_row(
    tmp_path: Path, kind: str
) -> None:
    ids = [os.urandom(9).hex() for _ in range(9_999)]
    noise = "".join(f'{{"user_id": "{each}", "item_id": "a", "timestamp": 1}}\n' for each in ids)
    data = noise.encode()
    packed = {
        "gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress,
        "zstd": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    }[kind](data)  # fmt: skip
    (tmp_path / "x").write_bytes(packed[: len(packed) * 2 // 3])
    pieces = read(tmp_path, "jsonl")
    assert refusals(pieces)[-1] == (None, "unreadable_file")
    assert "bytes)" in str(pieces[-1].refused[-1].detail)
    whole = noise.splitlines()[: len(users(pieces))]
    assert users(pieces) == [json.loads(line)["user_id"] for line in whole]


def test_files_that_no_line_reader_reads_are_called_by_their_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": ["u"]}), tmp_path / "x")
    with pytest.raises(UserError, match="x: is a Parquet file; set ingest.format: parquet"):
        read(tmp_path, "jsonl")
    (tmp_path / "x").write_bytes(zipped(JSON, "a.jsonl", "b.jsonl"))
    with pytest.raises(UserError, match="a zip of 2 files; unpack it"):
        read(tmp_path, "jsonl")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_mark_at_the_front_names_the_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x").write_bytes(JSON.decode().encode(encoding))
    pieces = read(tmp_path, "jsonl")
    assert len(users(pieces)) == 1_000 and rows_of(pieces)[7]["item_id"] == "café"


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16-le", "shift_jis"])
def test_an_encoding_can_be_set(tmp_path: Path, encoding: str) -> None:
    text = "user_id,item_id,timestamp\nu1,%s,1\n" % ("日本" if encoding == "shift_jis" else "é")
    (tmp_path / "x.csv").write_bytes(text.encode(encoding))
    assert rows_of(read(tmp_path, "csv", encoding=encoding))[0]["item_id"] in ("é", "日本")


def test_a_file_of_a_mark_alone_holds_no_rows(tmp_path: Path) -> None:
    """An export of an empty table, beside others; utf-8-sig decodes the mark to nothing."""
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf")
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbfuser_id,item_id,timestamp\nu1,a,1\n")
    for encoding in (None, "utf-8", "utf-8-sig"):
        pieces = read(tmp_path, "csv", encoding=encoding)
        assert users(pieces) == ["u1"]


def test_windows_text_is_refused_with_the_setting_that_reads_it(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("user_id,item_id,timestamp\nu1,é,1\nu2,e,1\n".encode("cp1252"))
    pieces = read(tmp_path, "csv")
    assert (users(pieces), refusals(pieces)) == (["u2"], [(1, "not_utf8")])
    assert "set ingest.encoding: cp1252" in str(pieces[0].refused[0].detail)


def test_a_line_keeps_its_empty_fields_and_loses_only_its_end(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_bytes(b"\ti1\t1\r\nu2\ti2\t2\r\n")
    pattern = r"^(?P<user_id>[^\t]*)\t(?P<item_id>[^\t]*)\t(?P<timestamp>[^\t]*)$"
    found = rows_of(read(tmp_path, "text", pattern=pattern))
    assert [(row["user_id"], row["item_id"]) for row in found] == [("", "i1"), ("u2", "i2")]
    assert found[1]["timestamp"] == "2"


def test_a_line_without_end_is_refused_unread(tmp_path: Path) -> None:
    long = b'{"user_id": "' + b"a" * 50_000 + b'", "item_id": "a", "timestamp": 1}\n'
    (tmp_path / "x.jsonl").write_bytes(JSON[:55] + long + JSON[55:110])
    pieces = read(tmp_path, "jsonl", max_line_bytes=10_000)
    assert refusals(pieces)[0] == (2, "line_too_long")
    assert "max_line_bytes is 10,000" in str(pieces[0].refused[0].detail)


def test_an_id_of_a_kilobyte_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    ids = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), ["x" * 5_000, "u1"])
    table = pa.table({"user_id": ids, "item_id": ["a", "b", "c"], "timestamp": [1, 1, 1]})
    pq.write_table(table, tmp_path / "x.parquet", store_schema=False)
    pieces = read(tmp_path, "parquet")
    assert refusals(pieces) == [(1, "id_too_long"), (3, "id_too_long")]
    assert [row["item_id"] for row in rows_of(pieces)] == ["b"]


# -- JSON --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [
        lambda rows: "".join(json.dumps(row) for row in rows),  # Firehose
        lambda rows: " ".join(json.dumps(row) for row in rows) + "\n",
        lambda rows: json.dumps(rows),
        lambda rows: json.dumps(rows, indent=2),
        lambda rows: "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n",
        lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows),  # jq
        lambda rows: json.dumps(rows, indent=1).replace("},\n {", "}, {"),  # util.inspect
        lambda rows: "\n\n".join(json.dumps(rows[at : at + 9]) for at in range(0, 30, 9)),
    ],
)
def test_objects_are_read_however_they_stand_in_a_file(
    tmp_path: Path, write: Callable[[list[dict[str, Any]]], str]
) -> None:
    row = {"item_id": "}{", "timestamp": 1, "x": {"y": []}}
    rows = [{"user_id": f"u{n}", **row} for n in range(30)]
    (tmp_path / "x.json").write_text(write(rows))
    pieces = read(tmp_path, "jsonl")
    assert (users(pieces), refusals(pieces)) == ([f"u{n}" for n in range(30)], [])
    numbers = [int(row) for piece in pieces for row in piece.rows]
    assert numbers == sorted(set(numbers))


def test_what_is_no_json_costs_its_own_lines(tmp_path: Path) -> None:
    good = '{"user_id": "u1", "item_id": "a", "timestamp": 1}'
    (tmp_path / "a.json").write_text(f"{good}{{'user_id': 'u2'}}\n{good}\n{good[:20]}\n{good}")
    pieces = read(tmp_path, "jsonl")
    assert len(users(pieces)) == 3
    assert [reason for _, reason in refusals(pieces)] == ["bad_json", "bad_json"]
    assert "a Python literal" in str(pieces[0].refused[0].detail)
    spread = json.dumps([json.loads(good)] * 3, indent=1).replace('"a"', "a", 1)
    (tmp_path / "a.json").write_text(spread)
    pieces = read(tmp_path, "jsonl")
    assert len(users(pieces)) == 2 and {reason for _, reason in refusals(pieces)} == {"bad_json"}


@pytest.mark.parametrize(
    "spread",
    [
        lambda rows: json.dumps(rows),
        lambda rows: "".join(json.dumps(row) for row in rows),
        lambda rows: json.dumps({"user_id": "u", "rows": rows}, indent=1),
        lambda rows: json.dumps([{"user_id": "u", "rows": rows}] * 2, indent=1),
    ],
)
def test_twice_the_json_takes_twice_the_work(
    tmp_path: Path, spread: Callable[[list[Any]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However its objects stand in lines: each character is looked at a few times, not once for
    each of the objects or lines around it. Counted, for a clock says little on a busy machine."""
    looked_at = 0

    def may_have_halves(text: str) -> bool:
        nonlocal looked_at
        looked_at += len(text)
        return False

    class Decoder(json.JSONDecoder):
        def raw_decode(self, text: str, at: int = 0) -> tuple[Any, int]:
            nonlocal looked_at
            try:
                value, end = super().raw_decode(text, at)
            except json.JSONDecodeError as error:
                looked_at += error.pos - at
                raise
            looked_at += end - at
            return value, end

    monkeypatch.setattr(records, "_DECODER", Decoder())
    monkeypatch.setattr(records, "_may_have_halves", may_have_halves)
    row = {"user_id": "u", "item_id": "a", "timestamp": 1, "where": {"a": ["]", "\\"]}}
    text = spread([row] * 1_000)
    (tmp_path / "x.json").write_text(text)
    pieces = read(tmp_path, "jsonl", {"item_id": "user_id", "timestamp": "user_id"})
    assert rows_of(pieces) and not refusals(pieces)
    assert looked_at < 10 * len(text)  # it is read twice, first for its columns


def test_sessions_of_events_are_exploded(tmp_path: Path) -> None:
    rows = [
        {"session": 1, "events": [{"aid": 7, "ts": 1}, {"aid": 8, "ts": 2}]},
        {"session": 2, "events": []},
        {"session": 3, "events": [{"aid": 9, "ts": 3}]},
    ]
    columns = {"user_id": "session", "item_id": "events.aid", "timestamp": "events.ts"}
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(UserError, match="set ingest.explode: events"):
        read(tmp_path, "jsonl", columns)
    lines = read(tmp_path, "jsonl", columns, explode="events")
    (tmp_path / "x.jsonl").unlink()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="set ingest.explode: events"):
        read(tmp_path, "parquet", columns)
    parquet = read(tmp_path, "parquet", columns, explode="events")
    for pieces in (lines, parquet):
        found = [tuple(str(value) for value in row.values()) for row in rows_of(pieces)]
        assert found == [("1", "7", "1"), ("1", "8", "2"), ("3", "9", "3")]
        assert [reason for _, reason in refusals(pieces)] == ["empty_list"]
        assert pieces[0].rows.tolist() in ([1, 2, 3], [1, 2, 4])


def test_a_file_without_the_list_that_is_exploded_is_named(tmp_path: Path) -> None:
    rows = [{"session": 1, "aid": 7, "ts": 1, "note": "x"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "day2.parquet")
    columns = {"user_id": "session", "item_id": "aid", "timestamp": "ts"}
    with pytest.raises(UserError, match=r"day2.parquet: no column 'tags' for explode; there are "):
        read(tmp_path, "parquet", columns, explode="tags")


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_list_in_a_struct_is_exploded(tmp_path: Path, format: str) -> None:
    rows = [
        {"s": {"user": "u1", "events": [{"aid": "a", "ts": "1"}, {"aid": "b", "ts": "2"}]}},
        {"s": {"user": "u2", "events": [{"aid": "c", "ts": "3"}]}},
    ]
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    (tmp_path / "x").write_bytes(parquet_of(rows) if format == "parquet" else lines)
    columns = {"user_id": "s.user", "item_id": "s.events.aid", "timestamp": "s.events.ts"}
    pieces = read(tmp_path, format, columns, explode="s.events")
    found = [tuple(row.values()) for row in rows_of(pieces)]
    assert found == [("u1", "a", "1"), ("u1", "b", "2"), ("u2", "c", "3")]


def test_a_history_in_a_field_is_a_list_of_words(tmp_path: Path) -> None:
    (tmp_path / "behaviors.tsv").write_text("1\tU1\t11/15/2019 8:00:00 AM\tN5 N6 N7\n")
    header = ["impression", "user_id", "timestamp", "history"]
    pieces = read(
        tmp_path, "csv", {"item_id": "history"}, delimiter="\t", header=header, explode="history"
    )
    assert [row["item_id"] for row in rows_of(pieces)] == ["N5", "N6", "N7"]


def test_nested_fields_are_named_by_their_path(tmp_path: Path) -> None:
    row = {"user": {"id": "u1"}, "item_id": "a", "timestamp": 1}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "x.parquet")
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match="it is nested: set ingest.columns.user_id: user.id"):
        read(tmp_path / "y", "jsonl", {"user_id": "id"})
    assert users(read(tmp_path / "y", "jsonl", {"user_id": "user.id"})) == ["u1"]
    assert users(read(tmp_path / "x.parquet", "parquet", {"user_id": "user.id"})) == ["u1"]


# -- CSV ---------------------------------------------------------------------------------

HEADER = "user_id,item_id,timestamp,note\n"


def test_a_stray_quote_costs_its_own_line(tmp_path: Path) -> None:
    rows = [f"u{n},i{n},1,tv\n" for n in range(300)]
    rows[40] = 'u40,i40,1,"tv\n'
    rows[200] = 'u200,i200,1,tv"\n'  # the first quote may not swallow 160 rows up to here
    (tmp_path / "x.csv").write_text(HEADER + "".join(rows))
    pieces = read(tmp_path, "csv")
    assert refusals(pieces) == [(41, "bad_csv")]
    assert len(users(pieces)) == 299


def test_text_with_line_ends_is_one_field(tmp_path: Path) -> None:
    note = '"a, ""b""\r\n\r\nc, d\r\nlast"'
    (tmp_path / "x.csv").write_bytes((HEADER + f"u1,a,1,{note}\r\nu2,b,2,x\r\n").encode())
    pieces = read(tmp_path, "csv")
    assert (users(pieces), refusals(pieces)) == (["u1", "u2"], [])
    assert pieces[0].rows[0] == 1


def test_blank_lines_of_a_text_are_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f'{HEADER}\nu1,a,1,"a\n\n\nb"\n\nu2,b,2,x\n')
    pieces = read(tmp_path, "csv", {"action": "note"})
    assert [row["action"] for row in rows_of(pieces)] == ["a\n\n\nb", "x"]


@pytest.mark.parametrize(
    "note",
    [
        "Soft cotton shirt.\nMachine wash, no bleach, no iron, no dryer\nMade in Italy.",
        "Soft, warm.\nS, M, L, XL\nMade in Italy.",
        "Soft.\nS, M, L, XL\nS, M, L, XL\nof cotton, silk, wool, and linen, in Italy",
    ],
)
def test_text_is_not_taken_for_rows_where_a_line_has_as_many_commas(
    tmp_path: Path, note: str
) -> None:
    """A description as csv.writer writes it, with three commas on its inner lines."""
    for name, names in (("first", ["note", *HEADER.split(",")[:3]]), ("last", HEADER.split(","))):
        row = {"user_id": "u1", "item_id": "a", "timestamp": "1", "note": note}
        file = io.StringIO()
        csv.writer(file).writerow([row[each.strip()] for each in names])
        path = tmp_path / f"{name}.csv"
        path.write_text(f"{','.join(names).strip()}\n{file.getvalue()}")
        pieces = read(path, "csv")
        assert (users(pieces), refusals(pieces)) == (["u1"], [])


def test_a_stray_quote_behind_a_quoted_field_swallows_no_rows(tmp_path: Path) -> None:
    rows = [f"u{n},i{n},1,tv\n" for n in range(9)]
    rows[2], rows[6] = '"u2","i, 2",1,"tv\n', 'u6,i6,1,tv"\n'
    (tmp_path / "x.csv").write_text(HEADER + "".join(rows))
    pieces = read(tmp_path, "csv")
    assert len(users(pieces)) == 8 and refusals(pieces) == [(3, "bad_csv")]


@pytest.mark.parametrize("mark", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, mark: str) -> None:
    (tmp_path / "x.csv").write_text(
        f'{HEADER}u1,a,1,"x, y{mark}z"\nu2,"a",2,x{mark}y\n', encoding="utf-8"
    )
    pieces = read(tmp_path, "csv")
    assert (users(pieces), refusals(pieces)) == (["u1", "u2"], [])


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("user_id\titem_id\ttimestamp\nu1\ta\t1\n", {"delimiter": "\t"}),
        ("user_id;item_id;timestamp\nu1;a;1\n", {"delimiter": ";"}),
        ("user_id::item_id::timestamp\nu1::a::1\n", {"delimiter": "::"}),
        ("u1,a,1\n", {"header": ["user_id", "item_id", "timestamp"]}),
        ("user_id,item_id,timestamp\n'u1','a',1\n", {"quote": "'"}),
        ('user_id,item_id,timestamp\nu1,a,"1\n', {"quote": None}),
    ],
)
def test_dialects(tmp_path: Path, text: str, settings: dict[str, Any]) -> None:
    (tmp_path / "x.csv").write_text(text)
    pieces = read(tmp_path, "csv", **settings)
    assert (users(pieces), refusals(pieces)) == (["u1"], [])


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("user_id\titem_id\nu1\ta\n", r'set ingest.delimiter: "\\t"'),
        ("user_id;item_id\nu1;a\n", 'set ingest.delimiter: ";"'),
        ("1,1010,1511658077\n1,1011,1511658078\n", r"in ingest.header: \[user_id"),
        ("userid,item_id,timestamp\nu,a,1\n", r"\(userid\?\)"),
        ("user_id,item_id,timestamp,user_id\n", "'user_id' stands twice in the header"),
    ],
)
def test_a_missing_column_comes_with_the_fix(tmp_path: Path, text: str, fix: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UserError, match=fix):
        read(tmp_path, "csv")


def test_a_column_that_one_file_lacks_is_null_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,item_id,timestamp\nu1,a,1\n")
    (tmp_path / "b.csv").write_text("user_id,item_id,timestamp,stars\nu2,b,2,5\n")
    (tmp_path / "c.csv").write_text("item_id,timestamp,stars\nb,2,5\n")
    found = rows_of(read(tmp_path, "csv", {"value": "stars"}))
    assert [row.get("value") for row in found] == [None, "5", "5"]
    assert [row["user_id"] for row in found] == ["u1", "u2", None]
    (tmp_path / "b.csv").unlink()
    (tmp_path / "c.csv").unlink()
    with pytest.raises(UserError, match="no column 'stars' for value"):
        read(tmp_path, "csv", {"value": "stars"})


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_a_file_with_none_of_our_columns_is_rows_of_nothing(tmp_path: Path, format: str) -> None:
    """Each is quarantined with its reason; the file is not said to be damaged."""
    row = {"user_id": "u1", "item_id": "a", "timestamp": "1"}
    for name, rows in (("a", [row]), ("b", [{"page": "home"}] * 2)):
        text = "\n".join([",".join(rows[0]), *(",".join(each.values()) for each in rows)])
        text = "\n".join(json.dumps(each) for each in rows) if format == "jsonl" else text
        (tmp_path / name).write_bytes(parquet_of(rows) if format == "parquet" else text.encode())
    pieces = read(tmp_path, format)
    assert rows_of(pieces) == [row, *[dict.fromkeys(row)] * 2] and not refusals(pieces)


def test_a_key_that_comes_late_is_no_missing_column(tmp_path: Path) -> None:
    rows = JSON + JSON + b'{"user_id": "u", "item_id": "a", "timestamp": 1, "stars": 5}'
    (tmp_path / "x.jsonl").write_bytes(rows)
    found = rows_of(read(tmp_path, "jsonl", {"value": "stars"}))
    assert [row["value"] for row in found] == [*[None] * 2_000, "5"]
    (tmp_path / "x.jsonl").write_bytes(JSON[: len(JSON) // 2])
    with pytest.raises(UserError, match="no column 'stars' for value"):
        read(tmp_path, "jsonl", {"value": "stars"})


# -- which files -------------------------------------------------------------------------


def names(path: Path, notes: list[str] | None = None) -> list[str]:
    note = notes.append if notes is not None else lambda text: None
    return [source.name for source in list_sources(Storage(str(path)), "ingest.path", note)]


def test_links_are_followed_inside_the_logs_and_refused_outside(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    (logs / "day").mkdir(parents=True)
    (logs / "day" / "a.csv").write_text("x")
    (logs / "b.csv").symlink_to(logs / "day" / "a.csv")
    (logs / "circle").symlink_to(logs)
    assert names(logs) == ["b.csv", "day/a.csv"]
    (tmp_path / "elsewhere").symlink_to(logs)
    assert names(tmp_path / "elsewhere") == ["b.csv", "day/a.csv"]
    (tmp_path / "secret.csv").write_text("x")
    (logs / "c.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(UserError, match="c.csv: a link to .*secret.csv, outside"):
        names(logs)
    (logs / "c.csv").unlink()
    (logs / "d.csv").symlink_to(logs / "gone.csv")
    with pytest.raises(UserError, match="d.csv: a link to .*gone.csv, which does not exist"):
        names(logs)


def test_pipes_and_markers_of_folders_are_no_logs(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "day_$folder$").write_text("")
    os.mkfifo(tmp_path / "pipe")
    notes: list[str] = []
    assert names(tmp_path, notes) == ["a.csv"]
    assert notes == ["ingest.path: 1 pipes and devices skipped"]


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_file_whose_name_is_no_utf8_is_read_and_called_by_its_bytes(
    tmp_path: Path, format: str
) -> None:
    """A name that Windows wrote, in a folder of such a name: quarantined rows hold it as text."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/ville=Orl\xe9ans"))
    folder.mkdir()
    path = folder / os.fsdecode(b"caf\xe9." + format.encode())
    row = {"user_id": "u1", "item_id": "a", "timestamp": "1"}
    if format == "csv":
        path.write_text("user_id,item_id,timestamp\nu1,a,1\n")
    else:
        path.write_bytes(parquet_of([row]))
    (source,) = list_sources(Storage(str(tmp_path)), "ingest.path")
    assert source.name == f"ville=Orl\\xe9ans/caf\\xe9.{format}"
    pieces = read(tmp_path, format, {"value": "ville"})
    assert rows_of(pieces) == [{**row, "value": "Orl\\xe9ans"}]


def test_globs_name_files_and_folders(tmp_path: Path) -> None:
    for name in ("2026-01/a.csv", "2026-01/b.txt", "2026-02/a.csv", "2025-12/a.csv", "x[1].csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert names(tmp_path / "2026-*" / "*.csv") == ["2026-01/a.csv", "2026-02/a.csv"]
    assert names(tmp_path / "2026-0[1]") == ["2026-01/a.csv", "2026-01/b.txt"]
    assert names(tmp_path / "x[1].csv") == ["x[1].csv"], "a file of that very name"
    with pytest.raises(UserError, match="no file in it"):
        names(tmp_path / "*.json")


def test_links_that_are_not_meant_stop_nobody(tmp_path: Path) -> None:
    """`./*.csv` in the folder of a project, whose .venv leads to the Python of the system."""
    project = tmp_path / "project"
    (tmp_path / "python").write_text("x")
    (tmp_path / "old").mkdir()
    for name in (".venv/bin/python", "_build/python", "docs/python", "python"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).symlink_to(tmp_path / "python")
    (project / "old").symlink_to(tmp_path / "old")
    (project / "clicks.csv").write_text("x")
    assert names(project / "*.csv") == ["clicks.csv"]
    (project / "docs" / "python").unlink()
    for pattern in ("", "pytho?", "**/clicks.csv", "ol*/clicks.csv"):  # these may mean a link
        with pytest.raises(UserError, match="a link to .*, outside"):
            names(project / pattern)


@pytest.mark.parametrize(
    ("mark", "kind"),
    [
        (".hoodie/hoodie.properties", "a Hudi table"),
        ("metadata/v1.metadata.json", "an Iceberg table"),
    ],
)
def test_the_folder_of_a_table_is_no_folder_of_files(tmp_path: Path, mark: str, kind: str) -> None:
    (tmp_path / mark).parent.mkdir(parents=True)
    (tmp_path / mark).write_text("{}")
    (tmp_path / "a.parquet").write_text("")
    with pytest.raises(UserError, match=f"is {kind}, in which deleted rows"):
        names(tmp_path)


def test_users_who_were_deleted_from_a_delta_table_do_not_come_back(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake", reason="the extra llmaug[delta]")
    rows = [{"user_id": f"u{n}", "item_id": "a", "timestamp": 1, "day": "d1"} for n in range(5)]
    table = pa.Table.from_pylist(rows)
    deltalake.write_deltalake(str(tmp_path / "t"), table, partition_by=["day"])
    deltalake.DeltaTable(str(tmp_path / "t")).delete("user_id = 'u3'")
    pieces = read(tmp_path / "t", "parquet", {"action": "day"})
    assert sorted(users(pieces)) == ["u0", "u1", "u2", "u4"]
    assert {row["action"] for row in rows_of(pieces)} == {"d1"}
    with pytest.raises(UserError, match="t: is a Delta table in a folder of others"):
        names(tmp_path)
