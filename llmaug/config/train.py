"""Section `train`: arms and recommenders."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from llmaug.config.base import Section
from llmaug.config.kinds import Kinds, name_of
from llmaug.config.optimiser import OptimiserConfig

ArmName = Literal[
    "real",
    "popularity",
    "ease",
    "oversampled",
    "duplicate",
    "ngram",
    "fusion",
    "restarted",
    "started",
    "augmented",
    "augmented_fusion",
    "augmented_started",
    "reviewed",
    "warmed",
]

_NEEDED: dict[str, tuple[str, ...]] = {
    "item_features": ("fusion", "augmented_fusion"),
    "start_from": ("restarted", "started", "augmented_started"),
}
"""Field of the recommender that some arms set: they are for kinds that have it."""


class _PopularityOptions(Section):
    popularity_days: float | None = Field(default=None, gt=0)
    """Count only the last N days of the training events. None: all."""
    popularity_by: Literal["events", "newest"] = "events"
    """events: what most took. newest: what came out last, for news; needs items that live for a
    time (`vocabulary.item_life_h`, or `available_from` of the items)."""


class _EaseOptions(Section):
    ease_l2: float = Field(default=300.0, gt=0)
    """Strength of the regularisation."""
    ease_max_items: int = Field(default=10_000, ge=1)
    """Refuse larger catalogues; memory grows with their square (2.2 GiB for 10,000)."""


class YardsticksConfig(_PopularityOptions, _EaseOptions):
    """Options of the models of arms `popularity` and `ease`."""


class TrainConfig(Section):
    """What all recommenders share: what is compared."""

    implementation: ClassVar[str]
    """`package.module:Class` of the torch module, called with its config and `DataFacts`."""
    batches: ClassVar[Literal["sequences", "pairs", "ratings"]] = "sequences"
    """What a model that is trained by steps is given: sequences of item tokens, pairs of user and
    item with labels 1 and 0, or pairs with the values of their events."""

    model: str
    """The recommender."""
    arms: list[ArmName] = ["real", "augmented"]
    """What is compared. real: the logs; augmented: with synthetic events; oversampled: real
    events repeated to the volume of augmented, the control; duplicate: every user once more
    as a synthetic user; ngram: with as many synthetic events, from a trigram model; fusion:
    real events, and the recommender sees the items' tags and texts itself; augmented_fusion:
    both; started: real events, from the item vectors of the generator: what it knows of the items
    is transferred, and no synthetic event is seen; restarted: real events once more, from the
    item vectors of `real`, the control of started; augmented_started: synthetic events, too, from
    the generator's item vectors; reviewed: real events, and ratings by the text task
    `write_reviews` where they have none; warmed: real events, and those by the text tasks
    `cold_items` and `cold_users`; popularity, ease: these models on real events, as yardsticks.
    `real` is always one of them."""
    yardsticks: YardsticksConfig = YardsticksConfig()
    """Of the arms popularity and ease."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(default=[1], min_length=1)
    """One model a seed and arm; the first is the one published."""

    @model_validator(mode="after")
    def _is_trained_in_a_known_way(self) -> TrainConfig:
        if not isinstance(self, ByDescentConfig | ClosedFormConfig):
            raise ValueError(
                f"train.model {self.model}: its class inherits ByDescentConfig (trained by steps) "
                "or ClosedFormConfig of llmaug.config"
            )
        return self

    @model_validator(mode="after")
    def _arms_fit_the_model(self) -> TrainConfig:
        if "real" not in self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError("train.arms names each arm once, and `real` is one of them")
        if "reviewed" in self.arms and self.batches != "ratings":
            having = [name_of(each, "model") for each in RECOMMENDERS if each.batches == "ratings"]
            raise ValueError(
                f"train.model {self.model} learns no ratings: leave out the arm reviewed, or take "
                f"{' or '.join(having)}"
            )
        if "warmed" in self.arms and self.batches == "ratings":
            raise ValueError(
                f"train.model {self.model} learns ratings, and events of the arm warmed have none: "
                "leave it out, or take another model"
            )
        for field, arms in _NEEDED.items():
            if not set(arms) & set(self.arms) or field in type(self).model_fields:
                continue
            having = [name_of(each, "model") for each in RECOMMENDERS if field in each.model_fields]
            raise ValueError(
                f"train.model {self.model} has no {field}: leave out the arms {', '.join(arms)}, "
                f"or take {' or '.join(having)}"
            )
        return self


class ClosedFormConfig(TrainConfig):
    """A recommender without a training loop: its module has `fit`."""

    threads_per_worker: int = Field(default=1, ge=1)
    """CPU threads."""


class ByDescentConfig(TrainConfig, OptimiserConfig):
    """A recommender that is trained step by step: its module has `loss`."""


