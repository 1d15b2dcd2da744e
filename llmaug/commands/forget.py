"""`llmaug forget`: remove what descends from a user, and read that user's events no more.

Runs, answers in the cache and lists are derived data: they are deleted, runs as a whole, for no
stage of them can be had without the user but by making it anew. Published versions never change:
they are marked for retraining, or deleted where that is asked for. The logs are not ours and stay.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmaug.commands.descent import LISTS_NOTE, Descent, config_of, described, find_descent
from llmaug.config.names import CLEAN_LOGS, PUBLISHED, RUNS
from llmaug.core.contents import read_object
from llmaug.core.forgotten import FOLDER, remember_to_forget
from llmaug.core.formats import utc_now
from llmaug.core.lease import Lease
from llmaug.core.pseudonyms import is_pseudonym
from llmaug.core.storage import Storage, digest
from llmaug.errors import UserError
from llmaug.publish import pointer

MARK = "_retrain.json"
"""In the folder of a published version that was trained on somebody who is forgotten."""
RECEIPTS = f"{FOLDER}/receipts"
LEASE = "lease.json", "lease.json.lock"


def forget(
    storage: Storage,
    user_ids: Sequence[str],
    delete: bool = False,
    models: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """What descends from the users; with `delete` it is removed, and they are put on the list of
    those whose events are dropped when logs are read.

    user_ids: as in the logs. models: published versions are deleted too, not marked. Returns what
    was found (`descent.described`) with {deleted, models, receipt: its path, or None}. Raises
    UserError where a run is held by a process, before anything is removed. Whenever it is stopped,
    the same command does the rest.
    """
    if given := [user for user in user_ids if is_pseudonym(user) or not user]:
        raise UserError(
            f"--user {given[0]!r}: give the id of the logs: by a pseudonym nobody would know whose "
            "events to drop tomorrow"
        )
    found = find_descent(storage, user_ids)
    report = {**described(found), "deleted": delete, "models": models, "logs": _logs(storage)}
    if not delete:
        return {**report, "receipt": None}
    name = f"{utc_now().replace(':', '')}-{secrets.token_hex(4)}.json"
    hashes = [remember_to_forget(storage, user, name) for user in user_ids]
    receipt = {"users": hashes, "begun_utc": utc_now(), **report}
    storage.write_json(receipt, RECEIPTS, name)  # what is removed is known even if we are killed
    with ExitStack() as held:
        leases = {
            run_id: held.enter_context(Lease(storage, f"{RUNS}/{run_id}", tell=tell))
            for run_id in found.runs
        }
        removed: dict[str, Any] = {
            "cache": _remove_cache(storage, found),
            "lists": _remove_from_lists(storage, found),
            "clean_logs": _remove_clean_logs(storage),
        }
        _judge_versions(storage, found, models, name, tell)
        # By the runs all the rest was found, and by a run its followers, which `found` has after
        # it: were they gone first, nobody would find what is left when this is stopped.
        removed["runs"] = {
            run_id: _remove_run(storage, run_id, found, leases[run_id])
            for run_id in reversed(found.runs)
        }
    if storage.is_local:
        for run_id in found.runs:
            storage.delete(RUNS, run_id, LEASE[1])
            storage.delete(RUNS, run_id)
    whole = {**receipt, "removed": removed, "finished_utc": utc_now()}
    storage.write_json({**whole, "digest": digest(whole)}, RECEIPTS, name)
    return {**report, "receipt": storage.uri(RECEIPTS, name)}


def _logs(storage: Storage) -> list[str]:
    """Where the logs of all runs lie: what is in them is for their owner to delete."""
    places = set()
    for run_id in storage.names(RUNS):
        ingest = config_of(storage, run_id).get("ingest")
        for section in (ingest, ingest.get("users") if isinstance(ingest, dict) else None):
            path = section.get("path") if isinstance(section, dict) else None
            if isinstance(path, str):
                places.add(path.replace("{root}", storage.root.rstrip("/")))
    return sorted(places)


def _remove_run(storage: Storage, run_id: str, found: Descent, lease: Lease) -> dict[str, Any]:
    """{files, bytes, digest: of their names and sizes} of what was there."""
    folder = f"{RUNS}/{run_id}"
    sizes = {n: size for n, size in storage.sizes(folder).items() if n not in LEASE}
    naming = {path.split("/")[2] for path in found.rows if path.startswith(f"{folder}/")}
    # Of a run that is half removed there is still what it is found by: the tables that name a
    # user, in ingest/ which names they have, and that it is a run.
    last = [*sorted(naming - {"ingest"}), "ingest", "run.json"]
    first = [name for name in storage.names(folder) if name not in (*LEASE, *last)]
    for name in [*first, *last]:
        lease.confirm()
        storage.delete(folder, name)
    return {"files": len(sizes), "bytes": sum(sizes.values()), "digest": digest(sizes)}


def _remove_cache(storage: Storage, found: Descent) -> dict[str, int]:
    """{files: removed whole, rows: removed from others}."""
    counts = {"files": 0, "rows": 0}
    for folder in found.cache_folders:
        for file in storage.sizes(folder):
            storage.delete(*f"{folder}/{file}".split("/"))
            counts["files"] += 1
    for path in found.cache_files:
        counts["rows"] += _drop_rows(storage, path, found.names)[1]
    return counts


def _remove_clean_logs(storage: Storage) -> dict[str, int]:
    """{files: removed}: all that is kept of log files, quarantined lines too. Who is forgotten is
    part of how they were read, so that none would serve another night."""
    files = storage.sizes(CLEAN_LOGS)
    for file in files:
        storage.delete(CLEAN_LOGS, *file.split("/"))
    return {"files": len(files)}


def _drop_rows(storage: Storage, path: str, names: set[str]) -> tuple[pa.Table, int]:
    """Write a table again without the users; returns it, and how many rows went."""
    table = storage.read_table(path)
    wanted = pa.array(sorted(names), pa.string())
    kept = table.filter(pc.fill_null(pc.invert(pc.is_in(table["user_id"], wanted)), True))
    storage.write_table(kept, path)
    return kept, table.num_rows - kept.num_rows


def _remove_from_lists(storage: Storage, found: Descent) -> dict[str, int]:
    """{folder: rows removed} of lists that `llmaug recommend` wrote; their notes say so too."""
    counts: dict[str, int] = {}
    for path in found.lists:
        folder, _, file = path.rpartition("/")
        kept, num = _drop_rows(storage, path, found.names)
        part, data = file.removesuffix(".parquet"), storage.read(path)
        facts = {"rows": kept.num_rows, "bytes": len(data), "digest": digest(data)}
        note = {**read_object(storage, folder, f"{part}.json"), **facts}
        storage.write_json(note, folder, f"{part}.json")
        whole, version = storage.read_version(folder, LISTS_NOTE)
        parts = [note if each["part"] == part else each for each in whole["parts"]]
        if version is None or not storage.swap({**whole, "parts": parts}, version, folder,
                                               LISTS_NOTE):  # fmt: skip
            raise UserError(
                f"{storage.uri(folder)}: new lists are being written; give the command again"
            )
        counts[folder] = counts.get(folder, 0) + num
    return counts


def _judge_versions(
    storage: Storage, found: Descent, models: bool, receipt: str, tell: Callable[[str], None]
) -> None:
    """Mark the versions that descend from a user, or remove them."""
    if not models:
        for version, why in found.versions.items():
            mark = {"why": why, "receipt": receipt, "marked_utc": utc_now()}
            storage.create(mark, *version.split("/"), MARK)
        return
    for name in storage.names(PUBLISHED):
        _point_elsewhere(storage, name, set(found.versions), tell)
    for version in found.versions:
        files = storage.sizes(version)
        for file in sorted(files, key=lambda file: file != pointer.CARD):  # no longer whole: first
            storage.delete(*f"{version}/{file}".split("/"))


def _point_elsewhere(
    storage: Storage, name: str, gone: set[str], tell: Callable[[str], None]
) -> None:
    """Move CURRENT off the versions `gone`: to the last one before that stays, or to none."""
    seen = read_object(storage, PUBLISHED, name, "CURRENT")
    if seen.get("version") not in gone:
        return
    past = [seen.get("previous"), *seen.get("earlier", [])]
    whole = {card["version"] for card in pointer.cards(storage, name)}  # gc removes old ones
    left = [version for version in past if version in whole - gone]
    if left:
        pointer.roll_back(storage, name, left[0].rpartition("/")[2])
        tell(f"{name}: {left[0]} is current now")
    else:
        storage.delete(PUBLISHED, name, "CURRENT")
        tell(f"{name}: nothing is published now; run a night")
