"""The figures of a night in MLflow: a real server takes them; without one no night fails."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmaug.commands.notify import message
from llmaug.commands.track import figures, flat, track
from llmaug.config import parse_config
from llmaug.config.tracking import TrackingConfig
from tests.servers import free_ports

PLACE = "s3://bucket/it's/runs/2026-01-31"
INTERVAL = {"mean": 0.2, "low": 0.1, "high": 0.3}
METRICS = {
    "arms": {"real": {"ndcg@10": INTERVAL}, "augmented": {"ndcg@10": {**INTERVAL, "mean": 0.25}}},
    "lift": {"ndcg@10": {"relative": 0.25, "low": 0.01, "high": 0.4, "against": "real"}},
    "ledger": {"units": 10, "accepted": 9, "by_reason": {"rejected.short": 1}, "stopped": ""},
    "events": {"real": 100, "synthetic": 90},
    "throughput": {"output_tokens_per_s": 12.5, "cost": None},
    "stages": {"model/real": {"seconds": 3.5, "peak_rss_mb": 100, "skipped": False}},
    "gate": {"passed": True},
}


def test_every_figure_has_a_name_that_mlflow_takes() -> None:
    named = dict(figures(METRICS))
    assert named["arms/augmented/ndcg_at_10"] == 0.25
    assert named["arms/real/ndcg_at_10/low"] == 0.1
    assert named["lift/ndcg_at_10/high"] == 0.4
    assert (named["ledger/accepted"], named["seconds/model/real"]) == (9.0, 3.5)
    assert "throughput/cost" not in named and "ledger/stopped" not in named
    settings = dict(flat(parse_config({"ingest": {"path": "logs"}}).model_dump(mode="json")))
    assert settings["ingest.path"] == "logs" and settings["train.model"] == "sasrec"


def test_nothing_is_sent_unless_one_asks_for_it() -> None:
    assert not track(TrackingConfig(), message("r", {}, None), None, {}, PLACE, pytest.fail)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("mlflow")
    pytest.importorskip("mlflow.server", reason="a server needs all of MLflow: pip install mlflow")
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
         "--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db",
         "--artifacts-destination", str(tmp_path)],
        cwd=tmp_path,
    )  # fmt: skip
    yield address
    process.terminate()
    process.wait()


def send(address: str, run_id: str, metrics: Any, error: str | None = None) -> list[str]:
    said: list[str] = []
    config = parse_config({"ingest": {"path": "logs"}}).model_dump(mode="json")
    place = f"{PLACE.rpartition('/')[0]}/{run_id}"
    told = message(run_id, {}, metrics, error)
    track(TrackingConfig(mlflow_uri=address), told, metrics, config, place, said.append)
    return said


@pytest.mark.soak
def test_a_night_is_one_run_there(server: str) -> None:
    import mlflow

    client = mlflow.MlflowClient(server)
    until = time.time() + 60
    while send(server, "2026-01-30", None, "logs are missing"):
        assert time.time() < until
        time.sleep(1)
    assert send(server, "2026-01-31", None, "killed") == []
    assert send(server, "2026-01-31", METRICS) == []  # finished later
    number = client.get_experiment_by_name("llmaug").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([number])}
    assert set(runs) == {"2026-01-30", "2026-01-31"}
    assert runs["2026-01-30"].info.status == "FAILED"
    night = runs["2026-01-31"]
    assert night.info.status == "FINISHED"
    assert night.data.metrics["lift/ndcg_at_10"] == 0.25
    assert night.data.params["ingest.path"] == "logs"
    assert night.data.tags["llmaug.report"] == f"{PLACE}/report/report.html"


def test_a_server_that_is_not_there_fails_no_night(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (said,) = send(f"http://127.0.0.1:{free_ports(1)[0]}", "2026-01-31", METRICS)
    assert "did not take the figures" in said
