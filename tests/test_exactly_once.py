"""Generation that loses nothing and repeats little, whatever is killed on the way.

All tests run the command as users do. The plan is made once; each test works on a copy of it.
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

from llmaug.part_worker import ATTEMPTS
from llmaug.stage import MANIFEST
from llmaug.storage import Storage
from tests.jobs import (
    SMALL,
    add_events,
    changed,
    llmaug,
    process_named,
    start,
    wait_until,
    write_config,
    write_logs,
)

pytestmark = pytest.mark.faults

NUM_PARTS, PER_PART, NUM_EVENTS = 200, 16, 8
TOKENS = NUM_PARTS * PER_PART * NUM_EVENTS
CONFIG = changed(
    SMALL,
    generate={"engine": "uniform", "simulated_tokens_per_s": 4000.0, "num_actors": 2},
    plan={
        "strategies": [
            {"kind": "new_users", "num_users": NUM_PARTS * PER_PART, "num_events": NUM_EVENTS}
        ],
        "units_per_part": PER_PART,
    },
)
OUTCOMES = "runs/small/outcomes"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to its plan."""
    root = tmp_path_factory.mktemp("planned")
    write_logs(str(root))
    done = llmaug(*command(root, CONFIG, until="plan"))
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def root(planned: Path, tmp_path: Path) -> Path:
    """A copy of it (file times are kept: they are part of the logs' identity)."""
    shutil.copytree(planned, tmp_path / "root")
    return tmp_path / "root"


def command(root: Path, config: dict[str, Any], until: str = "generate") -> tuple[str, ...]:
    return ("run", "-c", str(write_config(root, config)), "--root", str(root), "--until", until)


def num_finished(root: Path) -> int:
    return len(list((root / OUTCOMES).glob("*-new-users-*.json")))


def check_ledger(root: Path, counts: dict[str, Any] | None = None) -> dict[str, Any]:
    """Every unit of the plan has one outcome; returns the counts of the manifest."""
    storage = Storage(str(root))
    asked, answered = ids(storage, "runs/small/plan"), ids(storage, OUTCOMES)
    assert len(asked) == NUM_PARTS * PER_PART
    assert asked == answered and max(answered.values()) == 1
    found = storage.read_json(OUTCOMES, MANIFEST)["counts"]
    assert found["units"] == found["generated"] + found["failed"] == NUM_PARTS * PER_PART
    assert found["output_tokens"] == TOKENS
    return found


def ids(storage: Storage, folder: str) -> Counter[str]:
    return Counter(
        unit_id
        for part in storage.parts(folder)
        for unit_id in storage.read_part(folder, part, columns=["unit_id"])["unit_id"].to_pylist()
    )


def tokens_of_all_attempts(root: Path) -> int:
    """At most so many tokens were generated: every attempt at a part counted in full."""
    return sum(attempts_of_parts(Storage(str(root)), OUTCOMES)) * PER_PART * NUM_EVENTS


def attempts_of_parts(storage: Storage, outcomes: str) -> list[int]:
    notes = storage.names(outcomes, ATTEMPTS)
    return [storage.read_json(outcomes, ATTEMPTS, note)["attempts"] for note in notes]


def test_the_driver_is_killed_eight_times(root: Path) -> None:
    """In start-up, in generation, and while the last parts are committed; every run goes on
    where the killed one was."""
    rng = random.Random(3)
    moments = [0, 0, *sorted(rng.sample(range(5, NUM_PARTS - 5), 5)), NUM_PARTS - 1]
    for moment in moments:
        run = start(*command(root, CONFIG))
        wait_until(lambda: (root / OUTCOMES / "_started.json").exists(), run)
        wait_until(lambda: num_finished(root) >= moment, run)  # noqa: B023
        time.sleep(rng.uniform(0, 0.2))
        run.kill()
        run.wait()
        assert not (root / OUTCOMES / MANIFEST).exists()
    done = llmaug(*command(root, CONFIG))
    assert done.returncode == 0, done.stderr
    check_ledger(root)
    assert tokens_of_all_attempts(root) <= 1.15 * TOKENS


def test_sigterm_and_ctrl_c_keep_what_is_finished(root: Path) -> None:
    for number, at_least in ((signal.SIGTERM, 20), (signal.SIGINT, 90)):
        run = start(*command(root, CONFIG))
        wait_until(lambda: num_finished(root) >= at_least, run)  # noqa: B023
        second = llmaug(*command(root, CONFIG))
        assert second.returncode == 1
        assert f"held by process {run.pid} on" in second.stderr and "s ago" in second.stderr
        run.send_signal(number)
        _, said = run.communicate(timeout=60)
        assert run.returncode == 130, said
        assert "run the same command again to go on" in " ".join(said.split())
        assert num_finished(root) < NUM_PARTS
    done = llmaug(*command(root, CONFIG))
    assert done.returncode == 0, done.stderr
    check_ledger(root)
    assert tokens_of_all_attempts(root) <= 1.15 * TOKENS


def test_a_killed_actor_comes_back_by_itself(root: Path) -> None:
    run = start(*command(root, CONFIG))
    for at_least in (20, 60):
        wait_until(lambda: num_finished(root) >= at_least, run)  # noqa: B023
        process_named("PartWorker", run.pid).kill()
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    counts = check_ledger(root)
    assert counts["deaths"] == 2
    assert tokens_of_all_attempts(root) <= 1.15 * TOKENS


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


def test_a_lost_node_takes_nothing_with_it(root: Path) -> None:
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "RAY_health_check_period_ms": "500",
             "RAY_health_check_failure_threshold": "3"},
    )  # fmt: skip
    assert cluster.stdin and cluster.stdout
    try:
        address = cluster.stdout.readline().strip()
        run = start(*command(root, CONFIG), RAY_ADDRESS=address)
        wait_until(lambda: num_finished(root) >= 40, run)
        cluster.stdin.write("\n")
        cluster.stdin.flush()
        assert cluster.stdout.readline().strip() == "removed"
        finished_then = num_finished(root)
        _, said = run.communicate(timeout=240)
        assert run.returncode == 0, said
        assert finished_then < NUM_PARTS
        check_ledger(root)
        assert tokens_of_all_attempts(root) <= 1.15 * TOKENS
    finally:
        cluster.stdin.write("\n")
        cluster.stdin.close()
        cluster.wait(timeout=60)


# -- not paid twice ------------------------------------------------------------------------


def test_a_second_night_generates_what_changed(tmp_path: Path) -> None:
    """10% of the users have a new event: about 10% of the units are new."""
    write_logs(str(tmp_path))
    plan = {"strategies": [{"kind": "continue", "samples_per_user": 5, "num_events": 4}]}
    config = changed(SMALL, generate={"engine": "uniform"}, plan=plan)
    first = llmaug(*command(tmp_path, config), "--run-id", "monday")
    assert first.returncode == 0, first.stderr
    add_events(tmp_path, num_users=6)
    second = llmaug(*command(tmp_path, config), "--run-id", "tuesday")
    assert second.returncode == 0, second.stderr
    counts = Storage(str(tmp_path)).read_json("runs/tuesday/outcomes", MANIFEST)["counts"]
    assert (counts["units"], counts["cache_hits"]) == (300, 270)
    assert "outcomes cache: 270 units answered" in second.stderr
