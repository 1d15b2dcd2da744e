"""A cluster that scales from zero: GPUs come for `generate`, and go before `train`; CPUs come too.

The machines are processes that say that they have a GPU, and the engine is a stand-in that asks
for one. Marked soak: machines that come and go take a minute even here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmaug.core.stage import MANIFEST
from llmaug.core.storage import Storage
from tests.autoscaling import autoscaling
from tests.gpu_stand_in import PATH

CONFIG: dict[str, Any] = {
    "name": "night",
    "ingest": {"format": "csv", "num_parts": 2, "timestamp_unit": "s"},
    "split": {"kind": "leave_one_out"},
    "lm": {"model": PATH},
    "plan": {"strategies": [{"kind": "continue", "num_events": 2}], "units_per_part": 4},
    "train": {"model": "popularity", "arms": ["real", "augmented"]},
}
GPU = {"resources": {"CPU": 2, "GPU": 1}, "max_workers": 2}


@pytest.mark.soak
@pytest.mark.slow
def test_gpus_come_for_the_engines_and_go_before_training(tmp_path: Path) -> None:
    config, storage = write_night(tmp_path), Storage(str(tmp_path / "root"))
    with autoscaling({"gpu": GPU}, idle_s=2) as cluster:

        def night(until: str) -> list[float]:
            command = [sys.executable, "-m", "llmaug", "run", "-c", str(config), "--until", until]
            with cluster.watched() as seen:
                done = subprocess.run(
                    [*command, "--root", storage.path()], text=True, capture_output=True,
                    env={**os.environ, **cluster.environment()},
                )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return seen

        assert set(night(until="plan")) == {0}  # nothing before needs one, and none is up
        assert set(night(until="generate")) == {0, 1}  # one came for the one engine
        counts = storage.read_json("runs/night/outcomes", MANIFEST)["counts"]
        assert counts["units"] == counts["generated"] > 0
        cluster.wait_for_no_gpu(timeout_s=120)
        assert set(night(until="train")) == {0}  # and none comes back
    for arm in ("real", "augmented"):
        assert storage.exists(f"runs/night/model/{arm}", MANIFEST)


@pytest.mark.soak
@pytest.mark.slow
def test_a_head_without_cpus_has_its_work_done_by_workers_that_come(tmp_path: Path) -> None:
    """As in cluster.yaml and infra/k8s: nothing is up but the head, and it does no task."""
    config, storage = write_night(tmp_path), Storage(str(tmp_path / "root"))
    cpus = {"cpu": {"resources": {"CPU": 4}, "max_workers": 1}}
    with autoscaling(cpus, idle_s=60, head_cpus=0) as cluster:
        done = subprocess.run(
            [sys.executable, "-m", "llmaug", "run", "-c", str(config), "--until", "vocabulary",
             "--root", storage.path()],
            text=True, capture_output=True, env={**os.environ, **cluster.environment()},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert storage.read_json("runs/night/ingest", MANIFEST)["counts"]["accepted"] == 100
    assert storage.exists("runs/night/vocabulary", MANIFEST)


def write_night(folder: Path) -> Path:
    users = [f"u{number}" for number in range(20)]
    rows = [
        f"{user},{'abcdefgh'[(start + step) % 8]},{1_700_000_000 + 3600 * step}"
        for start, user in enumerate(users)
        for step in range(5)
    ]
    (folder / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows, ""]))
    config = {**CONFIG, "ingest": {**CONFIG["ingest"], "path": str(folder / "events.csv")}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
