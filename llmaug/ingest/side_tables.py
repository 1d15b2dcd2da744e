"""The items and users tables beside the logs: one part each, ids unique, catalogue-sized.

The first row of an id wins, in file order; a row whose optional field is bad keeps its id and
the rest. A missing table is an empty part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import date, time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug import schema
from llmaug.config import IngestConfig, TableConfig
from llmaug.core.sources import list_sources, resolve_uri
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.cleaning import Reasons, checked_ids, shorten
from llmaug.ingest.columns import text_column
from llmaug.ingest.item_fields import BAD, FIELDS, plain_values
from llmaug.ingest.layout import Layout, Piece, Refused
from llmaug.ingest.people import EVERYBODY, People, without_people
from llmaug.ingest.pii import mask_column
from llmaug.ingest.readers import check_columns, read_pieces
from llmaug.ingest.side_ledger import SideTable

ITEM_COLUMNS = ("item_id", *FIELDS)
_ROWS_COMPARED = 5_000  # at a time: a row as Python objects takes a kilobyte


def read_items(storage: Storage, config: IngestConfig, note: Callable[[str], None]) -> SideTable:
    """The catalogue of `ingest.items`; empty where there is none.

    Raises UserError when a file cannot be read, or a column has a type of no use.
    """
    side = SideTable("items", schema.empty(schema.ITEM))
    table = config.items
    if table is None:
        return side
    absent = {name for name, theirs in table.columns.items() if theirs is None}
    if unknown := absent - set(FIELDS):
        raise UserError(
            f"ingest.items.columns.{min(unknown)}: null is for the optional columns: "
            f"{', '.join(FIELDS)}"
        )
    wanted = tuple(name for name in ITEM_COLUMNS if name not in absent)
    words = config.null_words(table.format)

    def typed(piece: Piece, file: str) -> pa.Table:
        columns = {}
        for name, convert in FIELDS.items():
            if name in piece.table.column_names:
                columns[name] = _field(side, piece, name, convert, table, file, words, note)
        size = len(piece.rows)
        columns["origin"] = pa.repeat(schema.REAL, size)
        return pa.table(columns)

    return _read(storage, config, table, side, schema.ITEM, "item_id", wanted, typed, note)


def read_users(
    storage: Storage,
    config: IngestConfig,
    note: Callable[[str], None],
    people: People = EVERYBODY,
) -> SideTable:
    """The users table: every column but the id is an attribute, as text."""
    side = SideTable("users", schema.empty(schema.USER))
    table = config.users
    if table is None:
        return side
    if table.columns.get("user_id", "") is None:
        raise UserError("ingest.users.columns.user_id: null; every user has an id")
    absent = {name for name, theirs in table.columns.items() if theirs is None}

    def typed(piece: Piece, file: str) -> pa.Table:
        names = [n for n in piece.table.column_names if n != "user_id" and n not in absent]
        texts = []
        for name in names:
            found, num_bad = _as_texts(piece.table[name], name, file)
            side.emptied.update({"attributes": num_bad} if num_bad else {})
            texts.append(found)
        maps = [
            [(name, value) for name, value in zip(names, values, strict=True) if value]
            for values in zip(*texts, strict=True)
        ] or [[]] * len(piece.rows)
        return pa.table({"attributes": pa.array(maps, schema.USER.field("attributes").type)})

    _read(storage, config, table, side, schema.USER, "user_id", None, typed, note)
    return _with_people(side, people)


def _with_people(side: SideTable, people: People) -> SideTable:
    """The users under their ids of tonight, less those who are forgotten."""
    forgotten = people.forgotten.mask(side.rows["user_id"].combine_chunks())
    side.num_forgotten = int(forgotten.sum())
    kept = side.rows.filter(pa.array(~forgotten))
    if people.pseudonyms:
        rows = kept.to_pylist()
        attributes = [  # an id that stands in a column more is no attribute
            [pair for pair in row["attributes"] or () if pair[1] != row["user_id"]] for row in rows
        ]
        own = pa.array(attributes, schema.USER.field("attributes").type)
        kept = pa.table([people.called(kept["user_id"]), own], schema=kept.schema)
        shown = without_people([row for _, row in side.refused], people)
        side.refused = [(file, row) for (file, _), row in zip(side.refused, shown, strict=True)]
    side.rows = kept
    return side


def mask_texts(side: SideTable, note: Callable[[str], None]) -> None:
    """Mask personal data in the texts of items, or in the attributes of users."""
    for name in side.rows.column_names:
        column = side.rows[name].combine_chunks()
        at = side.rows.column_names.index(name)
        if name in ("title", "description"):
            column = mask_column(column, side.masked)
        elif name == "tags":
            texts = mask_column(column.flatten(), side.masked)
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
            ends = pa.array(np.r_[0, np.cumsum(lengths)], pa.int32())
            column = pa.ListArray.from_arrays(ends, texts, mask=pc.is_null(column))
        elif name == "attributes":
            rows = [dict(row or ()) for row in column.to_pylist()]
            texts = mask_column(pa.array([v for row in rows for v in row.values()], pa.string()),
                                side.masked)  # fmt: skip
            new = iter(texts.to_pylist())
            column = pa.array([[(key, next(new)) for key in row] for row in rows], column.type)
        side.rows = side.rows.set_column(at, side.rows.schema.field(at), column)
    if side.masked:
        listed = ", ".join(f"{kind} {n:,}" for kind, n in sorted(side.masked.items()))
        note(f"{side.where}: masked in texts (privacy.mask_text): {listed}")


def _read(
    storage: Storage,
    config: IngestConfig,
    table: TableConfig,
    side: SideTable,
    fields: pa.Schema,
    key: str,
    wanted: tuple[str, ...] | None,
    typed: Callable[[Piece, str], pa.Table],
    note: Callable[[str], None],
) -> SideTable:
    """Fill `side` with all rows that have a usable, new id; `typed` makes the other columns."""
    place = resolve_uri(table.path, storage, f"{side.where}.path")
    layout = Layout(side.where, table, (key,), wanted)
    sources = list_sources(place, f"{side.where}.path", note)
    check_columns(place, sources, layout)
    words = config.null_words(table.format)
    pieces, files, numbers = [fields.empty_table()], [], [np.zeros(0, np.int64)]
    for source in sources:
        for piece in read_pieces(place, source, layout):
            side.rows_read += len(piece.rows) + len(piece.refused)
            side.refused += [(source.name, row) for row in piece.refused]
            for row in piece.refused:
                if row.row is None:
                    raise UserError(
                        f"{source.name}: {side.where} cannot be read whole ({row.reason}: "
                        f"{row.detail}); write the file anew"
                    )
            if not len(piece.rows):
                continue
            reasons = Reasons(len(piece.rows))
            ids = checked_ids(piece.table[key], key, source.name, words, reasons)
            side.refused += [(source.name, row) for row in reasons.rows(piece.rows)]
            good = pa.array(~reasons.refused)
            found = typed(piece, source.name).add_column(0, key, ids).filter(good)
            pieces.append(schema.validate(found, fields, side.where))
            files += [source.name] * found.num_rows
            numbers.append(piece.rows[~reasons.refused])
    rows = pa.concat_tables(pieces).combine_chunks()
    side.rows = _first_of_each(side, rows, files, np.concatenate(numbers))
    return side


def _first_of_each(
    side: SideTable, rows: pa.Table, files: list[str], numbers: np.ndarray
) -> pa.Table:
    """The first row of each id. Another that equals it is counted, one that does not refused."""
    coded = rows[0].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first, of = np.unique(coded, return_index=True, return_inverse=True)
    again = np.ones(len(coded), bool)
    again[first] = False
    later = np.flatnonzero(again)
    for start in range(0, len(later), _ROWS_COMPARED):
        block = later[start : start + _ROWS_COMPARED]
        new = rows.take(pa.array(block)).to_pylist()
        old = rows.take(pa.array(first[of[block]])).to_pylist()
        for at, ours, theirs in zip(block, new, old, strict=True):
            if ours == theirs:
                side.num_repeated += 1
            else:
                again_at = Refused(int(numbers[at]), "duplicate_id", None)
                side.refused.append((files[at], again_at))
    return rows.filter(pa.array(~again))


def _field(
    side: SideTable,
    piece: Piece,
    name: str,
    convert: Callable[..., tuple[pa.Array, np.ndarray]],
    table: TableConfig,
    file: str,
    words: Sequence[str],
    note: Callable[[str], None],
) -> pa.Array:
    """An optional column; bad values are null, counted, and noted once."""
    column = piece.table[name]
    try:
        found, bad = convert(column, name, file, words)
    except UserError as error:
        if name in table.columns:
            raise
        note(f"{error}. It is passed over")
        return pa.nulls(len(column))
    if bad.any():
        if not side.emptied[name]:
            at = int(np.flatnonzero(bad)[0])
            note(
                f"{side.where}: a bad {name} is left out and the rest of the row kept, as in "
                f"{file} row {piece.rows[at]}: {shorten(column[at])}"
            )
        side.emptied[name] += int(bad.sum())
    return found


def _as_texts(column: pa.ChunkedArray, name: str, file: str) -> tuple[list[str | None], int]:
    """Values of any type as text, and how many of them have none."""
    try:
        text, broken = text_column(column, name, file)
        return text.to_pylist(), int(broken.sum())
    except UserError:  # dates, lists, structs
        values = plain_values(column)
    texts = [v if isinstance(v, str) else _shown(v) for v in values]
    return texts, sum(value is BAD for value in values)


def _shown(value: Any) -> str | None:
    if value is None or value is BAD:
        return None
    return str(value) if isinstance(value, date | time) else json.dumps(value, default=str)
