"""The items and users tables beside the logs: one part each, ids unique, catalogue-sized.

The first row of an id wins, in file order. A missing table is an empty part.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug import schema
from llmaug.columns import number_column, text_column
from llmaug.config import TableConfig
from llmaug.layout import Layout, Refused
from llmaug.readers import check_columns, read_pieces
from llmaug.sources import list_sources, resolve_uri
from llmaug.storage import Storage

ITEM_TEXTS = ("title", "description", "image_uri")
ITEM_COLUMNS = ("item_id", *ITEM_TEXTS, "tags", "price")


def write_items(
    storage: Storage, folder: str, config: TableConfig | None, survivors: pa.Array | None
) -> dict[str, int]:
    """Write `folder`/items; `survivors` (of the k-core) are the only items kept, None: all."""
    read, refused, file_names = _read(storage, config, "ingest.items", "item_id", ITEM_COLUMNS)
    table = schema.empty(schema.ITEM)
    if read is not None:
        columns: dict[str, Any] = {"item_id": read["item_id"]}
        for name in ITEM_TEXTS:
            if name in read.column_names:
                columns[name] = text_column(read[name], name, "ingest.items")[0]
        if "tags" in read.column_names:
            columns["tags"] = split_tags(read["tags"])
        if "price" in read.column_names:
            columns["price"], bad = number_column(read["price"], "price", "ingest.items")
            refused += _refused_at(read, bad, file_names, "bad_value")
            columns = {name: column.filter(pa.array(~bad)) for name, column in columns.items()}
        table = pa.table(columns)
        table = table.append_column("origin", pa.repeat(schema.REAL, table.num_rows))
    num_before = table.num_rows
    if survivors is not None:
        table = table.filter(pc.is_in(table["item_id"], survivors))
    table = schema.validate(table, schema.ITEM, "ingest.items")
    return _write(storage, folder, "items", table, refused, num_before - table.num_rows)


def write_users(storage: Storage, folder: str, config: TableConfig | None) -> dict[str, int]:
    """Write `folder`/users: every column but the id becomes an attribute, as text."""
    read, refused, _ = _read(storage, config, "ingest.users", "user_id", None)
    table = schema.empty(schema.USER)
    if read is not None:
        names = [name for name in read.column_names if name not in ("user_id", "_file", "_row")]
        texts = [_as_texts(read[name]) for name in names]
        maps = [
            [(name, value) for name, value in zip(names, values, strict=True) if value]
            for values in zip(*texts, strict=True)
        ] or [[]] * read.num_rows
        kind = schema.USER.field("attributes").type
        table = pa.table({"user_id": read["user_id"], "attributes": pa.array(maps, kind)})
    table = schema.validate(table, schema.USER, "ingest.users")
    return _write(storage, folder, "users", table, refused, 0)


def split_tags(column: pa.ChunkedArray) -> pa.Array:
    """Tags as lists of strings: from lists, JSON lists, or text split on `|` (else on `,`)."""
    lists = []
    for value in column.to_pylist():
        if isinstance(value, str) and value.startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                value = value.strip("[]")
        if isinstance(value, str):
            value = value.split("|" if "|" in value else ",")
        tags = [str(tag).strip() for tag in value or () if tag is not None]
        lists.append(list(dict.fromkeys(tag for tag in tags if tag)))
    return pa.array(lists, pa.list_(pa.string()))


def _read(
    storage: Storage,
    config: TableConfig | None,
    where: str,
    key: str,
    wanted: tuple[str, ...] | None,
) -> tuple[pa.Table | None, list[tuple[str, Refused]], list[str]]:
    """All rows with a new, non-null id (and `_file`, `_row`), the others, the file names."""
    if config is None:
        return None, [], []
    place = resolve_uri(config.path, storage)
    layout = Layout(where, config, (key,), wanted)
    sources = list_sources(place, f"{where}.path")
    check_columns(place, sources, layout)
    pieces: list[pa.Table] = []
    refused: list[tuple[str, Refused]] = []
    for source in sources:
        for piece in read_pieces(place, source, layout):
            refused += [(source.name, row) for row in piece.refused]
            if not len(piece.rows):
                continue
            ids, broken = text_column(piece.table[key], key, source.name)
            at = piece.table.column_names.index(key)
            table = piece.table.set_column(at, key, ids)
            table = table.append_column("_file", pa.repeat(source.number, table.num_rows))
            table = table.append_column("_row", pa.array(piece.rows))
            names = [each.name for each in sources]
            refused += _refused_at(table, broken, names, "not_utf8")
            null = ids.is_null().to_numpy(zero_copy_only=False) & ~broken
            refused += _refused_at(table, null, names, f"null_{key}")
            pieces.append(table.filter(pa.array(~null & ~broken)))
    names = [source.name for source in sources]
    if not pieces:
        return None, refused, names
    table = pa.concat_tables(pieces, promote_options="permissive")
    _, first = np.unique(table[key].to_numpy(zero_copy_only=False), return_index=True)
    again = np.ones(table.num_rows, bool)
    again[first] = False
    refused += _refused_at(table, again, names, "duplicate_id")
    return table.filter(pa.array(~again)), refused, names


def _refused_at(
    table: pa.Table, mask: np.ndarray, file_names: list[str], reason: str
) -> list[tuple[str, Refused]]:
    rows = table.select(["_file", "_row"]).filter(pa.array(mask)).to_pylist()
    return [(file_names[row["_file"]], Refused(row["_row"], reason, None)) for row in rows]


def _as_texts(column: pa.ChunkedArray) -> list[str | None]:
    try:
        return list(column.cast(pa.string()).to_pylist())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        values = column.to_pylist()
        return [None if v is None else json.dumps(v, default=str) for v in values]


def _write(
    storage: Storage,
    folder: str,
    name: str,
    table: pa.Table,
    refused: list[tuple[str, Refused]],
    num_outside_core: int,
) -> dict[str, int]:
    rows = [{"file": file, **row._asdict()} for file, row in refused]
    storage.write_part(
        pa.Table.from_pylist(rows, schema.QUARANTINE), {}, f"{folder}/quarantine", f"{name}-00000"
    )
    reasons = Counter(f"{name}_table.quarantined.{row.reason}" for _, row in refused)
    counts = {f"{name}_table.rows": table.num_rows, **reasons}
    if num_outside_core:
        counts[f"{name}_table.dropped.k_core"] = num_outside_core
    storage.write_part(table, counts, f"{folder}/{name}", "part-00000")
    return counts
