"""A text task in vLLM is killed with -9, and goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llmaug.core.stage import MANIFEST
from llmaug.core.storage import Storage
from tests.jobs import SMALL, changed, llmaug, start, wait_until, write_config, write_logs
from tests.tables import read_rows
from tests.text.chat import write_byte_model

pytestmark = [
    pytest.mark.soak, pytest.mark.faults, pytest.mark.slow, pytest.mark.usefixtures("shared_ray"),
]  # fmt: skip

NUM_ITEMS, PER_PART, KILLED_AT = 400, 10, (3, 12, 25)
TRACK = "runs/small/text/describe_items"


def test_kill_9_costs_what_was_in_flight(tmp_path: Path) -> None:
    write_logs(str(tmp_path))
    write_byte_model(tmp_path / "chat-model")
    describe = {"kind": "describe_items", "max_rows": NUM_ITEMS, "max_new_tokens": 96}
    text = {"folder": "{root}/chat-model", "context_len": 2048, "units_per_part": PER_PART,
            "tasks": [describe]}  # fmt: skip
    path = write_config(tmp_path, changed(SMALL, text=text))
    command = ("run", "--config", str(path), "--root", str(tmp_path), "--until", "text")
    storage = Storage(str(tmp_path))
    for at_least in KILLED_AT:
        run = start(*command)
        wait_until(lambda: len(storage.parts(f"{TRACK}/outcomes")) >= at_least, run)  # noqa: B023
        time.sleep(0.1)
        run.kill()
        run.wait()
        assert not storage.exists(f"{TRACK}/outcomes", MANIFEST)
    done = llmaug(*command)
    assert done.returncode == 0, done.stderr

    asked = {row["unit_id"] for row in read_rows(storage, f"{TRACK}/plan")}
    answered = [row["unit_id"] for row in read_rows(storage, f"{TRACK}/outcomes")]
    assert len(asked) == NUM_ITEMS and sorted(answered) == sorted(asked)
    counts = storage.read_json(f"{TRACK}/outcomes", MANIFEST)["counts"]
    parts_in_flight = 3 * len(KILLED_AT)
    assert counts["repeated"] <= parts_in_flight and counts["failed"] == 0
    ledger = storage.read_json(f"{TRACK}/rows", MANIFEST)["counts"]
    assert ledger["units"] == NUM_ITEMS
    assert ledger["units"] == ledger["accepted"] + ledger["rejected"] + ledger["failed"]
