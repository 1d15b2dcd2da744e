"""`llmaug status`: how far a run is, from what lies in storage."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llmaug.errors import UserError
from llmaug.lease import EXPIRES_S, Lease
from llmaug.stage import MANIFEST, STARTED
from llmaug.status import read_status
from llmaug.storage import Storage

FOLDER = "runs/tonight"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A run in its second of three stages."""
    storage = Storage(str(tmp_path))
    storage.write_json({"stages": ["ingest", "lm/causal", "plan"]}, FOLDER, "run.json")
    manifest = {"parts": [{"rows": 3}, {"rows": 4}], "seconds": 1.5}
    storage.write_json({}, FOLDER, "ingest", STARTED)
    storage.write_json(manifest, FOLDER, "ingest", MANIFEST)
    storage.write_json({}, FOLDER, "lm/causal", STARTED)
    storage.write_json({"stage": "lm/causal", "done": 5, "total": 9}, FOLDER, "progress.json")
    return storage


def test_stages_are_done_started_or_waiting(storage: Storage) -> None:
    status = read_status(storage, "tonight")
    assert status["stages"] == [
        {"name": "ingest", "state": "done", "seconds": 1.5, "rows": 7},
        {"name": "lm/causal", "state": "started", "seconds": None, "rows": 0},
        {"name": "plan", "state": "waiting", "seconds": None, "rows": 0},
    ]
    assert (status["progress"]["done"], status["progress"]["total"]) == (5, 9)


def test_a_running_process_is_shown_until_it_lets_go(storage: Storage) -> None:
    assert read_status(storage, "tonight")["holder"] is None
    with Lease(storage, FOLDER):
        assert read_status(storage, "tonight")["holder"]["pid"]
    assert read_status(storage, "tonight")["holder"] is None


def test_an_expired_lease_is_nobody(storage: Storage) -> None:
    stale = {"host": "elsewhere", "pid": 1, "heartbeat": time.time() - EXPIRES_S - 1}
    storage.write_json(stale, FOLDER, "lease.json")
    assert read_status(storage, "tonight")["holder"] is None


def test_an_unknown_run_lists_those_that_there_are(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="runs/yesterday: no such run; runs here: tonight"):
        read_status(storage, "yesterday")
    with pytest.raises(UserError, match="runs here: none"):
        read_status(Storage(f"{tmp_path}/empty"), "tonight")
