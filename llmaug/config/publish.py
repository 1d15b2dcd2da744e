"""Sections `publish` and `recommend`."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import Field

from llmaug.config.base import Name, Section


class PublishConfig(Section):
    """The versioned model folder."""

    name: Name = "recommender"
    """Folder below `published/`."""


class RecommendConfig(Section):
    """Batch recommendations from the published model."""

    k: int = Field(default=10, ge=1)
    """Items for each user."""
    include_seen: bool = False
    """Recommend items of the history again."""
    at: datetime | None = None
    """When the recommendations are to be read (UTC where it names no zone): of items that live for
    a time (`vocabulary.item_life_h`) those that are there then. None: now."""
    num_actors: int = Field(default=1, ge=1)
    """Ray Data actors that score all users, each with the model in memory."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs of each actor."""

    def at_s(self) -> float:
        """`at` in seconds since 1970."""
        at = self.at or datetime.now(UTC)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
