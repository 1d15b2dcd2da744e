"""A Ray cluster of one machine whose autoscaler launches machines that are processes.

`ray.cluster_utils.AutoscalingCluster` stops every Ray of the machine, whoever started it. Here the
head is a process of ours, in a folder and on ports of its own; what is ended is what it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

_ROOT = Path(__file__).parents[1]
_ATTEMPTS = 4
_SMALL_STORE = 80_000_000  # bytes, of each machine's objects
_EMPTY = ("auth", "docker", "file_mounts")
_NO_COMMANDS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude",
    "rsync_filter",
)  # fmt: skip


class Autoscaling:
    """A head, and workers that come when they are asked for and go when idle."""

    def __init__(self, address: str) -> None:
        self.address = address

    def gpus_up(self) -> float:
        """GPUs of the machines that are up."""
        from ray._raylet import GcsClient

        nodes = GcsClient(address=self.address).get_all_node_info().values()
        return sum(dict(node.resources_total).get("GPU", 0) for node in nodes if node.state == 0)

    def environment(self) -> dict[str, str]:
        """Of a driver that joins it."""
        return {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(_ROOT)}

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[float]]:
        """GPUs up, looked at every half second meanwhile."""
        seen: list[float] = []
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.5):
                seen.append(self.gpus_up())

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            thread.join()

    def wait_for_no_gpu(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.gpus_up():
            assert time.monotonic() < deadline, "idle machines stay"
            time.sleep(0.5)


@contextlib.contextmanager
def autoscaling(
    worker_types: dict[str, Any], idle_s: float, head_cpus: int = 4
) -> Iterator[Autoscaling]:
    """A cluster of our own. worker_types: in the words of a file for `ray up`."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets have to be short
    port, client_port, dashboard_port = free_ports(3)
    file = Path(folder, "cluster.json")
    file.write_text(json.dumps(_config(worker_types, idle_s, head_cpus, f"127.0.0.1:{port}")))
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
        f"--port={port}", f"--temp-dir={folder}", f"--num-cpus={head_cpus}", "--num-gpus=0",
        f"--autoscaling-config={file}", f"--object-store-memory={_SMALL_STORE}",
        f"--ray-client-server-port={client_port}", f"--dashboard-port={dashboard_port}",
        "--include-dashboard=false", "--disable-usage-stats",
    ]  # fmt: skip
    ours = Autoscaling(f"127.0.0.1:{port}")
    environment = {
        **os.environ, **ours.environment(), "RAY_FAKE_CLUSTER": "1", "RAY_TMPDIR": folder,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }  # fmt: skip
    del environment["RAY_ADDRESS"]
    try:
        head = _started(command, environment, Path(folder, "head.log"))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        yield ours
    finally:
        _end(head)
        shutil.rmtree(folder, ignore_errors=True)


def _config(
    worker_types: dict[str, Any], idle_s: float, head_cpus: int, address: str
) -> dict[str, Any]:
    workers = {
        name: {
            "node_config": {}, "min_workers": 0, **each,
            "resources": {**each["resources"], "object_store_memory": _SMALL_STORE},
        }
        for name, each in worker_types.items()
    }  # fmt: skip
    head = {"resources": {"CPU": head_cpus, "GPU": 0}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "fake",
        "max_workers": 4,
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,  # they share one
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": head, **workers},
        **{name: {} for name in _EMPTY},
        **{name: [] for name in _NO_COMMANDS},
    }


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]


def _started(
    command: list[str], environment: dict[str, str], file: Path
) -> subprocess.Popen[bytes]:
    """Ray gives a node 30 seconds to come up, which a busy machine may not keep: again, then."""
    for _ in range(_ATTEMPTS):
        with file.open("w") as log:
            head = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        started: list[psutil.Process] = []
        while head.poll() is None:
            if "Ray runtime started" in file.read_text():
                return head
            with contextlib.suppress(psutil.NoSuchProcess):
                started = psutil.Process(head.pid).children(recursive=True) or started
            time.sleep(0.2)
        _kill(started)
    raise AssertionError(file.read_text())


def _end(head: subprocess.Popen[bytes]) -> None:
    """The head and all that it started: its machines are children of its autoscaler."""
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(timeout=20)
        _kill(started)
    head.kill()
    head.wait()


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()  # psutil knows a process by its start time, too
    psutil.wait_procs(processes, timeout=10)
