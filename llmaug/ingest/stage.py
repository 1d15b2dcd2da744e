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

from llmaug.config import Config, IngestConfig
from llmaug.config.names import run_folder
from llmaug.core.placing import TASKS
from llmaug.core.source_digests import identities
from llmaug.core.sources import Source, list_sources, prune, resolve_uri
from llmaug.core.stage import Context, Stage, map_parts, total_counts
from llmaug.core.storage import Storage, digest
from llmaug.errors import UserError
from llmaug.ingest.clean_logs import USED
from llmaug.ingest.cleaning import float_twins
from llmaug.ingest.counts import IngestCounts
from llmaug.ingest.file_rows import events_layout
from llmaug.ingest.kcore import core_items, finish_part, survivors
from llmaug.ingest.ledger import below, check_sums, judge_quarantine, note_oddities, one_of_each
from llmaug.ingest.people import PSEUDONYMS, People, read_people
from llmaug.ingest.readers import check_columns
from llmaug.ingest.side_ledger import (
    SideTable,
    check_overlap,
    judge,
    no_overlap,
    write_refused,
    write_side_table,
)
from llmaug.ingest.side_tables import mask_texts, read_items, read_users
from llmaug.ingest.user_parts import clean_parts

PART_BYTES = 32 * 2**20
"""Of log files: about 1.4 million events in Parquet, which one worker holds at a time."""


def run(context: Context) -> dict[str, Any]:
    """Read, clean and part the logs; returns the ledger (see the module docstring)."""
    from llmaug.core.cluster import connect

    config, storage, folder = context.config.ingest, context.storage, context.folder("ingest")
    people = read_people(context)
    clean = f"{folder}/clean"
    sources = _sources(context)
    num_parts = config.num_parts or max(4, math.ceil(sum(s.size for s in sources) / PART_BYTES))
    parts = [f"part-{index:05d}" for index in range(num_parts)]
    place = resolve_uri(config.path, storage, "ingest.path")
    check_columns(place, sources, events_layout(config))
    _forget_killed_run(storage, folder)
    items, users = _side_tables(context, people)
    connect(context.config.ray)

    clean_parts(context, sources, parts, people)
    counts = total_counts(storage, clean)
    _check_quarantine(context, counts)
    num_items = core_items(context, clean, parts)
    in_logs = survivors(storage, clean)
    counts["noted.twin_items"] = len(pc.index_in(float_twins(in_logs), in_logs).drop_null())
    note_oddities(counts, context.progress.note)
    finish = partial(finish_part, storage=storage, clean=clean, folder=folder, k=config.k_core)
    counts += map_parts(context, folder, parts, finish)
    ledger = _ledger(context, counts) | {"items": num_items, "files": len(sources)}
    if config.items:
        ledger["items_table.in_logs"] = check_overlap(items, in_logs, context.progress.note)
    if config.users:
        _check_users(context, users, parts, ledger["users"])
    kept = in_logs if config.k_core > 1 else None
    ledger |= write_side_table(storage, folder, items, kept)
    ledger |= write_side_table(storage, folder, users)
    storage.delete(clean)
    if read_people(context).identity != people.identity:
        raise UserError(
            "somebody was forgotten (`llmaug forget`) while the logs were read: run it again"
        )
    return IngestCounts.keeps(ledger)


def _side_tables(context: Context, people: People) -> tuple[SideTable, SideTable]:
    """The items and users tables: before the logs, which take longer."""
    config, storage, folder = context.config.ingest, context.storage, context.folder("ingest")
    note, place = context.progress.note, storage.uri(folder, "quarantine")
    tables = read_items(storage, config, note), read_users(storage, config, note, people)
    for table in tables:
        if context.config.privacy.mask_text:
            mask_texts(table, note)
        write_refused(storage, folder, table)
        judge(table, config.max_quarantined, place, note)
    return tables


def _check_users(context: Context, users: SideTable, parts: list[str], num_users: int) -> None:
    """Raises UserError when no user of the logs stands in `users`."""
    storage, folder = context.storage, context.folder("ingest")
    for part in parts:
        ids = storage.read_part(folder, part, ["user_id"])["user_id"]
        if pc.any(pc.is_in(ids, users.rows["user_id"])).as_py():
            return
        if len(ids):
            some = ids
    raise no_overlap(users, pc.unique(some), num_users)


def _sources(context: Context) -> list[Source]:
    config = context.config.ingest
    place = resolve_uri(config.path, context.storage, "ingest.path")
    return prune(list_sources(place, "ingest.path", context.progress.note), config)


def _uri(context: Context) -> str:
    return resolve_uri(context.config.ingest.path, context.storage).root


