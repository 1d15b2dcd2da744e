"""Stage `lm`: the behaviour model, trained on training events with Ray Train."""

from __future__ import annotations

from functools import partial
from typing import Any

from llmaug.config import LmConfig
from llmaug.sequences import Batches, load_sequences
from llmaug.split import TRAIN, VALIDATION
from llmaug.stage import Context, Stage
from llmaug.storage import Storage
from llmaug.trainer import fit
from llmaug.validation import ValidationUsers, load_validation
from llmaug.vocabulary import Vocabulary, load


def run(context: Context) -> dict[str, Any]:
    config = context.config
    name = f"lm/{config.lm.name}"
    build = partial(
        _LmTask,
        context.storage,
        context.folder(name),
        context.folder("split"),
        context.folder("vocabulary"),
        config.lm,
        config.vocabulary.min_tag_items,
        config.evaluate.exclude_seen,
        config.seed,
    )
    return fit(context, name, build, config.lm, config.seed)


class _LmTask:
    def __init__(
        self,
        storage: Storage,
        folder: str,
        split: str,
        vocabulary_folder: str,
        config: LmConfig,
        min_tag_items: int,
        exclude_seen: bool,
        seed: int,
    ) -> None:
        from llmaug.lm.causal import CausalLm

        self._storage, self._folder, self._exclude_seen = storage, folder, exclude_seen
        self._config = config
        self._vocabulary: Vocabulary = load(storage, vocabulary_folder)
        sequences = load_sequences(storage, f"{split}/{TRAIN}", self._vocabulary)
        self._batches = Batches(sequences, config.batch_size, config.context_len, seed)
        self._validation: ValidationUsers = load_validation(
            storage, f"{split}/{TRAIN}", f"{split}/{VALIDATION}", self._vocabulary, seed
        )
        self.model = CausalLm(config, self._vocabulary, min_tag_items)

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Any, Any]:
        return self._batches.at(step, rank, world_size)

    def validate(self) -> float:
        return self._validation.ndcg_at_10(self.model.score, self._exclude_seen)

    def export(self) -> dict[str, Any]:
        from llmaug.lm.causal import save

        facts = {"name": self._config.name, "num_parameters": _count(self.model)}
        digest = save(self._storage, self._folder, self.model, self._vocabulary, facts)
        return {**facts, "model_digest": digest}


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def stage(name: str) -> Stage:
    """The stage that trains `lm/<name>`."""
    return Stage(
        name=f"lm/{name}",
        run=run,
        inputs=("split", "vocabulary"),
        code=("llmaug.lm.causal", "llmaug.item_tags", "llmaug.trainer", "llmaug.sequences"),
        settings=lambda config: [config.lm, config.vocabulary, config.evaluate.exclude_seen],
    )
