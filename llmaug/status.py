"""How far a run is, read from storage alone."""

from __future__ import annotations

import contextlib
from typing import Any

from llmaug.errors import UserError
from llmaug.lease import is_alive
from llmaug.storage import Storage
from llmaug.stored import MANIFEST, STARTED, Finished, Running, read_record, read_run


def read_status(storage: Storage, run_id: str) -> dict[str, Any]:
    """{run_id, holder, progress, stages: [{name, state, seconds, rows}]}.

    Raises UserError when there is no such run, listing those that there are.
    """
    folder = f"runs/{run_id}"
    run = read_run(storage, run_id)
    lease = storage.read_json(folder, "lease.json")
    return {
        "run_id": run_id,
        "holder": lease if lease and is_alive(lease) else None,
        "progress": _progress(storage, folder),
        "stages": [_stage(storage, folder, name) for name in run.get("stages", [])],
    }


def _progress(storage: Storage, folder: str) -> dict[str, Any] | None:
    """None also where it is damaged: what is written every two seconds holds up nobody."""
    with contextlib.suppress(UserError):
        return read_record(storage, Running, folder, "progress.json")
    return None


def _stage(storage: Storage, folder: str, name: str) -> dict[str, Any]:
    manifest = read_record(storage, Finished, f"{folder}/{name}", MANIFEST)
    if manifest:
        rows = sum(part["rows"] for part in manifest["parts"])
        return {"name": name, "state": "done", "seconds": manifest["seconds"], "rows": rows}
    started = storage.exists(f"{folder}/{name}", STARTED)
    state = "started" if started else "waiting"
    return {"name": name, "state": state, "seconds": None, "rows": 0}
