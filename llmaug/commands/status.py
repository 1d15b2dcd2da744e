"""How far a run is, read from storage alone."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import Any

from llmaug.config.names import run_folder
from llmaug.core.contents import damage_of
from llmaug.core.lease import Holder, lives
from llmaug.core.storage import Storage
from llmaug.core.stored import MANIFEST, STARTED, Finished, Running, read_record, read_run
from llmaug.errors import UserError


def read_status(storage: Storage, run_id: str) -> dict[str, Any]:
    """{run_id, holder, progress, stages: [{name, state, seconds, rows, damage, notes}]};
    damage: {file: what is wrong}, by names and sizes; notes: what came from earlier nights, and why
    units failed.

    Raises UserError when there is no such run, listing those that there are.
    """
    folder = run_folder(run_id)
    run = read_run(storage, run_id)
    return {
        "run_id": run_id,
        "holder": _holder(storage, folder),
        "progress": _progress(storage, folder),
        "stages": [_stage(storage, folder, name) for name in run.get("stages", [])],
    }


def _progress(storage: Storage, folder: str) -> dict[str, Any] | None:
    """None also where it is damaged: what is written every two seconds holds up nobody."""
    with contextlib.suppress(UserError):
        return dict(read_record(storage, Running, folder, "progress.json") or {}) or None
    return None


def _holder(storage: Storage, folder: str) -> dict[str, Any] | None:
    """Who holds the run, with `alive` (null: that cannot be seen from this machine)."""
    value, version = storage.read_any(folder, "lease.json")
    holder = Holder.read(value)
    alive = lives(holder)
    if version is None or alive is False:
        return None
    return {**asdict(holder), "alive": alive, "seen": f"{holder}, {holder.last_seen}"}


def _stage(storage: Storage, folder: str, name: str) -> dict[str, Any]:
    manifest = read_record(storage, Finished, f"{folder}/{name}", MANIFEST)
    if manifest:
        rows = sum(part["rows"] for part in manifest["parts"])
        damage = damage_of(storage, f"{folder}/{name}", manifest)
        state = "damaged" if damage else "done"
        return {
            "name": name, "state": state, "seconds": manifest["seconds"], "rows": rows,
            "damage": damage, "notes": _notes(manifest.get("counts") or {}),
        }  # fmt: skip
    started = storage.exists(f"{folder}/{name}", STARTED)
    state = "started" if started else "waiting"
    return {"name": name, "state": state, "seconds": None, "rows": 0, "damage": {}, "notes": []}


def _notes(counts: dict[str, Any]) -> list[str]:
    """What of a stage's counts one asks for in the morning."""
    found = []
    if files := counts.get("files.from_cache"):
        found.append(f"{files:,} of {files + counts.get('files.read', 0):,} files kept from before")
    if hits := counts.get("cache_hits"):
        found.append(f"{hits:,} of {counts.get('planned', 0):,} units answered before")
    failed = [(name, n) for name, n in sorted(counts.items()) if name.startswith("failed.") and n]
    found += [f"{n:,} {name.replace('.', ': ', 1)}" for name, n in failed]
    return found
