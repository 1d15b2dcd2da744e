"""Tables of live results from files: exposures, feedback, logged choices.

Read by the readers of `ingest`, without Ray, into memory or to whom it is given. A row that
cannot be used is left out and counted by its reason; a column that is not there is a UserError.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug import schema
from llmaug.config import NULL_WORDS, FilesConfig, Format
from llmaug.core.sources import list_sources
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.columns import id_column, mask_of, number_column, parse_times, text_column
from llmaug.ingest.layout import Layout, Piece
from llmaug.ingest.readers import check_columns, read_pieces

_FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
}
_UNITS = ("s", "ms", "us", "ns")
_SHOWN = 60  # characters of an example


class LiveTable(NamedTuple):
    table: pa.Table
    rows_read: int  # = rows that can be used + refused rows
    refused: dict[str, int]  # reason: rows; `unreadable_file`: files, damaged from some row on
    examples: dict[str, str] = {}  # reason: the first value of it, and its file

    def warnings(self, name: str) -> list[str]:
        """That rows of the table, called `name`, could not be used."""
        if not self.refused:
            return []
        return [f"{name}: not all of {self.rows_read:,} rows could be used: {self.listed()}"]

    def listed(self) -> str:
        """`bad_timestamp 12 (such as 'yesterday' in shown.csv), null_user_id 3`."""
        return ", ".join(
            f"{reason} {count:,}" + (f" (such as {example})" if example else "")
            for reason, count in self.refused.items()
            for example in [self.examples.get(reason)]
        )


def read_live(
    path: str,
    option: str,
    fields: pa.Schema,
    columns: list[str] | None = None,
    timestamp_unit: str | None = None,
    endpoint_url: str | None = None,
    into: Callable[[pa.Table], None] | None = None,
) -> LiveTable:
    """All rows below `path` (file, folder or s3://) as a table of the schema `fields`.

    option: what named the path on the command line, for messages; columns: "our name=name in
    the files" for columns of another name. Formats go by the end of the file name, hive folders
    (`variant=a/`) count as columns. into: is given the tables one by one as they are read; the
    table of the result is then empty. Raises UserError for what cannot be used, and when there
    are rows and none can be used.
    """
    names = _parse_columns(columns or [], f"{option}-columns", fields)
    if timestamp_unit is not None and timestamp_unit not in _UNITS:
        raise UserError(f"--timestamp-unit {timestamp_unit}: units are {', '.join(_UNITS)}")
    place = Storage(path, endpoint_url)
    required = tuple(field.name for field in fields if not field.nullable)
    tables, refused, rows_read, rows_used = [schema.empty(fields)], Counter[str](), 0, 0
    take = into or tables.append
    examples: dict[str, str] = {}
    for source in list_sources(place, option):
        files = FilesConfig(path=path, format=_format(source.name), columns=dict(names))
        layout = Layout(
            option, files, required, tuple(fields.names),
            naming=f"name it with {option}-columns {{name}}=...",
        )  # fmt: skip
        check_columns(place, [source], layout)
        for piece in read_pieces(place, source, layout):
            refused.update(row.reason for row in piece.refused)
            rows_read += len(piece.rows) + sum(row.row is not None for row in piece.refused)
            if len(piece.rows):
                table = _typed(piece, fields, timestamp_unit, source.name, refused, examples)
                rows_used += len(table)
                take(table)
    found = LiveTable(pa.concat_tables(tables), rows_read, dict(sorted(refused.items())), examples)
    if rows_read and not rows_used:
        raise UserError(
            f"{option} {path}: none of {rows_read:,} rows can be used: {found.listed()}. Times are "
            "timestamps, ISO 8601 text or numbers with --timestamp-unit; columns of another name "
            f"go with {option}-columns"
        )
    return found


def _parse_columns(pairs: list[str], option: str, fields: pa.Schema) -> dict[str, str]:
    """`["user_id=uid", "value=stars"]` as {our name: name in the files}."""
    columns = {}
    for pair in pairs:
        ours, sign, theirs = pair.partition("=")
        if not sign or not theirs or ours not in fields.names:
            raise UserError(
                f"{option} {pair}: write OURS=THEIRS, where OURS is one of "
                f"{', '.join(fields.names)} and THEIRS the name in your files"
            )
        columns[ours] = theirs
    return columns


def _format(name: str) -> Format:
    plain = name.removesuffix(".gz")
    for ending, found in _FORMATS.items():
        if plain.endswith(ending):
            return found
    raise UserError(f"{name}: unknown kind of file; names end in {', '.join(_FORMATS)} (or .gz)")


def _typed(
    piece: Piece,
    fields: pa.Schema,
    unit: str | None,
    file: str,
    refused: Counter[str],
    examples: dict[str, str],
) -> pa.Table:
    """The rows of `piece` that can be used, cast; the others are added to `refused`, the first
    bad value of each reason to `examples`."""
    keep = np.ones(len(piece.rows), bool)
    columns: dict[str, Any] = {}

    def refuse(mask: np.ndarray, reason: str) -> None:
        if count := int((mask & keep).sum()):
            refused[reason] += count
            if not reason.startswith("null_"):
                first = str(piece.table[name][int(np.flatnonzero(mask & keep)[0])].as_py())
                examples.setdefault(reason, f"{first[:_SHOWN]!r} in {file}")
            keep[mask] = False

    for field in fields:
        name = field.name
        if name not in piece.table.column_names:
            continue
        column = piece.table[name]
        if pa.types.is_timestamp(field.type):
            times = parse_times(column, unit, file, "--timestamp-unit")
            refuse(times.null, f"null_{name}")
            refuse(times.bad, f"bad_{name}")
            refuse(times.beyond, f"{name}_out_of_range")
            columns[name] = pa.array(times.us).cast(field.type)
            continue
        if name in ("user_id", "item_id"):  # as ingest writes them: they have to meet
            words = () if _format(file) == "jsonl" else NULL_WORDS
            found = id_column(column, name, file, words)
            refuse(found.not_utf8, "not_utf8")
            refuse(found.bad | found.long, f"bad_{name}")
            columns[name] = found.ids
        elif pa.types.is_floating(field.type):
            columns[name], bad = number_column(column, name, file)
            refuse(bad, f"bad_{name}")
        else:
            columns[name], broken = text_column(column, name, file)
            refuse(broken, "not_utf8")
        if not field.nullable:
            refuse(mask_of(pc.is_null(columns[name])), f"null_{name}")
    table = pa.table(columns).filter(pa.array(keep))
    return schema.validate(table, fields, file)
