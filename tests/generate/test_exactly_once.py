"""Generation that loses nothing and repeats little, whatever is killed on the way.

All tests run the command as users do. The plan is made once; each test is a run of its own on it.
The stand-in engine takes the time of a (slow) GPU, so that there is a middle to be killed in.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmaug import pipeline
from llmaug.config import parse_config
from llmaug.core.stage import MANIFEST
from llmaug.core.storage import Storage
from llmaug.generate.part_answer import ATTEMPTS
from tests.jobs import (
    LOOK_EVERY_S,
    SMALL,
    add_events,
    changed,
    kill_process,
    llmaug,
    processes_named,
    start,
    wait_until,
    write_config,
    write_logs,
)
from tests.nights import without_ray
from tests.soak import NIGHTS

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("shared_ray")]

NUM_PARTS, PER_PART, NUM_EVENTS = 200, 16, 8
TOKENS = NUM_PARTS * PER_PART * NUM_EVENTS
CONFIG = changed(
    SMALL,
    generate={
        "engine": "uniform",
        "simulated_tokens_per_s": 4000.0,
        "num_actors": 2,
        "use_cache": False,
    },  # all tests ask the same units
    plan={
        "strategies": [
            {"kind": "new_users", "num_users": NUM_PARTS * PER_PART, "num_events": NUM_EVENTS}
        ],
        "units_per_part": PER_PART,
    },
)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, shared_ray: None) -> Path:
    """A run up to its plan."""
    root = tmp_path_factory.mktemp("planned")
    write_logs(str(root))
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        pipeline.run(parse_config(CONFIG), Storage(str(root)), "small", until="plan")
    return root


class Night:
    """A run of its own with the plan that is there."""

    def __init__(self, root: Path, run_id: str, config: dict[str, Any] = CONFIG) -> None:
        self.storage, self.run_id = Storage(str(root)), run_id
        shutil.copytree(root / "runs/small", root / "runs" / run_id)
        self.outcomes = f"runs/{run_id}/outcomes"
        self.command = (*command(root, config), "--run-id", run_id)

    def num_finished(self) -> int:
        return len(self.storage.parts(self.outcomes))

    def is_finished(self) -> bool:
        return self.storage.exists(self.outcomes, MANIFEST)

    def check_ledger(self) -> dict[str, Any]:
        """Every unit of the plan has one outcome; returns the counts of the manifest."""
        asked = ids(self.storage, f"runs/{self.run_id}/plan")
        answered = ids(self.storage, self.outcomes)
        assert len(asked) == NUM_PARTS * PER_PART
        assert asked == answered and max(answered.values()) == 1
        found = self.storage.read_json(self.outcomes, MANIFEST)["counts"]
        assert found["units"] == found["generated"] + found["failed"] == NUM_PARTS * PER_PART
        assert found["output_tokens"] == TOKENS
        # At most so many tokens were generated: every attempt at a part counted in full.
        of_all_attempts = sum(attempts_of_parts(self.storage, self.outcomes))
        assert of_all_attempts * PER_PART * NUM_EVENTS <= 1.15 * TOKENS
        return found


@pytest.fixture
def night(planned: Path, request: pytest.FixtureRequest) -> Night:
    return Night(planned, request.node.name[:20])


def command(root: Path, config: dict[str, Any]) -> tuple[str, ...]:
    config_file = str(write_config(root, config))
    return ("run", "-c", config_file, "--root", str(root), "--until", "generate")


def ids(storage: Storage, folder: str) -> Counter[str]:
    return Counter(
        unit_id
        for part in storage.parts(folder)
        for unit_id in storage.read_part(folder, part, columns=["unit_id"])["unit_id"].to_pylist()
    )


def attempts_of_parts(storage: Storage, outcomes: str) -> list[int]:
    """Notes that were written whole: a kill in the middle of a write leaves `._...` beside them."""
    notes = [name for name in storage.names(outcomes, ATTEMPTS) if name.endswith(".json")]
    return [storage.read_json(outcomes, ATTEMPTS, note)["attempts"] for note in notes]


NUM_KILLS = 8 if NIGHTS else 4


@pytest.mark.parametrize("seed", range(NIGHTS or 1))
def test_the_driver_is_killed_again_and_again(planned: Path, seed: int) -> None:
    """In start-up, in generation, and while the last parts are committed; every run goes on
    where the killed one was."""
    night = Night(planned, f"killed-{seed}")
    rng = random.Random(seed)
    between = sorted(rng.sample(range(5, NUM_PARTS - 5), NUM_KILLS - 2))
    for moment in [0, *between, NUM_PARTS - 1]:
        run = start(*night.command)
        wait_until(lambda: night.storage.exists(night.outcomes, "_started.json"), run)
        wait_until(lambda: night.num_finished() >= moment, run)  # noqa: B023
        time.sleep(rng.uniform(0, 0.2))
        run.kill()
        run.wait()
        assert not night.is_finished()
    done = llmaug(*night.command)
    assert done.returncode == 0, done.stderr
    night.check_ledger()


def test_sigterm_and_ctrl_c_keep_what_is_finished(night: Night) -> None:
    for number, at_least in ((signal.SIGTERM, 20), (signal.SIGINT, 90)):
        run = start(*night.command)
        wait_until(lambda: night.num_finished() >= at_least, run)  # noqa: B023
        second = llmaug(*night.command)
        assert second.returncode == 1
        assert f"held by process {run.pid} on" in second.stderr and "s ago" in second.stderr
        run.send_signal(number)
        _, said = run.communicate(timeout=60)
        assert run.returncode == 130, said
        assert "run the same command again to go on" in " ".join(said.split())
        assert night.num_finished() < NUM_PARTS
    done = llmaug(*night.command)
    assert done.returncode == 0, done.stderr
    night.check_ledger()


def test_a_killed_actor_comes_back_by_itself(night: Night) -> None:
    run = start(*night.command)
    for at_least in (20, 60):
        wait_until(lambda: night.num_finished() >= at_least, run)  # noqa: B023
        kill_process("PartWorker", run, below=os.getpid())
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    assert night.check_ledger()["deaths"] == 2


CLUSTER = """
import sys, time
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 6})
node = cluster.add_node(num_cpus=6)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(node, allow_graceful=False)
print("removed", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


def test_a_lost_node_takes_nothing_with_it(planned: Path) -> None:
    """An engine on each node, and no room for both on one: when a node goes for good, what its
    engine had waits for the other to have no more parts and make room."""
    one_a_node = {"num_cpus": 4, "simulated_tokens_per_s": 1500.0}
    night = Night(planned, "lost-node", changed(CONFIG, generate=one_a_node))
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "RAY_health_check_period_ms": "500",
             "RAY_health_check_failure_threshold": "3"},
    )  # fmt: skip
    assert cluster.stdin and cluster.stdout
    try:
        address = cluster.stdout.readline().strip()
        run = start(*night.command, RAY_ADDRESS=address)
        wait_until(
            lambda: len(processes_named("PartWorker", cluster.pid)) == 2, run, every_s=LOOK_EVERY_S
        )
        before = night.num_finished()
        wait_until(lambda: night.num_finished() >= before + 40, run)
        cluster.stdin.write("\n")
        cluster.stdin.flush()
        assert cluster.stdout.readline().strip() == "removed"
        finished_then = night.num_finished()
        _, said = run.communicate(timeout=240)
        assert run.returncode == 0, said
        assert finished_then < NUM_PARTS
        night.check_ledger()
    finally:
        cluster.stdin.write("\n")
        cluster.stdin.close()
        cluster.wait(timeout=60)


# -- not paid twice ------------------------------------------------------------------------


def test_a_second_night_generates_what_changed(tmp_path: Path, ray_session: None) -> None:
    """Monday's model is kept on Tuesday, when 10% of the users have a new event: 10% of the
    units are new."""
    write_logs(str(tmp_path))
    plan = {"strategies": [{"kind": "continue", "samples_per_user": 5, "num_events": 4}]}
    config = changed(SMALL, lm={"model": "ngram"}, plan=plan)
    storage = Storage(str(tmp_path))
    pipeline.run(parse_config(config), storage, "monday", until="generate")
    add_events(tmp_path, num_users=6)
    tuesday = parse_config(changed(config, lm={"from_run": "monday"}))
    counts = pipeline.run(tuesday, storage, "tuesday", until="generate")["outcomes"]["counts"]
    assert (counts["units"], counts["cache_hits"]) == (300, 270)
