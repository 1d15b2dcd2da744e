"""Parquet to pieces: with their own types, and without unpacking what is repeated."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmaug.core.sources import Source
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.layout import PIECE_BYTES, ROWS_PER_PIECE, Layout, Piece, Refused


def parquet_pieces(place: Storage, source: Source, layout: Layout) -> Iterator[Piece]:
    """The rows of one file. Text comes dictionary encoded: a file of a kilobyte may stand for
    gigabytes of it."""
    with _opened(place, source) as file:
        parquet = pq.ParquetFile(file)
        stored = parquet.schema_arrow
        names = layout.columns_in(stored.names, source)
        heads = {ours: _head(theirs, stored.names) for ours, theirs in names.items()}
        heads["explode"] = _head(layout.files.explode or "", stored.names)
        if layout.files.explode and heads["explode"] is None:
            raise UserError(
                f"{source.name}: no column '{layout.files.explode}' for explode; there are "
                f"{', '.join(stored.names) or 'none'}; set {layout.where}.explode to a list that "
                "each of the files has"
            )
        columns = list(dict.fromkeys(head for head in heads.values() if head))
        if twice := [name for name in columns if stored.names.count(name) > 1]:
            raise UserError(
                f"{source.name}: column '{twice[0]}' is there twice; name each column once"
            )
        texts = [name for name in columns if _is_text(stored.field(name).type)]
        parquet = pq.ParquetFile(file, read_dictionary=texts)
        row, last = 1, 0
        for batch in parquet.iter_batches(ROWS_PER_PIECE, columns=columns):
            for part in _within_bytes(batch):
                rows = np.arange(row, row + part.num_rows)
                row += part.num_rows
                piece = _piece(part, rows, names, source, layout, last)
                last = max([last, *piece.rows[-1:]])
                yield piece


def parquet_columns(place: Storage, source: Source) -> list[str]:
    """Columns and dotted paths; `[]` marks a list on the way."""
    with _opened(place, source) as file:
        schema = pq.ParquetFile(file).schema_arrow
    return [path for field in schema for path in _paths(field.name, field.type)]


def _opened(place: Storage, source: Source) -> pa.NativeFile:
    # Bytes: Arrow takes no name of a file that is no UTF-8 as text.
    return place.arrow_fs().open_input_file(source.path.encode(errors="surrogateescape"))


def _paths(path: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_struct(kind):
        inner = [kind.field(at) for at in range(kind.num_fields)]
        return [path, *(p for field in inner for p in _paths(f"{path}.{field.name}", field.type))]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        below = _paths(f"{path}[]", kind.value_type)
        return [path, *below[1:]]
    return [path]


def _piece(
    batch: pa.RecordBatch,
    rows: np.ndarray,
    names: dict[str, str],
    source: Source,
    layout: Layout,
    last: int,
) -> Piece:
    refused: list[Refused] = []
    if layout.files.explode:
        batch, rows, refused = _exploded(batch, rows, names, layout.files.explode, source, layout)
        # As in line formats: elements count on from their row, ascending and unique.
        offset = np.arange(len(rows))
        rows = np.maximum.accumulate(np.maximum(rows - offset, last + 1)) + offset
    arrays = {}
    for ours, theirs in names.items():
        if _head(theirs, batch.schema.names):
            arrays[ours] = _field(batch, theirs, ours, source, layout)
        else:
            value = pa.scalar(source.partition[theirs], pa.string())
            arrays[ours] = pa.repeat(value, batch.num_rows)
    return Piece(pa.table(arrays), rows, refused)


def _exploded(
    batch: pa.RecordBatch,
    rows: np.ndarray,
    names: dict[str, str],
    path: str,
    source: Source,
    layout: Layout,
) -> tuple[pa.RecordBatch, np.ndarray, list[Refused]]:
    """One row for each element of the list at `path`, with the number of its list's row."""
    lists = _field(batch, path, "explode", source, layout)
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        raise UserError(
            f"{source.name}: column '{path}' is {lists.type}, not a list; {layout.where}.explode "
            "names a list"
        )
    parents = pc.list_parent_indices(lists)
    empty = pc.equal(pc.fill_null(pc.list_value_length(lists), 0), 0)
    refused = [Refused(int(row), "empty_list", path) for row in rows[np.asarray(empty)]]
    # Field by field: a struct that holds the list would be repeated with it for each element.
    others = {
        theirs: _field(batch, theirs, ours, source, layout).take(parents)
        for ours, theirs in names.items()
        if _head(theirs, batch.schema.names) and not f"{theirs}.".startswith(f"{path}.")
    }
    exploded = pa.RecordBatch.from_pydict({**others, path: pc.list_flatten(lists)})
    return exploded, rows[parents.to_numpy(zero_copy_only=False)], refused


def _field(batch: pa.RecordBatch, path: str, ours: str, source: Source, layout: Layout) -> pa.Array:
    head = _head(path, batch.schema.names) or path
    array = batch.column(batch.schema.get_field_index(head))
    for step in path[len(head) :].strip(".").split(".") if path != head else ():
        if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            raise UserError(
                f"{source.name}: '{path}' for {ours} lies in the list '{head}'; set "
                f"{layout.where}.explode: {head} to read an event for each of its elements"
            )
        if not pa.types.is_struct(array.type) or array.type.get_field_index(step) < 0:
            raise UserError(
                f"{source.name}: no '{step}' in '{path}' for {ours}: '{head}' is {array.type}"
            )
        array = pc.struct_field(array, step)
    return array


def _within_bytes(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """`batch` in parts of at most some PIECE_BYTES when its text is unpacked."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            lengths = pc.binary_length(column.dictionary).take(column.indices)
            sizes += np.asarray(lengths.fill_null(0), np.int64)
    part_of = np.cumsum(sizes) // PIECE_BYTES
    cuts = np.flatnonzero(part_of[1:] != part_of[:-1]) + 1
    for start, end in itertools.pairwise([0, *cuts.tolist(), batch.num_rows]):
        yield batch.slice(start, end - start)


def _head(path: str, names: list[str]) -> str | None:
    """The column that the dotted `path` begins with; the longest, which may be an exploded list
    beside the column that holds it."""
    steps = path.split(".")
    heads = (".".join(steps[:end]) for end in range(len(steps), 0, -1))
    return next((head for head in heads if head in names), None)


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind) or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    )  # fmt: skip
