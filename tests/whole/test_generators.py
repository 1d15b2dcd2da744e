"""Every kind of generator at work in the whole job, up to the merged shards.

Sixty MovieLens users; models of a few steps. What is shown is that each strategy's events
land where they belong in real histories, that nothing is lost, and that nothing leaks.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from llmaug import pipeline
from llmaug.config import parse_config
from llmaug.core.storage import Storage
from llmaug.items.sequences import load_sequences
from llmaug.items.vocabulary import NUM_SPECIAL, load_vocabulary
from tests.jobs import NUM_USERS, SMALL, changed, write_logs

OF_USERS = [
    {"kind": "continue", "num_events": 3},
    {"kind": "prefix", "num_events": 3, "max_history_len": None},
    {"kind": "infill", "num_events": 2},
    {"kind": "substitute", "num_events": 2},
]
NEW_USERS = {"kind": "new_users", "num_users": 30, "num_events": 6}
THREE_WAYS = {"forward": 2.0, "reverse": 1.0, "infill": 1.0}
GENERATORS: dict[str, dict[str, Any]] = {
    "ngram": {"lm": {"model": "ngram"}, "plan": {"strategies": [OF_USERS[0], NEW_USERS]}},
    "masked": {"lm": {"model": "masked", "num_steps": 5}, "plan": {"strategies": OF_USERS}},
    "semantic ids": {
        "vocabulary": {"max_atomic_items": 100, "num_levels": 2, "num_codes": 16},
        "lm": {"num_steps": 5, "directions": THREE_WAYS},
        "plan": {"strategies": [*OF_USERS, NEW_USERS]},
    },
    "causal": {
        "lm": {"num_steps": 5, "directions": THREE_WAYS, "user_attributes": ["gender"]},
        "plan": {"strategies": [*OF_USERS, NEW_USERS]},
    },
    "actions": {
        "ingest": {"path": "{root}/logs/liked", "actions": ["rate", "like"]},
        "lm": {"num_steps": 5, "directions": THREE_WAYS, "user_attributes": ["gender"]},
        "plan": {"strategies": [*OF_USERS, NEW_USERS]},
        "filters": {"repeats": {"like": "allow", "rate": "forbid"}},
    },
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Storage:
    root = tmp_path_factory.mktemp("root")
    write_logs(str(root))
    storage = Storage(str(root))
    rows = pq.read_table(root / "logs/events")
    liked = pc.if_else(pc.greater_equal(rows["rating"], 4), "like", "rate")
    rows = rows.drop_columns(["action", "dt"]).append_column("action", liked)
    storage.write_table(rows, "logs/liked", "events.parquet")
    return storage


# The job with an n-gram model is seen in test_leakage, with a causal one in test_end_to_end.
SEEN_ELSEWHERE = ("ngram", "causal")


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.soak if kind in SEEN_ELSEWHERE else ())
        for kind in GENERATORS
    ],
)
def test_a_generator_in_the_job(storage: Storage, stages_here: None, kind: str) -> None:
    rules = [{"kind": "repeated"}, {"kind": "too_short", "min_events": 1}, {"kind": "copied"}]
    users = {"users": {"path": "{root}/logs/users"}}
    base = changed(SMALL, ingest=users, filters={"rules": rules})
    config = parse_config(changed(base, **GENERATORS[kind]))
    manifests = pipeline.run(config, storage, "small", until="merge")
    plan, counts = manifests["plan"]["counts"], manifests["filtered"]["counts"]
    strategies = GENERATORS[kind]["plan"]["strategies"]
    wanted = {s["kind"]: NUM_USERS if s in OF_USERS else 30 for s in strategies}
    assert {name: plan[name] for name in wanted} == wanted
    assert counts["units"] == sum(wanted.values()) == counts["accepted"] + counts["rejected"]
    # Repeats are forbidden in decoding: nothing is thrown away for them.
    assert counts.get("events_dropped.repeated", 0) == 0
    assert counts.get("events_dropped.outside_catalogue", 0) == 0

    merged = "runs/small/merged/augmented"
    vocabulary = load_vocabulary(storage, "runs/small/vocabulary")
    sequences = load_sequences(storage, merged, vocabulary)
    rows = [
        row for part in storage.parts(merged) for row in storage.read_part(merged, part).to_pylist()
    ]
    real: dict[str, list[str]] = {}
    for row in rows:
        if row["origin"] == "real":
            real.setdefault(row["user_id"], []).append(row["item_id"])
    synthetic = [row for row in rows if row["origin"] == "synthetic"]
    assert len({row["unit_id"] for row in synthetic}) == counts["accepted"]
    places: dict[str, Counter[str]] = {name: Counter() for name in wanted}
    for row in synthetic:
        length = len(real.get(row["user_id"], []))
        where = row["place"]
        end = "end" if where == length else "start" if where == 0 else "inside"
        places[row["strategy"]]["nowhere" if where is None else end] += 1
    assert set(places["continue"]) == {"end"}
    assert set(places.get("prefix", {"start"})) == {"start"}
    assert set(places.get("infill", {"inside"})) == {"inside"}
    assert "end" not in places.get("substitute", {})
    assert set(places.get("new_users", {"nowhere"})) == {"nowhere"}
    # A sequence for each real user and each accepted unit; only items in them.
    assert len(sequences) == NUM_USERS + counts["accepted"]
    starts = sequences.offsets[:-1]
    assert (sequences.tokens >= NUM_SPECIAL).sum() == len(sequences.tokens) - len(starts)
    actions = {row["action"] for row in synthetic}
    assert actions == ({"rate", "like"} if kind == "actions" else {"rate"})
    last = max(row["timestamp"] for row in rows if row["origin"] == "real")
    assert all(row["timestamp"] <= last for row in synthetic)
