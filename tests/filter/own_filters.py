"""Filters as somebody else would write them, in a package of their own."""

from __future__ import annotations

from typing import Any

from llmaug.config import FilterConfig
from llmaug.filter.rules import Candidate

HERE = "tests.filter.own_filters"


class UnwantedTagConfig(FilterConfig):
    """Events with items of a tag."""

    implementation = f"{HERE}:unwanted_tag"
    judges = "events"
    sees_items = True

    tag: str
    """The tag."""


def unwanted_tag(config: UnwantedTagConfig, candidate: Candidate) -> list[str | None]:
    assert candidate.items is not None
    tags = map(candidate.items.tags, candidate.tokens)
    return ["unwanted_tag" if config.tag in each else None for each in tags]


class SameTitleConfig(FilterConfig):
    """Outcomes of one and the same title."""

    implementation = f"{HERE}:same_title"
    judges = "outcome"
    sees_items = True


def same_title(
    config: SameTitleConfig, candidate: Candidate, kept: list[int]
) -> tuple[str, str] | None:
    assert candidate.items is not None
    titles = set(map(candidate.items.title, kept))
    return ("same_title", f"all are {titles.pop()}") if len(titles) == 1 else None


class AnswersConfig(FilterConfig):
    """Answers what it is told, right or wrong."""

    implementation = f"{HERE}:answers"
    judges = "events"

    answer: Any
    """The answer."""


def answers(config: AnswersConfig, candidate: Candidate, *kept: list[int]) -> Any:
    if config.answer == "a bug":
        raise ZeroDivisionError("a bug in a filter")
    return config.answer


class AnswersOfOutcomeConfig(AnswersConfig):
    judges = "outcome"


class FailsAtBConfig(FilterConfig):
    """Fails at item b."""

    implementation = f"{HERE}:fails_at_b"
    judges = "events"


def fails_at_b(config: FailsAtBConfig, candidate: Candidate) -> list[str | None]:
    if 4 in candidate.tokens:
        raise ZeroDivisionError("a bug in a filter")
    return [None] * len(candidate.tokens)


class NotThereConfig(FilterConfig):
    """Its code is not installed."""

    implementation = "nowhere.filters:not_there"
    judges = "outcome"
