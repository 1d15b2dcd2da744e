"""Running `llmaug` as its users do: another process, a config file, a root."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import yaml

from llmaug.commands.datasets import write_ml_100k
from llmaug.config.file import SECTION_KINDS

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
    """A copy of `config` with fields of whole sections replaced. For another kind of model, as in a
    variant of a config, the fields that it does not have are left out."""
    out = {**config}
    for name, values in sections.items():
        own = config.get(name, {})
        kinds = SECTION_KINDS.get(name)
        out[name] = {**(kinds.kept(own, values) if kinds else own), **values}
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


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start the command and go on; its stderr is in a pipe."""
    return subprocess.Popen(
        _command(arguments), env={**os.environ, **environment}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_until(
    condition: Callable[[], bool], run: subprocess.Popen[str], timeout_s: float = 400,
    every_s: float = 0.02,
) -> None:  # fmt: skip
    """Wait for `condition`, asked every `every_s` seconds; fails when the command ends before."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert run.poll() is None, f"ended too early: {run.stderr.read()}"  # type: ignore[union-attr]
        assert time.monotonic() < deadline, "the moment did not come"
        time.sleep(every_s)


def kill_when(condition: Callable[[], bool], *arguments: str, every_s: float = 0.02) -> None:
    """Start the command, and kill -9 its driver as soon as `condition`, asked `every_s` seconds,
    holds."""
    run = start(*arguments)
    try:
        wait_until(condition, run, every_s=every_s)
    finally:
        run.kill()
        run.wait()


LOOK_EVERY_S = 0.2
"""A look at all processes of the machine takes a tenth of that."""


def processes_named(name: str, parent: int) -> list[psutil.Process]:
    """Those below `parent` (Ray's workers among them) with `name` in their command line."""
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        try:
            if name in " ".join(process.cmdline()) or name in process.name():
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_process(name: str, run: subprocess.Popen[str], below: int | None = None) -> None:
    """kill -9 a process below the command, or below `below` where Ray is another process's
    child, as soon as there is one of that name."""
    parent = below or run.pid
    wait_until(lambda: bool(processes_named(name, parent)), run, every_s=LOOK_EVERY_S)
    processes_named(name, parent)[0].kill()


def add_events(root: Path, num_users: int) -> None:
    """For some users a later event, of an item that they had not."""
    logs = root / "logs" / "events"
    events = ds.dataset(logs, partitioning="hive").to_table().to_pylist()
    last = max(events, key=lambda event: event["timestamp"])
    items = sorted({event["item_id"] for event in events})
    rows = []
    for user in sorted({event["user_id"] for event in events})[:num_users]:
        had = {event["item_id"] for event in events if event["user_id"] == user}
        item = next(item for item in items if item not in had)
        when = last["timestamp"] + timedelta(seconds=1)
        rows.append({**last, "user_id": user, "item_id": item, "timestamp": when})
    day = f"dt={last['timestamp']:%Y-%m-%d}"
    table = pa.Table.from_pylist([{k: v for k, v in row.items() if k != "dt"} for row in rows])
    pq.write_table(table, logs / day / "more.parquet")


def _command(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "llmaug", *arguments]
