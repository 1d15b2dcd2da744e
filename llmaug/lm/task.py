"""What the trainer asks of neural behaviour models: their task, built inside each worker."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from llmaug.config import Config, NeuralConfig, OptimiserConfig
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.ingest.split import TRAIN, VALIDATION
from llmaug.items.sequences import load_sequences
from llmaug.items.vocabulary import Vocabulary, load_vocabulary
from llmaug.training.loop import Private, Task
from llmaug.training.trainer import fit
from llmaug.training.validation import load_validation


class LmTask:
    """What tasks of neural behaviour models share; built inside each worker."""

    model: Any
    patient_until = 0
    private: Private | None = None
    ranks = True
    """Whether it can rank the catalogue after a history."""
    window: int
    """Tokens of a sequence that a visit reads, less one."""

    def __init__(self, storage: Storage, folders: dict[str, str], config: Config) -> None:
        """folders: of model, split, vocabulary and ingest/users."""
        self._storage, self._folders, self._config = storage, folders, config
        self._vocabulary = self._events(load_vocabulary(storage, folders["vocabulary"]))
        train, validation = (f"{folders['split']}/{fold}" for fold in (TRAIN, VALIDATION))
        self._sequences = load_sequences(storage, train, self._vocabulary)
        self._validation = load_validation(
            storage, train, validation, self._vocabulary, config.seed
        )
        assert isinstance(config.lm, NeuralConfig)
        self.metric = "log_likelihood" if config.lm.stop_on == "perplexity" else "ndcg"

    def _events(self, vocabulary: Vocabulary) -> Vocabulary:
        """The vocabulary whose events the model learns: items alone, unless it says more."""
        return vocabulary

    def weight(self, batch: tuple[Any, ...]) -> float:
        return float(batch[1].sum())

    def validate(self) -> float:
        if self.metric == "log_likelihood":
            return self._validation.log_likelihood(self.score)
        return self._validation.ndcg_at_10(self.score, self._config.evaluate.exclude_seen)

    def score(self, users: list[str], histories: list[list[int]]) -> Any:
        """(B, V) scores of the vocabulary after each history."""
        return self.model.score(users, histories)

    def facts(self) -> dict[str, Any]:
        """What the manifest and the model's notes say of every model."""
        longer = np.diff(self._sequences.offsets) > self.window + 1
        return {
            "name": self._config.lm.name,
            "num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "windowed_histories": int(longer.sum()),
        }

    def saved(self, save: Callable[..., str]) -> dict[str, Any]:
        """The facts and the digest of the model, which `save` writes, and how it ranks: what was
        measured of a generator is no part of who it is, so its digest and answers stay."""
        facts = self.facts()
        digest = save(self._storage, self._folders["model"], self.model, self._vocabulary, facts)
        return {**facts, "model_digest": digest, **self._ranking()}

    def _ranking(self) -> dict[str, Any]:
        """{"validation_ndcg"}, comparable with a recommender's, where training did not stop by it
        (then it stands in the facts of `fit`)."""
        if not self.ranks or self.metric == "ndcg":
            return {}
        self.model.eval()
        ndcg = self._validation.ndcg_at_10(self.score, self._config.evaluate.exclude_seen)
        return {"validation_ndcg": None if math.isnan(ndcg) else ndcg}


def folders_of(context: Context) -> dict[str, str]:
    """Folders of the run that a task reads, and that of the model."""
    name = f"lm/{context.config.lm.name}"
    needed = {"model": name} | {n: n for n in ("split", "vocabulary", "ingest/users")}
    return {key: context.folder(value) for key, value in needed.items()}


def fit_task(context: Context, build: Callable[[], Task], lm: OptimiserConfig) -> dict[str, Any]:
    """Train what `build` makes in each worker; the facts of the training."""
    config = context.config
    facts = fit(context, f"lm/{config.lm.name}", build, lm, config.seed)
    if facts["windowed_histories"]:
        context.progress.note(
            f"{facts['windowed_histories']:,} histories are longer than lm.context_len "
            f"{config.lm.context_len}: each visit reads another window of them"
        )
    return facts
