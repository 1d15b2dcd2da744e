"""benchmarks/lift.py: nothing looks at test events before it is told to, and looks are counted."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from llmaug import pipeline
from llmaug.arms.arms import chosen
from llmaug.config import Config
from llmaug.core.storage import Storage
from llmaug.errors import UserError

SPEC = importlib.util.spec_from_file_location("lift", "benchmarks/lift.py")
assert SPEC and SPEC.loader
lift = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(lift)

LIFT = {"num_users": 20, "relative": 0.4, "low": 0.1, "high": 0.7}
REAL_NDCG = 0.05
AUGMENTED_NDCG = {7: 0.07, 3: 0.06}  # by the number of synthetic users


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str], int]]:
    """A pipeline that knows what validation says of each recipe (by its number of users); what
    it was asked for: (last step, arms, synthetic users)."""
    asked = []

    def run(config: Config, storage: Storage, run_id: str, until: str) -> dict[str, Any]:
        strategies: list[Any] = list(config.plan.strategies)
        num_users = strategies[0].num_users if strategies else 0
        arms = [arm.name for arm in chosen(config)]
        asked.append((until, arms, num_users))
        if until == "split":
            return {"split": {"counts": {"train_users": 20, "train": 400}}}
        ndcg = {"real": REAL_NDCG, "augmented": AUGMENTED_NDCG.get(num_users, 0.0), "started": 0.06}
        found = {
            f"model/{arm}": {
                "counts": {f"seed-{seed}": {"validation_ndcg": ndcg.get(arm, 0.0) + seed / 1000,
                                             "best_step": 9}
                           for seed in config.train.seeds}
            }
            for arm in arms
        }  # fmt: skip
        found["merged/augmented"] = {"counts": {"synthetic": 10 * num_users}}
        one = {"mean": 0.1, "low": 0.05, "high": 0.15}
        found["evaluation"] = {
            "counts": {
                "num_users": 20,
                "interval": {"num_seeds": 2},
                "arms": {arm: {"ndcg@10": one} for arm in arms},
                "lifts": [
                    {"arm": "augmented", "against": against, "metric": "ndcg@10", "relative": 0.1,
                     "low": 0.0, "high": 0.2, "p": 0.05}
                    for against in ("real", "oversampled") if against in arms
                ],
            }
        }  # fmt: skip
        return found

    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.setattr(lift, "validation_lift", lambda *_: LIFT)
    return asked


def recipes(folder: Path, **num_users: int) -> Path:
    path = folder / "recipes.yaml"
    strategies = {
        name: {"plan": {"strategies": [{"kind": "new_users", "num_users": number}]}}
        for name, number in num_users.items()
    }
    path.write_text(yaml.safe_dump(strategies))
    return path


def logs(folder: Path, timed: bool = False) -> Path:
    columns: dict[str, Any] = {"user_id": ["u"], "item_id": ["a"]}
    if timed:
        columns["timestamp"] = pa.array([0], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table(columns), folder / "events.parquet")
    return folder


def run(
    tmp_path: Path, capsys: pytest.CaptureFixture, file: Path, **options: Any
) -> dict[str, Any]:
    arguments = {"arms": "", "num_seeds": 2, "open_test": False}
    lift.main(str(logs(tmp_path)), tmp_path / "out", file, **{**arguments, **options})
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_validation_chooses_and_test_stays_closed(
    tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture
) -> None:
    found = run(tmp_path, capsys, recipes(tmp_path, timid=3, bold=7))
    assert found["chosen"] == "bold"
    assert found["recipes"]["none"]["validation_ndcg"] == pytest.approx(0.0515)  # of two seeds
    assert found["recipes"]["bold"]["by_seed"] == pytest.approx({"1": 0.071, "2": 0.072})
    assert (found["test"], found["test_openings"]) == (None, 0)
    assert {until for until, *_ in asked} == {"split", "train"}
    assert not (tmp_path / "out" / lift.OPENINGS).exists()


def test_opening_measures_the_chosen_recipe_alone_and_is_counted(
    tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture
) -> None:
    file = recipes(tmp_path, timid=3, bold=7)
    for number in (1, 2):
        found = run(tmp_path, capsys, file, open_test=True)
        assert found["test_openings"] == number
    opened = [entry for entry in asked if entry[0] == "evaluate"]
    assert opened == [("evaluate", ["real", "oversampled", "augmented"], 7)] * 2
    assert [entry["against"] for entry in found["test"]["lifts"]] == ["real", "oversampled"]
    written = json.loads((tmp_path / "out" / lift.OPENINGS).read_text())
    assert [entry["recipe"] for entry in written] == ["bold", "bold"]
    # Recipes whose validation is known are not trained again.
    assert len([entry for entry in asked if entry[0] == "train"]) == 2


def test_when_no_recipe_is_better_nothing_is_generated(
    tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture
) -> None:
    found = run(tmp_path, capsys, recipes(tmp_path, useless=1), open_test=True)
    assert found["chosen"] == "none"
    assert asked[-1] == ("evaluate", ["real"], 0)


def test_a_tie_is_no_reason_to_augment() -> None:
    row = {"validation_ndcg": 0.1}
    assert lift.choose({"none": row, "other": row}) == "none"


def test_logs_without_times_are_left_one_out_in_their_order(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "out"))
    config = lift.base_config(str(logs(tmp_path)), storage, 3)
    assert (config.split.kind, config.ingest.order) == ("leave_one_out", "line")
    assert config.train.seeds == [1, 2, 3]
    timed = lift.base_config(str(logs(tmp_path, timed=True)), storage, 1)
    assert (timed.split.kind, timed.ingest.order) == ("temporal", "timestamp")
    with pytest.raises(UserError, match="neither ml-100k, ml-100k-thin"):
        lift.base_config("nothing", storage, 1)


def test_arms_are_chosen_among_and_measured_beside_their_controls(
    tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "arms.yaml"
    file.write_text("reads: {arm: fusion}\nstarts: {arm: started}\n")
    found = run(tmp_path, capsys, file, open_test=True, arms="fusion")
    assert found["recipes"]["starts"]["lift"] == LIFT and found["recipes"]["none"]["lift"] is None
    assert found["chosen"] == "starts"
    assert asked[-1] == ("evaluate", ["real", "fusion", "restarted", "started"], 0)


def test_recipes_fit_the_data() -> None:
    found = lift.default_recipes(Config(), {"train_users": 20, "train": 400})
    strategies = {one.name: one.changes["plan"]["strategies"][0] for one in found}
    assert set(strategies) == {"x1-t0.8", "x1-t1.0", "x3-t0.8", "x3-t1.0"}
    assert {s["num_users"] for s in strategies.values()} == {20, 60}
    assert {s["num_events"] for s in strategies.values()} == {40}
