"""Stage `ingest`: logs of any supported format become clean events, one part a set of users.

    files -> read and check rows -> by hash of the user into parts (Ray Data shuffle)
          -> sort, de-duplicate, drop bots -> k-core over users and items -> parts of EVENT

Every row that was read is accepted, quarantined (with file, row and reason) or dropped (by a
rule of the config), and the ledger that `run` returns adds up. The driver holds counts for
each item at most, never rows.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from typing import Any

import pyarrow.compute as pc

from llmaug.config import IngestConfig
from llmaug.errors import UserError
from llmaug.kcore import core_items, finish_part, survivors
from llmaug.readers import check_columns
from llmaug.side_tables import write_items, write_users
from llmaug.sources import Source, list_sources, prune, resolve_uri
from llmaug.stage import Context, Stage, map_parts, total_counts
from llmaug.storage import Storage, digest
from llmaug.user_parts import clean_parts, events_layout

PART_BYTES = 128 * 2**20


def run(context: Context) -> dict[str, Any]:
    """Read, clean and part the logs; returns the ledger (see the module docstring)."""
    from llmaug.cluster import connect

    config, storage, folder = context.config.ingest, context.storage, context.folder("ingest")
    clean = f"{folder}/clean"
    sources = _sources(context)
    num_parts = config.num_parts or max(4, math.ceil(sum(s.size for s in sources) / PART_BYTES))
    parts = [f"part-{index:05d}" for index in range(num_parts)]
    place = resolve_uri(config.path, storage)
    check_columns(place, sources, events_layout(config))
    _forget_killed_run(storage, folder)
    connect(context.config.ray)

    clean_parts(context, sources, parts)
    counts = total_counts(storage, clean)
    _check_quarantine(context, counts)
    num_items = core_items(context, clean, parts)
    finish = partial(finish_part, storage=storage, clean=clean, folder=folder, k=config.k_core)
    counts += map_parts(context, folder, parts, finish)
    ledger = _ledger(context, counts) | {"items": num_items, "files": len(sources)}
    items = survivors(storage, clean) if config.k_core > 1 else None
    ledger |= write_items(storage, folder, config.items, items)
    ledger |= write_users(storage, folder, config.users)
    storage.delete(clean)
    return ledger


def _sources(context: Context) -> list[Source]:
    config = context.config.ingest
    place = resolve_uri(config.path, context.storage, "ingest.path")
    return prune(list_sources(place, "ingest.path", context.progress.note), config)


def _uri(context: Context) -> str:
    return resolve_uri(context.config.ingest.path, context.storage).root


def _outside(context: Context) -> dict[str, Any]:
    """Digest of all source files with size and version."""
    config, storage = context.config.ingest, context.storage
    found = [("events", *source) for source in _sources(context)]
    for name, table in (("items", config.items), ("users", config.users)):
        if table:
            place = resolve_uri(table.path, storage)
            found += [(name, *source) for source in list_sources(place, f"ingest.{name}.path")]
    return {"num_files": len(found), "digest": digest(found)}


def _forget_killed_run(storage: Storage, folder: str) -> None:
    for name in ("clean", "quarantine", "items", "users"):
        storage.delete(folder, name)
    for name in storage.names(folder):
        if name.startswith("part-"):
            storage.delete(folder, name)


# -- the ledger --------------------------------------------------------------------------


def _check_quarantine(context: Context, counts: Counter[str]) -> None:
    """Note what was quarantined and what else is odd; stop when it is too much."""
    config, storage = context.config.ingest, context.storage
    folder = f"{context.folder('ingest')}/quarantine"
    reasons = {n.split(".")[1]: c for n, c in counts.items() if n.startswith("quarantined.")}
    quarantined, read = sum(reasons.values()), counts["rows_read"]
    if counts["empty_files"]:
        context.progress.note(f"{counts['empty_files']:,} files hold no rows")
    if reasons.get("unreadable_file", 0) > config.max_unreadable_files:
        raise UserError(_unreadable(storage, folder, reasons["unreadable_file"], config))
    if not read:
        raise UserError(f"{_uri(context)}: the files hold no rows; check ingest.path and start/end")
    if counts["bot_users"]:
        context.progress.note(
            f"{counts['bot_users']:,} users with more than {config.max_events_per_day:,} events "
            f"on one day dropped as bots ({counts['dropped.bot']:,} rows)"
        )
    if not quarantined:
        return
    listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))
    text = f"{quarantined:,} of {read:,} rows quarantined ({listed}); see {storage.uri(folder)}"
    if quarantined / read <= config.max_quarantined:
        context.progress.note(text)
        return
    examples = "".join(
        f"\n  {row['file']} row {row['row'] or '-'}: {row['reason']}: {row['detail'] or ''}"
        for row in _examples(storage, folder, set(reasons))
    )
    raise UserError(
        f"{text}. That is more than ingest.max_quarantined {config.max_quarantined:.2%}: mend the "
        f"config or the logs, or raise it.{examples}"
    )


def _unreadable(storage: Storage, folder: str, count: int, config: IngestConfig) -> str:
    (example,) = _examples(storage, folder, {"unreadable_file"})
    more = f" and {count - 1:,} more files cannot be read" if count > 1 else " cannot be read"
    return (
        f"{example['file']}{more}: {example['detail']}. Nobody knows how many rows they held: "
        f"bring whole files, or allow them with ingest.max_unreadable_files: {count}"
    )


def _examples(storage: Storage, folder: str, reasons: set[str]) -> list[dict[str, Any]]:
    """One row of each reason, from as few quarantine parts as that takes."""
    found: dict[str, dict[str, Any]] = {}
    for part in storage.parts(folder):
        rows = storage.read_part(folder, part)
        for reason in rows["reason"].unique().to_pylist():
            first = rows.filter(pc.equal(rows["reason"], reason)).slice(0, 1)
            found.setdefault(reason, first.to_pylist()[0])
        if set(found) >= reasons:
            break
    return [found[reason] for reason in sorted(found)]


def _ledger(context: Context, counts: Counter[str]) -> dict[str, Any]:
    """The counts with their sums. Raises UserError when no event is left."""

    def parts_of(prefix: str) -> dict[str, int]:
        return {name: n for name, n in sorted(counts.items()) if name.startswith(f"{prefix}.")}

    dropped, quarantined = parts_of("dropped"), parts_of("quarantined")
    accepted, read = counts["accepted"], counts["rows_read"]
    lost = {name: n for name, n in {**dropped, **quarantined}.items() if n}
    if not accepted:
        listed = ", ".join(f"{name} {n:,}" for name, n in sorted(lost.items(), key=lambda x: -x[1]))
        raise UserError(
            f"{_uri(context)}: none of {read:,} rows is left: {listed}. Loosen the "
            "rule of the ingest config that dropped them"
        )
    assert read == accepted + sum(lost.values()), f"ledger of ingest does not add up: {counts}"
    return {
        "rows_read": read,
        "accepted": accepted,
        "quarantined": sum(quarantined.values()),
        "dropped": sum(dropped.values()),
        **lost,
        "users": counts["users"],
        "bot_users": counts["bot_users"],
        "empty_files": counts["empty_files"],
    }


STAGE = Stage(
    name="ingest",
    run=run,
    settings=lambda config: config.ingest,
    outside=_outside,
    code=tuple(
        f"llmaug.{name}"
        for name in ("readers", "columns", "cleaning", "user_parts", "kcore", "side_tables")
    ),
)
