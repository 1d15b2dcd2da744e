"""`llmaug status`: how far a run is, from what lies in storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmaug.commands.status import read_status
from llmaug.core.lease import Lease
from llmaug.core.stage import MANIFEST, STARTED
from llmaug.core.storage import Storage
from llmaug.errors import UserError

FOLDER = "runs/tonight"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A run in its second of three stages."""
    storage = Storage(str(tmp_path))
    storage.write_json({"stages": ["ingest", "lm/causal", "plan"]}, FOLDER, "run.json")
    counts = {"rows_read": 7, "files.read": 1, "files.from_cache": 9}
    manifest = {"parts": [{"rows": 3}, {"rows": 4}], "seconds": 1.5, "counts": counts}
    storage.write_json({}, FOLDER, "ingest", STARTED)
    storage.write_json(manifest, FOLDER, "ingest", MANIFEST)
    storage.write_json({}, FOLDER, "lm/causal", STARTED)
    storage.write_json({"stage": "lm/causal", "done": 5, "total": 9}, FOLDER, "progress.json")
    return storage


def test_stages_are_done_started_or_waiting(storage: Storage) -> None:
    status = read_status(storage, "tonight")
    assert status["stages"] == [
        {"name": "ingest", "state": "done", "seconds": 1.5, "rows": 7, "damage": {},
         "notes": ["9 of 10 files kept from before"]},
        {"name": "lm/causal", "state": "started", "seconds": None, "rows": 0, "damage": {},
         "notes": []},
        {"name": "plan", "state": "waiting", "seconds": None, "rows": 0, "damage": {},
         "notes": []},
    ]  # fmt: skip
    assert (status["progress"]["done"], status["progress"]["total"]) == (5, 9)


def test_answers_of_earlier_nights_and_reasons_of_failures_are_counted(storage: Storage) -> None:
    counts = {"planned": 1200, "cache_hits": 1100, "failed": 3, "failed.refused_by_engine": 3}
    manifest = {"parts": [], "seconds": 1.0, "counts": counts}
    storage.write_json(manifest, FOLDER, "plan", MANIFEST)
    assert read_status(storage, "tonight")["stages"][2]["notes"] == [
        "1,100 of 1,200 units answered before", "3 failed: refused_by_engine",
    ]  # fmt: skip


def test_a_running_process_is_shown_until_it_lets_go(storage: Storage) -> None:
    assert read_status(storage, "tonight")["holder"] is None
    with Lease(storage, FOLDER):
        assert read_status(storage, "tonight")["holder"]["pid"]
    assert read_status(storage, "tonight")["holder"] is None


def test_a_holder_on_another_machine_is_shown_with_what_it_said_last(storage: Storage) -> None:
    """Whether it lives cannot be seen from here, and clocks differ."""
    stale = {"host": "elsewhere", "pid": 7, "heartbeat": 1_700_000_000.0}
    storage.write_json(stale, FOLDER, "lease.json")
    holder = read_status(storage, "tonight")["holder"]
    assert holder["alive"] is None
    assert holder["seen"] == (
        "process 7 on elsewhere, heartbeat at 2023-11-14 22:13:20 UTC by its clock"
    )


def test_a_dead_process_of_this_machine_holds_nothing(storage: Storage) -> None:
    with Lease(storage, FOLDER):
        held = storage.read_json(FOLDER, "lease.json")
    storage.write_json({**held, "started": held["started"] + 1}, FOLDER, "lease.json")
    assert read_status(storage, "tonight")["holder"] is None


def test_an_unknown_run_lists_those_that_there_are(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="runs/yesterday: no such run; runs here: tonight"):
        read_status(storage, "yesterday")
    with pytest.raises(UserError, match="runs here: none"):
        read_status(Storage(f"{tmp_path}/empty"), "tonight")
