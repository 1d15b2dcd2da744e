"""A run is submitted to a cluster, one of its machines dies in the middle, and nothing is lost.

The machines are processes: a head without CPUs and two workers. Marked soak: a cluster takes half a
minute to come up here, and as long to notice that a machine is gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmaug.core.stage import MANIFEST
from llmaug.core.storage import Storage
from tests.autoscaling import free_ports
from tests.jobs import SMALL, changed, llmaug, start, wait_until, write_config, write_logs
from tests.servers import BUCKET

ROOT = Path(__file__).parents[2]
NUM_UNITS = 2000


class Cluster:
    """A head that takes jobs, and two workers of three CPUs."""

    def __init__(self, folder: str) -> None:
        port, self._dashboard, client = free_ports(3)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # jobs run `python`
        self._env = {
            **os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT), "PATH": path,
        }  # fmt: skip
        head = [
            "--head", f"--port={port}", "--num-cpus=0", f"--temp-dir={folder}",
            f"--dashboard-port={self._dashboard}", f"--ray-client-server-port={client}",
        ]  # fmt: skip
        self._machines = [self._start(*head)]
        self.address = f"http://127.0.0.1:{self._dashboard}"
        self._wait_for_jobs()
        worker = [f"--address=127.0.0.1:{port}", "--num-cpus=3"]
        self._machines += [self._start(*worker) for _ in range(2)]

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        # Else all machines, being one, want the same port of their agents, who start the jobs.
        command.append(f"--dashboard-agent-listen-port={free_ports(1)[0]}")
        return subprocess.Popen(
            [*command, "--disable-usage-stats", "--object-store-memory=80000000"], env=self._env,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def _wait_for_jobs(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self._dashboard), timeout=1),
            ):
                return
            time.sleep(0.5)
        raise AssertionError("the cluster did not come up")

    def kill_a_worker(self) -> None:
        """kill -9 of a machine and of all that runs on it."""
        _kill(self._machines.pop())

    def end(self) -> None:
        while self._machines:
            _kill(self._machines.pop())


def _kill(machine: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(machine.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    machine.kill()
    machine.wait()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets have to be short
    cluster = Cluster(folder)
    yield cluster
    cluster.end()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.soak
@pytest.mark.slow
def test_a_submitted_run_survives_a_machine_that_dies(
    cluster: Cluster, endpoint: str, tmp_path: Path
) -> None:
    root = f"s3://{BUCKET}/submitted"
    write_logs(root, endpoint)
    storage = Storage(root, endpoint)
    config: dict[str, Any] = changed(
        SMALL,
        storage={"root": root, "endpoint_url": endpoint},
        lm={"model": "ngram"},
        plan={
            "strategies": [{"kind": "new_users", "num_users": NUM_UNITS, "num_events": 8}],
            "units_per_part": 10,
        },
        train={"model": "popularity", "arms": ["real", "augmented"]},
    )
    path = write_config(tmp_path, config)
    address = ["--address", cluster.address]
    submit = ["submit", "--config", str(path), "--run-id", "night", *address]
    run = start(*submit, RAY_AUTH_MODE="disabled")
    wait_until(lambda: len(storage.parts("runs/night/outcomes")) >= 5, run, every_s=0.5)
    assert len(storage.parts("runs/night/outcomes")) < NUM_UNITS // 10, "it was over too soon"
    cluster.kill_a_worker()
    joined = llmaug(*submit, RAY_AUTH_MODE="disabled")
    assert joined.returncode == 0, joined.stderr + joined.stdout
    assert "it is running already: joined" in joined.stderr
    assert run.wait(timeout=60) == 0

    counts = storage.read_json("runs/night/outcomes", MANIFEST)["counts"]
    assert counts["units"] == counts["generated"] + counts.get("failed", 0) == NUM_UNITS
    verdicts = storage.read_json("runs/night/filtered", MANIFEST)["counts"]
    assert verdicts["accepted"] + verdicts["rejected"] + verdicts["failed"] == NUM_UNITS
    said = llmaug("logs", "night", *address, RAY_AUTH_MODE="disabled").stdout
    assert "report" in said
    stopped = llmaug("stop", "night", *address, RAY_AUTH_MODE="disabled")
    assert "had ended already" in stopped.stdout
