"""Log files to small tables: each file is read piece by piece.

A reader yields Pieces of some 50,000 rows, so that a task never holds a whole file. What
cannot be parsed leaves as a Refused row beside the good ones; what no row can mend (columns
that are in no file) is a UserError. Line formats give columns of strings, Parquet its own
types.
"""

from __future__ import annotations

import json
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.core.sources import Source
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.csv_records import csv_records
from llmaug.ingest.layout import (
    DETAIL_LEN,
    MAX_ID_BYTES,
    NAMES,
    PIECE_BYTES,
    ROWS_PER_PIECE,
    Layout,
    Piece,
    Refused,
    missing_column,
)
from llmaug.ingest.lines import Stream, opened
from llmaug.ingest.parquet_pieces import parquet_columns, parquet_pieces
from llmaug.ingest.records import Record, json_records, odd_field, text_records

RECORDS = {"jsonl": json_records, "csv": csv_records, "text": text_records}
# UnicodeDecodeError: the names in a Parquet file; ArrowMemoryError: sizes in it, mostly.
DAMAGE = (
    pa.ArrowException, EOFError, UnicodeDecodeError, lzma.LZMAError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
ROWS_LOOKED_AT = 1_000
LOOKED_AT = 20
"""Files that are looked at for a column before it is said to be in none."""


def read_pieces(place: Storage, source: Source, layout: Layout) -> Iterator[Piece]:
    """The rows of one file in order. A column that this file does not have is null where it is
    required, else left out. A damaged file gives what could be read, then one
    `unreadable_file`; storage that does not answer raises."""
    read = parquet_pieces if layout.files.format == "parquet" else _line_pieces
    try:
        for piece in read(place, source, layout):
            yield _whole(_without_long_names(piece), layout)
    except Exception as error:
        if not _is_damage(error):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())[: 2 * DETAIL_LEN]
        refused = [Refused(None, "unreadable_file", f"{what} ({source.size:,} bytes)")]
        yield _whole(Piece(pa.table({}), np.zeros(0, np.int64), refused), layout)


def count_rows(place: Storage, source: Source, layout: Layout) -> int:
    """The highest row number that `read_pieces` gives."""
    highest = 0
    for piece in read_pieces(place, source, layout):
        highest = max([highest, *piece.rows[-1:], *(row.row or 0 for row in piece.refused)])
    return int(highest)


def check_columns(place: Storage, sources: list[Source], layout: Layout) -> None:
    """Look whether the first files have the columns that are needed or named in the config.

    Raises UserError naming the column, what is there and the fix. An optional key of JSON that
    may come later is left to who reads all of it.
    """
    missing = list(dict.fromkeys([*layout.required, *layout.mapped()]))
    found: dict[str, None] = {}
    first, explode, seen_all = None, layout.files.explode, len(sources) <= LOOKED_AT
    for source in sources[:LOOKED_AT]:
        try:
            there, is_whole = columns_of(place, source, layout)
        except Exception as error:
            if not _is_damage(error):
                raise
            continue  # counted when it is read
        seen_all &= is_whole
        if not there and layout.files.format != "text":
            continue  # no rows
        first = first or source
        found |= dict.fromkeys(there)
        names = layout.columns_in(there, source)
        missing = [name for name in missing if not _is_there(name, names, there, explode)]
        if not missing:
            return
    missing = [name for name in missing if seen_all or name in layout.required]
    if first is not None and missing:
        raise missing_column(missing[0], found, first, layout)


def columns_of(place: Storage, source: Source, layout: Layout) -> tuple[list[str], bool]:
    """Columns of a file, by its head: names, and dotted paths of what is nested in them; and
    whether there can be no others in the rest of it."""
    if layout.files.format == "parquet":
        return parquet_columns(place, source), True
    if layout.files.format == "text":
        return list(layout.pattern().groupindex), True
    is_csv = layout.files.format == "csv"
    found: dict[str, None] = {}
    with opened(place, source, layout) as stream:
        for num_seen, record in enumerate(RECORDS[layout.files.format](stream, source, layout)):
            if not isinstance(record, Refused):
                found |= dict.fromkeys(_paths(record[1]))
            if (is_csv and found) or num_seen >= ROWS_LOOKED_AT:
                return list(found), is_csv
    return list(found), True


def _is_there(name: str, names: dict[str, str], there: list[str], explode: str | None) -> bool:
    """Does a file with columns and paths `there` have our column `name`? What lies in a list is
    there when the list is exploded."""
    theirs = names.get(name)
    if theirs is None:
        return False
    plain = {path.replace(f"{explode}[]", explode, 1) if explode else path for path in there}
    return theirs in plain or not any(theirs.startswith(f"{path}.") for path in there)


def _paths(record: dict[str, Any], before: str = "", depth: int = 4) -> Iterator[str]:
    for key, value in record.items():
        yield f"{before}{key}"
        if isinstance(value, dict) and depth:
            yield from _paths(value, f"{before}{key}.", depth - 1)
        elif isinstance(value, list) and value and isinstance(value[0], dict) and depth:
            yield from _paths(value[0], f"{before}{key}[].", depth - 1)


def _line_pieces(place: Storage, source: Source, layout: Layout) -> Iterator[Piece]:
    with opened(place, source, layout) as stream:
        records = RECORDS[layout.files.format](stream, source, layout)
        if layout.files.explode:
            records = _exploded(records, layout.files.explode)
        for block in _blocks(records, stream):
            yield _line_piece(block, source, layout)


