"""How far predicted ratings are from held-out ones, on tables that a reader can check by hand."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import torch

from llmaug.evaluate.ratings import ERRORS, from_sums, predicted, sum_errors
from llmaug.schema import EVENT
from tests.tables import catalogue, events


def errors(rows: list[tuple[str, float, float]]) -> pa.Table:
    named = [{"user_id": u, "item_id": "a", "value": v, "predicted": p} for u, v, p in rows]
    return pa.Table.from_pylist(named, schema=ERRORS)


def figures(**arms: list[tuple[str, float, float]]) -> dict[str, Any]:
    return from_sums({arm: sum_errors(errors(rows), 200, 1) for arm, rows in arms.items()})


def test_every_rating_counts_alike_and_users_go_together() -> None:
    off = [("u1", 4.0, 4.0), ("u1", 2.0, 4.0), ("u2", 5.0, 4.0), ("u3", 3.0, 4.0)]
    found = figures(real=off, reviewed=[(user, value, value) for user, value, _ in off])
    assert found["real"]["num_ratings"] == 4 and found["real"]["difference"] is None
    assert found["real"]["rmse"]["mean"] == pytest.approx((6 / 4) ** 0.5)
    assert found["reviewed"]["rmse"]["mean"] == 0
    difference = found["reviewed"]["difference"]
    assert difference["mean"] == pytest.approx(-((6 / 4) ** 0.5)) and difference["high"] < 0


def test_without_ratings_there_is_nothing_to_say() -> None:
    assert figures(real=[]) == {}


class Always(torch.nn.Module):
    def ratings(self, users: list[str], tokens: list[int]) -> torch.Tensor:
        return torch.tensor([3.0 if token >= 0 else 1.0 for token in tokens])


def test_only_events_with_a_value_are_asked_about() -> None:
    held_out = events([("u1", "a", 0), ("u1", "b", 1), ("u2", "new", 2)])
    place = EVENT.get_field_index("value")
    values = pa.array([4, None, 2], pa.float32())
    held_out = held_out.set_column(place, EVENT.field("value"), values)
    found = predicted(Always(), catalogue("ab"), held_out)  # type: ignore[arg-type]
    assert found.select(["item_id", "value", "predicted"]).to_pylist() == [
        {"item_id": "a", "value": 4, "predicted": 3}, {"item_id": "new", "value": 2, "predicted": 1}
    ]  # fmt: skip
