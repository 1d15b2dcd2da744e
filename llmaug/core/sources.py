"""Which files there are: listed, in file order, with their hive folders, pruned by date."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from fnmatch import fnmatchcase
from typing import Any, NamedTuple
from urllib.parse import unquote

from llmaug.config import IngestConfig
from llmaug.core.storage import Storage
from llmaug.errors import UserError

_GLOB = "*?["
_TABLE_MARKS = ("_delta_log", ".hoodie")
"""Hidden folders that say what the files beside them are."""


class Source(NamedTuple):
    """One file."""

    number: int  # place in the file order, from 0
    path: str  # inside the filesystem
    name: str  # below the configured folder: what messages and quarantine rows call it
    size: int
    version: str  # ETag or modification time
    partition: dict[str, str | None]  # hive folders: {"dt": "2026-01-31"}


def resolve_uri(path: str, storage: Storage, setting: str = "path") -> Storage:
    """`path` of the config (`{root}` filled in) as a Storage of its own.

    setting: what named it, for messages. Raises UserError for what is neither s3:// nor local.
    """
    scheme, _, rest = path.partition("://")
    if rest and scheme not in ("s3", "file"):
        fix = f"write s3://{rest}" if scheme in ("s3a", "s3n") else "copy the data to one of these"
        raise UserError(f"{setting} {path}: a folder or s3://bucket/prefix is read; {fix}")
    return Storage(path.replace("{root}", storage.root.rstrip("/")), storage.endpoint_url)


def list_sources(
    place: Storage, setting: str, note: Callable[[str], None] = lambda text: None
) -> list[Source]:
    """All files below `place`, sorted by path; hidden and `_` names, markers of folders, pipes
    and devices are left out (the last two with a note).

    `place` is a folder, a file or a glob; `setting` is what named it (`ingest.path`), for
    messages. Raises UserError when the path (or the bucket) does not exist or holds no file, when
    it is a table whose files are not its rows, or a link leads out of it.
    """
    folder, pattern = _split_glob(place)
    uri = place.root
    if not folder.exists():
        raise UserError(
            f"{uri}: no such file, folder or bucket; set {setting} to where the data lies"
        )
    base = folder.path().rstrip("/")
    skipped: Counter[str] = Counter()
    if folder.is_local:
        listed = dict(_walk_local(base, pattern, setting, skipped))
    else:
        listed = dict(_walk(folder, base))
    live = _live_files(folder, base, listed, setting)
    found = []
    for path, info in listed.items():
        below = path[len(base) :].strip("/")
        steps = below.split("/") if below else [base.rsplit("/", 1)[-1]]
        if path.endswith(("/", "_$folder$")) or (below and any(s[:1] in "._" for s in steps)):
            continue
        if live is not None and below not in live:
            continue
        if pattern is not None and not _fits(steps, pattern):
            continue
        version = str(info.get("ETag") or info.get("mtime") or info.get("LastModified") or "")
        steps = [_text(step) for step in steps]
        partition = dict(_hive(step) for step in steps[:-1] if "=" in step)
        if live is not None:
            partition |= live[below]
        found.append(("/".join(steps), path, int(info["size"] or 0), version, partition))
    for kind, count in skipped.items():
        note(f"{setting}: {count:,} {kind} skipped")
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


def _split_glob(place: Storage) -> tuple[Storage, list[str] | None]:
    """The folder before the first step of the path that has a `*`, `?` or `[`, and the steps of
    the pattern below it; a file or folder of that very name is no pattern."""
    if not any(mark in place.root for mark in _GLOB) or place.exists():
        return place, None
    steps = place.root.split("/")
    first = next(at for at, step in enumerate(steps) if any(mark in step for mark in _GLOB))
    return Storage("/".join(steps[:first]) or "/", place.endpoint_url), steps[first:]


def _fits(steps: list[str], pattern: list[str]) -> bool:
    """Does a path fit the pattern, step by step? `**` is any number of steps; a pattern of a
    folder fits all files below it."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_fits(steps[at:], pattern[1:]) for at in range(len(steps)))
    return bool(steps) and fnmatchcase(steps[0], pattern[0]) and _fits(steps[1:], pattern[1:])


