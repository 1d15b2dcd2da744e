"""The same promises on real vLLM: drivers, engines and actors are killed, nights are repeated."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from llmaug import pipeline
from llmaug.config import parse_config
from llmaug.core.stage import MANIFEST
from llmaug.core.storage import Storage
from tests.generate.test_exactly_once import attempts_of_parts, command, ids
from tests.jobs import (
    LOOK_EVERY_S,
    SMALL,
    add_events,
    changed,
    kill_process,
    processes_named,
    start,
    wait_until,
    write_logs,
)
from tests.nights import fit_here, without_ray
from tests.soak import NIGHTS

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.usefixtures("shared_ray")]

NUM_NEW, NUM_USERS, SAMPLES = 6000 if NIGHTS else 600, 60, 5
PER_PART = 40 if NIGHTS else 20
DRIVER_KILLS = (3, 15) if NIGHTS else ()  # as soon as so many parts are there
PROCESS_KILLS = ("EngineCore", "PartWorker") if NIGHTS else ("EngineCore",)
NUM_UNITS = NUM_NEW + NUM_USERS * SAMPLES
PLAN = {
    "strategies": [
        {"kind": "new_users", "num_users": NUM_NEW, "num_events": 30},
        {"kind": "continue", "samples_per_user": SAMPLES, "num_events": 4},
    ],
    "units_per_part": PER_PART,
}
CONFIG = changed(SMALL, plan=PLAN)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, shared_ray: None) -> Path:
    """A run up to its plan, with a behaviour model."""
    root = tmp_path_factory.mktemp("vllm")
    write_logs(str(root))
    with pytest.MonkeyPatch.context() as patch:
        fit_here(patch)
        without_ray(patch)
        pipeline.run(parse_config(CONFIG), Storage(str(root)), "monday", until="plan")
    return root


def test_engines_are_killed(root: Path) -> None:
    storage = Storage(str(root))
    monday = (*command(root, CONFIG), "--run-id", "monday")

    def num_finished() -> int:
        return len(storage.parts("runs/monday/outcomes"))

    rng = random.Random(1)
    for at_least in DRIVER_KILLS:
        run = start(*monday)
        wait_until(lambda: num_finished() >= at_least, run)  # noqa: B023
        time.sleep(rng.uniform(0, 0.3))
        run.kill()
        run.wait()
    # The engine in a process of its own, as it is where a model spans several GPUs.
    run = start(*monday, VLLM_ENABLE_V1_MULTIPROCESSING="1")
    # It is starting, and may not be killed yet.
    wait_until(lambda: bool(processes_named("EngineCore", os.getpid())), run, every_s=LOOK_EVERY_S)

    def wait_for_five_more_parts() -> None:
        before = num_finished()
        wait_until(lambda: num_finished() >= before + 5, run)

    for name in PROCESS_KILLS:
        wait_for_five_more_parts()
        kill_process(name, run, below=os.getpid())
    _, said = run.communicate(timeout=400)
    assert run.returncode == 0, said

    asked, answered = ids(storage, "runs/monday/plan"), ids(storage, "runs/monday/outcomes")
    assert asked == answered and len(asked) == NUM_UNITS
    counts = storage.read_json("runs/monday/outcomes", MANIFEST)["counts"]
    assert counts["generated"] == counts["units"] and counts["deaths"] == len(PROCESS_KILLS)
    attempts = attempts_of_parts(storage, "runs/monday/outcomes")
    assert sum(attempts) <= 1.15 * len(attempts)


@pytest.mark.soak
def test_the_next_night_asks_the_same_generator_only_what_is_new(root: Path) -> None:
    """Monday's model is kept on Tuesday: a tenth of the users have news, the rest is known."""
    add_events(root, num_users=NUM_USERS // 10)
    tuesday = parse_config(changed(CONFIG, lm={"from_run": "monday"}))
    done = pipeline.run(tuesday, Storage(str(root)), "tuesday", until="generate")
    counts = done["outcomes"]["counts"]
    assert counts["units"] == counts["generated"] == NUM_UNITS
    assert NUM_UNITS - counts["cache_hits"] == NUM_USERS // 10 * SAMPLES
