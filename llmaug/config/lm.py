"""Section `lm`: the behaviour language model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llmaug.config.base import Name
from llmaug.config.optimiser import OptimiserConfig


class LmConfig(OptimiserConfig):
    """The behaviour language model: what learns from the logs and writes synthetic events."""

    model: Literal["causal", "masked", "ngram", "instruct"] = "causal"
    """causal: a small Llama over item tokens; masked: a small BERT, which fills gaps; ngram:
    counts with Kneser-Ney smoothing; instruct: a chat model, which chooses among candidates."""
    name: Name = ""
    """Folder below `lm/` and first half of the generator's name. Default: as `model`."""
    folder: str | None = None
    """instruct: the Hugging Face folder of the chat model: `{root}/...`, an absolute path or a
    URI. It is copied below the root once."""
    prompt_language: Literal["en", "zh"] = "en"
    """instruct: language of the question."""
    finetune: Literal["full", "lora"] | None = None
    """instruct: train the chat model on the same questions about the training events first, all
    of its weights or low-rank adapters that are merged into them. Set a `learning_rate` for it:
    about 2e-4 for lora, 1e-5 for full. None: as it is."""
    lora_rank: int = Field(default=8, ge=1)
    """finetune lora: rank of the adapters."""
    order: int = Field(default=3, ge=1, le=4)
    """ngram: length of the longest n-gram, the event that it predicts included."""
    hidden_size: int = Field(default=64, ge=8)
    """Width."""
    num_layers: int = Field(default=2, ge=1)
    """Transformer layers."""
    num_heads: int = Field(default=2, ge=1)
    """Attention heads; vLLM's CPU attention takes head sizes 32, 64, 80, 96, 112, 128."""
    context_len: int = Field(default=64, ge=4)
    """Longest sequence in tokens, prompt and continuation together."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout on embeddings and on the last hidden state while training."""
    from_run: Name | None = None
    """Generate with the behaviour model (and vocabulary) of this earlier run instead of
    training one: its outcomes cache then answers whatever has not changed since. Refused when
    that run trained on events that are held out now."""
    warm_start: Name | None = None
    """causal: start training from the model of this earlier run (of the same lm.name and
    shape), last night's or another domain's in the same root. Refused when that run trained on
    events that are held out now."""
    item_features: bool = True
    """Add item tags and projected text vectors (`vocabulary.text_encoder`) to the item
    embeddings (folded into one table at export)."""
    cold_items_are_negatives: bool = True
    """Items with features but without a training event are competitors in training, and learn
    that nobody takes them; the more so with text vectors, which tell each item apart. False: they
    are left out of it, and their features alone place them beside known items: they are
    generated."""
    directions: dict[Literal["forward", "reverse", "infill"], Annotated[float, Field(gt=0)]] = {
        "forward": 1.0
    }
    """causal: share of the training visits that are read in each direction."""
    user_attributes: list[str] = []
    """causal: attributes of the users table that stand before a history, one token each."""
    min_attribute_users: int = Field(default=5, ge=1)
    """Attribute values of fewer training users than this count as unknown."""
    action_tokens: bool = True
    """causal: where the training events have several actions (view, buy), an event is the token
    of its action and then those of its item, and synthetic events have the action that was
    generated. False: items alone, and synthetic events have the most frequent action."""
    packed: bool = False
    """causal: several short histories share a row instead of being padded."""
    mask_share: float = Field(default=0.3, gt=0, lt=1)
    """masked: share of the events that are hidden at a visit."""
    num_passes: int = Field(default=4, ge=1)
    """masked: times that the events of a gap are drawn; all at first, then the unlikeliest."""
    stop_on: Literal["ndcg", "perplexity"] = "ndcg"
    """What early stopping looks at: NDCG@10 or perplexity of the validation events."""
    weight_decay: float = Field(default=0.05, ge=0)
    """AdamW's decoupled weight decay."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of forward and backward passes; weights stay float32. None: bfloat16 on GPUs that have
    it."""

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_model(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and not raw.get("name"):
            return {**raw, "name": raw.get("model", "causal")}
        return raw

    @model_validator(mode="after")
    def _head_size(self) -> LmConfig:
        size, rest = divmod(self.hidden_size, self.num_heads)
        if rest:
            raise ValueError(
                f"lm.hidden_size {self.hidden_size} is not a multiple of lm.num_heads "
                f"{self.num_heads}"
            )
        if self.model == "causal" and size not in (32, 64, 80, 96, 112, 128, 160, 192, 224, 256):
            raise ValueError(
                f"lm.hidden_size / lm.num_heads is {self.hidden_size}/{self.num_heads}; vLLM "
                "takes head sizes 32, 64, 80, 96, 112, 128, 160, 192, 224, 256"
            )
        return self

    @model_validator(mode="after")
    def _has_a_chat_model(self) -> LmConfig:
        if self.model == "instruct" and not self.folder:
            raise ValueError("lm.model instruct needs lm.folder, a Hugging Face folder")
        if self.model == "instruct" and self.context_len < 256:
            raise ValueError(
                f"lm.context_len {self.context_len} is too short for a question in prose; give "
                "lm.model instruct 512 or more"
            )
        return self

    @model_validator(mode="after")
    def _finetunes_a_chat_model(self) -> LmConfig:
        if self.finetune and self.model != "instruct":
            raise ValueError(f"lm.finetune is for model instruct, not {self.model}")
        return self

    @model_validator(mode="after")
    def _one_start(self) -> LmConfig:
        if self.warm_start and self.from_run:
            raise ValueError("lm.from_run trains nothing: leave lm.warm_start out")
        if self.warm_start and self.model != "causal":
            raise ValueError(f"lm.warm_start is for model causal, not {self.model}")
        return self

    @model_validator(mode="after")
    def _reads_forward(self) -> LmConfig:
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
