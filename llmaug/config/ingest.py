"""Section `ingest`: files of rows, and how they become clean events."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Literal

from pydantic import Field, model_validator

from llmaug.config.base import Section

Format = Literal["parquet", "jsonl", "csv", "text"]

NULL_WORDS = (
    "\\N", "null", "Null", "NULL", "(null)", "<null>", "nil", "None", "NONE", "undefined", "nan",
    "NaN", "NAN", "-nan", "-NaN", "NaT", "NA", "<NA>", "#N/A", "N/A", "n/a", "(not set)", "-",
)  # fmt: skip
"""What databases, pandas, Python, R, JavaScript, spreadsheets, analytics and web servers write
where there is nothing."""


class FilesConfig(Section):
    """Files of rows, and how they are written."""

    path: str
    """Folder, file or glob (`logs/2026-*/*.csv`); `{root}` stands for the storage root, and a
    relative path starts at the folder of the config."""
    format: Format = "parquet"
    """parquet, jsonl (objects: one a line, several a line, an array, or spread over lines), csv,
    or text (lines matched by `pattern`). Files packed with gzip, zstd, bz2, xz, lz4 or zip are
    unpacked. A Delta table is read through `deltalake` (`pip install 'llmaug[delta]'`)."""
    columns: dict[str, str | None] = {}
    """Our column name: the name in the files; a dotted path where it is nested (`user.id`). Columns
    of the same name need no entry. `null`: there is no such column, whatever the files call so
    (`value: null`)."""
    pattern: str | None = None
    """format text: a regular expression with a named group for each column (`(?P<user_id>...)`)."""
    delimiter: str = Field(default=",", min_length=1, max_length=8)
    """csv: what separates fields, `"\\t"` for tabs."""
    quote: str | None = Field(default='"', min_length=1, max_length=1)
    """csv: what fields with delimiters or line ends stand in. null: quotes are text, as they are
    beside a delimiter of several characters."""
    header: list[str] | None = None
    """csv: names of the columns of files without a header line. None: the first line has them."""
    encoding: str | None = None
    """csv, jsonl, text: encoding of the files (`cp1252`, `latin-1`, `utf-16`). None: UTF-8, or
    UTF-16 and UTF-32 where the file begins with their mark."""
    explode: str | None = None
    """Column (or dotted path) of a list, each element of which is a row: sessions as lists of
    events, histories as lists of items. Text is a list of words. Columns within the elements are
    named by their path through the list: `explode: events`, `columns: {item_id: events.aid}`."""
    max_line_bytes: int = Field(default=16 * 2**20, ge=1_000)
    """A longer line is quarantined unread."""

    @model_validator(mode="after")
    def _text_has_a_pattern(self) -> FilesConfig:
        if (self.format == "text") != (self.pattern is not None):
            raise ValueError("pattern goes with format: text, and is required there")
        return self

    @model_validator(mode="after")
    def _known_encoding(self) -> FilesConfig:
        if self.encoding is not None:
            try:
                b"".decode(self.encoding)
            except LookupError as error:
                raise ValueError(
                    f"encoding {self.encoding!r} is unknown; cp1252, utf-16, ..."
                ) from error
        return self


class TableConfig(FilesConfig):
    """A side table: items or users."""


class IngestConfig(FilesConfig):
    """Reading, cleaning and sampling of the logs."""

    path: str = "{root}/logs/events"
    """Folder, file or glob of the events; `{root}` stands for the storage root, and
    a relative path starts at the folder of the config."""
    columns: dict[str, str | None] = {}
    """Our column name (user_id, item_id, action, timestamp, value): the name in the logs; a dotted
    path where it is nested (`user.id`). `null`: there is no such column, whatever the logs call so
    (`value: null`). A column that one file lacks is null there."""
    null_values: list[str] | None = None
    """Words that stand for nothing in ids, actions, times and numbers, of side tables, too. None:
    `\\N`, null, NULL, None, nan, NA, undefined and their like in CSV, text and Parquet; no word in
    JSON lines, which have a null of their own: there they stay ids, and a note counts them."""
    order: Literal["timestamp", "line"] = "timestamp"
    """What orders a user's events. `line`: the logs have no time; the line number orders
    them and stands in as seconds since 1970."""
    timestamp_unit: Literal["s", "ms", "us", "ns"] | None = None
    """Unit of integer or float timestamps; not needed for timestamp columns and ISO 8601."""
    time_format: str | None = None
    """Notation of times that do not say which number is the day, as Python's strptime has it:
    `%m/%d/%Y %I:%M:%S %p`. Without a zone (`%z`) they are UTC. What it does not match is read as
    without it."""
    default_action: str = "interact"
    """Action of logs without an action column."""
    actions: list[str] | None = None
    """All actions that the logs may hold; a row with another one is quarantined. None: any."""
    keep_actions: list[str] | None = None
    """Actions that are training material; other rows are dropped and counted. None: all."""
    date_partition: str | None = "dt"
    """Hive partition key (`dt=2026-01-31/`) that `start` and `end` prune by."""
    start: date | None = None
    """First day (UTC) to read."""
    end: date | None = None
    """Last day (UTC) to read, inclusive."""
    complete_days: int = Field(default=0, ge=0, le=366)
    """Begin only when so many days up to `end` are there, each a folder of `date_partition`; 0:
    with what is there. `--wait 2h` waits for them."""
    complete_share: float = Field(default=0.5, ge=0, le=1)
    """A day with less than this share of the bytes of the same weekday a week before is not all
    there."""
    earliest: datetime = datetime.fromisoformat("1990-01-01T00:00:00+00:00")
    """Timestamps before this are quarantined: most often a wrong unit."""
    max_events_per_day: int | None = Field(default=2000, ge=1)
    """A user with more events than this on one day (UTC) is a bot: all its rows are dropped."""
    k_core: int = Field(default=1, ge=1)
    """Drop users and items with fewer events than this, again and again until none is left."""
    sample_users: float = Field(default=1.0, gt=0, le=1)
    """Share of the users to keep, by a hash of the user id: the same users every night."""
    max_quarantined: float = Field(default=0.01, ge=0, le=1)
    """A larger share of quarantined rows stops the run: then the config is wrong, not a row."""
    max_unreadable_files: int = Field(default=0, ge=0)
    """More files that are damaged stop the run: nobody knows how many rows they held. What stands
    before the damage is read."""
    num_parts: int | None = Field(default=None, ge=1)
    """User partitions, the unit of work of all later stages. None: one for each 32 MiB of
    log files, and 4 at least."""
    keep_clean: bool = False
    """Keep the rows of every file below the root (`clean_logs/`), so that the nights that follow
    read new and changed files only. It takes about the room of the events again, and a run that is
    the only one has no use for it: on by itself in a config with `{date}`, and off in others."""
    items: TableConfig | None = None
    """Catalogue: item_id, title, description, tags, price, image_uri."""
    users: TableConfig | None = None
    """User attributes: user_id and attribute columns."""

    @model_validator(mode="after")
    def _what_every_event_has(self) -> IngestConfig:
        optional = {"action", "value"} | ({"timestamp"} if self.order == "line" else set())
        for name in self.columns:
            if self.columns[name] is None and name not in optional:
                raise ValueError(
                    f"ingest.columns.{name}: null is for {', '.join(sorted(optional))}; events "
                    "without a time need ingest.order: line"
                )
        return self

    @model_validator(mode="after")
    def _days_that_can_be_counted(self) -> IngestConfig:
        if self.complete_days and (self.end is None or self.date_partition is None):
            raise ValueError(
                "ingest.complete_days counts folders of days up to ingest.end: set ingest.end "
                '(such as "{date}") and ingest.date_partition'
            )
        return self

    @model_validator(mode="after")
    def _time_format_reads_what_it_writes(self) -> IngestConfig:
        if self.time_format is not None:
            sample = datetime(2019, 1, 31, 15, 4, 5, tzinfo=UTC)
            try:
                datetime.strptime(sample.strftime(self.time_format), self.time_format)
            except (ValueError, re.error, LookupError) as error:
                raise ValueError(
                    f"ingest.time_format: {error}; write it as for Python's strptime, such as "
                    "'%m/%d/%Y %I:%M:%S %p' for 1/31/2019 3:04:05 PM"
                ) from error
        return self

    def null_words(self, format: Format) -> tuple[str, ...]:
        """What stands for nothing in files of `format`."""
        if self.null_values is not None:
            return tuple(self.null_values)
        return () if format == "jsonl" else NULL_WORDS
