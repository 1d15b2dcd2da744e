"""Every strategy that comes with llmaug keeps what one of somebody else has to keep."""

from __future__ import annotations

from typing import Any

import pytest

from llmaug.config import STRATEGIES, OfUsersConfig
from llmaug.testing import check_strategy

HERE = "tests.plan.test_strategies"


@pytest.mark.parametrize("kind", list(STRATEGIES), ids=lambda kind: kind.__name__)
def test_ours_keep_the_contract(kind: Any) -> None:
    check_strategy(kind())


class BeforeTheLastConfig(OfUsersConfig):
    """Events before the last one of a history."""

    needs = "forward"

    shift: int = 1
    """How many events before the end; 0 and less is a mistake that only its places show."""

    def draw_places(self, history_len: int, rng: Any) -> list[int]:
        return [history_len - self.shift]


class DrawsByItselfConfig(BeforeTheLastConfig):
    def draw_places(self, history_len: int, rng: Any) -> Any:
        return 0 if self.shift else [history_len + 1]


def own(name: str, **fields: Any) -> Any:
    return STRATEGIES.make({"kind": f"{HERE}:{name}", **fields})


def test_one_of_somebody_else_does() -> None:
    check_strategy(own("BeforeTheLastConfig"))


@pytest.mark.parametrize(
    ("name", "shift", "told"),
    [
        ("BeforeTheLastConfig", -1, r"draw_places\(1, rng\) must lie within 0 and 1"),
        ("BeforeTheLastConfig", 2, r"draw_places\(1, rng\) must lie within 0 and 1"),
        ("DrawsByItselfConfig", 1, "must return a list of int, one at least, and returned 0"),
    ],
)
def test_what_is_wrong_is_told(name: str, shift: int, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_strategy(own(name, shift=shift))
