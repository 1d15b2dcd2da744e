"""Chances of soft_events: the driver and the actor are killed in the middle, and every unit has one
outcome, the same as in a run that nobody disturbed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmaug import pipeline
from llmaug.config import parse_config
from llmaug.core.stage import MANIFEST
from llmaug.core.storage import Storage
from llmaug.generate.part_answer import ATTEMPTS
from tests.generate.test_exactly_once import attempts_of_parts, command, ids
from tests.jobs import (
    NUM_USERS,
    SMALL,
    changed,
    kill_process,
    kill_when,
    start,
    wait_until,
    write_logs,
)
from tests.tables import read_rows

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("shared_ray")]

K = 3
CONFIG = changed(
    SMALL,
    lm={"num_steps": 5},
    plan={"strategies": [{"kind": "soft_events", "num_candidates": K}], "units_per_part": 1},
    # One part at a time: there shall be a middle.
    generate={"num_actors": 1, "parts_in_flight": 1, "use_cache": False},
)


@pytest.mark.soak
def test_what_is_killed_says_the_same(tmp_path: Path, fits_here: None) -> None:
    write_logs(str(tmp_path))
    storage, config = Storage(str(tmp_path)), parse_config(CONFIG)
    pipeline.run(config, storage, "calm", until="plan")
    shutil.copytree(tmp_path / "runs/calm", tmp_path / "runs/killed")
    pipeline.run(config, storage, "calm", until="generate")
    killed = "runs/killed/outcomes"

    def num_finished() -> int:
        return len(storage.parts(killed))

    def in_the_middle(at_least: int) -> bool:
        """Whether a part was begun and is not there yet."""
        return len(storage.names(killed, ATTEMPTS)) > num_finished() >= at_least

    again = (*command(tmp_path, CONFIG), "--run-id", "killed")
    kill_when(lambda: in_the_middle(5), *again)
    assert 5 <= num_finished() < NUM_USERS and not storage.exists(killed, MANIFEST)
    run = start(*again)
    before = num_finished()
    wait_until(lambda: in_the_middle(before + 10), run)
    kill_process("PartWorker", run, below=os.getpid())
    assert num_finished() < NUM_USERS
    _, said = run.communicate(timeout=240)
    assert run.returncode == 0, said

    answered = ids(storage, killed)
    assert answered == ids(storage, "runs/killed/plan") and max(answered.values()) == 1
    assert len(answered) == NUM_USERS
    attempts = attempts_of_parts(storage, killed)
    assert NUM_USERS <= sum(attempts) <= NUM_USERS + 2  # what was on its way, and no more
    counts = storage.read_json(killed, MANIFEST)["counts"]
    assert (counts["units"], counts["generated"], counts["deaths"]) == (NUM_USERS, NUM_USERS, 1)

    found, expected = _by_unit(storage, killed), _by_unit(storage, "runs/calm/outcomes")
    assert found.keys() == expected.keys()
    same = []
    for unit, (events, tokens, chances) in found.items():
        assert events == expected[unit][0] and len(tokens) == K * len(events)
        np.testing.assert_allclose(chances, expected[unit][2], rtol=1e-4)
        same.append(np.array(tokens) == expected[unit][1])
    assert np.concatenate(same).mean() > 0.999  # of equal chances either may be the first


def _by_unit(storage: Storage, folder: str) -> dict[str, tuple[Any, Any, Any]]:
    return {row["unit_id"]: (row["tokens"], row["soft_tokens"], row["soft_chances"])
            for row in read_rows(storage, folder)}  # fmt: skip