def _may_lead(steps: list[str], pattern: list[str]) -> bool:
    """Can a path that begins with the folders `steps` fit the pattern?"""
    if not steps or not pattern or pattern[0] == "**":
        return True
    return fnmatchcase(steps[0], pattern[0]) and _may_lead(steps[1:], pattern[1:])


def _walk(folder: Storage, base: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, info in folder.fs.find(base, detail=True).items():
        yield str(path), info


def _walk_local(
    base: str, pattern: list[str] | None, setting: str, skipped: Counter[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Files below `base`; links are followed where they stay within it. Of links, those that the
    `pattern` does not mean are passed over, and so are hidden folders: both lead anywhere in a
    folder that holds a project (`.venv`)."""
    root = os.path.realpath(base)
    if os.path.isfile(root):
        yield base, _info(root)
        return
    if not os.path.isdir(root):
        raise UserError(
            f"{base}: neither a file nor a folder; set {setting} to where the data lies"
        )
    seen = {root}
    for folder, folders, files in os.walk(base, followlinks=True, onerror=_raise):
        folders[:] = [name for name in folders if name[:1] not in "._" or name in _TABLE_MARKS]
        for name in [*folders]:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                continue
            if pattern is not None and not _may_lead(_steps(path, base), pattern):
                folders.remove(name)
                continue
            target = _inside(path, root, base, setting)
            if target in seen or root.startswith(target + os.sep):
                folders.remove(name)  # a circle, or linked twice
            seen.add(target)
        for name in files:
            path = os.path.join(folder, name)
            if name[:1] in "._":
                yield path, {"size": 0}
                continue
            if os.path.islink(path):
                if pattern is not None and not _fits(_steps(path, base), pattern):
                    continue
                _inside(path, root, base, setting)
            info = _info(path)
            if stat.S_ISREG(info["mode"]):
                yield path, info
            else:
                skipped["pipes and devices"] += 1


def _steps(path: str, base: str) -> list[str]:
    return os.path.relpath(path, base).split(os.sep)


def _inside(link: str, root: str, base: str, setting: str) -> str:
    """Where a link leads. Raises UserError when that is out of the folder, or nowhere."""
    target = os.path.realpath(link)
    name = os.path.relpath(link, base)
    if target != root and not target.startswith(root + os.sep):
        raise UserError(
            f"{name}: a link to {target}, outside {base}; copy what it leads to, or set {setting} "
            "to the folder that holds both"
        )
    if not os.path.exists(target):
        raise UserError(f"{name}: a link to {target}, which does not exist; remove it")
    return target


def _info(path: str) -> dict[str, Any]:
    found = os.stat(path)
    return {"size": found.st_size, "mtime": found.st_mtime, "mode": found.st_mode}


def _raise(error: OSError) -> None:
    raise error


def _live_files(
    folder: Storage, base: str, listed: dict[str, Any], setting: str
) -> dict[str, dict[str, str | None]] | None:
    """The files that are a Delta table's rows; None where the folder is no table.

    Raises UserError for the folder of another table format: its files are not its rows.
    """
    for path in listed:
        steps = path[len(base) :].strip("/").split("/")
        if "_delta_log" in steps[:-1]:
            at = steps.index("_delta_log")
            if at == 0:
                from llmaug.core.delta_table import live_files

                return live_files(folder, setting)
            where = "/".join(steps[:at])
            raise UserError(f"{where}: is a Delta table in a folder of others; set {setting} to it")
        for mark, kind in ((".hoodie", "a Hudi table"), ("metadata", "an Iceberg table")):
            is_iceberg = steps[-1].endswith(".metadata.json") or mark == ".hoodie"
            if mark in steps[:-1] and is_iceberg:
                where = "/".join(steps[: steps.index(mark)]) or base
                raise UserError(
                    f"{where}: is {kind}, in which deleted rows still lie as files; export its "
                    f"rows to plain files and set {setting} to them"
                )
    return None


def _text(name: str) -> str:
    """The name of a file as text that tables can hold: bytes on a disk that are no UTF-8 as
    `\\xe9`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _hive(step: str) -> tuple[str, str | None]:
    key, _, value = step.partition("=")
    return unquote(key), None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
