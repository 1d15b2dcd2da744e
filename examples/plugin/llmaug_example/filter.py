"""Drops events of items that carry a tag nobody wants more of."""

from __future__ import annotations

from llmaug.config import FilterConfig
from llmaug.filter.rules import Candidate


class UnwantedTagsConfig(FilterConfig):
    """Events of items with a tag that is not wanted."""

    implementation = "llmaug_example.filter:unwanted_tags"
    judges = "events"
    sees_items = True

    tags: list[str]
    """The tags."""


def unwanted_tags(config: UnwantedTagsConfig, candidate: Candidate) -> list[str | None]:
    """`unwanted_tag` for each event whose item has one of the tags."""
    assert candidate.items is not None  # sees_items
    unwanted = set(config.tags)
    tags = (candidate.items.tags(token) for token in candidate.tokens)
    return ["unwanted_tag" if unwanted & set(own) else None for own in tags]
