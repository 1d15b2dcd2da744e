"""Section `lm`: the behaviour language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from llmaug.config.base import Name, Section
from llmaug.config.kinds import Kinds, named_after
from llmaug.config.optimiser import OptimiserConfig

if TYPE_CHECKING:
    from llmaug.config.plan import PlanConfig

Ability = Literal["new_user", "forward", "reverse", "infill", "choice", "next_chances"]
"""What a strategy needs of a model. new_user: a history from nothing; forward: what comes after a
history; reverse: what came before one; infill: what was between its events, or in the stead of
some; choice: which one of some candidates comes next; next_chances: how likely each item is, at
every event of a history."""

_VLLM_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)


class LmConfig(Section):
    """What all behaviour language models share: what learns from the logs and writes synthetic
    events."""

    training: ClassVar[str]
    asking: ClassVar[str]
    answering: ClassVar[str]
    """`package.module:function` of what is its own: see `llmaug.lm`."""
    chances: ClassVar[str | None] = None
    """`package.module:function` of what answers where it is asked for `next_chances`."""
    item_table: ClassVar[str | None] = None
    """Tensor of its model.safetensors with a row for each token of the vocabulary, from which a
    recommender can start. None: it has no such table."""
    by_name: ClassVar[tuple[str, ...]] = ()
    """Modules that decide its answers and that nothing imports: its engine finds them by name."""
    abilities: ClassVar[tuple[Ability, ...]]
    """What it can be asked for."""
    is_neural: ClassVar[bool] = True
    """Whether a GPU is of use to it."""
    in_vllm: ClassVar[bool] = False
    """Whether vLLM serves it, whose builds for GPUs run on nothing else."""

    model: str
    """What learns from the logs and writes synthetic events."""
    name: Name = ""
    """Folder below `lm/` and first half of the generator's name. Default: as `model`."""
    from_run: Name | None = None
    """Generate with the behaviour model (and vocabulary) of this earlier run instead of
    training one: its outcomes cache then answers whatever has not changed since. Refused when
    that run trained on events that are held out now."""
    context_len: int = Field(default=64, ge=4)
    """Longest sequence in tokens, prompt and continuation together."""

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_model(cls, raw: Any) -> Any:
        return named_after("model", cls, raw)

    @property
    def user_attributes_read(self) -> list[str]:
        """Attributes of the users table that it reads."""
        return []

    @property
    def reads_item_features(self) -> bool:
        """Whether it knows tags and texts of items."""
        return False

    @property
    def num_models(self) -> int:
        """Models that soft_events asks."""
        return 1

    @property
    def starts_from(self) -> str | None:
        """The earlier run from whose model its training starts."""
        return None

    @property
    def optimiser(self) -> OptimiserConfig | None:
        """How it is trained by steps; None: it is not."""
        return self if isinstance(self, OptimiserConfig) else None

    def learns_from(self, plan: PlanConfig) -> Any:
        """What its training depends on of how it will be asked."""
        return None

    def room(self) -> int:
        """Tokens of the context that are left for the events that are asked for."""
        return self.context_len - 2

    def lacks(self, needs: Ability) -> str | None:
        """Why a model of this config cannot be asked so, and what would help; None if it can."""
        return None


class NeuralConfig(LmConfig, OptimiserConfig):
    """What is trained from nothing on item tokens."""

    hidden_size: int = Field(default=64, ge=8)
    """Width."""
    num_layers: int = Field(default=2, ge=1)
    """Transformer layers."""
    num_heads: int = Field(default=2, ge=1)
    """Attention heads; vLLM's CPU attention takes head sizes 32, 64, 80, 96, 112, 128."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout on embeddings and on the last hidden state while training."""
    item_features: bool = True
    """Add item tags and projected text vectors (`vocabulary.text_encoder`) to the item
    embeddings (folded into one table at export)."""
    cold_items_are_negatives: bool = True
    """Items with features but without a training event are competitors in training, and learn
    that nobody takes them; the more so with text vectors, which tell each item apart. False: they
    are left out of it, and their features alone place them beside known items: they are
    generated."""
    stop_on: Literal["ndcg", "perplexity"] = "ndcg"
    """What early stopping looks at: NDCG@10 or perplexity of the validation events."""
    weight_decay: float = Field(default=0.05, ge=0)
    """AdamW's decoupled weight decay."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of forward and backward passes; weights stay float32. None: bfloat16 on GPUs that have
    it."""

    @property
    def reads_item_features(self) -> bool:
        return self.item_features

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> NeuralConfig:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"lm.hidden_size {self.hidden_size} is not a multiple of lm.num_heads "
                f"{self.num_heads}"
            )
        return self


