"""Logs in the shapes that data sets, exporters and bug reports have, and what ingest makes of each.

`corpus/logs/NAME/` holds a small log and the config a user would write; `expected.txt` says in
words what the table here asserts. Nothing may disappear: the rows that the ledger says were read
are counted again by `independent_count`.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from llmaug.config import parse_config
from llmaug.core.stage import Context, run_stage
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.stage import STAGE
from tests.conftest import QuietProgress
from tests.independent_count import rows_in
from tests.serial_ray import serial_ray  # noqa: F401

CORPUS = Path(__file__).parents[1] / "corpus" / "logs"


class Read(NamedTuple):
    """What is read: events, users, items, and rows that are not events by reason."""

    events: int
    users: int
    items: int
    lost: dict[str, int] = {}
    more: dict[str, int] = {}  # other counts of the ledger


class Stops(NamedTuple):
    """The run stops, and the sentence has these words."""

    words: tuple[str, ...]


def stops(*words: str) -> Stops:
    return Stops(words)


USUAL = Read(36, 6, 14)
SHAPES: dict[str, Read | Stops] = {
    "amazon2023": Read(36, 6, 8, more={"items_table.rows": 8, "items_table.bad_price": 4}),
    "bom_concat_text": USUAL,
    "bracket_ids": Read(186, 31, 9),
    "bz2_xz": USUAL,
    "catalogue_mismatch": stops("0 of 14 items of the logs are in ingest.items", "SKU-1"),
    "csv_excel": Read(36, 6, 14, {"quarantined.repeated_header": 1}),
    "csv_float_ids": Read(72, 12, 28, more={"noted.twin_users": 6, "noted.twin_items": 14}),
    "csv_open_quote": Read(499, 10, 14, {"quarantined.bad_csv": 1}),
    "delta_deleted_user": stops("is a Delta table"),
    "dup_header": stops("'user_id' stands twice in the header"),
    "firehose_all": Read(200, 10, 14),
    "glob_path": USUAL,
    "hive_encoded": Read(108, 6, 42),
    "hourly_start_end": Read(36, 6, 14, {"dropped.out_of_range_date": 36}),
    "items_list_description": Read(36, 6, 14, more={"items_table.rows": 14}),
    "json_ids_mixed": stops("user_id is a boolean, not a string or integer"),
    "jsonl_sparse_key": Read(72, 6, 14),
    "jsonl_sparse_key/config2": Read(72, 6, 14),
    "latin1_csv": stops("set ingest.encoding: cp1252"),
    "local_time_dst": USUAL,
    "many_bad_catalogue_dups": Read(36, 6, 14, more={"items_table.dropped.duplicate": 22}),
    "mixed_units": stops("are the units mixed?"),
    "ml1m": USUAL,
    "ml1m/config2": stops("movies.dat", 'set ingest.items.delimiter: "::"'),
    "ml1m/config3": stops("movies.dat row 3", "set ingest.items.encoding: cp1252"),
    "mongoexport": stops("set ingest.columns.user_id: user.$oid"),
    "null_strings": stops("null_user_id 24", "stands for nothing (ingest.null_values)"),
    "one_event_each": Read(60, 60, 7),
    "one_event_each/config2": Read(60, 60, 7),
    "one_event_each/config3": Read(60, 60, 7),
    "one_user": Read(30, 1, 30),
    "one_user/config2": Read(30, 1, 30),
    "one_user/config3": Read(30, 1, 30),
    "otto": stops("set ingest.explode: events and ingest.columns.item_id: events.aid"),
    "otto/config2": stops("set ingest.explode: events"),
    "parquet_decimal": USUAL,
    "parquet_float_ids": USUAL,
    "parquet_types": Read(36, 6, 14, {"dropped.duplicate": 180}),
    "recbole_inter": stops(r'set ingest.delimiter: "\t"'),
    "recbole_inter/config2": Read(36, 6, 14, {"quarantined.bad_timestamp": 1}),
    "retailrocket": USUAL,
    "ruby_time": USUAL,
    "s3a_path": stops("ingest.path s3a://bucket/logs", "write s3://bucket/logs"),
    "same_time": Read(60, 6, 11),
    "same_time/config2": Read(60, 6, 11),
    "sci_times": Read(
        36, 6, 14, {"quarantined.null_timestamp": 1, "quarantined.timestamp_out_of_range": 2}
    ),
    "strange_ids_full": Read(210, 35, 40, more={"noted.null_word_ids": 16}),
    "symlink_root_folder": USUAL,
    "taobao": stops("in ingest.header: [user_id, item_id, ...]"),
    "taobao/config2": Read(199, 10, 14, {"quarantined.timestamp_out_of_range": 1}),
    "text_empty_first": Read(36, 6, 14, {"quarantined.null_user_id": 4}),
    "zst": USUAL,
}
# What the sentences above tell the user to set, and what that gives.
MENDED: dict[str, tuple[dict[str, Any], Read]] = {
    "recbole_inter": ({"delimiter": "\t"}, USUAL),
    "latin1_csv": ({"encoding": "cp1252"}, USUAL),
    "mongoexport": (
        {"columns": {"user_id": "user.$oid", "item_id": "item.$numberLong",
                     "timestamp": "at.$date"}}, USUAL,
    ),
    "otto/config2": ({"explode": "events"}, USUAL),
    "null_strings": (
        {"max_quarantined": 0.5}, Read(36, 6, 14, {"quarantined.null_user_id": 24}),
    ),
    "taobao": (
        {"header": ["user_id", "item_id", "category", "action", "time"]},
        Read(199, 10, 14, {"quarantined.timestamp_out_of_range": 1}),
    ),
}  # fmt: skip


def ingest(name: str, root: Path, **settings: Any) -> tuple[Context, dict[str, Any]]:
    """The stage's context and ledger for a config of the corpus, with `settings` changed."""
    folder, _, variant = name.partition("/")
    raw = yaml.safe_load((CORPUS / folder / f"{variant or 'config'}.yaml").read_text())
    raw["storage"] = {"root": str(root)}
    raw["ingest"] |= settings
    for table in (raw["ingest"], raw["ingest"].get("items")):
        if table and "://" not in table["path"]:
            table["path"] = str(CORPUS / folder / table["path"])
    context = Context(Storage(str(root)), parse_config(raw, name), "night", QuietProgress())
    return context, run_stage(STAGE, context)["counts"]


