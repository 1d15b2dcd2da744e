"""benchmarks/influence.py: a strategy that helps is told from one that hurts and one that does
nothing, by models that were really written and read."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from llmaug import pipeline, recommenders
from llmaug.config import Config, PopularityConfig, parse_config
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.vocabulary import ITEMS_PART
from llmaug.recommenders import DataFacts
from tests.tables import catalogue, events, histories

SPEC = importlib.util.spec_from_file_location("influence", "benchmarks/influence.py")
assert SPEC and SPEC.loader
influence = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(influence)

WORDS = catalogue("abcd")
HELPS, NOTHING, HURTS = "continue", "new_users", "infill"
WRITES = {HELPS: "cccc", NOTHING: "a", HURTS: "dd"}  # everybody takes c next


def config(*kinds: str) -> Config:
    strategies: list[dict[str, Any]] = [{"kind": kind} for kind in kinds]
    return parse_config({
        "plan": {"strategies": strategies}, "generate": {"engine": "uniform"},
        "train": {"model": "popularity", "arms": ["real", "augmented"]},
        "evaluate": {"num_bootstrap": 100},
    })  # fmt: skip


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A job whose generator writes by heart: the models are trained on that."""
    storage, run = Storage(str(tmp_path)), "runs/influence"
    users = [f"u{number}" for number in range(40)]
    storage.write_part(
        WORDS.items, {"vocabulary_digest": WORDS.digest}, f"{run}/vocabulary", ITEMS_PART
    )
    for fold, item in (("train", "a"), ("validation", "c")):
        own = events(histories(**dict.fromkeys(users, item)))
        storage.write_part(own, {}, f"{run}/split/{fold}", "part-0")

    def run_job(config: Config, storage: Storage, run_id: str, **options: Any) -> dict[str, Any]:
        assert options == {"until": "train", "publishing": False}  # no test event
        written = "".join(WRITES[strategy.kind] for strategy in config.plan.strategies)
        for arm, items in (("real", "abbb"), ("augmented", f"abbb{written}")):
            model = recommenders.build(PopularityConfig(), DataFacts(WORDS))
            model.fit(lambda items=items: [events(histories(u=items))])
            folder = f"runs/{run_id}/model/{arm}/seed-1"
            storage.delete(folder)
            recommenders.save_recommender(storage, folder, model, PopularityConfig(), WORDS)
            storage.write_json({}, folder, "_trained.json")
        return {"merged/augmented": {"counts": {"synthetic": len(written)}}}

    monkeypatch.setattr(pipeline, "run", run_job)
    return storage


def test_each_strategy_is_left_out_in_turn(storage: Storage) -> None:
    found = influence.influence(config(HELPS, NOTHING), storage)
    whole, without = found["all"], {own["strategy"]: own for own in found["strategies"]}
    # Without it c is third, behind b and as rare as d (ties count against): 0.5, and first with it.
    gain = pytest.approx(1.0)
    assert (whole["synthetic"], whole["lift"]["relative"]) == (5, gain)
    helps, nothing = without[f"0: {HELPS}"], without[f"1: {NOTHING}"]
    assert (helps["synthetic"], helps["lift"]["relative"]) == (4, gain)
    assert helps["lift"]["low"] > 0
    assert (nothing["synthetic"], nothing["lift"]["relative"]) == (1, 0)


def test_one_that_hurts_is_below_zero(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WRITES, HURTS, "dddddd")
    found = influence.influence(config(HELPS, HURTS), storage)
    hurts = found["strategies"][1]["lift"]
    assert hurts["high"] < 0
    influence.show(found)


def test_one_strategy_has_nothing_to_be_told_from(storage: Storage) -> None:
    with pytest.raises(UserError, match=r"plan.strategies: with fewer than two"):
        influence.influence(config(HELPS), storage)