class PrivateConfig(Section):
    """Differential privacy of the behaviour model: for each user, what can be told from it is about
    the same whether or not that user was trained on (Abadi et al. 2016). docs/privacy.md says what
    that covers, and what it does not."""

    epsilon: float = Field(gt=0)
    """What one training spends at most; the noise follows from it. 1 is strong, 8 is common, and
    above 10 little is promised. Trainings on the same users add up."""
    delta: float = Field(gt=0, lt=1)
    """Chance that the promise does not hold: far below 1 / users."""
    clipping: float = Field(default=1.0, gt=0)
    """Longest gradient (L2 norm) that a user may give at a step; longer ones are cut to it."""


class CausalConfig(NeuralConfig):
    """A small Llama over item tokens, served by vLLM."""

    training = "llmaug.lm.causal.training:train"
    asking = "llmaug.lm.causal.asking:load_prompts"
    answering = "llmaug.lm.causal.answering:served"
    chances = "llmaug.lm.causal.chances:load"
    item_table = "model.embed_tokens.weight"
    by_name = ("llmaug.lm.causal.item_logits",)
    abilities = ("forward", "reverse", "infill", "new_user", "next_chances")
    in_vllm = True

    model: Literal["causal"] = "causal"
    """What learns from the logs and writes synthetic events."""
    warm_start: Name | None = None
    """Start training from the model of this earlier run (of the same lm.name and shape), last
    night's or another domain's in the same root. Refused when that run trained on events that are
    held out now."""
    directions: dict[Literal["forward", "reverse", "infill"], Annotated[float, Field(gt=0)]] = {
        "forward": 1.0
    }
    """Share of the training visits that are read in each direction."""
    user_attributes: list[str] = []
    """Attributes of the users table that stand before a history, one token each."""
    min_attribute_users: int = Field(default=5, ge=1)
    """Attribute values of fewer training users than this count as unknown."""
    action_tokens: bool = True
    """Where the training events have several actions (view, buy), an event is the token of its
    action and then those of its item, and synthetic events have the action that was generated.
    False: items alone, and synthetic events have the most frequent action."""
    members: int = Field(default=1, ge=1, le=16)
    """Models that strategy soft_events asks, each trained from another random start: the mean of
    their chances counts, at so many times the cost. Events are written, and item vectors given, by
    the first; without soft_events no other is trained."""
    packed: bool = False
    """Several short histories share a row instead of being padded."""
    private: PrivateConfig | None = None
    """Train by DP-SGD, one document a user a step. Makes all `num_steps` and keeps the last
    weights; users are drawn anew at each step, `batch_size` of them on average. None: no such
    promise."""

    @property
    def user_attributes_read(self) -> list[str]:
        return self.user_attributes

    @property
    def num_models(self) -> int:
        return self.members

    @property
    def starts_from(self) -> str | None:
        return self.warm_start

    def room(self) -> int:
        # User attributes, and the marks of a gap.
        return super().room() - len(self.user_attributes) - 2 * (len(self.directions) > 1)

    def lacks(self, needs: Ability) -> str | None:
        direction = "forward" if needs in ("new_user", "next_chances") else needs
        if direction in self.directions:
            return None
        return (
            f"needs a model that reads {direction}: give lm.directions a share of {direction}, "
            f"such as {{forward: 2, {direction}: 1}}"
        )

    @model_validator(mode="after")
    def _vllm_takes_its_heads(self) -> CausalConfig:
        if self.hidden_size // self.num_heads not in _VLLM_HEAD_SIZES:
            raise ValueError(
                f"lm.hidden_size / lm.num_heads is {self.hidden_size}/{self.num_heads}; vLLM "
                f"takes head sizes {', '.join(map(str, _VLLM_HEAD_SIZES))}"
            )
        return self

    @model_validator(mode="after")
    def _one_start(self) -> CausalConfig:
        if self.warm_start and self.from_run:
            raise ValueError("lm.from_run trains nothing: leave lm.warm_start out")
        return self

    @model_validator(mode="after")
    def _private_counts_all_it_learns(self) -> CausalConfig:
        if self.private is None:
            return self
        broken = {
            "packed": (self.packed, "several users share a row, so not one can be cut"),
            "warm_start": (self.warm_start, "what that run's model learnt would not be counted"),
            "from_run": (self.from_run, "trains nothing; that run's manifest has what it spent"),
            "cold_items_are_negatives: false": (
                not self.cold_items_are_negatives, "counts who took an item, without noise"
            ),
            "precision: bfloat16": (self.precision == "bfloat16", "clipping needs float32"),
            "num_workers": (self.num_workers > 1, "one worker draws the users of a step"),
            "members": (self.members > 1, "each spends as much again on the same users"),
            "num_accumulations": (self.num_accumulations > 1, "users are taken in pieces anyway"),
        }  # fmt: skip
        for field, (is_set, why) in broken.items():
            if is_set:
                raise ValueError(f"lm.private does not go with lm.{field}: {why}; leave it out")
        return self

    @model_validator(mode="after")
    def _reads_forward(self) -> CausalConfig:
        # Validation, new users and continuations ask forward.
        if "forward" not in self.directions:
            raise ValueError("lm.directions needs a share of forward")
        num_controls = 4 if len(self.directions) > 1 else 1
        if self.context_len < num_controls + len(self.user_attributes) + 2:
            raise ValueError(
                f"lm.context_len {self.context_len} leaves no room for events beside control "
                f"tokens and {len(self.user_attributes)} user attributes"
            )
        return self


