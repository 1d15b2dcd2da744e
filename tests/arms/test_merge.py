"""Real and accepted synthetic events into the shards of each arm."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmaug.arms import merge, shard_events
from llmaug.core.stage import Context
from llmaug.items.sequences import load_sequences
from llmaug.items.vocabulary import BOS
from llmaug.schema import EVENT, OUTCOME
from tests.tables import (
    catalogue,
    events,
    histories,
    hour,
    map_parts_here,
    read_rows,
    write_finished,
    write_plan,
    write_vocabulary,
)

MakeContext = Callable[..., Context]
TRAIN = {"p0": histories(u1="ab", u2="c"), "p1": histories(u3="ba")}


def outcome(
    unit: str, items: str, user: str | None = None, dropped: str = "", status: str = "accepted"
) -> dict[str, Any]:
    """An outcome as stage `filtered` writes it; items in `dropped` are not kept."""
    return {
        "unit_id": unit,
        "user_id": user,
        "strategy": "continue" if user else "new_users",
        "sample": 0,
        "status": status,
        "tokens": [0] * len(items),
        "events": [
            {
                "item_id": item,
                "timestamp": hour(10 + position),
                "position": position,
                "place": 9 if user else None,
                "keep": status == "accepted" and item not in dropped,
            }
            for position, item in enumerate(items)
        ],
        "num_prompt_tokens": 1,
        "num_generated_tokens": len(items),
        "engine_seconds": 0.1,
        "attempts": 1,
    }


@pytest.fixture
def context(make_context: MakeContext) -> Context:
    """A run up to the filters: three real users, and outcomes for them and for new users."""
    context = make_context(run_id="tonight", merge={"synthetic_weight": 0.5})
    for part, rows in TRAIN.items():
        context.storage.write_part(events(rows), {}, context.folder("split/train"), part)
    write_vocabulary(
        context,
        catalogue("abcde"),
        {"gap_s": [], "start_s": [], "history_len": [], "window_end_s": 0, "actions": ["view"]},
    )
    filtered = {
        "0-p0": [
            outcome("unit-2", "de", user="u1"),
            outcome("unit-1", "cde", user="u1", dropped="d"),
            outcome("unit-3", "ab", user="u2", status="rejected"),
        ],
        "0-p1": [{**outcome("unit-4", "", user="u3", status="failed"), "events": None}],
        "1-new-users-00000": [outcome("unit-5", "edc")],
    }
    for source, outcomes in filtered.items():
        units = [
            {"unit_id": row["unit_id"], "strategy": row["strategy"], "sample": 0, "prompt": [],
             "sampling": {"max_tokens": 3}, "seed": 1}
            for row in outcomes
        ]  # fmt: skip
        train_part = source[2:] if source[2:] in TRAIN else None
        part = write_plan(context, source, train_part, units)
        table = pa.Table.from_pylist(outcomes, schema=OUTCOME)
        context.storage.write_part(table, {}, context.folder("filtered"), part)
    write_finished(context, "plan", generator="causal@1234")
    write_finished(context, "merged/augmented", real=5, synthetic=7)
    return context


def shards(context: Context, arm: str) -> dict[str, list[tuple[str, str, str | None]]]:
    """(user, item, unit) of the rows of each shard."""
    folder = context.folder(f"merged/{arm}")
    return {
        part: [
            (row["user_id"], row["item_id"], row["unit_id"])
            for row in context.storage.read_part(folder, part).to_pylist()
        ]
        for part in context.storage.parts(folder)
    }


def test_the_real_arm_is_the_training_events(context: Context, ray_session: None) -> None:
    counts = merge.run("real", context)
    assert counts == {"rows": 5, "real": 5, "synthetic": 0}
    train = read_rows(context.storage, context.folder("split/train"))
    assert read_rows(context.storage, context.folder("merged/real")) == train


def test_the_augmented_arm_adds_the_kept_events_of_accepted_outcomes(
    context: Context, ray_session: None
) -> None:
    counts = merge.run("augmented", context)
    assert counts == {"rows": 12, "real": 5, "synthetic": 2 + 2 + 3}
    assert shards(context, "augmented") == {
        "p0": [
            *[("u1", "a", None), ("u1", "b", None)],
            *[("u1", "c", "unit-1"), ("u1", "e", "unit-1")],  # behind their user's real events
            *[("u1", "d", "unit-2"), ("u1", "e", "unit-2")],  # each unit a run of its own
            *[("u2", "c", None)],
        ],
        "p1": [("u3", "b", None), ("u3", "a", None)],
        "1-new-users-00000": [("synthetic:unit-5", item, "unit-5") for item in "edc"],
    }
    rows = read_rows(context.storage, context.folder("merged/augmented"))
    real = [row for row in rows if row["origin"] == "real"]
    by_user = sorted(real, key=lambda row: row["user_id"])
    assert by_user == read_rows(context.storage, context.folder("split/train"))


def test_synthetic_rows_say_where_they_come_from(context: Context) -> None:
    outcomes = context.storage.read_part(context.folder("filtered"), "0-p0-00000")
    provenance = shard_events.Provenance("tonight", "causal@1234", "view")
    rows = shard_events.synthetic_events(outcomes, context.config.merge, provenance).to_pylist()
    assert rows[-1] == {
        "user_id": "u1",
        "item_id": "e",
        "action": "view",
        "timestamp": hour(12),
        "value": None,
        "weight": 0.5,
        "origin": "synthetic",
        "run_id": "tonight",
        "unit_id": "unit-1",
        "strategy": "continue",
        "generator": "causal@1234",
        "position": 2,  # among all generated events, the dropped one too
        "place": 9,
        "logprob": None,
    }


def test_a_strategy_may_count_for_less(context: Context) -> None:
    less = context.config.merge.model_copy(update={"strategy_weights": {"continue": 0.5}})
    weights = {}
    for part in context.storage.parts(context.folder("filtered")):
        outcomes = context.storage.read_part(context.folder("filtered"), part)
        rows = shard_events.synthetic_events(
            outcomes, less, shard_events.Provenance("tonight", "g")
        )
        weights |= {row["strategy"]: row["weight"] for row in rows.to_pylist()}
    assert weights == {"continue": 0.25, "new_users": 0.5}


def test_no_accepted_outcome_is_no_event(context: Context) -> None:
    outcomes = pa.Table.from_pylist([outcome("unit", "ab", status="rejected")], schema=OUTCOME)
    table = shard_events.synthetic_events(
        outcomes, context.config.merge, shard_events.Provenance("r", "g", "view")
    )
    assert table.num_rows == 0 and table.schema == EVENT


# -- soft targets ------------------------------------------------------------------------------


def soft_outcome(user: str, soft: list[int] | None, chances: list[float] | None) -> dict[str, Any]:
    status = "accepted" if soft else "rejected"
    row = outcome(f"of {user}", "", user=user, status=status)
    soft_k = 2 if soft else None
    return {**row, "strategy": "soft_events", "soft_k": soft_k, "soft_tokens": soft,
            "soft_chances": chances}  # fmt: skip


def test_soft_targets_lie_beside_the_real_events(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "map_parts", map_parts_here)
    context = make_context(plan={"strategies": [{"kind": "soft_events"}]})
    for part, rows in {**TRAIN, "p2": histories(u4="e")}.items():
        context.storage.write_part(events(rows), {}, context.folder("split/train"), part)
    write_vocabulary(context, catalogue("abcde"), {})
    outcomes = [
        soft_outcome("u2", [4, 3], [0.5, 0.25]),  # shortest histories are asked about first
        soft_outcome("u1", [-1, -1, 7, -1], [0.0, 0.0, 0.125, 0.0]),
    ]
    for number, rows in enumerate([outcomes, [soft_outcome("u3", None, None)]]):
        units = [
            {"unit_id": row["unit_id"], "strategy": "soft_events", "sample": 0, "prompt": [],
             "sampling": {"max_tokens": 1}, "seed": 1}
            for row in rows
        ]  # fmt: skip
        part = write_plan(context, f"0-p{number}", f"p{number}", units)
        table = pa.Table.from_pylist(rows, schema=OUTCOME)
        context.storage.write_part(table, {}, context.folder("filtered"), part)
    write_finished(context, "plan", generator="causal@1234")

    counts = merge.run("augmented", context)

    assert counts == {"rows": 6, "real": 6, "synthetic": 0, "soft": 2}
    rows = read_rows(context.storage, context.folder("merged/augmented"))
    found = [(row.pop("soft_tokens"), row.pop("soft_chances")) for row in rows]
    assert rows == read_rows(context.storage, context.folder("split/train"))
    nothing = (None, None)
    assert found == [nothing, ([7], [0.125]), ([4, 3], [0.5, 0.25]), nothing, nothing, nothing]


def test_soft_targets_and_synthetic_events_stand_in_the_same_shards(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "map_parts", map_parts_here)
    strategies = [{"kind": "new_users"}, {"kind": "soft_events"}, {"kind": "continue"}]
    context = make_context(plan={"strategies": strategies})
    for part, rows in TRAIN.items():
        context.storage.write_part(events(rows), {}, context.folder("split/train"), part)
    write_vocabulary(context, catalogue("abcde"), {})
    soft, behind = soft_outcome("u2", [4, 3], [0.5, 0.25]), outcome("behind u2", "d", user="u2")
    answers = [(outcome("new", "cd"), None), (soft, "p0"), (behind, "p0")]
    for number, (row, train_part) in enumerate(answers):
        units = [{"unit_id": row["unit_id"], "strategy": row["strategy"], "sample": 0,
                  "prompt": [], "sampling": {"max_tokens": 1}, "seed": 1}]  # fmt: skip
        part = write_plan(context, f"{number}-source", train_part, units)
        table = pa.Table.from_pylist([row], schema=OUTCOME)
        context.storage.write_part(table, {}, context.folder("filtered"), part)
    write_finished(context, "plan", generator="causal@1234")

    counts = merge.run("augmented", context)

    assert counts == {"rows": 8, "real": 5, "synthetic": 3, "soft": 1}
    rows = read_rows(context.storage, context.folder("merged/augmented"))
    found = [(row["user_id"], row["item_id"], row["strategy"], row["soft_tokens"]) for row in rows
             if row["soft_tokens"] or row["strategy"]]  # fmt: skip
    assert sorted(found, key=str) == [
        ("synthetic:new", "c", "new_users", None), ("synthetic:new", "d", "new_users", None),
        ("u2", "c", None, [4, 3]), ("u2", "d", "continue", None),
    ]  # fmt: skip
    # What is learned: the real history of u2 with them, what was generated behind it without.
    sequences = load_sequences(
        context.storage, context.folder("merged/augmented"), catalogue("abcde"), soft=True
    )
    assert sequences.soft is not None
    number = np.diff(sequences.soft.offsets)
    own = [slice(*sequences.offsets[row : row + 2])
           for row in np.flatnonzero(sequences.user_ids == "u2")]  # fmt: skip
    assert [(sequences.tokens[some].tolist(), number[some].tolist()) for some in own] == [
        ([BOS, 5], [0, 2]), ([BOS, 5, 6], [0, 0, 0])
    ]  # fmt: skip
    assert number.sum() == 2


# -- controls without anything new in them ----------------------------------------------------


def test_the_oversampled_arm_repeats_real_users_to_the_volume_of_the_augmented_one(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "map_parts", map_parts_here)
    counts = merge.run("oversampled", context)
    # Five real events and seven synthetic ones: every user again, and of each part as near to
    # two fifths a third time as whole users allow (1.2 of 3 events, 0.8 of 2).
    assert counts["synthetic"] == 0
    found = shards(context, "oversampled")
    assert found["p0"] == found["repeat-1-p0"]
    assert found["p1"] == found["repeat-1-p1"]
    assert (found["repeat-2-p0"], found["repeat-2-p1"]) == ([("u2", "c", None)], [])
    assert counts["rows"] == counts["real"] == 5 + 5 + 1
    assert {unit for rows in found.values() for _, _, unit in rows} == {None}


def test_a_repeat_is_a_sequence_of_its_own(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No history stands before it, and its events carry their full weight."""
    monkeypatch.setattr(merge, "map_parts", map_parts_here)
    words = catalogue("abcde")
    merge.run("real", context)
    merge.run("oversampled", context)
    once = load_sequences(context.storage, context.folder("merged/real"), words)
    more = load_sequences(context.storage, context.folder("merged/oversampled"), words)
    as_text = [
        Counter(
            tuple(sequences.tokens[start:end])
            for start, end in itertools.pairwise(sequences.offsets)
        )
        for sequences in (once, more)
    ]
    assert set(as_text[0]) == set(as_text[1])
    assert more.num_targets == 11 and set(more.weights) == {0.0, 1.0}


