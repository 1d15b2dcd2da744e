"""kill -9 of the driver, then the same command again: nothing lost, nothing twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from llmaug import pipeline
from llmaug.config import parse_config
from llmaug.storage import Storage
from tests.jobs import SMALL, changed, kill_when, llmaug, write_config, write_logs

# Items drawn at random need no language model; an engine that takes its time makes the middle
# of `generate` long enough to be killed in.
NUM_PARTS = 80
CONFIG = changed(
    SMALL,
    generate={"engine": "uniform", "simulated_tokens_per_s": 500.0},
    plan={
        "strategies": [{"kind": "new_users", "num_users": 4 * NUM_PARTS, "num_events": 8}],
        "units_per_part": 4,
    },
    train={**SMALL["train"], "num_steps": 60, "validate_every": 5, "patience": 100},
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Storage:
    root = tmp_path_factory.mktemp("undisturbed")
    write_logs(str(root))
    storage = Storage(str(root))
    pipeline.run(parse_config(CONFIG), storage, "small", until="train")
    return storage


def test_a_killed_run_ends_as_an_undisturbed_one(undisturbed: Storage, tmp_path: Path) -> None:
    write_logs(str(tmp_path))
    command = ("run", "-c", str(write_config(tmp_path, CONFIG)), "--root", str(tmp_path),
               "--until", "train")  # fmt: skip
    outcomes = tmp_path / "runs/small/outcomes"
    checkpoints = tmp_path / "runs/small/model/augmented/seed-1/_train"

    kill_when(lambda: len(list(outcomes.glob("0-*.json"))) >= 5, *command)
    parts_before = {file.name: file.stat().st_mtime_ns for file in outcomes.glob("0-*.json")}
    assert 5 <= len(parts_before) < NUM_PARTS
    assert not (outcomes / "_manifest.json").exists()

    kill_when(lambda: any(checkpoints.glob("checkpoint_*/state.json")), *command)
    kept = {name: (outcomes / name).stat().st_mtime_ns for name in parts_before}
    assert kept == parts_before, "finished parts were generated a second time"

    done = llmaug(*command)
    assert done.returncode == 0, done.stderr
    assert "outcomes unchanged, skipped" in done.stderr
    storage = Storage(str(tmp_path))
    assert unit_ids(storage) == unit_ids(undisturbed)
    assert max(unit_ids(storage).values()) == 1
    for stage in ("ingest", "plan", "outcomes", "filtered", "merged/real", "merged/augmented"):
        assert rows(storage, stage) == rows(undisturbed, stage), stage
    # Batches and dropout depend on the step alone: even the weights are the same.
    for arm in ("real", "augmented"):
        assert digest(storage, arm) == digest(undisturbed, arm)


def unit_ids(storage: Storage) -> Counter[str]:
    folder = "runs/small/outcomes"
    return Counter(
        unit_id
        for part in storage.parts(folder)
        for unit_id in storage.read_part(folder, part)["unit_id"].to_pylist()
    )


def rows(storage: Storage, stage: str) -> int:
    folder = f"runs/small/{stage}"
    return sum(storage.read_part(folder, part).num_rows for part in storage.parts(folder))


def digest(storage: Storage, arm: str) -> str:
    manifest = storage.read_json(f"runs/small/model/{arm}", "_manifest.json")
    return manifest["counts"]["seed-1"]["model_digest"]
