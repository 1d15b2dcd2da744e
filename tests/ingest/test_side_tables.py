"""The catalogue and the users table: as strict as the logs where ids are concerned, forgiving
in what is optional, and counted to the row. No Ray."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmaug.config import IngestConfig
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest import side_ledger, side_tables
from llmaug.ingest.item_fields import tags, texts
from llmaug.ingest.side_ledger import SideTable
from llmaug.ingest.stage import _check_users


class Read:
    """A side table that was read, judged and written, with all that was said of it."""

    def __init__(self, folder: Path, kind: str, config: IngestConfig) -> None:
        self.notes: list[str] = []
        storage = Storage(str(folder))
        read = side_tables.read_items if kind == "items" else side_tables.read_users
        self.side: SideTable = read(storage, config, self.notes.append)
        side_ledger.write_refused(storage, "out", self.side)
        side_ledger.judge(self.side, config.max_quarantined, "out", self.notes.append)
        found = side_ledger.write_side_table(storage, "out", self.side)
        self.counts = {name.removeprefix(f"{kind}_table."): n for name, n in found.items()}
        self.rows = storage.read_part(f"out/{kind}", "part-00000").to_pylist()
        self.refused = storage.read_part("out/quarantine", f"{kind}-00000").to_pylist()


def items(folder: Path, rows: list[Any], format: str = "jsonl", **config: Any) -> Read:
    """The catalogue of `rows`: dicts, or lines of bytes; a table for Parquet."""
    path = folder / f"items.{format}"
    if isinstance(rows, pa.Table):
        pq.write_table(rows, path)
    else:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b"\n".join(lines) + b"\n")
    table = {"path": str(path), "format": format, "columns": config.pop("columns", {})}
    return Read(folder, "items", IngestConfig(items=table, **config))  # type: ignore


def test_a_bad_optional_field_costs_its_row_nothing_else(tmp_path: Path) -> None:
    prices = [None, "None", 14.99, "from 14.99", "—", "14.99", True, 3]
    rows = [
        {"item_id": f"i{at}", "title": f"“T” {at}", "tags": ["a", "b"], "price": price}
        for at, price in enumerate(prices)
    ]
    read = items(tmp_path, rows, max_quarantined=0)
    assert [row["title"] for row in read.rows] == [f"“T” {at}" for at in range(8)]
    assert all(row["tags"] == ["a", "b"] for row in read.rows)
    known = [None, None, pytest.approx(14.99), None, None, pytest.approx(14.99), 1.0, 3.0]
    assert [row["price"] for row in read.rows] == known
    assert read.counts == {"rows_read": 8, "rows": 8, "bad_price": 3}
    (note,) = read.notes
    assert "a bad price is left out" in note and "items.jsonl row 2: 'None'" in note


def test_rows_without_an_id_are_refused_printed_and_limited(tmp_path: Path) -> None:
    rows = [{"item_id": f"i{at}"} for at in range(8)] + [{"title": "no id"}, b"{"]
    read = items(tmp_path, rows, max_quarantined=0.2)
    assert read.counts == {
        "rows_read": 10, "rows": 8, "quarantined.bad_json": 1, "quarantined.null_item_id": 1,
    }  # fmt: skip
    assert {(r["row"], r["reason"]) for r in read.refused} == {
        (9, "null_item_id"), (10, "bad_json"),
    }  # fmt: skip
    assert read.notes == [
        "ingest.items: 2 of 10 rows quarantined (bad_json 1, null_item_id 1); see out"
    ]
    with pytest.raises(UserError) as caught:
        items(tmp_path, rows)
    text = str(caught.value)
    assert "more than ingest.max_quarantined 1.00%" in text
    assert "items.jsonl row 9: null_item_id" in text and "items.jsonl row 10: bad_json" in text


def test_the_first_row_of_an_id_wins_and_stops_nobody(tmp_path: Path) -> None:
    rows = [
        {"item_id": "a", "title": "A", "tags": ["x"]},
        {"item_id": "a", "title": "A", "tags": ["x"]},  # says the same
        {"item_id": " a", "title": "other"},
        {"item_id": "b"},
    ]
    read = items(tmp_path, rows, max_quarantined=0)
    assert [(row["item_id"], row["title"]) for row in read.rows] == [("a", "A"), ("b", None)]
    assert read.counts == {
        "rows_read": 4, "rows": 2, "quarantined.duplicate_id": 1, "dropped.duplicate": 1,
    }  # fmt: skip
    assert [(r["row"], r["reason"]) for r in read.refused] == [(3, "duplicate_id")]
    assert read.notes == [
        "ingest.items: 2 of 4 rows have the id of an earlier one, which is kept (1 of them say "
        "something else than it)"
    ]


def test_repeated_rows_take_no_memory_each() -> None:
    """A catalogue that was exported every hour: few items, each of them many times."""
    num_rows = 20_000
    ids, tags = [str(at % 100) for at in range(num_rows)], [["a", "b"]] * num_rows
    titles = ["T"] * (num_rows - 1) + ["other"]
    rows = pa.table({"item_id": ids, "tags": tags, "title": titles})
    side = SideTable("items", rows)
    tracemalloc.start()
    kept = side_tables._first_of_each(side, rows, ["f"] * num_rows, np.arange(num_rows))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (kept.num_rows, side.num_repeated, len(side.refused)) == (100, num_rows - 101, 1)
    assert peak < 8 * 2**20


def test_the_ids_of_a_catalogue_follow_the_rules_of_the_logs(tmp_path: Path) -> None:
    for array, format in (
        (pa.array([1.0, 2.0, None]), "parquet"),
        (pa.array(["1 ", "2", "\\N"]), "parquet"),
    ):
        read = items(tmp_path, pa.table({"item_id": array}), format, max_quarantined=0.5)
        assert [row["item_id"] for row in read.rows] == ["1", "2"]
        assert read.counts["quarantined.null_item_id"] == 1
    lines = [b"item_id,title", b"1,nan", b"null,x", b"\\N,y", b"2,Tea"]
    read = items(tmp_path, lines, "csv", max_quarantined=0.5)
    assert [(r["item_id"], r["title"]) for r in read.rows] == [("1", None), ("2", "Tea")]
    assert read.refused[0]["detail"] == "'null' stands for nothing (ingest.null_values)"
    read = items(tmp_path, [{"item_id": "null"}, {"item_id": "None"}])  # JSON has a null
    assert [row["item_id"] for row in read.rows] == ["null", "None"]


def test_lists_and_foreign_columns_of_a_parquet_catalogue(tmp_path: Path) -> None:
    table = pa.table(
        {
            "parent_asin": ["B1", "B2", "B3"],
            "title": ["One", "Two", None],
            "description": [["First part.", "Second part."], [], None],
            "categories": [["Beauty", "Hair"], [], None],
            "price": ["None", "14.99", None],
            "image_uri": [{"large": "x"}, None, None],
        }
    )
    columns: dict[str, str | None] = {"item_id": "parent_asin", "tags": "categories"}
    read = items(tmp_path, table, "parquet", columns=columns)
    assert [row["title"] for row in read.rows] == ["One", "Two", None]
    assert [row["description"] for row in read.rows] == ["First part. Second part.", None, None]
    assert [row["tags"] for row in read.rows] == [["Beauty", "Hair"], [], []]
    assert [row["image_uri"] for row in read.rows] == [None] * 3
    assert "column 'image_uri' is struct<large: string>" in read.notes[0]
    assert "It is passed over" in read.notes[0]
    quiet = items(tmp_path, table, "parquet", columns={**columns, "image_uri": None})
    assert not any("image_uri" in note for note in quiet.notes)
    with pytest.raises(UserError, match="such as title: title.large"):
        items(tmp_path, table, "parquet", columns={**columns, "title": "image_uri"})
    with pytest.raises(UserError, match="ingest.items.columns.item_id: null"):
        items(tmp_path, table, "parquet", columns={"item_id": None})


def test_files_of_different_types_make_one_catalogue(tmp_path: Path) -> None:
    folder = tmp_path / "items"
    folder.mkdir()
    pq.write_table(pa.table({"item_id": [1], "price": [2.5]}), folder / "a.parquet")
    pq.write_table(pa.table({"item_id": ["2"], "price": ["3"]}), folder / "b.parquet")
    pq.write_table(pa.table({"item_id": ["3"], "title": [7]}), folder / "c.parquet")
    config = IngestConfig(items={"path": str(folder)})  # type: ignore[arg-type]
    rows = Read(tmp_path, "items", config).rows
    assert [(row["item_id"], row["price"], row["title"]) for row in rows] == [
        ("1", 2.5, None), ("2", 3.0, None), ("3", None, "7"),
    ]  # fmt: skip


def test_a_catalogue_that_cannot_be_read_whole_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "items.parquet").write_bytes(b"PAR1 was to come")
    config = IngestConfig(items={"path": str(tmp_path / "items.parquet")})  # type: ignore
    with pytest.raises(UserError, match="items.parquet: ingest.items cannot be read whole"):
        Read(tmp_path, "items", config)


def test_users_keep_their_attributes_and_count_too(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("id,age,city\n1,30,Ulm\n2,,\nnan,7,x\n1,30,Ulm\n")
    table: Any = {
        "path": str(tmp_path / "users.csv"), "format": "csv",
        "columns": {"user_id": "id", "city": None},
    }  # fmt: skip
    read = Read(tmp_path, "users", IngestConfig(users=table, max_quarantined=0.3))
    assert [(row["user_id"], dict(row["attributes"])) for row in read.rows] == [
        ("1", {"age": "30"}), ("2", {}),
    ]  # fmt: skip
    assert read.counts == {
        "rows_read": 4, "rows": 2, "quarantined.null_user_id": 1, "dropped.duplicate": 1,
    }  # fmt: skip
    with pytest.raises(UserError, match="ingest.users: 1 of 4 rows quarantined"):
        Read(tmp_path, "users", IngestConfig(users=table))


def test_attributes_of_any_type_are_text(tmp_path: Path) -> None:
    broken = pa.array([b"\xff", b"Ulm"]).view(pa.string())  # as a Parquet writer may leave it
    table = pa.table(
        {
            "user_id": [1, 2], "age": [30.0, None], "born": [date(2000, 1, 31), None],
            "tags": [["a"], None], "city": broken, "pro": [True, False],
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "users.parquet")
    config = IngestConfig(users={"path": str(tmp_path / "users.parquet")})  # type: ignore
    read = Read(tmp_path, "users", config)
    assert [dict(row["attributes"]) for row in read.rows] == [
        {"age": "30", "born": "2000-01-31", "tags": '["a"]', "pro": "true"},
        {"city": "Ulm", "pro": "false"},
    ]
    assert read.counts["bad_attributes"] == 1


@pytest.mark.parametrize("names", [["uid", "user_id", "age"], ["age", "user_id", "uid"]])
@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_a_mapped_column_wins_over_one_that_has_our_name_already(
    tmp_path: Path, names: list[str], format: str
) -> None:
    """An export with two ids: which of them a user is known by is said in the config, whatever
    the order of the columns."""
    row = {name: {"uid": "A", "user_id": "B", "age": "30"}[name] for name in names}
    path = tmp_path / f"users.{format}"
    if format == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        lines = [",".join(row), ",".join(row.values())] if format == "csv" else [json.dumps(row)]
        path.write_text("\n".join(lines))
    table: Any = {"path": str(path), "format": format, "columns": {"user_id": "uid"}}
    read = Read(tmp_path, "users", IngestConfig(users=table))
    assert [(row["user_id"], row["attributes"]) for row in read.rows] == [("A", [("age", "30")])]


def test_attributes_stand_in_the_order_of_the_columns_in_every_process(tmp_path: Path) -> None:
    """Else the digest of the table would be another every night, and with it that of answers."""
    names = ["born", "city", "job", "level", "plan", "tongue", "zone"]
    (tmp_path / "users.csv").write_text(",".join(["user_id", *names]) + "\n1,a,b,c,d,e,f,g\n")
    table: Any = {"path": str(tmp_path / "users.csv"), "format": "csv"}
    read = Read(tmp_path, "users", IngestConfig(users=table))
    assert [name for name, _ in read.rows[0]["attributes"]] == names


def test_ids_of_another_catalogue_stop_the_run_and_few_are_noted(tmp_path: Path) -> None:
    notes: list[str] = []
    side = items(tmp_path, [{"item_id": f"SKU-{at}"} for at in range(3)]).side
    with pytest.raises(UserError) as caught:
        side_ledger.check_overlap(side, pa.array(["1", "2"]), notes.append)
    assert str(caught.value) == (
        "0 of 2 items of the logs are in ingest.items: the logs have '1', '2', the table has "
        "'SKU-0', 'SKU-1', 'SKU-2'; set ingest.items.columns.item_id to the column with the ids "
        "of the logs"
    )
    assert side_ledger.check_overlap(side, pa.array(["SKU-1", "x"]), notes.append) == 1
    assert not notes
    assert side_ledger.check_overlap(side, pa.array(["SKU-1", "x", "y"]), notes.append) == 1
    assert "only 1 of 3 items of the logs are in ingest.items" in notes[0]


def test_a_users_table_of_other_people_stops_the_run(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    """Looked for part by part, until one user is known: nobody holds all of them."""
    context = make_context()
    side = SideTable("users", pa.table({"user_id": ["u3", "x"], "attributes": [[], []]}))
    parts = ["part-00000", "part-00001"]
    for part, users in zip(parts, (["u1", "u1"], ["u2"]), strict=True):
        table = pa.table({"user_id": users})
        context.storage.write_part(table, {}, context.folder("ingest"), part)
    with pytest.raises(UserError, match="^0 of 2 users of the logs are in ingest.users: the logs"):
        _check_users(context, side, parts, 2)
    context.storage.write_part(
        pa.table({"user_id": ["u3"]}), {}, context.folder("ingest"), "part-00002"
    )
    _check_users(context, side, [*parts, "part-00002"], 3)


def test_tags_come_as_lists_or_text() -> None:
    given_texts = ["a|b, c", "a, b", '["x", "y"]', "", None, "['p', 'q, r']", "[s, t]", "nan"]
    expected = [["a", "b, c"], ["a", "b"], ["x", "y"], [], [], ["p", "q, r"], ["s", "t"], []]
    found, bad = tags(pa.chunked_array([given_texts]), "tags", "x", ("nan",))
    assert found.to_pylist() == expected and not bad.any()
    found, bad = tags(pa.chunked_array([[["a", None, "a"], None]]), "tags", "x", ())
    assert found.to_pylist() == [["a"], []] and not bad.any()
    found, bad = tags(pa.chunked_array([['[["a", "b"], ["c"]]', '[{"id": 1}]']]), "tags", "x", ())
    assert found.to_pylist() == [["a", "b", "c"], []] and bad.tolist() == [False, True]


def test_texts_that_are_lists_are_joined_and_others_stay_as_they_are() -> None:
    titles = ['["First", "second."]', "[]", "[Tom Hanks]", "[1984]", "{{ config }}", '{"en": "x"}']
    found, bad = texts(pa.chunked_array([titles]), "title", "x", ())
    assert found.to_pylist() == ["First second.", None, *titles[2:5], None]
    assert bad.tolist() == [False] * 5 + [True]


@settings(deadline=None)
@given(
    st.lists(st.none() | st.text(st.characters(codec="utf-8")) | st.from_regex(r"[\[{].*[\]}]")),
    st.sampled_from([texts, tags]),
)
def test_no_field_of_a_catalogue_raises(values: list[str | None], convert: Any) -> None:
    encoded = pa.array([v and v.encode("utf-8", "replace") for v in values], pa.binary())
    found, bad = convert(pa.chunked_array([encoded]), "title", "x", ("nan",))
    assert len(found) == len(bad) == len(values)


def test_nested_deeply_or_half_a_character_is_only_bad() -> None:
    deep = "[" * 900 + '"x"' + "]" * 900
    values = pa.chunked_array([[deep, '["\\ud800"]', "a"]])
    found, bad = texts(values, "title", "x", ())
    assert found.to_pylist() == [deep, None, "a"] and bad.tolist() == [False, True, False]
    found, bad = tags(values, "tags", "x", ())
    assert found.to_pylist() == [[], [], ["a"]] and bad.tolist() == [True, True, False]
