"""The figures of a run, sent to an MLflow tracking server. It never fails a night.

A run of ours is one run there: the same night, finished later or made anew, goes on in it. Sent are
the config, arms and lifts with their intervals, the ledger, seconds by stage, and where report and
model lie; no event, no history, no id of a user.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from llmaug.config.tracking import TrackingConfig

RUN_TAG, ROOT_TAG = "llmaug.run_id", "llmaug.root"
_TRIES, _TIMEOUT_S = "3", "10"
_MAX_PARAM, _MAX_TAG = 6000, 5000  # characters that MLflow takes
_NOT_IN_NAMES = re.compile(r"[^\w\-. /]")


def track(
    config: TrackingConfig,
    told: dict[str, Any],
    metrics: dict[str, Any] | None,
    settings: dict[str, Any],
    place: str,
    say: Callable[[str], None],
) -> bool:
    """Send a run to the server of the config, if there is one; whether all of it arrived.

    told: the message of `llmaug.commands.notify`; metrics: those of the report, None without one;
    settings: the config of the run; place: URI of the run's folder; say: called with what went
    wrong.
    """
    if config.mlflow_uri is None:
        return False
    try:
        import mlflow
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException
    except ImportError:
        say("tracking: MLflow is not installed: pip install 'llmaug[mlflow]'")
        return False
    # MLflow's own are 7 tries of 2 minutes: a night does not wait a quarter of an hour.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", _TRIES)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", _TIMEOUT_S)
    try:
        client = mlflow.MlflowClient(config.mlflow_uri)
        root, _, run_id = place.rpartition("/runs/")
        found = _run_of(client, config.experiment, run_id, root)
        now = time.time_ns() // 1_000_000
        known = found.data.params
        client.log_batch(
            found.info.run_id,
            metrics=[Metric(name, value, now, 0) for name, value in figures(metrics or {})],
            params=[
                Param(name, value[:_MAX_PARAM])
                for name, value in flat(settings)
                if name not in known
            ],
            tags=[RunTag(name, value[:_MAX_TAG]) for name, value in _tags(told, place)],
        )
        client.set_terminated(found.info.run_id, "FAILED" if told["error"] else "FINISHED")
    except (MlflowException, OSError, ValueError) as error:
        say(f"tracking: {config.mlflow_uri} did not take the figures: {type(error).__name__}")
        return False
    return True


def _run_of(client: Any, experiment: str, run_id: str, root: str) -> Any:
    """The run there that stands for ours; new, where there is none."""
    known = client.get_experiment_by_name(experiment)
    number = known.experiment_id if known else client.create_experiment(experiment)
    # A run id has no quotes; a root may have some.
    for found in client.search_runs([number], f"tags.`{RUN_TAG}` = '{run_id}'"):
        if found.data.tags.get(ROOT_TAG) == root:
            return found
    return client.create_run(number, tags={RUN_TAG: run_id, ROOT_TAG: root}, run_name=run_id)


def _tags(told: dict[str, Any], place: str) -> Iterator[tuple[str, str]]:
    yield "llmaug.status", told["status"]
    yield "llmaug.text", told["text"]
    yield "llmaug.report", f"{place}/report/report.html"
    for name in ("arm", "version"):
        if told[name]:
            yield f"llmaug.{name}", told[name]


def figures(metrics: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, value) of metrics.json: arms and lifts with their intervals, counts, seconds."""
    for arm, values in metrics.get("arms", {}).items():
        for metric, value in values.items():
            yield from _interval(f"arms/{arm}/{metric}", value, "mean")
    for metric, value in metrics.get("lift", {}).items():
        yield from _interval(f"lift/{metric}", value, "relative")
    for section in ("ledger", "events", "throughput"):
        for name, value in (metrics.get(section) or {}).items():
            if isinstance(value, int | float):
                yield _name(f"{section}/{name}"), float(value)
    for stage, facts in metrics.get("stages", {}).items():
        yield _name(f"seconds/{stage}"), float(facts["seconds"])
    if metrics.get("gate"):
        yield "gate/passed", float(metrics["gate"]["passed"])


def _interval(name: str, value: dict[str, Any] | None, middle: str) -> Iterator[tuple[str, float]]:
    for suffix, key in (("", middle), ("/low", "low"), ("/high", "high")):
        if value and value.get(key) is not None:
            yield _name(name) + suffix, float(value[key])


def _name(name: str) -> str:
    """As MLflow takes it: ndcg@10 is ndcg_at_10."""
    return _NOT_IN_NAMES.sub("_", name.replace("@", "_at_"))


def flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(section.field, value) of a config."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield _name(f"{prefix}{name}"), str(value)
