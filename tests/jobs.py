"""Running `llmaug` as its users do: another process, a config file, a root."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from llmaug.datasets import write_ml_100k

NUM_USERS = 60

SMALL: dict[str, Any] = {
    "name": "small",
    "ingest": {
        "path": "{root}/logs/events",
        "columns": {"value": "rating"},
        "actions": ["rate"],
        "num_parts": 3,
        "items": {"path": "{root}/logs/items"},
    },
    "split": {"kind": "leave_one_out"},
    "lm": {"num_steps": 30, "validate_every": 15, "warmup_steps": 5, "batch_size": 32},
    "plan": {
        "strategies": [
            {"kind": "new_users", "num_users": 40, "num_events": 8},
            {"kind": "continue", "samples_per_user": 1, "num_events": 4},
        ],
        "units_per_part": 16,
    },
    "train": {"num_steps": 40, "validate_every": 20, "warmup_steps": 5, "embedding_dim": 16},
    "evaluate": {"num_bootstrap": 200},
    "generate": {"kv_cache_gib": 1.0},
}
"""The whole job on the logs of 60 MovieLens users, small enough for a test."""


def changed(config: dict[str, Any], **sections: dict[str, Any]) -> dict[str, Any]:
    """A copy of `config` with fields of whole sections replaced."""
    out = {**config}
    for name, values in sections.items():
        out[name] = {**config.get(name, {}), **values}
    return out


def write_logs(root: str, endpoint_url: str | None = None) -> None:
    write_ml_100k(f"{root}/logs", endpoint_url=endpoint_url, max_users=NUM_USERS)


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def llmaug(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; its output is in the result."""
    return subprocess.run(
        _command(arguments), env={**os.environ, **environment}, text=True, capture_output=True
    )


def kill_when(condition: Callable[[], bool], *arguments: str, timeout_s: float = 240) -> None:
    """Start the command, and kill -9 its driver as soon as `condition` holds.

    Fails when the command ends before.
    """
    process = subprocess.Popen(
        _command(arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + timeout_s
    try:
        while not condition():
            assert process.poll() is None, f"ended too early: {process.stderr.read()}"  # type: ignore[union-attr]
            assert time.monotonic() < deadline, "the moment to kill did not come"
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def _command(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "llmaug", *arguments]
