"""Strategy soft_events in the whole job: nothing is lost, nothing leaks, and it is learned from.

Sixty MovieLens users, and two items that only held-out events have.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmaug import pipeline
from llmaug.config import parse_config
from llmaug.core.storage import Storage
from llmaug.items.sequences import load_sequences
from llmaug.items.vocabulary import load_vocabulary
from tests.jobs import NUM_USERS, SMALL, changed, write_logs
from tests.whole.test_leakage import MAY_KNOW, PLANTED, mentions, plant


@pytest.mark.slow
def test_soft_events_in_the_job(tmp_path: Path, ray_session: None, stages_here: None) -> None:
    write_logs(str(tmp_path))
    plant(tmp_path)
    strategy = {"kind": "soft_events", "num_candidates": 10}
    config = changed(
        SMALL,
        lm={"num_steps": 5},
        plan={"strategies": [strategy]},
        train={"arms": ["real", "augmented", "oversampled"], "num_steps": 10},
    )
    storage = Storage(str(tmp_path))
    manifests = pipeline.run(parse_config(config), storage, "small")

    counts, merged = manifests["filtered"]["counts"], manifests["merged/augmented"]["counts"]
    assert manifests["plan"]["counts"]["soft_events"] == NUM_USERS == counts["accepted"]
    assert (counts["units"], counts["rejected"], counts["failed"]) == (NUM_USERS, 0, 0)
    assert counts["soft_events"] == counts["soft_events_kept"] == merged["soft"]
    assert manifests["outcomes"]["counts"]["output_tokens"] == merged["soft"]
    real = manifests["merged/real"]["counts"]["real"]
    assert (merged["real"], merged["synthetic"]) == (real, 0)
    assert manifests["merged/oversampled"]["counts"]["rows"] == real

    # What only held-out events have is nowhere else, and soft targets are of known items.
    run = tmp_path / "runs" / "small"
    files = [file for file in run.rglob("*") if file.suffix in (".json", ".parquet")]
    others = [f for f in files if not str(f.relative_to(run)).startswith((*MAY_KNOW, "recommend"))]
    assert {str(file): names for file in others if (names := mentions(file))} == {}
    vocabulary = load_vocabulary(storage, "runs/small/vocabulary")
    assert not set(PLANTED) & set(vocabulary.item_ids)
    sequences = load_sequences(storage, "runs/small/merged/augmented", vocabulary, soft=True)
    soft = sequences.soft
    assert soft is not None and len(soft.tokens) == 10 * merged["soft"]
    assert {vocabulary.decode(token) for token in np.unique(soft.tokens)} <= set(
        vocabulary.item_ids
    )
    # No user is said to take what the user had.
    for start, end in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        history = sequences.tokens[start:end].tolist()
        for place in range(end - start):
            some = slice(*soft.offsets[start + place : start + place + 2])
            assert not set(soft.tokens[some].tolist()) & set(history[:place])
    # It was learned from: the arms differ, by their soft targets alone.
    digests = {arm: manifests[f"model/{arm}"]["counts"]["seed-1"]["model_digest"]
               for arm in ("real", "oversampled", "augmented")}  # fmt: skip
    assert digests["augmented"] not in (digests["real"], digests["oversampled"])
