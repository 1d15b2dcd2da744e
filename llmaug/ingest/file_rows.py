"""One log file to rows: events and refused rows, as they are whatever the night asks for.

Here stands all that costs: reading, checking, ids. What another night may ask otherwise comes
after it and is cheap: the window of days, the number of user parts. So the rows of a file can be
kept for the nights that follow (`clean_logs`).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa

from llmaug.config import IngestConfig
from llmaug.core.sources import Source
from llmaug.core.storage import Storage
from llmaug.ingest.cleaning import (
    ALWAYS,
    CLEANED,
    EVENT_COLUMNS,
    clean_piece,
    id_hash,
    twin_of_each,
)
from llmaug.ingest.layout import Layout, Piece
from llmaug.ingest.people import People, without_people
from llmaug.ingest.readers import read_pieces

# Events (reason null), then refused rows. Ids are those that go on: pseudonyms, where there are
# some. twin: of a user called 1.0 how a user 1 would go on. behind: the id of the logs, where a
# mapping is kept.
ROWS = pa.schema(
    [
        *CLEANED,
        ("twin", pa.string()),
        ("behind", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


class FileRows(NamedTuple):
    """Some rows of a file."""

    table: pa.Table  # ROWS
    counts: dict[str, int]  # of rows read and dropped so far, and what is noted of them
    until_us: int = ALWAYS
    """Read later than this, the file may give other rows; 0: at any time."""


def events_layout(config: IngestConfig) -> Layout:
    wanted = tuple(n for n in EVENT_COLUMNS if n != "timestamp" or config.order != "line")
    required = tuple(name for name in wanted if name not in ("action", "value"))
    return Layout("ingest", config, required, wanted)


def read_file(
    place: Storage,
    source: Source,
    config: IngestConfig,
    people: People,
    now: datetime,
    first_line: int = 0,
) -> Iterator[FileRows]:
    """The rows of one file, piece by piece. Raises UserError as `clean_piece` does."""
    num_rows = 0
    for piece in read_pieces(place, source, events_layout(config)):
        num_rows += len(piece.rows) + len(piece.refused)
        yield _rows_of(piece, source, config, people, now, first_line)
    if not num_rows:
        yield FileRows(ROWS.empty_table(), {"empty_files": 1})


def _rows_of(
    piece: Piece,
    source: Source,
    config: IngestConfig,
    people: People,
    now: datetime,
    first_line: int,
) -> FileRows:
    cleaned = clean_piece(piece, config, source.name, now, first_line)
    forgotten = people.forgotten.mask(cleaned.events["user_id"].combine_chunks())
    events = cleaned.events.filter(pa.array(~forgotten))
    num_before = events.num_rows
    if config.sample_users < 1:  # the largest hashes round to 1
        hashes = id_hash(events["user_id"].combine_chunks())
        events = events.filter(pa.array(hashes / 2.0**64 < config.sample_users))
    ids = events["user_id"].combine_chunks()
    columns = {name: events[name] for name in events.column_names}
    columns |= {"user_id": people.called(ids), "twin": people.called(twin_of_each(ids))}
    if people.keeps_mapping:
        columns["behind"] = ids
    refused = [row._asdict() for row in without_people(cleaned.refused, people)]
    counts = {
        "rows_read": len(piece.rows) + len(piece.refused),
        "dropped.forgotten": int(forgotten.sum()),
        "dropped.sampled_out": num_before - events.num_rows,
        **{f"found.{name}": 1 for name in piece.table.column_names},
        **{f"noted.{name}": count for name, count in cleaned.noted.items()},
    }
    is_damaged = any(row.reason == "unreadable_file" for row in cleaned.refused)
    return FileRows(
        pa.concat_tables([conform(pa.table(columns), ROWS), pa.Table.from_pylist(refused, ROWS)]),
        counts,
        0 if is_damaged else cleaned.until_us,  # it may be whole the next time
    )


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with the columns of `schema`; those that it does not have are null."""
    size = table.num_rows
    columns = [
        table[field.name] if field.name in table.column_names else pa.nulls(size, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