@pytest.mark.parametrize("times", [0.0, 0.3, 1.0, 2.6])
def test_repeats_add_up_to_the_volume_within_half_a_user_a_part(times: float) -> None:
    rows = events(histories(**{f"u{i:03}": "abcdefgh"[: 1 + i % 8] for i in range(200)}))
    plan = merge.repeats(["p"], times)
    taken = sum(shard_events.take_users(rows, shard.share).num_rows for shard in plan.values())
    assert abs(taken - times * rows.num_rows) <= 8 / 2


def test_of_a_part_without_events_nobody_is_taken() -> None:
    assert shard_events.take_users(events([]), 0.5).num_rows == 0


def test_whole_users_are_taken_and_the_same_ones_every_time() -> None:
    rows = events(histories(**{f"u{i:02}": "abc" for i in range(40)}))
    half, more = (shard_events.take_users(rows, share) for share in (0.5, 0.75))
    assert half.equals(shard_events.take_users(rows, 0.5))
    users = [set(table["user_id"].to_pylist()) for table in (half, more)]
    assert (len(users[0]), len(users[1])) == (20, 30)
    assert users[0] < users[1]
    assert half.num_rows == 60
    # Not simply the first in the part, who are those with the smallest ids.
    assert users[0] != {f"u{i:02}" for i in range(20)}


def test_the_duplicate_arm_adds_each_user_once_more_as_a_synthetic_one(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "map_parts", map_parts_here)
    assert merge.run("duplicate", context) == {"rows": 10, "real": 5, "synthetic": 5}
    found = shards(context, "duplicate")
    assert set(found) == {"p0", "p1", "twin-p0", "twin-p1"}
    twins = {user: "".join(i for u, i, _ in found["twin-p0"] if u == user)
             for user, _, _ in found["twin-p0"]}  # fmt: skip
    assert sorted(twins.values()) == ["ab", "c"]
    real_users = {user for part in ("p0", "p1") for user, _, _ in found[part]}
    assert all(user.startswith("synthetic:") for user in twins) and not real_users & set(twins)
    [row] = [
        row
        for row in read_rows(context.storage, context.folder("merged/duplicate"))
        if row["origin"] == "synthetic" and row["item_id"] == "c"
    ]
    assert (row["strategy"], row["generator"], row["weight"]) == ("duplicate", "duplicate", 0.5)
    assert row["run_id"] == "tonight" and row["user_id"] == f"synthetic:{row['unit_id']}"
    assert row["timestamp"] == hour(0)
