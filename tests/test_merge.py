"""Real and accepted synthetic events into the shards of each arm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from llmaug import merge
from llmaug.schema import EVENT, OUTCOME
from llmaug.stage import Context
from tests.tables import (
    catalogue,
    events,
    histories,
    hour,
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
        {"gap_s": [], "start_s": [], "history_len": [], "window_end_s": 0, "action": "view"},
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
    rows = merge.synthetic_events(
        outcomes, context.config.merge, "tonight", "causal@1234", "view"
    ).to_pylist()
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
        "logprob": None,
    }


def test_no_accepted_outcome_is_no_event(context: Context) -> None:
    outcomes = pa.Table.from_pylist([outcome("unit", "ab", status="rejected")], schema=OUTCOME)
    table = merge.synthetic_events(outcomes, context.config.merge, "r", "g", "view")
    assert table.num_rows == 0 and table.schema == EVENT
