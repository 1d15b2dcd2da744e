"""kill -9 of a training worker: the run goes on from its checkpoint to the same weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from llmaug import pipeline
from llmaug.config import parse_config
from llmaug.core.storage import Storage
from tests.jobs import SMALL, changed, processes_named, write_logs
from tests.nights import without_ray

pytestmark = pytest.mark.faults

# A small SASRec on the real arm alone, with enough steps to have a middle.
NUM_STEPS, VALIDATE_EVERY = 160, 20
CONFIG = changed(
    SMALL,
    plan={"strategies": []},
    train={
        "arms": ["real"],
        "num_steps": NUM_STEPS,
        "validate_every": VALIDATE_EVERY,
        "patience": 100,
    },
)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A root with a run up to its training shards."""
    root = tmp_path_factory.mktemp("merged")
    write_logs(str(root))
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        pipeline.run(parse_config(CONFIG), Storage(str(root)), "small", until="merge")
    return root


@pytest.mark.parametrize("num_workers", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_a_killed_training_worker_costs_steps_but_changes_nothing(
    merged: Path, num_workers: int
) -> None:
    undisturbed = trained(merged, f"undisturbed-{num_workers}", num_workers)
    killer = Killer(merged / f"runs/killed-{num_workers}/model/real/seed-1")
    with killer:
        killed = trained(merged, f"killed-{num_workers}", num_workers)
    assert killer.killed, "the training was over before a worker could be killed"
    # It went on from a checkpoint (not always the last: one that is being written is lost).
    after = list(killer.checkpoints.values())[killer.num_before :]
    assert after and after[0] > VALIDATE_EVERY, "it started all over"
    # The digest is that of the weights: not one of them differs.
    assert killed == undisturbed
    assert killed["steps"] == NUM_STEPS


def trained(root: Path, run_id: str, num_workers: int) -> dict[str, Any]:
    """Train in a run of its own; what is known of the model: digest, NDCG, steps."""
    shutil.copytree(root / "runs/small", root / "runs" / run_id)
    config = parse_config(changed(CONFIG, train={"num_workers": num_workers}))
    done = pipeline.run(config, Storage(str(root)), run_id, until="train")
    return done["model/real"]["counts"]["seed-1"]


class Killer:
    """Watches the checkpoints of a model; kill -9 of one worker after the second of them."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.checkpoints: dict[str, int] = {}  # name: step, in the order of appearance
        self.killed, self.num_before = False, 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join(timeout=130)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for state in sorted(self._model.glob("_train/checkpoint_*/state.json")):
                if state.parent.name not in self.checkpoints:
                    try:
                        step = json.loads(state.read_text())["step"]
                    except (OSError, ValueError):  # being written, or taken away
                        continue
                    self.checkpoints[state.parent.name] = step
            if len(self.checkpoints) < 2 or self.killed:
                continue
            for worker in processes_named("RayTrainWorker", os.getpid())[:1]:
                self.num_before = len(self.checkpoints)
                os.kill(worker.pid, signal.SIGKILL)
                self.killed = True
