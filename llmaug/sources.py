"""Which files there are: listed, in file order, with their hive folders, pruned by date."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple
from urllib.parse import unquote

from llmaug.config import IngestConfig
from llmaug.errors import UserError
from llmaug.storage import Storage


class Source(NamedTuple):
    """One file."""

    number: int  # place in the file order, from 0
    path: str  # inside the filesystem
    name: str  # below the configured folder: what messages and quarantine rows call it
    size: int
    version: str  # ETag or modification time
    partition: dict[str, str | None]  # hive folders: {"dt": "2026-01-31"}


def resolve_uri(path: str, storage: Storage) -> Storage:
    """`path` of the config (`{root}` filled in) as a Storage of its own."""
    return Storage(path.replace("{root}", storage.root.rstrip("/")), storage.endpoint_url)


def list_sources(place: Storage, setting: str) -> list[Source]:
    """All files below `place`, sorted by path; hidden and `_` names are left out.

    `setting` is what named the place (`ingest.path`), for messages.
    Raises UserError when the path (or the bucket) does not exist or holds no file.
    """
    uri = place.root
    if not place.exists():
        raise UserError(
            f"{uri}: no such file, folder or bucket; set {setting} to where the data lies"
        )
    base = place.path().rstrip("/")
    found = []
    for path, info in place.fs.find(base, detail=True).items():
        below = str(path)[len(base) :].strip("/")
        steps = below.split("/") if below else [base.rsplit("/", 1)[-1]]
        if str(path).endswith("/") or (below and any(step[:1] in "._" for step in steps)):
            continue
        version = str(info.get("ETag") or info.get("mtime") or info.get("LastModified") or "")
        partition = dict(_hive(step) for step in steps[:-1] if "=" in step)
        found.append(("/".join(steps), str(path), int(info["size"] or 0), version, partition))
    if not found:
        raise UserError(f"{uri}: no file in it; set {setting} to where the data lies")
    return [
        Source(number, path, name, size, version, partition)
        for number, (name, path, size, version, partition) in enumerate(sorted(found))
    ]


def prune(sources: list[Source], config: IngestConfig) -> list[Source]:
    """The sources whose date folder lies within `start` .. `end`, or that have none.

    Raises UserError when a folder is not a date, or when nothing is left.
    """
    key, start, end = config.date_partition, config.start, config.end
    if key is None or (start is None and end is None):
        return sources
    kept: list[Source] = []
    for source in sources:
        day = source.partition.get(key)
        try:
            found = date.fromisoformat(day) if day else None
        except ValueError as error:
            raise UserError(
                f"{source.name}: folder {key}={day} is not a date (2026-01-31); name the date "
                "folder in ingest.date_partition, or set it to null"
            ) from error
        if found is None or (start or found) <= found <= (end or found):
            kept.append(source._replace(number=len(kept)))
    if not kept:
        days = sorted({source.partition.get(key) or "" for source in sources})
        raise UserError(
            f"{config.path}: no folder {key}=... between {start or 'the first'} and "
            f"{end or 'the last'}; there are {len(days)} from {days[0]} to {days[-1]}. "
            "Change ingest.start and ingest.end"
        )
    return kept


def _hive(step: str) -> tuple[str, str | None]:
    key, _, value = step.partition("=")
    return unquote(key), None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
