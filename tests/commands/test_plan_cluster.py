"""`llmaug plan-cluster`: what stages will ask for, and whether a cluster has room for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from llmaug.cli.app import app
from llmaug.commands.plan_cluster import plan_cluster
from llmaug.config import parse_config
from llmaug.core.stage import MANIFEST
from llmaug.core.storage import Storage
from llmaug.errors import UserError

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster.yaml"
CONFIG: dict[str, Any] = {
    "name": "night",
    "plan": {"strategies": [{"kind": "continue", "num_events": 3}]},
    "generate": {"num_actors": 4, "num_cpus": 2},
    "train": {"num_workers": 2, "use_gpu": True},
}


def planned(storage: Storage, file: Path = CLUSTER, **sections: Any) -> dict[str, Any]:
    return plan_cluster(parse_config({**CONFIG, **sections}), storage, "night", file)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


def row(found: dict[str, Any], stage: str) -> dict[str, Any]:
    return next(each for each in found["stages"] if each["stage"] == stage)


def test_each_stage_says_what_it_asks_for_and_where_that_may_be(storage: Storage) -> None:
    found = planned(storage)
    engines = row(found, "outcomes")
    assert (engines["num"], engines["cpus"], engines["gpus"]) == (4, 2, 1)
    assert engines["machines"] == {"gpu": 4} and engines["room"] == 8
    assert engines["memory"] == "0.9 of a GPU's"
    workers = row(found, "model/real")
    assert (workers["what"], workers["num"], workers["gpus"]) == ("worker", 2, 1)
    assert row(found, "lm/causal")["machines"] == {"cpu": 1}  # asks for no GPU: not on one
    tasks = row(found, "ingest")
    assert tasks["num"] is None and tasks["room"] == 8 * 16 + 8 * 8  # none on the head
    assert "gate" not in {each["stage"] for each in found["stages"]}  # the driver does it
    assert found["misfits"] == [] and found["asks_for_gpus"]


def test_engines_that_share_gpus_need_fewer_machines(storage: Storage) -> None:
    shared = row(planned(storage, generate={"num_actors": 4, "num_gpus": 0.5}), "outcomes")
    assert shared["machines"] == {"gpu": 2} and shared["memory"] == "0.45 of a GPU's"


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"generate": {"num_actors": 9}}, "outcomes asks for 9 engines .* at most 8 fit"),
        ({"generate": {"tensor_parallel_size": 2}}, "2 GPU .* no machine has room for one"),
        ({"generate": {"num_cpus": 16}}, "16 CPU and 1 GPU .* no machine has room for one"),
        ({"train": {"num_workers": 9, "use_gpu": True}}, "model/real asks for 9 workers"),
    ],
)
def test_what_no_node_type_can_place_is_refused(
    storage: Storage, sections: dict[str, Any], said: str
) -> None:
    found = planned(storage, **sections)
    assert re.search(said, "\n".join(found["misfits"]))


def test_required_gpus_of_a_cluster_without_are_a_sentence(
    storage: Storage, tmp_path: Path
) -> None:
    cluster = yaml.safe_load(CLUSTER.read_text())
    del cluster["available_node_types"]["gpu"]
    file = tmp_path / "cpus.yaml"
    file.write_text(yaml.safe_dump(cluster))
    with pytest.raises(UserError, match="ray.gpus is required: no machine"):
        planned(storage, file, train={}, ray={"gpus": "required"})
    assert not planned(storage, file, train={})["asks_for_gpus"]


def test_an_earlier_night_and_its_forecast_are_shown(storage: Storage) -> None:
    storage.write_json({"peak_rss_mb": 1234}, "runs/night/ingest", MANIFEST)
    hours = {"mean": 8.0, "low": 6.0, "high": 10.0}
    storage.write_json({"engine_hours": hours, "cost": hours}, "runs/night/forecast.json")
    found = planned(storage)
    assert row(found, "ingest")["peak_rss_mb"] == 1234
    assert found["forecast"]["wall_hours"]["mean"] == 2.0  # on the four engines that are set now
    storage.write_json({"engine_hours": "8"}, "runs/night/forecast.json")  # damaged: no figures
    assert planned(storage)["forecast"] is None


def test_the_command_shows_a_plan_and_fails_on_one_without_room(tmp_path: Path) -> None:
    file = tmp_path / "night.yaml"
    arguments = ["plan-cluster", "-c", str(file), "--root", str(tmp_path / "root"), "--cluster"]
    file.write_text(yaml.safe_dump(CONFIG))
    done = CliRunner(env={"COLUMNS": "140"}).invoke(app, [*arguments, str(CLUSTER)])
    assert done.exit_code == 0 and "4 engines of 2 CPU, 1 GPU" in done.output
    assert "4 x gpu" in done.output and "GPUs are asked for (ray.gpus: auto)" in done.output
    kubernetes = CliRunner().invoke(
        app, [*arguments, str(ROOT / "infra/k8s/rayjob.yaml"), "--json"]
    )
    assert json.loads(kubernetes.output)["machines"][2]["most"] == 8
    file.write_text(yaml.safe_dump({**CONFIG, "generate": {"num_actors": 90}}))
    refused = CliRunner().invoke(app, [*arguments, str(CLUSTER), "--json"])
    assert refused.exit_code == 1 and json.loads(refused.output)["misfits"]
    with pytest.raises(UserError, match="90 engines"):
        CliRunner().invoke(app, [*arguments, str(CLUSTER)], catch_exceptions=False)
