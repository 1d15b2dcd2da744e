"""Sections `split` and `vocabulary`: what is held out, and items as tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from llmaug.config.base import Section


class SplitConfig(Section):
    """Held-out events."""

    kind: Literal["leave_one_out", "temporal", "none"] = "temporal"
    """temporal: events past a global cut-off; leave_one_out: each user's last event is test,
    the one before validation; none: all events train, nothing is measured."""
    num_test_events: int = Field(default=1, ge=1)
    """leave_one_out: test events of each user, the last ones. More of them, with
    `evaluate.targets: all`, narrow the intervals where users are few and histories long."""
    validation_quantile: float = Field(default=0.8, gt=0, lt=1)
    """temporal: share of the events before the validation cut-off (rounded to an hour)."""
    test_quantile: float = Field(default=0.9, gt=0, lt=1)
    """temporal: share of the events before the test cut-off (rounded to an hour)."""
    max_train_events: int | None = Field(default=None, ge=1)
    """Keep only each user's last N training events: an experiment on thin logs."""

    @model_validator(mode="after")
    def _quantiles_in_order(self) -> SplitConfig:
        if self.validation_quantile >= self.test_quantile:
            raise ValueError("split.validation_quantile must be below split.test_quantile")
        return self

    @model_validator(mode="after")
    def _counts_where_it_matters(self) -> SplitConfig:
        if self.num_test_events > 1 and self.kind != "leave_one_out":
            raise ValueError(f"split.num_test_events is for leave_one_out, not {self.kind}")
        return self


class VocabularyConfig(Section):
    """Items to tokens."""

    cold_items: bool = True
    """Also give a token to catalogue items without a training event (the items table is then
    taken to be the catalogue as of the cut-off)."""
    item_life_h: float | None = Field(default=None, gt=0)
    """Hours that an item is there after its first training event, for news, offers and the like:
    before and after, it is neither generated nor recommended, and no competitor of what was.
    Columns `available_from` and `available_until` of the items table say it of single items. None:
    what these do not limit is always there."""
    min_tag_items: int = Field(default=3, ge=1)
    """Tags on fewer items are left out of the item features."""
    title_words: bool = False
    """The words of a title are tags of the item (`word:toy`), too."""
    text_encoder: str | None = None
    """`minilm`: all-MiniLM-L6-v2 (English), which set-up installs. Or the Hugging Face folder of a
    sentence encoder (or of an LLM, which then serves as one): `{root}/...`, a path (`./minilm` for
    one of that name) or a URI. Its vectors of the items' titles, tags and
    descriptions are item features beside the tags. It is copied below the root once."""
    max_atomic_items: int = Field(default=100_000, ge=1)
    """In larger catalogues causal models write semantic ids, some code words an item, where
    else an item is one token."""
    num_levels: int = Field(default=3, ge=1, le=8)
    """Semantic ids: levels of codes; one more makes ids unique."""
    num_codes: int = Field(default=256, ge=2)
    """Semantic ids: codes of a level."""
