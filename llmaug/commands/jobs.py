"""A run as a job of a Ray cluster: handed in, followed, stopped, through Ray's Jobs API.

The job's id follows from the run's: a run is never submitted twice at the same time, on a cluster
as in storage (where its lease sees to that). Nothing secret is put into a job: whoever may look at
the cluster's jobs sees their commands and environment, so rights come from the machines or pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from llmaug.config.names import check_name
from llmaug.errors import UserError

EXCLUDES = [
    ".git", ".venv", "demo", "site", "**/__pycache__", "*.parquet", "*.safetensors",
    ".env", ".env.*", ".aws", "credentials*", "*.pem", "*.key",
]  # fmt: skip
"""What of a working folder is no code and no config, and what is secret."""
_RUNNING = ("PENDING", "RUNNING")
_LATER = "try again later"  # what a cluster says that is just coming up
_TRIES, _PAUSE_S = 12, 5.0


class Jobs(Protocol):
    """What is used of ray.job_submission.JobSubmissionClient."""

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: Any) -> str: ...
    def get_job_info(self, job_id: str) -> Any: ...
    def get_job_logs(self, job_id: str) -> str: ...
    def tail_job_logs(self, job_id: str) -> Any: ...
    def stop_job(self, job_id: str) -> bool: ...
    def delete_job(self, job_id: str) -> bool: ...


def connect(address: str | None) -> Jobs:
    """The jobs of the cluster at `address` (http://head:8265); None: RAY_API_SERVER_ADDRESS,
    RAY_ADDRESS or this machine. Raises UserError when nobody answers there."""
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)  # type: ignore[return-value]
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = address or os.environ.get("RAY_ADDRESS") or "http://127.0.0.1:8265"
        raise UserError(
            f"no Ray cluster takes jobs at {where}: {str(error).splitlines()[0]}. Give --address "
            "http://HEAD:8265 (`ray dashboard cluster.yaml`, or `kubectl port-forward`, brings it "
            "to this machine), and RAY_AUTH_TOKEN where the cluster has a token"
        ) from error


def job_id(run_id: str) -> str:
    return f"llmaug-{check_name(run_id, 'run id')}"


def command(config: Path, folder: Path, root: str, run_id: str, options: Sequence[str]) -> str:
    """What the job runs, in the uploaded working folder. Raises UserError where the config lies
    outside, or the root is a folder that only this machine has."""
    place, home = config.resolve(), folder.resolve()
    if not place.is_relative_to(home):
        raise UserError(f"{config} lies outside --working-dir {folder}, which the cluster is given")
    if "://" not in root and not os.path.isabs(root):
        raise UserError(
            f"root {root} is a folder of this machine: the cluster needs s3://bucket/prefix, or "
            "the absolute path of a folder that all of its machines have"
        )
    words = ["python", "-m", "llmaug", "run", "--config", str(place.relative_to(home))]
    return shlex.join([*words, "--root", root, "--run-id", run_id, *options])


def submit(
    jobs: Jobs,
    run_id: str,
    entrypoint: str,
    folder: Path,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Hand the job of a run in, unless it is running: True where it was, False where one joins.

    A job that ended is replaced: the run goes on where it was. Raises UserError when the cluster
    refuses it.
    """
    name = job_id(run_id)
    if (state := _state(jobs, name)) in _RUNNING:
        return False
    if state is not None:
        with contextlib.suppress(RuntimeError):  # somebody did so a moment ago
            jobs.delete_job(name)  # an id is for one job
    environment = {"working_dir": str(folder.resolve()), "excludes": EXCLUDES}
    tries = 0
    while True:
        tries += 1
        try:
            jobs.submit_job(entrypoint=entrypoint, submission_id=name, runtime_env=environment)
            return True
        except (RuntimeError, ValueError, OSError) as error:
            if _state(jobs, name) in _RUNNING:  # somebody was quicker
                return False
            if tries == _TRIES or _LATER not in str(error):
                raise UserError(f"the cluster did not take the job: {error}") from error
        sleep(_PAUSE_S)


def follow(jobs: Jobs, run_id: str, write: Callable[[str], None]) -> int:
    """Write what the job says until it ends; its exit code (130: it was stopped)."""

    async def tail() -> None:
        async for lines in jobs.tail_job_logs(name):
            write(lines)

    import aiohttp  # Ray's client stands on it

    name = _known(jobs, run_id)
    lost = ""
    try:
        asyncio.run(tail())
    except (RuntimeError, OSError, aiohttp.ClientError) as error:
        lost = f" ({error})"
    info = jobs.get_job_info(name)
    status = _text(info.status)
    if status in _RUNNING:
        raise UserError(
            f"the connection to the cluster broke off{lost}; the job goes on: "
            f"`llmaug logs {run_id} --follow` shows what it says"
        )
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return 130
    return int(getattr(info, "driver_exit_code", None) or 1)


def logs(jobs: Jobs, run_id: str) -> str:
    """What the job has said so far."""
    return jobs.get_job_logs(_known(jobs, run_id))


def stop(jobs: Jobs, run_id: str) -> bool:
    """Ask the job to stop; False when it had ended. What is finished is kept."""
    name = _known(jobs, run_id)
    return _state(jobs, name) in _RUNNING and jobs.stop_job(name)


def _known(jobs: Jobs, run_id: str) -> str:
    name = job_id(run_id)
    if _state(jobs, name) is None:
        raise UserError(
            f"no job {name} on this cluster: `llmaug submit` makes one; `ray job list` shows those "
            "that there are"
        )
    return name


def _state(jobs: Jobs, name: str) -> str | None:
    try:
        return _text(jobs.get_job_info(name).status)
    except RuntimeError:  # "does not exist" is all that it says
        return None


def _text(status: Any) -> str:
    return str(getattr(status, "value", status))
