"""Section `train`: arms and recommenders."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from llmaug.config.optimiser import OptimiserConfig

ArmName = Literal[
    "real",
    "popularity",
    "ease",
    "oversampled",
    "duplicate",
    "ngram",
    "fusion",
    "augmented",
    "augmented_fusion",
]

# Losses of each model, its default first; models without one are solved in closed form.
LOSSES: dict[str, tuple[str, ...]] = {
    "sasrec": ("softmax", "sampled_softmax"),
    "two_tower": ("sampled_softmax", "bpr"),
    "linear": ("bce", "mse"),
    "ease": (),
    "popularity": (),
}

READ_HISTORIES = ("sasrec", "two_tower")


class TrainConfig(OptimiserConfig):
    """The recommender."""

    model: Literal["sasrec", "two_tower", "linear", "ease", "popularity"] = "sasrec"
    """sasrec (sequences), two_tower (history and item vectors), linear (sigmoid(beta^T [u; i])),
    and two in closed form: ease (item to item), popularity (the same for everybody)."""
    arms: list[ArmName] = ["real", "augmented"]
    """What is compared. real: the logs; augmented: with synthetic events; oversampled: real
    events repeated to the volume of augmented, the control; duplicate: every user once more
    as a synthetic user; ngram: with as many synthetic events, from a trigram model; fusion:
    real events, and the recommender sees the items' tags and texts itself; augmented_fusion:
    both; popularity, ease: these models on real events, as yardsticks. `real` is always one of
    them."""
    item_features: bool = False
    """sasrec, two_tower: add item tags and projected text vectors to the item vectors (the
    fusion arms do)."""
    seeds: list[int] = Field(default=[1], min_length=1)
    """One model a seed and arm; the first is the one published."""
    embedding_dim: int = Field(default=64, ge=1)
    """Width of item (and user) vectors."""
    num_layers: int = Field(default=2, ge=1)
    """sasrec: transformer layers."""
    num_heads: int = Field(default=2, ge=1)
    """sasrec: attention heads."""
    history_len: int = Field(default=50, ge=1)
    """sasrec, two_tower: events the model looks at."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """sasrec, two_tower: dropout."""
    loss: Literal["softmax", "sampled_softmax", "bpr", "bce", "mse"] | None = None
    """sasrec: softmax over the catalogue, or sampled_softmax over some of it, for catalogues
    of 100,000 items and more. two_tower: sampled_softmax, or bpr (pairwise).
    linear: binary cross-entropy or mean squared error on sigmoid outputs. None: the first."""
    finetune_after: int | None = Field(default=None, ge=1)
    """sasrec, two_tower: after this many steps on all events, train on real ones alone: what is
    synthetic then prepares the model and does not decide it. None: on all to the end."""
    max_negatives: int = Field(default=1024, ge=1)
    """sampled_softmax: negatives of a batch at most, half of them its own targets."""
    interaction: Literal["concat", "hadamard"] = "concat"
    """linear: [u; i], or [u; i; u*i]."""
    num_negatives: int = Field(default=4, ge=0)
    """linear: items drawn at random as negatives for each event."""
    popularity_days: float | None = Field(default=None, gt=0)
    """popularity: count only the last N days of the training events. None: all."""
    ease_l2: float = Field(default=300.0, gt=0)
    """ease: strength of its regularisation."""
    ease_max_items: int = Field(default=10_000, ge=1)
    """ease: refuse larger catalogues; memory grows with their square (2.2 GiB for 10,000)."""

    @property
    def loss_name(self) -> str | None:
        """The loss that counts; None for models in closed form."""
        return self.loss or next(iter(LOSSES[self.model]), None)

    @model_validator(mode="after")
    def _loss_fits_the_model(self) -> TrainConfig:
        if self.loss and self.loss not in LOSSES[self.model]:
            has = " or ".join(LOSSES[self.model]) or "none: it has a closed form"
            raise ValueError(f"train.loss of model {self.model} is {has}, not {self.loss}")
        return self

    @model_validator(mode="after")
    def _finetunes_at_the_end(self) -> TrainConfig:
        if self.finetune_after is None:
            return self
        if self.model not in READ_HISTORIES:
            raise ValueError(f"train.finetune_after is for sasrec and two_tower, not {self.model}")
        if self.finetune_after >= self.num_steps:
            raise ValueError(
                f"train.finetune_after {self.finetune_after} leaves no step of num_steps "
                f"{self.num_steps} for real events alone"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> TrainConfig:
        if self.model == "sasrec" and self.embedding_dim % self.num_heads:
            raise ValueError(
                f"train.embedding_dim {self.embedding_dim} is not a multiple of train.num_heads "
                f"{self.num_heads}"
            )
        return self

    @model_validator(mode="after")
    def _arms_fit_the_model(self) -> TrainConfig:
        if "real" not in self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError("train.arms names each arm once, and `real` is one of them")
        fusion = self.item_features or {"fusion", "augmented_fusion"} & set(self.arms)
        if fusion and self.model not in READ_HISTORIES:
            raise ValueError(
                f"train.model {self.model} cannot see item tags: leave out train.item_features "
                f"and the fusion arms, or take {' or '.join(READ_HISTORIES)}"
            )
        return self
