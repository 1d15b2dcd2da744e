"""Every filter that comes with llmaug keeps what one of somebody else has to keep."""

from __future__ import annotations

import pytest

from llmaug.config import FILTERS, FilterConfig
from llmaug.testing import check_filter
from tests.filter.own_filters import HERE


@pytest.mark.parametrize("kind", list(FILTERS), ids=lambda kind: kind.__name__)
def test_ours_keep_the_contract(kind: type[FilterConfig]) -> None:
    check_filter(kind())  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["UnwantedTagConfig", "SameTitleConfig"])
def test_one_of_somebody_else_does(name: str) -> None:
    fields = {"tag": "x"} if name == "UnwantedTagConfig" else {}
    check_filter(FILTERS.make({"kind": f"{HERE}:{name}", **fields}))


@pytest.mark.parametrize(
    ("name", "answer", "told"),
    [
        ("AnswersConfig", None, "a list of 0 verdicts is expected, not None"),
        ("AnswersConfig", ["too_short"], "a list of 0 verdicts is expected, not 1"),
        ("AnswersOfOutcomeConfig", "too_short", r"\(reason, detail\) or None is expected"),
        ("AnswersOfOutcomeConfig", ["a reason", ""], r"\(reason, detail\) or None is expected"),
        ("AnswersConfig", "a bug", "ZeroDivisionError: a bug in a filter"),
    ],
)
def test_what_is_wrong_is_told(name: str, answer: object, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_filter(FILTERS.make({"kind": f"{HERE}:{name}", "answer": answer}))


def test_code_that_is_not_there_is_told() -> None:
    with pytest.raises(AssertionError, match="implementation 'nowhere.filters:not_there' cannot"):
        check_filter(FILTERS.make({"kind": f"{HERE}:NotThereConfig"}))
