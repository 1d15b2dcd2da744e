"""A generator that knows nothing: the job runs to its end, and the gate refuses the model.

Beside it the arm `ngram`, whose generator knows a little, is asked for as much.
"""

from __future__ import annotations

from pathlib import Path

from llmaug import pipeline
from llmaug.commands.datasets import write_ml_100k
from llmaug.config import parse_config
from llmaug.core.storage import Storage
from llmaug.report.stage import load_metrics
from tests.jobs import SMALL, changed

CONFIG = changed(
    SMALL,
    split={"max_train_events": 5},
    generate={"engine": "uniform"},
    plan={"strategies": [{"kind": "new_users", "num_users": 600, "num_events": 10}]},
    train={"arms": ["real", "ngram", "augmented"], "num_steps": 150, "validate_every": 50},
)


def test_random_items_are_refused_and_the_real_model_goes_out(
    tmp_path: Path, ray_session: None, stages_here: None
) -> None:
    write_ml_100k(f"{tmp_path}/logs", max_users=200)
    storage = Storage(str(tmp_path))
    pipeline.run(parse_config(CONFIG), storage, "random")
    metrics = load_metrics(storage, "random")
    assert metrics is not None and metrics["ledger"]["accepted"] > 540
    assert not metrics["gate"]["passed"] and metrics["gate"]["reasons"]
    assert storage.read_json("published/recommender", "CURRENT")["arm"] == "real"

    of = {arm: facts["synthetic"] for arm, facts in metrics["training"].items()}
    assert of["real"] == 0 and 5300 < of["ngram"] <= 6000
    counts = storage.read_json("runs/random/ngram/filtered", "_manifest.json")["counts"]
    assert counts["units"] == counts["accepted"] + counts["rejected"] + counts["failed"] == 600
    assert {lift["against"] for lift in metrics["lifts"] if lift["arm"] == "augmented"} == {
        "real", "ngram"
    }  # fmt: skip
