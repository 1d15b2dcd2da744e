"""Log files to small tables: each file is read piece by piece.

A reader yields Pieces of some 50,000 rows, so that a task never holds a whole file. What
cannot be parsed leaves as a Refused row beside the good ones; what no row can mend (a column
that is not there) is a UserError. Line formats give columns of strings, Parquet its own types.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from llmaug.config import Format
from llmaug.errors import UserError
from llmaug.sources import Source
from llmaug.storage import Storage

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ROWS_PER_PIECE = 50_000
DETAIL_LEN = 80  # characters of a refused field that may be shown


class Refused(NamedTuple):
    """A row that is quarantined, or a whole file (row None)."""

    row: int | None  # from 1
    reason: str
    detail: str | None


class Piece(NamedTuple):
    """Some consecutive rows of a file."""

    table: pa.Table  # under our column names
    rows: np.ndarray  # (table rows,) int64: their numbers in the file, from 1
    refused: list[Refused]


@dataclass(frozen=True)
class Layout:
    """What the files look like, and which columns are wanted from them."""

    where: str
    """Section of the config, for messages: `ingest`, `ingest.items`."""
    format: Format
    columns: dict[str, str]
    """Our name: the name in the files."""
    required: tuple[str, ...]
    """Our names of the columns that must be there."""
    wanted: tuple[str, ...] | None = None
    """Our names of the columns to read; None: all."""
    pattern: str | None = None
    """format text: regular expression with named groups."""
    naming: str = "set {where}.columns.{name} to the right one"
    """Fix in the message about a column that is not there."""

    def __post_init__(self) -> None:
        if self.wanted is not None and (unknown := set(self.columns) - set(self.wanted)):
            raise UserError(
                f"{self.where}.columns: unknown {sorted(unknown)}; the keys are our names: "
                f"{', '.join(self.wanted)}"
            )
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise UserError(f"{self.where}.pattern: not a regular expression: {error}") from error


def read_pieces(place: Storage, source: Source, layout: Layout) -> Iterator[Piece]:
    """The rows of one file in order. A damaged file gives what could be read, then one
    `unreadable_file`; storage that does not answer raises."""
    try:
        if layout.format == "parquet":
            yield from _parquet_pieces(place, source, layout)
        else:
            yield from _line_pieces(place, source, layout)
    except Exception as error:
        if not _is_damage(error):
            raise
        detail = " ".join(f"{type(error).__name__}: {error}".split())[: 2 * DETAIL_LEN]
        refused = [Refused(None, "unreadable_file", detail)]
        yield Piece(pa.table({}), np.zeros(0, np.int64), refused)


def count_rows(place: Storage, source: Source, layout: Layout) -> int:
    """At least as many as the highest row number that `read_pieces` gives."""
    try:
        if layout.format == "parquet":
            import pyarrow.parquet as pq

            with place.arrow_fs().open_input_file(source.path) as file:
                return int(pq.ParquetFile(file).metadata.num_rows)
        count = 0
        with place.fs.open(source.path, "rb", compression="infer") as file:
            for _ in file:
                count += 1
    except Exception as error:
        if not _is_damage(error):
            raise
    return 0 if layout.format == "parquet" else count


def columns_found(found: Iterable[str], source: Source, layout: Layout) -> dict[str, str]:
    """{our name: name in the file} of the columns that are read from a file with `found`.

    Raises UserError naming file, column, what is there and the fix.
    """
    found = list(found)
    if layout.wanted is None:
        ours = {theirs: name for name, theirs in layout.columns.items()}
        mapped = [theirs for theirs in source.partition if theirs in ours]
        names = {ours.get(theirs, theirs): theirs for theirs in [*mapped, *found]}
    else:
        names = {name: layout.columns.get(name, name) for name in layout.wanted}
        there = {*found, *source.partition}
        names = {name: theirs for name, theirs in names.items() if theirs in there}
    for name in dict.fromkeys([*layout.required, *layout.columns]):
        if name not in names:
            theirs = layout.columns.get(name, name)
            known = sorted({*found, *source.partition})
            fix = (
                f"name a group (?P<{name}>...) in {layout.where}.pattern"
                if layout.format == "text"
                else layout.naming.format(where=layout.where, name=name)
            )
            raise UserError(
                f"{source.name}: no column '{theirs}' for {name}; there are "
                f"{', '.join(known[:30]) or 'none'}; {fix}"
            )
    return names


def _parquet_pieces(place: Storage, source: Source, layout: Layout) -> Iterator[Piece]:
    import pyarrow.parquet as pq

    with place.arrow_fs().open_input_file(source.path) as file:
        parquet: pq.ParquetFile = pq.ParquetFile(file)
        stored = parquet.schema_arrow.names
        names = columns_found(stored, source, layout)
        columns = [name for name in dict.fromkeys(names.values()) if name in stored]
        row = 1
        for batch in parquet.iter_batches(ROWS_PER_PIECE, columns=columns):
            size = batch.num_rows
            arrays = {
                ours: batch.column(theirs)
                if theirs in columns
                else pa.repeat(pa.scalar(source.partition[theirs], pa.string()), size)
                for ours, theirs in names.items()
            }
            yield Piece(pa.table(arrays), np.arange(row, row + size), [])
            row += size


Record = tuple[int, dict[str, Any]]


def _line_pieces(place: Storage, source: Source, layout: Layout) -> Iterator[Piece]:
    records = {"jsonl": _json_records, "csv": _csv_records, "text": _text_records}
    names: dict[str, str] | None = None
    with place.fs.open(source.path, "rb", compression="infer") as file:
        for block in _blocks(records[layout.format](file, source, layout)):
            refused = [item for item in block if isinstance(item, Refused)]
            good = [item for item in block if not isinstance(item, Refused)]
            if good and (names is None or layout.wanted is None):
                found = dict.fromkeys(key for _, record in good for key in record)
                columns_found(found, source, layout)
                # A key that no row had so far may come later: null until then.
                every = [layout.columns.get(name, name) for name in layout.wanted or ()]
                names = columns_found([*found, *every], source, layout)
            table = {
                ours: pa.array(
                    [_as_text(record.get(theirs, source.partition.get(theirs)))
                     for _, record in good],
                    pa.string(),
                )
                for ours, theirs in (names or {}).items()
            }  # fmt: skip
            rows = np.fromiter((row for row, _ in good), np.int64, len(good))
            yield Piece(pa.table(table), rows, refused)


def _json_records(file: Any, source: Source, layout: Layout) -> Iterator[Record | Refused]:
    scalars = [layout.columns.get(name, name) for name in ("user_id", "item_id", "action")]
    for row, line in enumerate(file, 1):
        text = _decoded(line, row)
        if isinstance(text, Refused):
            yield text
        elif text:
            try:
                record = json.loads(text)
            except json.JSONDecodeError as error:
                yield Refused(row, "bad_json", f"{error.msg} at character {error.colno}")
                continue
            except (ValueError, RecursionError) as error:
                yield Refused(row, "bad_json", type(error).__name__)
                continue
            if "\\ud" in text.lower() and not _encodes(record):
                yield Refused(row, "bad_json", "half of a surrogate pair (\\ud800)")
                continue
            if not isinstance(record, dict):
                yield Refused(row, "bad_json", f"a {type(record).__name__}, not an object")
                continue
            odd = [key for key in scalars if not isinstance(record.get(key), str | int | None)]
            if odd:
                kind = type(record[odd[0]]).__name__
                yield Refused(row, "bad_json", f"{odd[0]} is a {kind}, not a string or integer")
            else:
                yield row, record


def _text_records(file: Any, source: Source, layout: Layout) -> Iterator[Record | Refused]:
    pattern = re.compile(layout.pattern or "")
    columns_found(pattern.groupindex, source, layout)
    for row, line in enumerate(file, 1):
        text = _decoded(line, row)
        if isinstance(text, Refused):
            yield text
        elif text:
            match = pattern.search(text)
            if match:
                yield row, match.groupdict()
            else:
                yield Refused(row, "pattern_mismatch", f"{len(text)} characters")


def _csv_records(file: Any, source: Source, layout: Layout) -> Iterator[Record | Refused]:
    """Rows are counted without the header. Lines that are not UTF-8 pass the parser escaped."""
    encodings = itertools.chain(["utf-8-sig"], itertools.repeat("utf-8"))  # Excel's mark
    lines = (line.decode(code, "surrogateescape") for line, code in zip(file, encodings))  # noqa: B905
    reader = csv.reader(lines, strict=True)
    header = [name.strip() for name in next(reader, [])]
    if not header:
        raise EOFError("no header line")
    if _has_escapes(header):
        raise UserError(f"{source.name}: the header is not UTF-8; convert the file")
    row = 0
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row += 1
            yield Refused(row, "bad_csv", f"{error} (line {reader.line_num})")
            continue
        if not fields:
            continue
        row += 1
        if _has_escapes(fields):
            yield Refused(row, "not_utf8", f"line {reader.line_num}")
        elif len(fields) != len(header):
            yield Refused(row, "bad_csv", f"{len(fields)} fields, the header has {len(header)}")
        else:
            yield row, dict(zip(header, fields, strict=True))


def _has_escapes(fields: list[str]) -> bool:
    return any("\udc80" <= c <= "\udcff" for text in fields if not text.isascii() for c in text)


def _blocks(records: Iterator[Any]) -> Iterator[list[Any]]:
    block: list[Any] = []
    try:
        for record in records:
            block.append(record)
            if len(block) == ROWS_PER_PIECE:
                yield block
                block = []
    except Exception:
        yield block  # what stood before the damage counts
        raise
    if block:
        yield block


def _decoded(line: bytes, row: int) -> str | Refused:
    try:
        return line.decode("utf-8-sig" if row == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        byte = line[error.start]
        return Refused(row, "not_utf8", f"byte {byte:#04x} at position {error.start + 1}")


def _encodes(record: Any) -> bool:
    try:
        return bool(json.dumps(record, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        return False


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _is_damage(error: Exception) -> bool:
    """The bytes are wrong, not the network or the permission (those have an errno)."""
    if isinstance(error, UserError):
        return False
    if isinstance(error, pa.ArrowInvalid | EOFError | zlib.error | csv.Error):
        return True
    plain = type(error) is OSError or type(error).__name__ in ("BadGzipFile", "LZMAError")
    return plain and getattr(error, "errno", None) is None
