"""Strategy soft_events beside new users in the whole job: nothing is lost, nothing leaks, and both
are learned from.

Sixty MovieLens users, and two items that only held-out events have.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from llmaug import pipeline
from llmaug.config import parse_config
from llmaug.core.storage import Storage
from llmaug.items.sequences import load_sequences
from llmaug.items.vocabulary import NUM_SPECIAL, load_vocabulary
from tests.jobs import NUM_USERS, SMALL, changed, write_logs
from tests.tables import read_rows
from tests.whole.test_leakage import MAY_KNOW, PLANTED, mentions, plant

NUM_NEW = 12


@pytest.mark.slow
def test_soft_events_in_the_job(tmp_path: Path, ray_session: None, stages_here: None) -> None:
    write_logs(str(tmp_path))
    plant(tmp_path)
    strategies = [
        {"kind": "soft_events", "num_candidates": 10},
        {"kind": "new_users", "num_users": NUM_NEW, "num_events": 8},
    ]
    config = changed(
        SMALL,
        lm={"num_steps": 5, "members": 2},
        plan={"strategies": strategies},
        train={"arms": ["real", "augmented", "oversampled"], "num_steps": 10},
    )
    storage = Storage(str(tmp_path))
    manifests = pipeline.run(parse_config(config), storage, "small")

    counts, merged = manifests["filtered"]["counts"], manifests["merged/augmented"]["counts"]
    planned = manifests["plan"]["counts"]
    assert (planned["soft_events"], planned["new_users"]) == (NUM_USERS, NUM_NEW)
    assert counts["units"] == NUM_USERS + NUM_NEW == counts["accepted"] + counts["rejected"]
    by_kind = Counter((row["strategy"], row["status"])
                      for row in read_rows(storage, "runs/small/filtered"))  # fmt: skip
    assert by_kind["soft_events", "accepted"] == NUM_USERS
    assert counts["soft_events"] == counts["soft_events_kept"] == merged["soft"]
    first, second = (manifests[f"lm/{name}"]["counts"] for name in ("causal", "causal-2"))
    assert first["model_digest"] != second["model_digest"]
    assert manifests["outcomes"]["counts"]["output_tokens"] == merged["soft"] + 8 * NUM_NEW
    real = manifests["merged/real"]["counts"]["real"]
    assert (merged["real"], merged["synthetic"]) == (real, counts["events_kept"])
    assert merged["synthetic"] >= 8 * by_kind["new_users", "accepted"] > 0
    assert manifests["merged/oversampled"]["counts"]["rows"] > real

    # What only held-out events have is nowhere else: not by its name ...
    run = tmp_path / "runs" / "small"
    files = [file for file in run.rglob("*") if file.suffix in (".json", ".parquet")]
    others = [f for f in files if not str(f.relative_to(run)).startswith((*MAY_KNOW, "recommend"))]
    assert {str(file): names for file in others if (names := mentions(file))} == {}
    # ... and not as a token with a chance, from the generator's answers to the shards.
    vocabulary = load_vocabulary(storage, "runs/small/vocabulary")
    assert not set(PLANTED) & set(vocabulary.item_ids)
    items = range(NUM_SPECIAL, vocabulary.num_tokens)
    caches = sorted((tmp_path / "outcomes_cache").rglob("*.parquet"))
    stages = ["outcomes", "filtered", "merged"]
    for name, records in {
        **{name: sorted((run / name).rglob("*.parquet")) for name in stages},
        "cache": caches,
    }.items():
        tokens = _tokens_with_chances(records)
        assert len(tokens) >= 10 * merged["soft"], name
        assert items.start <= tokens.min() and tokens.max() < items.stop, name
    # The real events that the chances are of are those of training alone.
    trained = Counter(row["user_id"] for row in read_rows(storage, "runs/small/split/train"))
    for row in read_rows(storage, "runs/small/outcomes"):
        if row["strategy"] == "soft_events":
            assert len(row["tokens"]) <= trained[row["user_id"]]
    sequences = load_sequences(storage, "runs/small/merged/augmented", vocabulary, soft=True)
    soft = sequences.soft
    assert soft is not None and len(soft.tokens) == 10 * merged["soft"]
    # No user is said to take what the user had.
    for start, end in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        history = sequences.tokens[start:end].tolist()
        for place in range(end - start):
            some = slice(*soft.offsets[start + place : start + place + 2])
            assert not set(soft.tokens[some].tolist()) & set(history[:place])
    # They were learned from: the arms differ.
    digests = {arm: manifests[f"model/{arm}"]["counts"]["seed-1"]["model_digest"]
               for arm in ("real", "oversampled", "augmented")}  # fmt: skip
    assert digests["augmented"] not in (digests["real"], digests["oversampled"])


def _tokens_with_chances(files: list[Path]) -> np.ndarray:
    """Of all records in Parquet files that have some, once for each time."""
    found = [np.empty(0, np.int32)]
    for file in files:
        if "soft_tokens" in pq.read_schema(file).names:
            table = pq.read_table(file, columns=["soft_tokens", "soft_chances"])
            tokens, chances = (table[name].combine_chunks().flatten().to_numpy()
                               for name in table.column_names)  # fmt: skip
            found.append(tokens[chances > 0])
    return np.concatenate(found)