def check(name: str, context: Context, ledger: dict[str, Any], expected: Read) -> None:
    storage, folder = context.storage, context.folder("ingest")
    rows = [
        row for part in storage.parts(folder) for row in storage.read_part(folder, part).to_pylist()
    ]
    users, items = {row["user_id"] for row in rows}, {row["item_id"] for row in rows}
    assert (len(rows), len(users), len(items)) == expected[:3]
    lost = {k: n for k, n in ledger.items() if k.startswith(("quarantined.", "dropped."))}
    assert lost == expected.lost
    assert {key: ledger[key] for key in expected.more} == expected.more
    assert ledger["rows_read"] == ledger["accepted"] + sum(lost.values()) == counted(name, context)
    assert ledger["accepted"] == len(rows)
    quarantine = Counter(
        f"quarantined.{row['reason']}"
        for part in storage.parts(f"{folder}/quarantine")
        if part.startswith("part-")
        for row in storage.read_part(f"{folder}/quarantine", part).to_pylist()
    )
    assert quarantine == {k: n for k, n in lost.items() if k.startswith("quarantined.")}


def counted(name: str, context: Context) -> int:
    """Rows in the files of the config, counted without llmaug."""
    config, folder = context.config.ingest, Path(context.config.ingest.path)
    files = list(folder.parent.glob(folder.name)) if "*" in folder.name else [folder]
    files = [
        file for path in files for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file()
    ]  # fmt: skip
    if config.date_partition == "day":
        files = [file for file in files if f"day={config.start}" in str(file)]
    if config.explode:
        return sum(file.read_text().count('"aid"') for file in files)
    return sum(rows_in(file, config.format, config.header is None) for file in files)


@pytest.mark.usefixtures("serial_ray")
@pytest.mark.parametrize("name", SHAPES)
def test_shape(name: str, tmp_path: Path) -> None:
    expected = SHAPES[name]
    if isinstance(expected, Stops):
        with pytest.raises(UserError) as error:
            ingest(name, tmp_path)
        for words in expected.words:
            assert words in str(error.value)
    else:
        check(name, *ingest(name, tmp_path), expected)


@pytest.mark.usefixtures("serial_ray")
@pytest.mark.parametrize("name", MENDED)
def test_the_fix_in_the_sentence_is_the_right_one(name: str, tmp_path: Path) -> None:
    settings, expected = MENDED[name]
    check(name, *ingest(name, tmp_path, **settings), expected)


def test_every_shape_of_the_corpus_is_here() -> None:
    configs = {
        str(path.relative_to(CORPUS).with_suffix("")).removesuffix("/config")
        for path in CORPUS.glob("*/config*.yaml")
    }
    assert configs == set(SHAPES)


@pytest.mark.usefixtures("serial_ray")
def test_half_a_file_stops_the_run_unless_it_is_allowed(tmp_path: Path) -> None:
    """Nobody knows how many rows a file without its end held: it is not one bad row of many."""
    logs = tmp_path / "logs"
    shutil.copytree(CORPUS / "parquet_types" / "input", logs)
    torn = sorted(logs.iterdir())[0]
    torn.write_bytes(torn.read_bytes()[:-20])
    with pytest.raises(UserError, match=f"{torn.name} cannot be read: .*max_unreadable_files: 1"):
        ingest("parquet_types", tmp_path, path=str(logs))
    _, ledger = ingest(
        "parquet_types", tmp_path, path=str(logs), max_unreadable_files=1, max_quarantined=0.01
    )
    assert (ledger["accepted"], ledger["quarantined.unreadable_file"]) == (36, 1)