def _line_piece(block: list[Any], source: Source, layout: Layout) -> Piece:
    """The records of `block` as columns of text."""
    refused = [item for item in block if isinstance(item, Refused)]
    good = [item for item in block if not isinstance(item, Refused)]
    # Not a set: the order of the columns is that of a user's attributes.
    found = dict.fromkeys(chain.from_iterable(record for _, record in good))
    names = layout.columns_in(found, source)
    columns = {
        ours: [record.get(theirs) for _, record in good]
        if theirs in found and theirs not in source.partition
        else [_at(record, theirs, source) for _, record in good]
        for ours, theirs in names.items()
    }
    if layout.files.format == "jsonl":
        odd = _odd_rows(columns, names, layout.where)
        refused += [Refused(good[at][0], "bad_json", why) for at, why in odd.items()]
        refused.sort(key=lambda item: item.row or 0)
        good = [item for at, item in enumerate(good) if at not in odd] if odd else good
        for ours, values in columns.items() if odd else ():
            columns[ours] = [value for at, value in enumerate(values) if at not in odd]
    table = {
        ours: pa.array([v if type(v) is str else _as_text(v) for v in values], pa.string())
        for ours, values in columns.items()
    }
    return Piece(
        pa.table(table), np.fromiter((row for row, _ in good), np.int64, len(good)), refused
    )


def _odd_rows(columns: dict[str, list[Any]], names: dict[str, str], where: str) -> dict[int, str]:
    """{place of the record: what is wrong with its field}."""
    odd: dict[int, str] = {}
    for ours in (*NAMES, "timestamp"):
        for at, value in enumerate(columns.get(ours, ())):
            if type(value) is not str and type(value) is not int and value is not None:
                why = odd_field(ours, names[ours], value, where)
                if why is not None:
                    odd.setdefault(at, why)
    return odd


def _at(record: dict[str, Any], path: str, source: Source) -> Any:
    """The field at a dotted path; a column of that very name comes first."""
    if path in record:
        return record[path]
    if "." in path:
        value: Any = record
        for step in path.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if value is not None:
            return value
    return source.partition.get(path)


def _exploded(records: Iterator[Any], path: str) -> Iterator[Record | Refused]:
    """One record for each element of the list at `path`, or each word where it is text."""
    *steps, last = path.split(".")
    number = 0
    for item in records:
        if isinstance(item, Refused):
            yield item
            continue
        row, record = item
        holder: Any = record
        for step in steps:
            holder = holder.get(step) if isinstance(holder, dict) else None
        values = holder.get(last) if isinstance(holder, dict) else None
        values = values.split() if isinstance(values, str) else values
        if not isinstance(values, list) or not values:
            what = "no element" if isinstance(values, list | None) else "not a list"
            yield Refused(row, "empty_list", f"{path}: {what}")
            continue
        for value in values:
            number = max(number + 1, row)
            yield number, _with(record, [*steps, last], value)


def _with(record: dict[str, Any], steps: list[str], value: Any) -> dict[str, Any]:
    """`record` with `value` at the path `steps`."""
    step, *below = steps
    return {**record, step: _with(record[step], below, value) if below else value}


def _blocks(records: Iterator[Any], stream: Stream) -> Iterator[list[Any]]:
    block: list[Any] = []
    until = PIECE_BYTES
    try:
        for record in records:
            block.append(record)
            if len(block) == ROWS_PER_PIECE or stream.num_bytes > until:
                yield block
                block, until = [], stream.num_bytes + PIECE_BYTES
    except Exception:
        yield block  # what stood before the damage counts
        raise
    if block:
        yield block


def _without_long_names(piece: Piece) -> Piece:
    """Refuse the rows whose ids are longer than MAX_ID_BYTES."""
    size = len(piece.rows)
    for name in (*NAMES, "timestamp"):
        if name in piece.table.column_names and size:
            lengths = _byte_lengths(piece.table[name])
            long = np.flatnonzero(lengths > MAX_ID_BYTES) if lengths is not None else ()
            if len(long):
                limit = f"{name}: more than {MAX_ID_BYTES:,} bytes"
                refused = [Refused(int(piece.rows[at]), "id_too_long", limit) for at in long]
                keep = np.ones(len(piece.rows), bool)
                keep[long] = False
                table = piece.table.filter(pa.array(keep))
                piece = Piece(table, piece.rows[keep], piece.refused + refused)
    return piece


def _byte_lengths(column: pa.ChunkedArray) -> np.ndarray | None:
    kind = column.type
    if pa.types.is_dictionary(kind):
        chunks = [
            pc.binary_length(chunk.dictionary).take(chunk.indices).fill_null(0)
            for chunk in column.chunks
            if _is_bytes(chunk.dictionary.type)
        ]
        return np.concatenate([np.asarray(chunk) for chunk in chunks]) if chunks else None
    if _is_bytes(kind):
        return np.asarray(pc.binary_length(column).combine_chunks().fill_null(0))
    return None


def _is_bytes(kind: pa.DataType) -> bool:
    return any(
        check(kind)
        for check in (
            pa.types.is_string, pa.types.is_large_string, pa.types.is_binary,
            pa.types.is_large_binary,
        )
    )  # fmt: skip


def _whole(piece: Piece, layout: Layout) -> Piece:
    """`piece` with all required columns."""
    table = piece.table
    absent = [name for name in layout.required if name not in table.column_names]
    if not absent or not len(piece.rows):
        return piece
    # Not appended: a table without any of our columns has no rows.
    columns = dict(zip(table.column_names, table.columns, strict=True))
    columns |= {name: pa.nulls(len(piece.rows), pa.string()) for name in absent}
    return piece._replace(table=pa.table(columns))


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _is_damage(error: Exception) -> bool:
    """The bytes are wrong, not the network or the permission (those have an errno)."""
    if isinstance(error, UserError):
        return False
    if isinstance(error, DAMAGE):
        return True
    return type(error).__name__ in ("OSError", "BadGzipFile") and (
        getattr(error, "errno", None) is None
    )
