"""Text tasks whose choices become events of items and users that have few."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmaug.config.text_task import TextTaskConfig


class _AskedTwiceConfig(TextTaskConfig):
    """A choice that is kept where the candidates in the other order get the same one."""

    adds_events = True

    max_new_tokens: int = Field(default=96, ge=8)
    """Longest answer. One that is cut there is rejected (`too_long`)."""
    max_field_tokens: int = Field(default=32, ge=4)
    """Longest title; what is behind it is cut, and counted (`cut_fields`)."""
    temperature: float = Field(default=0.1, gt=0)
    """Below 1: closer to the likeliest choice."""


class ColdItemsConfig(_AskedTwiceConfig):
    """Events of items that have few: which of two of them would a user rather take?"""

    implementation = "llmaug.text.cold_items:task"
    candidates = "llmaug.text.cold_items:candidates_stage"
    names_people = True

    kind: Literal["cold_items"] = "cold_items"
    """The task."""
    max_train_events: int = Field(default=3, ge=0)
    """Items are asked about that have a title and at most this many training events."""
    max_items: int = Field(default=1000, ge=2)
    """How many of them at most: those with the fewest events."""
    users_per_item: int = Field(default=4, ge=1)
    """Users who are asked about an item: those whose histories are nearest to it, by the titles and
    tags and by who took what."""
    max_history_len: int = Field(default=10, ge=1)
    """Latest training events of the user that count, and stand in a question."""


class ColdUsersConfig(_AskedTwiceConfig):
    """First histories, as synthetic users', of people of whom nothing is known but the users
    table."""

    implementation = "llmaug.text.cold_users:task"
    candidates = "llmaug.text.cold_users:candidates_stage"

    kind: Literal["cold_users"] = "cold_users"
    """The task."""
    max_users: int = Field(default=1000, ge=1)
    """Users without a training event who are asked about, the first ones by their ids."""
    attributes: list[str] | None = None
    """Columns of the users table that make the persona. None: all."""
    num_candidates: int = Field(default=20, ge=2, le=50)
    """Items to choose among: what users with the same attributes take most."""
    num_events: int = Field(default=5, ge=1, le=50)
    """Events of a history at most."""

    @property
    def asks_about(self) -> tuple[Literal["items", "users"], ...]:
        return ("users", "items")
