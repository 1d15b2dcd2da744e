"""What all text tasks of section `text.tasks` share."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from llmaug.config.base import Name
from llmaug.config.kinds import named_after
from llmaug.config.plan import SamplingConfig


class TextTaskConfig(SamplingConfig):
    """What all text tasks share: a question about each row of a table, and what is done with the
    answers."""

    implementation: ClassVar[str]
    """`package.module:function` of what makes its `Task` (`llmaug.text.task`) of the config."""
    feeds_vocabulary: ClassVar[bool] = False
    """Whether its rows are items, which stage `vocabulary` reads."""
    labels_events: ClassVar[bool] = False
    """Whether its rows are real people's events with a synthetic rating, for the arm `reviewed`."""
    adds_events: ClassVar[bool] = False
    """Whether its rows are events that nobody had (schema CHOSEN), for the arm `warmed`."""
    names_people: ClassVar[bool] = False
    """Whether its rows are events of real people, which `privacy.new_users_only` forbids."""
    shows_images: ClassVar[bool] = False
    """Whether images go with its questions, which are read below `text.image_root`."""
    candidates: ClassVar[str] = ""
    """`package.module:function` of what makes the stage of the lists that it chooses from
    (schema CANDIDATES), of the config; such a task comes behind stage `vocabulary`."""
    comes_last: ClassVar[bool] = False
    """Whether it asks about what comes of a trained recommender: it comes behind all others."""

    kind: str
    """The task."""
    name: Name = ""
    """Its folder below `text/`. Default: as `kind`."""
    language: Literal["en", "zh"] = "en"
    """Language of the question, and of the answer."""
    max_rows: int | None = Field(default=None, ge=1)
    """Rows that are asked about at most, the first ones of the table. None: all."""
    max_new_tokens: int = Field(default=256, ge=8)
    """Longest answer. One that is cut there is rejected (`too_long`)."""
    max_field_tokens: int = Field(default=128, ge=4)
    """Longest text of one field of a row; what is behind it is cut, and counted (`cut_fields`)."""
    temperature: float = Field(default=0.7, gt=0)
    """Below 1: closer to the likeliest words."""

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_kind(cls, raw: Any) -> Any:
        return named_after("kind", cls, raw)

    @property
    def asks_about(self) -> tuple[Literal["items", "users"], ...]:
        """Whose tables it reads."""
        return ("items",)

    @property
    def asks(self) -> str:
        """Words of its own that it asks with; those of the templates that come with llmaug are
        known."""
        return ""