class MaskedConfig(NeuralConfig):
    """A small BERT, which fills gaps."""

    training = "llmaug.lm.masked.training:train"
    asking = "llmaug.lm.masked.asking:load_prompts"
    answering = "llmaug.lm.masked.answering:served"
    item_table = "bert.embeddings.word_embeddings.weight"
    abilities = ("forward", "reverse", "infill")

    model: Literal["masked"] = "masked"
    """What learns from the logs and writes synthetic events."""
    mask_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the events that are hidden at a visit."""
    num_passes: int = Field(default=4, ge=1)
    """Times that the events of a gap are drawn; all at first, then the unlikeliest."""


class NgramConfig(LmConfig):
    """Counts with Kneser-Ney smoothing."""

    training = "llmaug.lm.ngram.model:fit"
    asking = "llmaug.lm.prompts:of_items"
    answering = "llmaug.lm.ngram.model:served"
    abilities = ("forward", "new_user")
    is_neural = False

    model: Literal["ngram"] = "ngram"
    """What learns from the logs and writes synthetic events."""
    order: int = Field(default=3, ge=1, le=4)
    """Length of the longest n-gram, the event that it predicts included."""


class InstructConfig(LmConfig, OptimiserConfig):
    """A chat model, which chooses among candidates; served by vLLM."""

    training = "llmaug.lm.chat.fit:fit"
    asking = "llmaug.lm.chat.choices:load_choices"
    answering = "llmaug.lm.chat.answering:served"
    abilities = ("choice",)
    in_vllm = True

    model: Literal["instruct"] = "instruct"
    """What learns from the logs and writes synthetic events."""
    folder: str
    """The Hugging Face folder of the chat model: `{root}/...`, an absolute path or a URI. It is
    copied below the root once."""
    prompt_language: Literal["en", "zh"] = "en"
    """Language of the question."""
    finetune: Literal["full", "lora"] | None = None
    """Train the chat model on the same questions about the training events first, all of its
    weights or low-rank adapters that are merged into them. Set a `learning_rate` for it: about
    2e-4 for lora, 1e-5 for full. None: as it is."""
    lora_rank: int = Field(default=8, ge=1)
    """finetune lora: rank of the adapters."""
    context_len: int = Field(default=1024, ge=256)
    """Longest question in tokens."""
    weight_decay: float = Field(default=0.05, ge=0)
    """AdamW's decoupled weight decay."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of forward and backward passes; weights stay float32. None: bfloat16 on GPUs that have
    it."""

    @property
    def reads_item_features(self) -> bool:
        return True

    @property
    def optimiser(self) -> OptimiserConfig | None:
        return self if self.finetune else None

    def learns_from(self, plan: PlanConfig) -> int | None:
        return plan.most_candidates if self.finetune else None

    @model_validator(mode="after")
    def _is_taken_in_every_night(self) -> InstructConfig:
        if self.from_run:
            raise ValueError("lm.from_run: a chat model comes from lm.folder, leave it out")
        return self


BEHAVIOUR_MODELS: Kinds[LmConfig] = Kinds(
    "behaviour model", (LmConfig,), "model", "llmaug.behaviour_models",
    CausalConfig, MaskedConfig, NgramConfig, InstructConfig, default="causal",
)  # fmt: skip
