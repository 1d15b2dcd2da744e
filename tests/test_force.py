"""Publishing by hand: a force leaves its traces everywhere, and is for one decision only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmaug import publish, recommend, recommenders
from llmaug.config import TrainConfig
from llmaug.errors import UserError
from llmaug.force import publish_run
from llmaug.stage import MANIFEST, Context
from tests.jobs import llmaug
from tests.tables import catalogue, events, histories, map_parts_here
from tests.test_report import FEW, manifests

MakeContext = Callable[..., Context]
REFUSAL = "lift of ndcg@10 over real: -2.0% (-9.0% to +5.0%)"
REFUSED = {"passed": False, "arm": "real", "reasons": [REFUSAL], "segments": []}
REASON = "agreed with the shop team"


@pytest.fixture
def night(make_context: MakeContext, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A run whose gate refused: the real arm likes a best, the augmented arm b."""
    config = {
        "plan": {"strategies": [{"kind": "new_users"}]},
        "generate": {"engine": "uniform"},
        "train": {"model": "popularity"},
        "recommend": {"include_seen": True, "k": 1},
    }
    context = make_context("monday", **config)
    storage = context.storage
    storage.write_json(
        {"run_id": "monday", "config": context.config.model_dump(mode="json")},
        "runs/monday", "run.json",
    )  # fmt: skip
    finished = {name: manifest["counts"] for name, manifest in manifests(FEW).items()}
    for name, counts in {**finished, "vocabulary": {}, "plan": {}}.items():
        if name != "publish":
            finish(context, name, counts)
    decide(context, REFUSED)
    storage.write_part(events(histories(u1="ab")), {}, context.folder("ingest"), "part-00000")
    words = catalogue("ab")
    for arm, liked in (("real", "aab"), ("augmented", "abb")):
        model = recommenders.build(TrainConfig(model="popularity"), words, [])
        model.fit(lambda liked=liked: [events(histories(u1=liked))])
        folder = context.folder(f"model/{arm}/seed-1")
        digest = recommenders.save(storage, folder, model, TrainConfig(model="popularity"), words)
        storage.write_json({"model_digest": digest}, folder, "_trained.json")
    monkeypatch.setattr(recommend, "map_parts", map_parts_here)
    return context


def finish(
    context: Context, stage: str, counts: dict[str, Any], fingerprint: str = "first"
) -> None:
    manifest = {"fingerprint": fingerprint, "counts": counts, "parts": [], "seconds": 1.0,
                "peak_rss_mb": 1}  # fmt: skip
    context.storage.write_json(manifest, context.folder(stage), MANIFEST)


def decide(context: Context, decision: dict[str, Any], fingerprint: str = "first") -> None:
    finish(context, "gate", decision, fingerprint)


def recommended(context: Context) -> str:
    rows = context.storage.read_part(context.folder("recommendations"), "part-00000")
    return rows["item_id"][0].as_py()


def test_a_force_is_recorded_with_the_model_in_the_run_and_in_the_report(night: Context) -> None:
    storage = night.storage
    assert publish_run(storage, "monday")["arm"] == "real"
    assert recommended(night) == "a"
    served = storage.read("published/recommender/versions/monday", "model.safetensors")

    card = publish_run(storage, "monday", REASON)

    assert (card["arm"], recommended(night)) == ("augmented", "b")
    version = "published/recommender/versions/monday-forced"
    current = publish.current(storage, "recommender")
    assert (current["version"], current["arm"]) == (version, "augmented")
    assert current["previous"] == "published/recommender/versions/monday"
    metrics = storage.read_json(night.folder("report"), "metrics.json")
    for recorded in (
        storage.read_json(version, "published.json"),
        storage.read_json(night.folder("publish"), MANIFEST)["counts"],
        metrics["published"],
    ):
        assert recorded["forced"]["reason"] == REASON
        assert recorded["forced"]["refused"] == [REFUSAL]
        assert recorded["forced"]["forced_utc"].endswith("Z")
        assert recorded["gate"]["passed"] is False
    page = storage.read(night.folder("report"), "report.html").decode()
    assert REASON in page and "by force" in page and REFUSAL in page.replace("&#43;", "+")
    # What the shop was served until now is still whole.
    assert storage.read("published/recommender/versions/monday", "model.safetensors") == served


def test_publishing_again_without_force_goes_back_to_what_the_gate_chose(night: Context) -> None:
    publish_run(night.storage, "monday", REASON)
    assert publish_run(night.storage, "monday")["forced"] is None
    assert publish.current(night.storage, "recommender")["arm"] == "real"
    assert recommended(night) == "a"


def test_a_new_decision_of_the_gate_is_not_forced_by_an_old_record(night: Context) -> None:
    publish_run(night.storage, "monday", REASON)
    assert publish.forced(night) is not None
    decide(night, REFUSED, fingerprint="second")
    assert publish.forced(night) is None
    assert publish.run(night)["arm"] == "real"


def test_there_must_be_something_to_force_and_a_reason(night: Context) -> None:
    storage = night.storage
    with pytest.raises(UserError, match="say why"):
        publish_run(storage, "monday", "  ")
    with pytest.raises(UserError, match="no such run; runs here: monday"):
        publish_run(storage, "tuesday", REASON)
    storage.delete(night.folder("model/augmented"), MANIFEST)
    with pytest.raises(UserError, match="no augmented model"):
        publish_run(storage, "monday", REASON)
    decide(night, {**REFUSED, "passed": True, "arm": "augmented"})
    with pytest.raises(UserError, match="the gate passed"):
        publish_run(storage, "monday", REASON)
    storage.delete(night.folder("gate"), MANIFEST)
    with pytest.raises(UserError, match="has not come to the gate"):
        publish_run(storage, "monday", REASON)
    assert not storage.exists("runs/monday", publish.FORCED)
    assert not storage.exists("published/recommender", "CURRENT")


@pytest.mark.parametrize("options", [["--force"], ["--reason", REASON]])
def test_a_force_without_a_reason_is_a_wrong_option(options: list[str]) -> None:
    done = llmaug("publish", "monday", *options)
    assert done.returncode == 2
    assert "go together" in done.stderr
