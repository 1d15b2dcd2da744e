"""`llmaug tune` on real logs: no stage behind training, and what is known is not trained again."""

from __future__ import annotations

from typing import Any

import pytest

from llmaug import pipeline
from llmaug.commands.tune import run_of, tune
from llmaug.commands.tune_candidates import REAL_ALONE, Candidate, built_in
from llmaug.config import parse_config
from llmaug.core.storage import Storage
from tests.jobs import SMALL, changed, write_logs

PLAN = {"strategies": [{"kind": "new_users", "num_users": 20, "num_events": 6}]}
TRAIN = {"num_steps": 8, "warmup_steps": 0, "validate_every": 8}


def test_a_candidate_and_none(
    tmp_path: Any, ray_session: None, stages_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_logs(str(tmp_path))
    storage = Storage(str(tmp_path))
    raw = changed(SMALL, lm={"model": "ngram"}, train=TRAIN, plan={"strategies": []})
    config = parse_config(raw)
    candidate = Candidate("few", "augmented", {"plan": PLAN})

    found = tune(config, storage, 60, [candidate])

    assert found.complete and found.rungs == [8] and found.generator is None
    none, few = found.rows
    assert none.candidate == REAL_ALONE and set(none.by_steps) == set(few.by_steps) == {8}
    assert few.synthetic > 20
    assert few.lift and few.lift["num_users"] == found.facts.validation_users
    mean = {row.candidate.name: row.ndcg(8) for row in found.rows}
    assert few.lift["relative"] == pytest.approx(mean["few"] / mean["none"] - 1, abs=1e-4)
    assert found.facts.has_features and found.facts.validation_users > 40
    assert {"fusion", "x1", "x3-before"} <= {c.name for c in built_in(config, found.facts)}
    # Nothing has asked the test events: no stage of this run stands behind training.
    folder = f"runs/{run_of(config)}"
    stages = storage.read_json(folder, "run.json")["stages"]
    assert stages[-1].startswith("model/")
    assert not {"evaluation", "gate", "publish", "report"} & set(storage.names(folder))

    asked = []
    run = pipeline.run

    def listening(config: Any, storage: Any, run_id: str, until: str, progress: Any) -> Any:
        asked.append(until)
        return run(config, storage, run_id, until, progress)

    monkeypatch.setattr(pipeline, "run", listening)
    again = tune(config, storage, 60, [candidate])
    assert asked == ["vocabulary", "lm"]
    assert again.winner.by_steps == found.winner.by_steps
