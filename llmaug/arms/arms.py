"""The arms of the comparison: one line each says what is trained on what.

All arms run the same code with the same `train` section, so with the same number of
optimiser steps at most, except for the fields that an arm itself changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmaug.config import RECOMMENDERS, Config, TrainConfig

REAL, AUGMENTED, OVERSAMPLED, DUPLICATE = "real", "augmented", "oversampled", "duplicate"
FUSION, NGRAM, REVIEWED, WARMED = "fusion", "ngram", "reviewed", "warmed"

_SEES_TAGS = {"item_features": True}
_AS_GENERATOR = {"start_from": "generator"}


@dataclass(frozen=True)
class Arm:
    """One way to train the recommender."""

    name: str
    """Also its folder below `model/`."""
    shards: str
    """Folder below `merged/` that it trains on."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the `train` section that differ. With `model`: it is another kind, of which
    `train.yardsticks` has the options."""
    control: str = REAL
    """Arm that does without the synthetic events but is alike otherwise: the one to beat."""

    def train_config(self, config: Config) -> TrainConfig:
        """The `train` section with this arm's changes, for this arm alone."""
        train = config.train
        # What the comparison says is no part of an arm: one more arm trains no other again.
        fields = {**train.model_dump(), "arms": [REAL], "yardsticks": {}, **self.changes}
        if RECOMMENDERS.tag in self.changes:
            fields |= train.yardsticks.model_dump()
        if self.shards != AUGMENTED and "soft_share" in fields:
            fields["soft_share"] = 0.0  # no other shards have soft targets
        known = RECOMMENDERS.fields_of(fields)
        return RECOMMENDERS.make({name: fields[name] for name in fields if name in known})

    def starts_from(self, config: Config) -> str | None:
        """`train.start_from` of this arm."""
        return getattr(self.train_config(config), "start_from", None)


# The names are those of `config.ArmName`; the order is that of the tables.
ARMS = (
    Arm(REAL, shards=REAL),
    Arm("popularity", shards=REAL, changes={"model": "popularity"}),
    Arm("ease", shards=REAL, changes={"model": "ease"}),
    Arm(OVERSAMPLED, shards=OVERSAMPLED),
    Arm(DUPLICATE, shards=DUPLICATE),
    Arm(NGRAM, shards=NGRAM, control=OVERSAMPLED),
    Arm(FUSION, shards=REAL, changes=_SEES_TAGS),
    Arm("restarted", shards=REAL, changes={"start_from": "real"}),
    Arm("started", shards=REAL, changes=_AS_GENERATOR, control="restarted"),
    Arm(AUGMENTED, shards=AUGMENTED, control=OVERSAMPLED),
    Arm("augmented_fusion", shards=AUGMENTED, changes=_SEES_TAGS, control=FUSION),
    Arm("augmented_started", shards=AUGMENTED, changes=_AS_GENERATOR, control="started"),
    Arm(REVIEWED, shards=REVIEWED),
    Arm(WARMED, shards=WARMED),
)

CONTROLS = {arm.name: arm.control for arm in ARMS}
SHARDS = {arm.name: arm.shards for arm in ARMS}

# Shards without a synthetic event.
REAL_ALONE = (REAL, OVERSAMPLED)

# Shards that are made from other shards: `oversampled` is as large as `augmented`.
_MADE_FROM = {OVERSAMPLED: (AUGMENTED,)}


def chosen(config: Config) -> list[Arm]:
    """The arms of `train.arms`; without generation those that need its events fall away."""
    arms = [arm for arm in ARMS if arm.name in config.train.arms]
    if config.plan.strategies:
        return arms
    return [arm for arm in arms if not {AUGMENTED, NGRAM} & set(needed_shards([arm]))]


def needed_shards(arms: list[Arm]) -> list[str]:
    """Shards that `arms` train on and those that these are made from, in the order to make."""
    names = [name for arm in arms for name in (*_MADE_FROM.get(arm.shards, ()), arm.shards)]
    return list(dict.fromkeys(names))
