"""Which items of a history moved a recommendation: small enough to check by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmaug.commands.explain import explain
from llmaug.config import parse_config
from llmaug.publish.recommend import Served
from tests.tables import catalogue

WORDS = catalogue("abcd")  # tokens 3 to 6
FROM = {3: {5: 2.0}, 4: {5: 0.5, 6: 1.0}}  # what having a, and b, adds to c and d


class Adding:
    """A score is the sum of what each item of the history adds; all of them are moved by as much
    as the history is long, which is no reason for anything."""

    def score(self, users: list[str], histories: list[list[int]]) -> torch.Tensor:
        scores = torch.zeros(len(users), WORDS.num_tokens)
        for row, history in enumerate(histories):
            scores[row] += len(history)
            for token in set(history):
                for other, more in FROM.get(token, {}).items():
                    scores[row, other] += more
        return scores

    def probability(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.sigmoid()


class Deaf(Adding):
    """Knows no history."""

    def score(self, users: list[str], histories: list[list[int]]) -> torch.Tensor:
        return torch.tensor([[0.0, 0, 0, 1, 2, 3, 4]]).repeat(len(users), 1)


class Stub(Served):
    config = parse_config({})  # type: ignore[assignment]

    def histories(self, user_ids: Any) -> dict[str, list[int] | None]:
        return {"anna": [3, 4, 3]}


def served(model: Any) -> Served:
    return Stub(None, {}, model, WORDS)  # type: ignore[arg-type]


def test_the_items_without_which_it_would_stand_lower() -> None:
    """Without a, c loses 2, and the average item 0.5: an effect of 1.5; d is first then."""
    first, second = explain(served(Adding()), "anna", k=2)
    assert (first["item_id"], second["item_id"]) == ("c", "d")
    a, b = first["because"]
    assert (a["item_id"], a["title"], a["rank_without"]) == ("a", "Title of a", 2)
    assert a["effect"] == pytest.approx(2 - 2 / 4)
    assert (b["item_id"], b["rank_without"]) == ("b", 1)
    assert b["effect"] == pytest.approx(0.5 - 1.5 / 4)
    # What would stand higher without an item is not there because of it.
    (only,) = second["because"]
    assert only["item_id"] == "b" and only["effect"] == pytest.approx(1 - 1.5 / 4)


def test_so_many_reasons_as_are_asked_for() -> None:
    (first, _) = explain(served(Adding()), "anna", k=2, num_reasons=1)
    assert [reason["item_id"] for reason in first["because"]] == ["a"]


def test_a_model_that_reads_no_history_has_no_reasons() -> None:
    assert [row["because"] for row in explain(served(Deaf()), "anna", k=2)] == [[], []]
