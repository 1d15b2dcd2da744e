"""Which chances of items are kept, and that they go with the right events."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmaug.filter.soft import on_soft_targets
from llmaug.filter.times import History
from llmaug.items.lives import Lives
from llmaug.schema import OUTCOME
from llmaug.testing.tables import hour

A, B, C, D = range(3, 7)
HISTORIES = {
    "u1": History([A, -1, B, C], []),  # an item that the generator does not know
    "u2": History([D, A], []),
}
# Here a has token 3, b 5, d 4, and nobody has c.
KNOWN = np.array([3, 5, -1, 4], np.int32)


def outcome(user: str, tokens: list[int], soft: Any, chances: Any, **more: Any) -> dict[str, Any]:
    return {
        "unit_id": f"of {user}", "user_id": user, "strategy": "soft_events", "sample": 0,
        "status": "generated", "tokens": tokens, "num_prompt_tokens": 1,
        "num_generated_tokens": len(tokens), "engine_seconds": 0.1, "attempts": 1, "soft_k": 2,
        "soft_tokens": soft, "soft_chances": chances, **more,
    }  # fmt: skip


def verdicts(*outcomes: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    table = pa.Table.from_pylist(list(outcomes), schema=OUTCOME)
    found, counts = on_soft_targets(table, HISTORIES, KNOWN)
    assert found.schema == OUTCOME
    return found.to_pylist(), dict(counts)


def test_they_are_of_all_training_events_in_tokens_of_the_run() -> None:
    # The prompt was cut: it shows the newest two.
    [row], counts = verdicts(outcome("u1", [B, C], [A, B, D, -1], [0.5, 0.25, 0.125, 0.0]))
    assert (row["status"], row["reason"], row["events"]) == ("accepted", None, [])
    assert row["soft_tokens"] == [-1, -1, -1, -1, 3, 5, 4, -1]
    assert row["soft_chances"] == [0, 0, 0, 0, 0.5, 0.25, 0.125, 0]
    assert counts == {"accepted": 1, "soft_events": 2, "soft_events_kept": 2, "soft_targets": 3}


def test_what_is_no_item_of_the_catalogue_is_dropped_and_what_has_no_chance() -> None:
    [row], counts = verdicts(outcome("u2", [D, A], [C, 99, 2, D], [0.5, 0.25, 0.125, 0.0]))
    assert (row["status"], row["reason"], row["soft_tokens"]) == ("rejected", "no_chances", None)
    assert counts == {
        **{"rejected": 1, "rejected.no_chances": 1, "soft_events": 2, "soft_targets": 0},
        "soft_targets_dropped.outside_catalogue": 3,
    }


def test_what_was_not_there_at_the_event_could_not_have_come() -> None:
    """b (here 5) is gone at hour 1: it could have come at hour 0, and not at hour 2."""
    history = History([D, A], [hour(0), hour(2)])
    table = pa.Table.from_pylist(
        [outcome("u2", [D, A], [A, B, A, B], [0.5, 0.25, 0.5, 0.25])], schema=OUTCOME
    )
    end = np.array([np.inf] * 5 + [hour(1).timestamp()])
    lives = Lives(np.full(6, -np.inf), end)
    found, counts = on_soft_targets(table, {"u2": history}, KNOWN, lives)
    assert found["soft_tokens"].to_pylist() == [[3, 5, 3, -1]]
    assert counts["soft_targets"] == 3 and counts["soft_targets_dropped.not_there"] == 1


@pytest.mark.parametrize(
    ("tokens", "soft"),
    [([A, D], [A, B, A, B]), ([A, A, A], [A, B] * 3), ([A], [A, B, C])],
    ids=["other events", "too many", "torn"],
)
def test_what_does_not_fit_the_history_fails(tokens: list[int], soft: list[int]) -> None:
    fits = outcome("u2", [D, A], [A, B, A, B], [0.5] * 4)
    died = outcome("u1", [], None, None, status="failed", reason="engine_crashed", soft_k=None)
    rows, counts = verdicts(fits, outcome("u2", tokens, soft, [0.5] * len(soft)), died)
    assert [row["status"] for row in rows] == ["accepted", "failed", "failed"]
    assert [row["reason"] for row in rows] == [None, "unparsable", "engine_crashed"]
    assert (counts["failed"], counts["failed.unparsable"]) == (2, 1)


def test_an_empty_part_is_an_empty_part() -> None:
    assert verdicts() == ([], {})
