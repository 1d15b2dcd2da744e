"""Files to user parts: read, clean, shuffle by a hash of the user, clean each user's events.

One Ray Data pipeline. Workers write the parts; the driver sees one row of counts a part.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from llmaug import schema
from llmaug.config import IngestConfig
from llmaug.core.sources import Source, resolve_uri
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.ingest.by_user import parts_of
from llmaug.ingest.clean_logs import CleanLogs, clean_logs_of
from llmaug.ingest.cleaning import EVENT_COLUMNS, clean_users, in_window
from llmaug.ingest.file_rows import FileRows, conform, events_layout, read_file
from llmaug.ingest.layout import Layout
from llmaug.ingest.people import MAPPED, People, mapping_of, write_mapping
from llmaug.ingest.readers import count_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BLOCKS = 2_000  # more files than this share tasks
# Ray's shuffle for large data has workers for each half that nothing else may use: on logs that
# are not large, starting these is most of the work. The other one has as many objects as the square
# of its tasks.
SMALL_BYTES, SMALL_TASKS = 2 * 2**30, 200
TWIN = "twin"

# What goes through the shuffle: events (reason null), quarantined rows (reason), counts of rows
# that were dropped already (reason and count), so that retried tasks count once, for each
# user called 1.0 the question whether the part where a user 1 belongs has one (TWIN), and for each
# pseudonym the id behind it (MAPPED).
SHUFFLED = pa.schema(
    {
        "part": pa.int32(),
        "user_id": pa.string(),
        "item_id": pa.string(),
        "action": pa.string(),
        "timestamp": pa.timestamp("us", "UTC"),
        "value": pa.float32(),
        "source": pa.int32(),
        "row": pa.int64(),
        "file": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
        "count": pa.int64(),
    }
)


def clean_parts(context: Context, sources: list[Source], parts: list[str], people: People) -> None:
    """Write `ingest/clean` and `ingest/quarantine`, each with all of `parts`; the counts of
    rows read, quarantined and dropped stand in the notes of the clean parts."""
    import ray.data
    from ray.data.context import ShuffleStrategy

    config, storage, folder = context.config.ingest, context.storage, context.folder("ingest")
    place = resolve_uri(config.path, storage)
    first_lines = [0] * len(sources)
    if config.order == "line":
        first_lines = _first_lines(place, sources, events_layout(config))
    tasks = [
        {"source": json.dumps(source), "first_line": first}
        for source, first in zip(sources, first_lines, strict=True)
    ]
    num_bytes = sum(source.size for source in sources)
    context.progress.note(f"{len(sources):,} files, {num_bytes / 2**20:,.1f} MiB")
    read = partial(
        _read_files, place=place, config=config, num_parts=len(parts), now=datetime.now(UTC),
        people=people, clean_logs=clean_logs_of(context, sources, people),
    )  # fmt: skip
    write = partial(_write_group, storage=storage, folder=folder, config=config)
    files = ray.data.from_items(tasks, override_num_blocks=min(len(tasks), MAX_BLOCKS))
    if num_bytes <= SMALL_BYTES and len(tasks) <= SMALL_TASKS:
        files.context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    written = (
        files.map_batches(read, batch_size=1, batch_format="pyarrow")
        .groupby("part", num_partitions=len(parts))
        .map_groups(write, batch_format="pyarrow")
    )
    with context.progress.track(len(parts), "user parts") as advance:
        for row in written.iter_rows():
            if context.lease:
                context.lease.check()
            advance(1, row["counts"])
    done = set(storage.parts(f"{folder}/clean"))
    for index, part in enumerate(parts):
        if part not in done:  # no user and no refused row fell into it
            _write_part(index, SHUFFLED.empty_table(), storage, folder, config)


def _first_lines(place: Storage, sources: list[Source], layout: Layout) -> list[int]:
    """Running number (from 0) of the first line of each file: one more pass over the files,
    needed because file order must hold across files that are read side by side."""
    import ray.data

    def count(row: dict[str, Any]) -> dict[str, int]:
        source = Source(*json.loads(row["source"]))
        return {"index": source.number, "rows": count_rows(place, source, layout)}

    rows = ray.data.from_items(
        [{"source": json.dumps(source)} for source in sources],
        override_num_blocks=min(len(sources), MAX_BLOCKS),
    )
    sizes = {row["index"]: row["rows"] for row in rows.map(count).iter_rows()}
    return list(accumulate((sizes[source.number] for source in sources), initial=0))[:-1]


def _read_files(
    batch: pa.Table,
    *,
    place: Storage,
    config: IngestConfig,
    num_parts: int,
    now: datetime,
    people: People,
    clean_logs: CleanLogs | None,
) -> Iterator[pa.Table]:
    """Rows of the files in `batch`, as SHUFFLED tables of some rows each."""
    for task in batch.to_pylist():
        source = Source(*json.loads(task["source"]))
        rows = clean_logs.rows(source, now) if clean_logs else None
        how = "files.read" if rows is None else "files.from_cache"
        if rows is None:
            rows = read_file(place, source, config, people, now, task["first_line"])
            rows = clean_logs.keep(source, rows) if clean_logs else rows
        for each in rows:
            yield _shuffled(each, source, config, num_parts)
        if clean_logs:
            yield _counted(source, num_parts, {how: 1})


def _shuffled(rows: FileRows, source: Source, config: IngestConfig, num_parts: int) -> pa.Table:
    is_event = pc.is_null(rows.table["reason"])
    found = rows.table.filter(is_event)
    inside = in_window(found, config)
    events = found.filter(pa.array(inside))
    names, twins = events["user_id"].combine_chunks(), events["twin"].drop_null()
    refused = rows.table.filter(pc.invert(is_event))
    at = source.number * 1_000_003 + refused["row"].fill_null(0).to_numpy()
    counts = {**rows.counts, "dropped.out_of_range_date": int((~inside).sum())}
    tables = [
        _conform(events, part=parts_of(names, num_parts),
                 source=pa.repeat(pa.scalar(source.number, pa.int32()), events.num_rows)),
        _conform(refused, part=pa.array(at % num_parts, pa.int32()),
                 file=pa.repeat(source.name, refused.num_rows)),
        _counted(source, num_parts, counts),
        _about(pc.unique(twins), TWIN, num_parts),
    ]  # fmt: skip
    if events["behind"].null_count < events.num_rows:
        known, behind = mapping_of(names, events["behind"].combine_chunks())
        tables.append(_about(known, MAPPED, num_parts, behind))
    return pa.concat_tables(tables).combine_chunks()


def _about(
    users: pa.Array, reason: str, num_parts: int, detail: pa.Array | None = None
) -> pa.Table:
    """Rows for the parts of `users` that are no events."""
    columns = {"part": parts_of(users, num_parts), "user_id": users}
    more = {} if detail is None else {"detail": detail}
    return _conform(pa.table({**columns, **more, "reason": pa.repeat(reason, len(users))}))


def _counted(source: Source, num_parts: int, counts: dict[str, int]) -> pa.Table:
    part = source.number % num_parts
    found = [{"part": part, "reason": n, "count": c} for n, c in counts.items() if c]
    return pa.Table.from_pylist(found, SHUFFLED)


def _conform(table: pa.Table, **more: pa.Array) -> pa.Table:
    for name, column in more.items():
        table = table.append_column(name, column)
    return conform(table, SHUFFLED)


# -- one user part -----------------------------------------------------------------------


def _write_group(
    rows: pa.Table, *, storage: Storage, folder: str, config: IngestConfig
) -> pa.Table:
    counts = _write_part(rows["part"][0].as_py(), rows, storage, folder, config)
    return pa.table({"counts": [json.dumps(counts)]})


def _write_part(
    index: int, rows: pa.Table, storage: Storage, folder: str, config: IngestConfig
) -> dict[str, int]:
    """Write the clean events and the quarantined rows of user part `index`."""
    part = f"part-{index:05d}"
    counted = pc.is_valid(rows["count"])
    counts: Counter[str] = Counter()
    for row in rows.select(["reason", "count"]).filter(counted).to_pylist():
        counts[row["reason"]] += row["count"]
    is_twin = pc.fill_null(pc.equal(rows["reason"], TWIN), False)
    twins = pc.unique(rows["user_id"].filter(is_twin))
    if len(twins):
        there = rows["user_id"].filter(pc.is_null(rows["reason"]))
        counts["noted.twin_users"] = int(pc.sum(pc.is_in(twins, there)).as_py() or 0)
        rows, counted = rows.filter(pc.invert(is_twin)), counted.filter(pc.invert(is_twin))
    is_mapped = pc.fill_null(pc.equal(rows["reason"], MAPPED), False)
    if pc.any(is_mapped).as_py():
        write_mapping(rows.filter(is_mapped), storage, folder, part)
        rows, counted = rows.filter(pc.invert(is_mapped)), counted.filter(pc.invert(is_mapped))
    refused = rows.filter(pc.and_(pc.is_valid(rows["reason"]), pc.invert(counted)))
    refused = refused.select(schema.QUARANTINE.names)
    refused = refused.sort_by([("file", "ascending"), ("row", "ascending")])
    for found in pc.value_counts(refused["reason"]).to_pylist():
        counts[f"quarantined.{found['values']}"] += found["counts"]
    events = clean_users(rows.filter(pc.is_null(rows["reason"])), config, counts)
    events = events.select(EVENT_COLUMNS)
    for name, value in (("weight", 1.0), ("origin", schema.REAL)):
        events = events.append_column(name, pa.repeat(value, events.num_rows))
    storage.write_part(
        schema.validate(refused, schema.QUARANTINE, "ingest"), {}, f"{folder}/quarantine", part
    )
    events = schema.validate(events, schema.EVENT, "ingest")
    storage.write_part(events, counts, f"{folder}/clean", part)
    return dict(counts)
