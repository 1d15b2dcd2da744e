"""Rows of log files that were read once, for the nights that follow: yesterday's files are not read
and checked again (`ingest.keep_clean`).

    clean_logs/<how rows are read>/<which file>-00000.parquet, ..., <which file>.json

The folder is named by a digest of all that decides what becomes of a row: the settings of the
config, the code, the key of the pseudonyms, who is forgotten. The file by one of its name, size,
content and hive folders: a file that changed is another one, and is read. The note (JSON) is
written last. A run lists the files that it used in `ingest/_clean_logs.json`, for `llmaug gc`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmaug.config import IngestConfig
from llmaug.config.names import CLEAN_LOGS, run_folder
from llmaug.core.code_version import code_version
from llmaug.core.contents import read_object
from llmaug.core.source_digests import identities
from llmaug.core.sources import Source, resolve_uri
from llmaug.core.stage import Context
from llmaug.core.storage import Storage, digest
from llmaug.core.stored import damaged
from llmaug.ingest.cleaning import ALWAYS
from llmaug.ingest.file_rows import ROWS, FileRows
from llmaug.ingest.layout import ROWS_PER_PIECE
from llmaug.ingest.people import People
from llmaug.ingest.time_text import microseconds

USED = "_clean_logs.json"
"""In the folder `ingest` of a run: the files of `clean_logs` that it reads or writes."""
OBJECT_BYTES = 64 * 2**20  # in memory; the rows of a larger file are several objects
# What comes after the rows were read, or is no matter of rows.
_LATER = {
    "path", "items", "users", "date_partition", "start", "end", "complete_days", "complete_share",
    "keep_actions", "max_events_per_day", "k_core", "num_parts", "max_quarantined",
    "max_unreadable_files", "keep_clean",
}  # fmt: skip


@dataclass(frozen=True)
class CleanLogs:
    """The rows of tonight's files, as far as they are known; picklable."""

    storage: Storage
    folder: str
    names: dict[int, str]
    """{number of the source: name of what is kept of it}."""
    known: frozenset[str]
    """Names of what was kept when the night began. A task that Ray does once more must come out as
    before, block by block: it reads its file again, though that is kept by now."""

    def rows(self, source: Source, now: datetime) -> Iterator[FileRows] | None:
        """The rows that are kept of a file; None where it is to be read."""
        name = self.names[source.number]
        if name not in self.known:
            return None
        note = read_object(self.storage, self.folder, f"{name}.json")
        if not note or microseconds(now) >= note["until_us"]:
            return None
        for each in note["objects"]:
            try:
                if self.storage.size(self.folder, each["name"]) != each["bytes"]:
                    return None
            except FileNotFoundError:
                return None
        return self._stored(note)

    def _stored(self, note: dict[str, Any]) -> Iterator[FileRows]:
        yield FileRows(ROWS.empty_table(), note["counts"])
        for each in note["objects"]:
            data = self.storage.read(self.folder, each["name"])
            if digest(data) != each["digest"]:
                raise damaged(self.storage, "its digest is another", self.folder, each["name"])
            file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
            for batch in file.iter_batches(ROWS_PER_PIECE, use_threads=False):
                yield FileRows(pa.Table.from_batches([batch], ROWS), {})

    def keep(self, source: Source, rows: Iterable[FileRows]) -> Iterator[FileRows]:
        """`rows` of a file as they are; when they are through, they are kept."""
        name = self.names[source.number]
        counts: Counter[str] = Counter()
        waiting: list[pa.Table] = []
        objects: list[dict[str, Any]] = []
        until_us = ALWAYS

        def write() -> None:
            sink = pa.BufferOutputStream()
            pq.write_table(pa.concat_tables(waiting), sink, compression="zstd")
            data = sink.getvalue().to_pybytes()
            own = f"{name}-{len(objects):05d}.parquet"
            self.storage.write(data, self.folder, own)
            objects.append({"name": own, "bytes": len(data), "digest": digest(data)})
            waiting.clear()

        for each in rows:
            yield each
            counts.update(each.counts)
            until_us = min(until_us, each.until_us)
            waiting.append(each.table)
            if sum(table.nbytes for table in waiting) >= OBJECT_BYTES:
                write()
        if until_us:
            if waiting:
                write()
            note = {"source": source.name, "until_us": until_us, "counts": counts}
            self.storage.write_json({**note, "objects": objects}, self.folder, f"{name}.json")


def clean_logs_of(context: Context, sources: list[Source], people: People) -> CleanLogs | None:
    """What is kept of tonight's files and what will be, written down for `llmaug gc`; None where
    nothing is to be kept."""
    config, storage, note = context.config.ingest, context.storage, context.progress.note
    if not config.keep_clean:
        return None
    if config.order == "line":
        note("ingest.keep_clean: lines are counted over all files, so all of them are read")
        return None
    if people.keeps_mapping:
        note(
            "ingest.keep_clean: all files are read, for who is behind a pseudonym is not kept "
            "elsewhere than in the run's mapping; set privacy.pseudonyms.keep_mapping: false"
        )
        return None
    place = resolve_uri(config.path, storage)
    memory = (run_folder(context.run_id), "source_digests.json")
    found = identities(storage, memory, place, sources)
    names = {each.number: digest(own) for each, own in zip(sources, found, strict=True)}
    folder = f"{CLEAN_LOGS}/{_how(config, people)}"
    storage.write_json({"folder": folder, "files": [*names.values()]}, *_used(context.run_id))
    there = {n.removesuffix(".json") for n in storage.names(folder) if n.endswith(".json")}
    known = frozenset(there.intersection(names.values()))
    new = [source for source in sources if names[source.number] not in known]
    key = config.date_partition or ""
    days = sorted({day for source in new if (day := source.partition.get(key))})
    of = f" ({', '.join(days[:7])}{', ...' * (len(days) > 7)})" if days else ""
    others = "; the others were on an earlier night" if known else ""
    note(f"{len(new):,} of {len(sources):,} files are read{of}{others}")
    return CleanLogs(storage, folder, names, known)


def _how(config: IngestConfig, people: People) -> str:
    """Digest of what decides, beside a file, which rows come of it."""
    settings = config.model_dump(mode="json", exclude=_LATER)
    return digest([settings, people.identity, code_version([__name__])])[:16]


def _used(run_id: str) -> tuple[str, ...]:
    return run_folder(run_id), "ingest", USED


def used_by(storage: Storage, run_ids: Iterable[str]) -> set[str]:
    """`<folder>/<file>` of `clean_logs` that runs used."""
    used = (read_object(storage, *_used(run_id)) for run_id in run_ids)
    return {f"{each['folder']}/{name}" for each in used if each for name in each["files"]}


def owner_of(path: str) -> str:
    """What `used_by` has of an object below `clean_logs`."""
    folder, _, file = path.rpartition("/")
    return f"{folder}/{file[:32]}"
