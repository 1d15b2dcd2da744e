"""A head started by the very commands of cluster.yaml runs no job without the token."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster.yaml"
RAY = Path(sys.executable).with_name("ray")


class Head(NamedTuple):
    """A head on loopback."""

    dashboard: str
    gcs: str
    token: str
    env: dict[str, str]  # of the container, without the token's file


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """What cluster.yaml says, with other ports, on loopback, and without its `ray stop`."""
    cluster = yaml.safe_load(CLUSTER.read_text())
    (command,) = [line for line in cluster["head_start_ray_commands"] if "ray start" in line]
    words = shlex.split(command.partition("; ")[2])  # behind ulimit
    assert words[:2] == ["ray", "start"]
    ours = ("--port", "--object-manager-port", "--autoscaling-config")
    kept = [word for word in words[1:] if not word.startswith(ours)]
    options = [option.removeprefix("--env ") for option in cluster["docker"]["run_options"]]
    settings = dict(option.split("=", 1) for option in options if option.startswith("RAY_"))
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "HOME"}
    with tempfile.TemporaryDirectory(prefix="head") as folder:
        home = Path(folder) / "home"
        # Where the container has the file: /home/ray is its home.
        (mounted,) = [place for place in cluster["file_mounts"] if place.endswith("auth_token")]
        file = home / Path(mounted).relative_to("/home/ray")
        file.parent.mkdir(parents=True)
        token = secrets.token_hex(32)
        file.write_text(token)
        (Path(folder) / "stranger").mkdir()
        gcs, dashboard = free_port(), free_port()
        env = clean | settings
        started = subprocess.Popen(
            [str(RAY), *kept, "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}",
             f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}",
             f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={folder}/ray",
             "--num-cpus=1", "--object-store-memory=100000000"],
            env=env | {"HOME": str(home)}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            found = Head(
                f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", token,
                env | {"HOME": f"{folder}/stranger"},
            )  # fmt: skip
            wait_until_it_answers(found, started)
            yield found
        finally:
            started.terminate()  # it ends what it started
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()


def wait_until_it_answers(head: Head, started: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if started.poll() is not None:
            pytest.fail(f"ray start ended: {started.communicate()[0]}")
        try:
            if call(head, "/api/jobs/", token=head.token)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.5)
    pytest.fail("the head does not answer")


def call(
    head: Head, path: str, body: dict[str, Any] | None = None, token: str | None = None
) -> tuple[int, str]:
    """(status, text) of a request."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = json.dumps(body).encode() if body else None
    headers |= {"Content-Type": "application/json"} if body else {}
    request = urllib.request.Request(head.dashboard + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def a_job(marker: Path) -> dict[str, Any]:
    return {"entrypoint": f"touch {marker}"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_runs_with_the_token_and_with_nothing_else(head: Head, tmp_path: Path) -> None:
    stolen, ours = tmp_path / "stolen", tmp_path / "ours"
    assert call(head, "/api/jobs/", a_job(stolen))[0] == 401
    assert call(head, "/api/jobs/", a_job(stolen), token="f" * 64)[0] == 403
    for path in ("/nodes?view=summary", "/api/v0/actors", "/api/jobs/"):
        assert call(head, path)[0] == 401, path
    status, text = call(head, "/api/jobs/", a_job(ours), token=head.token)
    assert status == 200, text
    deadline = time.monotonic() + 90
    while not ours.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ours.exists() and not stolen.exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_driver_without_the_token_gets_no_worker(head: Head) -> None:
    """GCS must answer the workers on other machines, so it is the token that closes it."""
    driver = "import ray; ray.init(log_to_driver=False); print(ray.get(ray.put('in')))"
    out = subprocess.run(
        [sys.executable, "-c", driver],
        env=head.env | {"RAY_ADDRESS": head.gcs, "RAY_AUTH_MODE": "disabled"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert out.returncode != 0 and "in" not in out.stdout.split()
    assert "uthentic" in out.stderr  # refused, not missed
