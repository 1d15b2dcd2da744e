"""`examples/plugin` as its users have it: installed, named in a config, and at work in the job.

Nothing comes from the network: `pip --no-deps --no-build-isolation` builds with the setuptools of
the environment. Ray's workers find the package where PYTHONPATH does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmaug.core.storage import Storage
from tests.jobs import llmaug

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "examples" / "plugin"
ITEMS = "abcdefghij"
UNWANTED = "hij"
CONFIG: dict[str, Any] = {
    "name": "plugin",
    "ingest": {
        "path": "{root}/logs/events.csv",
        "format": "csv",
        "num_parts": 2,
        "items": {"path": "{root}/logs/items.jsonl", "format": "jsonl"},
    },
    "split": {"kind": "leave_one_out"},
    "plan": {"strategies": [{"kind": "new_users", "num_users": 40, "num_events": 6}]},
    "generate": {"engine": "uniform"},
    "filters": {
        "rules": [
            {"kind": "repeated"},
            {"kind": "unwanted_tags", "tags": ["unwanted"]},
            {"kind": "too_short"},
        ]
    },
    "train": {"model": "faded_neighbours", "fade": 0.7, "arms": ["real", "augmented"]},
    "evaluate": {"num_bootstrap": 100},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PYTHONPATH of an environment in which the plug-in is installed."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "plugin"
    subprocess.run(["cp", "-r", PLUGIN, source], check=True)  # a build leaves files in it
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
               "--no-build-isolation", "--target", target, source]  # fmt: skip
    subprocess.run(install, check=True)
    return os.pathsep.join([str(target), str(ROOT)])


def write_job(root: Path, **changes: dict[str, Any]) -> Path:
    (root / "logs").mkdir()
    rows = [
        f"u{user},{ITEMS[(user + step) % len(ITEMS)]},2025-06-01T{step:02}:00:00Z"
        for user in range(30)
        for step in range(5)
    ]
    text = "\n".join(["user_id,item_id,timestamp", *rows, ""])
    (root / "logs" / "events.csv").write_text(text, encoding="utf-8")
    items = [
        {"item_id": item, "title": item, "tags": ["unwanted" if item in UNWANTED else "fine"]}
        for item in ITEMS
    ]
    lines = "".join(f"{json.dumps(item)}\n" for item in items)
    (root / "logs" / "items.jsonl").write_text(lines, encoding="utf-8")
    config = root / "config.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, **changes}), encoding="utf-8")
    return config


def test_the_job_runs_with_both_by_name(path: str, tmp_path: Path) -> None:
    config = write_job(tmp_path)
    result = llmaug("run", "--config", str(config), "--root", str(tmp_path), PYTHONPATH=path)
    assert result.returncode == 0, result.stdout + result.stderr
    storage = Storage(str(tmp_path))
    counts = storage.read_json("runs/plugin/filtered", "_manifest.json")["counts"]
    assert counts["events_dropped.unwanted_tag"] > 0 and counts["accepted"] > 0
    merged = storage.read_json("runs/plugin/merged/augmented", "_manifest.json")["counts"]
    assert merged["synthetic"] == counts["events_kept"]
    for arm in CONFIG["train"]["arms"]:
        stored = storage.read_json(f"runs/plugin/model/{arm}/seed-1", "config.json")["config"]
        assert stored["model"] == "faded_neighbours" and stored["fade"] == 0.7
    current = storage.read_json("published/recommender", "CURRENT")
    assert current["run_id"] == "plugin"


def test_by_path_no_entry_point_is_needed(path: str, tmp_path: Path) -> None:
    code = (
        "from llmaug.config import load_config; config = load_config('config.yaml');"
        "print(type(config.train).__name__, type(config.filters.rules[0]).__name__)"
    )
    filters = {"kind": "llmaug_example.filter:UnwantedTagsConfig", "tags": ["unwanted"]}
    write_job(
        tmp_path,
        train={"model": "llmaug_example.recommender:FadedNeighboursConfig", "fade": 0.7},
        filters={"rules": [filters]},
    )
    paths = os.pathsep.join([str(PLUGIN), str(ROOT)])
    for known in (path, paths):  # installed, and not
        found = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": known},
            check=True, text=True, capture_output=True,
        )  # fmt: skip
        assert found.stdout.split() == ["FadedNeighboursConfig", "UnwantedTagsConfig"]


def test_its_own_tests_pass(path: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", PLUGIN / "tests"]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, text=True, capture_output=True
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