class OfHistoriesConfig(ByDescentConfig):
    """What looks at a user's history has: its batches are sequences."""

    item_features: bool = False
    """Add item tags and projected text vectors to the item vectors (the fusion arms do)."""
    start_from: Literal["generator", "real"] | None = None
    """Item vectors to start from: those of the generator (lm), with what it knows of titles and
    tags in them, or those of arm `real`, of the same seed. Everything else starts at random. Of
    another width, their first principal directions. None: at random, too. The arms `started` and
    `restarted` set it."""
    embedding_dim: int = Field(default=64, ge=1)
    """Width of item vectors."""
    history_len: int = Field(default=50, ge=1)
    """Events the model looks at."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout while training."""
    finetune_after: int | None = Field(default=None, ge=1)
    """After this many steps on all events, train on real ones alone: what is synthetic then
    prepares the model and does not decide it. None: on all to the end."""
    max_negatives: int = Field(default=1024, ge=1)
    """sampled_softmax: negatives of a batch at most, half of them its own targets."""

    @model_validator(mode="after")
    def _finetunes_at_the_end(self) -> OfHistoriesConfig:
        if self.finetune_after is not None and self.finetune_after >= self.num_steps:
            raise ValueError(
                f"train.finetune_after {self.finetune_after} leaves no step of num_steps "
                f"{self.num_steps} for real events alone"
            )
        return self


class SasrecConfig(OfHistoriesConfig):
    """Self-attention over the history (Kang and McAuley 2018)."""

    implementation = "llmaug.recommenders.sasrec:SASRec"

    model: Literal["sasrec"] = "sasrec"
    """The recommender."""
    num_layers: int = Field(default=2, ge=1)
    """Transformer layers."""
    num_heads: int = Field(default=2, ge=1)
    """Attention heads."""
    loss: Literal["softmax", "sampled_softmax"] = "softmax"
    """softmax over the catalogue, or sampled_softmax over some of it, for catalogues of 10,000
    items and more."""
    soft_share: float = Field(default=0.5, ge=0, le=1)
    """How much the chances of strategy soft_events count in the loss of an event that has them; the
    rest is for the item that came. 0: they are not read."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> SasrecConfig:
        if self.embedding_dim % self.num_heads:
            raise ValueError(
                f"train.embedding_dim {self.embedding_dim} is not a multiple of train.num_heads "
                f"{self.num_heads}"
            )
        return self


class TwoTowerConfig(OfHistoriesConfig):
    """A vector of the history and one of the item (Covington et al. 2016)."""

    implementation = "llmaug.recommenders.two_tower:TwoTower"

    model: Literal["two_tower"] = "two_tower"
    """The recommender."""
    loss: Literal["sampled_softmax", "bpr"] = "sampled_softmax"
    """sampled_softmax, or bpr (pairwise)."""


class OfPairsConfig(ByDescentConfig):
    """What looks at a user and an item has: its batches are pairs."""

    batches = "pairs"

    num_negatives: int = Field(default=4, ge=0)
    """Items drawn at random as negatives for each event."""


class LinearConfig(OfPairsConfig):
    """sigmoid(beta^T [u; i]): vectors of users and items, and a line through them."""

    implementation = "llmaug.recommenders.linear:Linear"

    model: Literal["linear"] = "linear"
    """The recommender."""
    embedding_dim: int = Field(default=64, ge=1)
    """Width of user and item vectors."""
    loss: Literal["bce", "mse"] = "bce"
    """Binary cross-entropy, or mean squared error on sigmoid outputs."""
    interaction: Literal["concat", "hadamard"] = "concat"
    """[u; i], or [u; i; u*i]."""


class OfRatingsConfig(ByDescentConfig):
    """What learns the `value` of events has: training stops by the RMSE of validation events."""

    batches = "ratings"


class LinearRatingConfig(OfRatingsConfig):
    """mean + beta^T [u; i; u*i]: the rating that a user gives to an item (Koren et al. 2009)."""

    implementation = "llmaug.recommenders.linear_rating:LinearRating"

    model: Literal["linear_rating"] = "linear_rating"
    """The recommender."""
    embedding_dim: int = Field(default=32, ge=1)
    """Width of user and item vectors."""


class EaseConfig(ClosedFormConfig, _EaseOptions):
    """Item to item in closed form (Steck 2019)."""

    implementation = "llmaug.recommenders.ease:Ease"

    model: Literal["ease"] = "ease"
    """The recommender."""


class PopularityConfig(ClosedFormConfig, _PopularityOptions):
    """The same list for everybody: what most took."""

    implementation = "llmaug.recommenders.popularity:Popularity"

    model: Literal["popularity"] = "popularity"
    """The recommender."""


RECOMMENDERS: Kinds[TrainConfig] = Kinds(
    "recommender", (TrainConfig,), "model", "llmaug.recommenders",
    SasrecConfig, TwoTowerConfig, LinearConfig, LinearRatingConfig, EaseConfig, PopularityConfig,
    default="sasrec",
)  # fmt: skip
