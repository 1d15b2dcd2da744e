"""The DAG of infra/airflow, run with as much of Airflow as it uses (Airflow pins too much)."""

from __future__ import annotations

import runpy
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import pytest
import yaml
from typer.main import get_command

from llmaug.cli.app import app

ROOT = Path(__file__).parents[2]
DAG = ROOT / "infra" / "airflow" / "llmaug_nightly.py"


class Recorder:
    """Stands for DAG and operators: remembers what they were made with."""

    made: list[dict[str, Any]] = []

    def __init__(self, **given: Any) -> None:
        self.made.append(given)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(Recorder, "made", [])
    for name in (
        "airflow", "airflow.providers", "airflow.providers.standard",
        "airflow.providers.standard.operators", "airflow.providers.standard.operators.bash",
        "airflow.timetables", "airflow.timetables.interval",
    ):  # fmt: skip
        module = ModuleType(name)
        module.__dict__.update(
            DAG=Recorder, BashOperator=Recorder, CronDataIntervalTimetable=lambda *a, **k: (a, k)
        )
        monkeypatch.setitem(sys.modules, name, module)
    runpy.run_path(str(DAG))
    return Recorder.made


def test_one_night_at_a_time_and_none_of_the_past(made: list[dict[str, Any]]) -> None:
    dag, task = made
    assert (dag["max_active_runs"], dag["catchup"]) == (1, False)
    cron = next(yaml.safe_load_all((ROOT / "infra" / "k8s" / "raycronjob.yaml").read_text()))
    # Of an interval: what it calls the day of a run is the day before.
    assert dag["schedule"] == ((cron["spec"]["schedule"],), {"timezone": "UTC"})
    assert task["retries"] >= 1
    assert (
        task["execution_timeout"].total_seconds()
        == (cron["spec"]["jobTemplate"]["activeDeadlineSeconds"])
    )


def test_a_retry_resumes_the_run_by_a_new_submission(made: list[dict[str, Any]]) -> None:
    command = jinja2.Template(made[1]["bash_command"], undefined=jinja2.StrictUndefined)
    address = {"value": {"llmaug_ray_address": "http://head:8265"}}
    texts = [command.render(ds="2026-01-31", ti={"try_number": n}, var=address) for n in (1, 2)]
    # A task that is ended takes its job with it: the retry would find the run held.
    stop = "ray job stop --address http://head:8265 llmaug-2026-01-31-1"
    assert texts[0].startswith(f"trap '{stop}' TERM INT; ") and texts[0].endswith("& wait $!")
    first, second = (
        shlex.split(text.partition("; ")[2].removesuffix(" & wait $!")) for text in texts
    )
    assert first[:3] == ["ray", "job", "submit"] and "http://head:8265" in first
    changed = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
    assert changed == [("llmaug-2026-01-31-1", "llmaug-2026-01-31-2")]
    job = first[first.index("--") + 1 :]
    script = Path(job[1]).relative_to("/home/ray/llmaug")
    assert job[0] == "python" and (ROOT / script).is_file()
    options = dict(zip(job[2::2], job[3::2], strict=True))
    assert options["--date"] == "2026-01-31"
    run = get_command(app).commands["run"]  # type: ignore[attr-defined]
    assert set(options) <= {option for each in run.params for option in each.opts}
    assert (ROOT / Path(options["--config"]).relative_to("/home/ray/llmaug")).is_file()


def test_the_token_comes_from_airflows_store(made: list[dict[str, Any]]) -> None:
    env = made[1]["env"]
    assert env["RAY_AUTH_MODE"] == "token"
    assert env["RAY_AUTH_TOKEN"] == "{{ var.value.llmaug_ray_token }}"
