"""What other programs read has the shape that is promised, and the shape can be printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmaug.cli.app import app
from llmaug.core.storage import Storage
from llmaug.publish import pointer
from llmaug.publish.card import Card
from llmaug.report.metrics import Metrics
from llmaug.report.stage import collect
from tests.nights import NIGHT, make_night, without_ray
from tests.report.test_report import FEW, MANY, manifests

PUBLISHED = {
    "model_digest": "0", "files": {}, "seed": 1, "night": ["", "", "r"], "outcome": "published",
    "gate": {"passed": False, "arm": "real", "reasons": ["no"], "segments": []},
    "published_utc": "2026-01-31T04:00:00Z", "current": "v", "why": "",
}  # fmt: skip
MOMENT = {"second": 1.5, "engines": 1, "busy": 1, "running": 4, "tokens_per_s": 9.0}


def metrics_of(arms: tuple[str, ...], seeds: tuple[int, ...] = (1,)) -> dict[str, Any]:
    found = manifests(arms, seeds)
    found["publish"]["counts"] |= PUBLISHED
    found["outcomes"]["counts"] |= {"utilisation": [MOMENT], "idle_share": 0.1, "deaths": 1}
    predicted = {"mean": 1.0, "low": 0.5, "high": 2.0}
    forecast = dict.fromkeys(("output_tokens", "engine_seconds", "accepted"), predicted)
    return json.loads(json.dumps({"run_id": "r", **collect(found, {"split"}, forecast)}))


@pytest.mark.parametrize("arms", [FEW, MANY])
@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_metrics_of_few_and_many_arms_keep_their_contract(
    arms: tuple[str, ...], seeds: tuple[int, ...]
) -> None:
    metrics = metrics_of(arms, seeds)
    assert Metrics.keeps(metrics) is metrics


def test_what_breaks_the_contract_is_named() -> None:
    metrics = metrics_of(FEW)
    metrics["lifts"][0]["relative"] = "+10%"
    with pytest.raises(TypeError, match=r"Metrics.lifts.0.relative: .*'\+10%'"):
        Metrics.keeps(metrics)
    with pytest.raises(TypeError, match=r"Metrics.ledger.lost: Extra inputs"):
        Metrics.keeps({**(now := metrics_of(FEW)), "ledger": {**now["ledger"], "lost": 1}})
    with pytest.raises(TypeError, match=r"Metrics.gate: Field required"):
        Metrics.keeps({name: own for name, own in metrics_of(FEW).items() if name != "gate"})


def test_a_night_keeps_its_contracts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)
    root = tmp_path / "root"
    make_night(root, tmp_path)
    storage = Storage(str(root))
    Metrics.keeps(storage.read_json(f"runs/{NIGHT}/report", "metrics.json"))
    Card.keeps(pointer.current(storage, "recommender"))


def test_the_counts_of_every_stage_have_a_printed_schema() -> None:
    printed = CliRunner().invoke(app, ["schema", "manifests"])
    assert printed.exit_code == 0
    schemas = json.loads(printed.stdout)
    assert set(schemas) >= {"ingest", "split", "plan", "outcomes", "gate", "publish"}
    assert schemas["split"]["additionalProperties"] is False
    assert schemas["ingest"]["additionalProperties"] == {"type": "integer"}
    planned = schemas["outcomes"]["properties"]["left_out"]["description"]
    assert planned == "Not asked: a limit was reached first."


@pytest.mark.parametrize(("of", "field"), [("metrics", "ledger"), ("published", "night")])
def test_the_schema_can_be_printed(of: str, field: str) -> None:
    printed = CliRunner().invoke(app, ["schema", of])
    assert printed.exit_code == 0
    schema = json.loads(printed.stdout)
    assert field in schema["required"]
    assert schema["additionalProperties"] is False
    if of == "metrics":
        assert schema["$defs"]["Ledger"]["properties"]["left_out"]["description"].startswith(
            "Not asked"
        )
