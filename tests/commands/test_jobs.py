"""A run as a job of a cluster: one at a time, joined or gone on with, with the job's exit code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmaug.cli import jobs as cli
from llmaug.commands.jobs import command, connect, follow, logs, stop, submit
from llmaug.config.dates import day_of
from llmaug.errors import UserError

RUN = "2026-01-31"


class Cluster:
    """The jobs of a cluster, as Ray's client speaks of them; `ends` says how each submitted one
    comes to its end when it is followed."""

    def __init__(self, ends: str = "SUCCEEDED", code: int | None = 0) -> None:
        self.jobs: dict[str, str] = {}
        self.submitted: list[dict[str, Any]] = []
        self._ends, self._code = ends, code
        self.thief, self.coming_up = False, 0

    def submit_job(self, **asked: Any) -> str:
        name = asked["submission_id"]
        if self.coming_up:
            self.coming_up -= 1
            raise RuntimeError("status code 500: No available agent, please try again later.")
        if self.thief:  # another machine submits the same at the same moment
            self.jobs[name] = "PENDING"
        if name in self.jobs:
            raise RuntimeError(f"Job with submission_id {name} already exists")
        self.jobs[name] = "RUNNING"
        self.submitted.append(asked)
        return name

    def get_job_info(self, job_id: str) -> Any:
        if job_id not in self.jobs:
            raise RuntimeError(f"Job {job_id} does not exist")
        return SimpleNamespace(status=self.jobs[job_id], driver_exit_code=self._code)

    def get_job_logs(self, job_id: str) -> str:
        return "all that was said"

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "first "
        yield "last"
        self.jobs[job_id] = self._ends

    def stop_job(self, job_id: str) -> bool:
        self.jobs[job_id] = "STOPPED"
        return True

    def delete_job(self, job_id: str) -> bool:
        del self.jobs[job_id]
        return True


def test_the_job_is_the_run_by_command_in_the_folder_of_the_config(tmp_path: Path) -> None:
    config = tmp_path / "night shop.yaml"
    config.touch()
    entrypoint = command(config, tmp_path, "s3://b/root", RUN, ["--date", RUN])
    assert entrypoint == (
        "python -m llmaug run --config 'night shop.yaml' --root s3://b/root --run-id 2026-01-31 "
        "--date 2026-01-31"
    )
    cluster = Cluster()
    assert submit(cluster, RUN, entrypoint, tmp_path)
    [asked] = cluster.submitted
    assert asked["submission_id"] == "llmaug-2026-01-31"
    assert asked["runtime_env"]["working_dir"] == str(tmp_path)
    assert "env_vars" not in asked["runtime_env"]  # whoever sees the job would read them
    assert {".env", "*.pem", ".aws"} <= set(asked["runtime_env"]["excludes"])


def test_the_job_reads_the_day_that_it_was_submitted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submitted before midnight and begun after it: `yesterday` would be another day by then."""
    (tmp_path / "shop.yaml").write_text('name: shop\ningest: {path: "s3://b/logs/{date}"}\n')
    cluster, yesterday = Cluster(), day_of("yesterday").isoformat()
    monkeypatch.setattr("llmaug.commands.jobs.connect", lambda address: cluster)
    monkeypatch.chdir(tmp_path)
    cli.submit(Path("shop.yaml"), root="s3://b/root", date="yesterday", detach=True)
    [asked] = cluster.submitted
    assert asked["submission_id"] == f"llmaug-shop-{yesterday}"
    assert asked["entrypoint"].endswith(f"--date {yesterday}")


def test_a_run_that_is_running_is_joined(tmp_path: Path) -> None:
    cluster = Cluster()
    assert submit(cluster, RUN, "run", tmp_path)
    assert not submit(cluster, RUN, "run", tmp_path)
    assert len(cluster.submitted) == 1


def test_of_two_at_the_same_moment_one_joins(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.thief = True
    assert not submit(cluster, RUN, "run", tmp_path)


def test_a_cluster_that_is_coming_up_is_waited_for(tmp_path: Path) -> None:
    cluster, waited = Cluster(), list[float]()
    cluster.coming_up = 3
    assert submit(cluster, RUN, "run", tmp_path, waited.append)
    assert len(waited) == 3
    cluster = Cluster()
    cluster.coming_up = 99
    with pytest.raises(UserError, match="did not take the job: .*try again later"):
        submit(cluster, RUN, "run", tmp_path, waited.append)


@pytest.mark.parametrize("ended", ["SUCCEEDED", "FAILED", "STOPPED"])
def test_a_job_that_ended_is_replaced_and_the_run_goes_on(ended: str, tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.jobs["llmaug-2026-01-31"] = ended
    assert submit(cluster, RUN, "run", tmp_path)
    assert cluster.jobs == {"llmaug-2026-01-31": "RUNNING"}


@pytest.mark.parametrize(
    ("ends", "driver", "code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", None, 1), ("STOPPED", None, 130)],
)
def test_following_it_ends_with_its_exit_code(
    ends: str, driver: int | None, code: int, tmp_path: Path
) -> None:
    cluster, said = Cluster(ends, driver), list[str]()
    submit(cluster, RUN, "run", tmp_path)
    assert follow(cluster, RUN, said.append) == code
    assert said == ["first ", "last"]


@pytest.mark.parametrize("error", [None, RuntimeError("WebSocket closed"), OSError("reset")])
def test_where_the_connection_breaks_the_job_goes_on_and_it_says_so(
    error: Exception | None, tmp_path: Path
) -> None:
    class Far(Cluster):
        async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
            yield "first "
            if error:
                raise error

    cluster, said = Far(), list[str]()
    submit(cluster, RUN, "run", tmp_path)
    with pytest.raises(UserError, match=f"the job goes on: `llmaug logs {RUN} --follow`"):
        follow(cluster, RUN, said.append)
    assert said == ["first "]


def test_it_is_stopped_once(tmp_path: Path) -> None:
    cluster = Cluster()
    submit(cluster, RUN, "run", tmp_path)
    assert stop(cluster, RUN)
    assert not stop(cluster, RUN)
    assert logs(cluster, RUN) == "all that was said"


def test_a_run_without_a_job_says_what_to_do() -> None:
    for ask in (logs, stop, lambda jobs, run: follow(jobs, run, print)):
        with pytest.raises(UserError, match="no job llmaug-2026-01-31 .*`llmaug submit` makes one"):
            ask(Cluster(), RUN)


def test_what_the_cluster_cannot_see_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    inside = tmp_path / "configs"
    inside.mkdir()
    with pytest.raises(UserError, match="lies outside --working-dir"):
        command(tmp_path / "shop.yaml", inside, "s3://b/root", RUN, [])
    with pytest.raises(UserError, match="root demo is a folder of this machine"):
        command(inside / "shop.yaml", inside, "demo", RUN, [])
    with pytest.raises(UserError, match="no Ray cluster takes jobs at http://127.0.0.1:1"):
        connect("http://127.0.0.1:1")