def _outside(context: Context) -> dict[str, Any]:
    """Digest of all source files: names, sizes and what they hold; and who goes by which id, or
    is left out."""
    people = read_people(context)
    config, storage = context.config.ingest, context.storage
    listed = {"events": (resolve_uri(config.path, storage, "ingest.path"), _sources(context))}
    for name, table in (("items", config.items), ("users", config.users)):
        if table:
            place = resolve_uri(table.path, storage, f"ingest.{name}.path")
            listed[name] = (place, list_sources(place, f"ingest.{name}.path"))
    memory, note = (run_folder(context.run_id), "source_digests.json"), context.progress.note
    found = {name: identities(storage, memory, *of, note) for name, of in listed.items()}
    return {"num_files": sum(map(len, found.values())), "digest": digest(found), **people.identity}


def _settings(config: Config) -> dict[str, Any]:
    """All but where the files lie, for what they hold is known by `_outside`, and what only says
    how the work is done."""
    elsewhere: Any = {"path": True, "items": {"path"}, "users": {"path"}, "keep_clean": True}
    own = config.ingest.model_dump(mode="json", exclude=elsewhere)
    return {**own, "mask_text": config.privacy.mask_text}


def _forget_killed_run(storage: Storage, folder: str) -> None:
    for name in ("clean", "quarantine", "items", "users", PSEUDONYMS, USED):
        storage.delete(folder, name)
    for name in storage.names(folder):
        if name.startswith("part-"):
            storage.delete(folder, name)


# -- the ledger --------------------------------------------------------------------------


def _check_quarantine(context: Context, counts: Counter[str]) -> None:
    """Note what was quarantined and what else is odd; stop when it is too much."""
    config, storage = context.config.ingest, context.storage
    folder = f"{context.folder('ingest')}/quarantine"
    reasons = {n.split(".")[1]: c for n, c in below(counts, "quarantined").items()}
    read = counts["rows_read"]
    if counts["empty_files"]:
        context.progress.note(f"{counts['empty_files']:,} files hold no rows")
    if reasons.get("unreadable_file", 0) > config.max_unreadable_files:
        raise UserError(_unreadable(storage, folder, reasons["unreadable_file"], config))
    if not read:
        raise UserError(f"{_uri(context)}: the files hold no rows; check ingest.path and start/end")
    for name, theirs in config.columns.items():
        if theirs is not None and not counts[f"found.{name}"]:
            raise UserError(
                f"{_uri(context)}: no file has a column '{theirs}' for {name}; set "
                f"ingest.columns.{name} to the right one, or to null"
            )
    if counts["bot_users"]:
        context.progress.note(
            f"{counts['bot_users']:,} users with more than {config.max_events_per_day:,} events "
            f"on one day dropped as bots ({counts['dropped.bot']:,} rows)"
        )
    judge_quarantine(
        reasons, read, config.max_quarantined, storage.uri(folder),
        lambda: one_of_each(storage, folder, set(reasons)), context.progress.note,
    )  # fmt: skip


def _unreadable(storage: Storage, folder: str, count: int, config: IngestConfig) -> str:
    examples = {row["reason"]: row for row in one_of_each(storage, folder, {"unreadable_file"})}
    example = examples["unreadable_file"]
    more = f" and {count - 1:,} more files cannot be read" if count > 1 else " cannot be read"
    return (
        f"{example['file']}{more}: {example['detail']}. Nobody knows how many rows they held: "
        f"bring whole files, or allow them with ingest.max_unreadable_files: {count}"
    )


def _ledger(context: Context, counts: Counter[str]) -> dict[str, Any]:
    """The counts with their sums. Raises UserError when no event is left."""

    accepted, read = counts["accepted"], counts["rows_read"]
    lost = below(counts, "dropped", "quarantined")
    if not accepted:
        listed = ", ".join(f"{name} {n:,}" for name, n in sorted(lost.items(), key=lambda x: -x[1]))
        raise UserError(
            f"{_uri(context)}: none of {read:,} rows is left: {listed}. Loosen the "
            "rule of the ingest config that dropped them"
        )
    check_sums("ingest", read, accepted, lost)
    return {
        "rows_read": read,
        "accepted": accepted,
        "quarantined": sum(below(counts, "quarantined").values()),
        "dropped": sum(below(counts, "dropped").values()),
        **lost,
        **below(counts, "noted", "files"),
        "users": counts["users"],
        "bot_users": counts["bot_users"],
        "empty_files": counts["empty_files"],
    }


STAGE = Stage(
    name="ingest",
    run=run,
    asks=lambda config, on_gpus: TASKS,
    settings=_settings,
    outside=_outside,
    measured=("files.read", "files.from_cache"),
)
