"""Recommenders: torch modules behind one small protocol, saved as plain files.

A model folder holds `model.safetensors`, `config.json`, `items.parquet` (item_id, title,
train_events, and when items are there that live for a time; row i has token NUM_SPECIAL + i) and,
for models with user vectors, `users.parquet`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from llmaug.arms.arms import Arm
from llmaug.config import RECOMMENDERS, Config, TrainConfig, imported, modules_of
from llmaug.core.formats import MODEL, written_by
from llmaug.core.model_files import check_files, check_finite
from llmaug.core.storage import Storage, digest
from llmaug.errors import UserError
from llmaug.items.lives import LIFE_COLUMNS
from llmaug.items.vocabulary import Vocabulary, of_items

if TYPE_CHECKING:
    from torch import Tensor

_FILES = ("config.json", "items.parquet", "model.safetensors", "users.parquet")


@dataclass(frozen=True)
class DataFacts:
    """What a model is told of the data when it is made: `implementation(config, facts)`."""

    vocabulary: Vocabulary
    """The items. `vocabulary.num_tokens` is how many tokens a model scores."""
    user_ids: Sequence[str] = ()
    """Users of the training events, for models with a vector for each; a batch of pairs names
    them by their place here. What a model keeps as its `user_ids` is stored with it, and is here
    again when it is loaded. Empty for models that are given sequences."""
    min_tag_items: int = 1
    """Tags on fewer items are left out, where the config has `item_features`."""
    target_counts: np.ndarray | None = None
    """(num_tokens,) how often each token is to be predicted, for losses on samples of the
    catalogue; None where nothing is trained on sequences."""
    mean_value: float = 0.0
    """Mean `value` of the training events, for models that learn ratings."""


@runtime_checkable
class Recommender(Protocol):
    """What evaluation and serving need of every model, which is a torch.nn.Module too: a class
    that is called with its config and `DataFacts`.

    Shapes: B users, V = NUM_SPECIAL + items tokens of the vocabulary.
    """

    def score(self, users: list[str], histories: list[list[int]]) -> Tensor:
        """(B, V) scores of all tokens for each user; higher is better.

        users: (B,) ids, known from training or not. histories: (B,) lists of item tokens, the
        oldest event first, of any length; empty for a user without events.
        """

    def probability(self, scores: Tensor) -> Tensor:
        """`scores` of any shape mapped into (0, 1), in the same order."""


@runtime_checkable
class ByDescent(Recommender, Protocol):
    """A model that is trained step by step."""

    def loss(self, inputs: Tensor, targets: Tensor, /) -> Tensor:
        """Mean loss of a batch as its task makes it, a scalar.

        Sequences: tokens (B, T + 1) and their weights (B, T + 1). Pairs: (N, 2) of user row and
        item token, and (N, 2) of label in [0, 1] and weight. Ratings: the same, of the events that
        have a `value`, with the value as the label.
        """


@runtime_checkable
class ClosedForm(Recommender, Protocol):
    """A model without a training loop."""

    def fit(self, events: Callable[[], Iterable[pa.Table]]) -> int:
        """Solve for the weights; returns how many events were counted.

        `events()` gives the training events (schema EVENT) table by table, each sorted by user,
        and may be called again.
        """


@runtime_checkable
class JudgesPairs(Recommender, Protocol):
    """A model that judges a user and an item by themselves: its probabilities are calibrated
    against labels, and it has something to say of an item outside the catalogue."""

    def score_pairs(self, users: list[str], tokens: list[int]) -> Tensor:
        """(N,) scores of N (user, item) pairs; token -1 is an item outside the catalogue."""


@runtime_checkable
class PredictsRatings(Recommender, Protocol):
    """A model that says what `value` an event would have."""

    def ratings(self, users: list[str], tokens: list[int]) -> Tensor:
        """(N,) values of N (user, item) pairs; token -1 is an item outside the catalogue."""


def roots_of(config: Config, arms: Iterable[Arm]) -> tuple[str, ...]:
    """Roots of a stage that makes or asks the models of `arms`."""
    return modules_of(*(arm.train_config(config) for arm in arms))


def build(config: TrainConfig, facts: DataFacts) -> Any:
    """A fresh model of `config.model`."""
    return imported(config.implementation)(config, facts)


def save_recommender(
    storage: Storage, folder: str, model: Any, config: TrainConfig, vocabulary: Vocabulary
) -> str:
    """Write the model folder; returns its content digest.

    Features are folded into the item rows, and config.json says `item_features: false` of a model
    that could see them: what is loaded scores alike without them.
    """
    from safetensors.torch import save_file

    from llmaug.items.item_features import folded_state

    with tempfile.TemporaryDirectory() as local:
        weights = {n: t.detach().cpu().contiguous() for n, t in folded_state(model).items()}
        save_file(weights, f"{local}/model.safetensors")
        columns = ["item_id", "title", "train_events", *(LIFE_COLUMNS if vocabulary.lives else ())]
        items = vocabulary.items.select(columns)
        pq.write_table(items, f"{local}/items.parquet")
        facts = {
            **MODEL.stamp,
            "config": _stored_config(config),
            "vocabulary_digest": vocabulary.digest,
            "num_items": vocabulary.num_items,
        }
        user_ids = getattr(model, "user_ids", None)
        if user_ids is not None:
            pq.write_table(
                pa.table({"user_id": pa.array(user_ids, pa.string())}), f"{local}/users.parquet"
            )
        Path(local, "config.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        return storage.put_folder(local, folder)


def _stored_config(config: TrainConfig) -> dict[str, Any]:
    # The comparison that the model was part of is no part of the model.
    stored = config.model_dump(mode="json", exclude={"arms", "yardsticks"})
    return stored | ({"item_features": False} if "item_features" in stored else {})


def load_recommender(
    storage: Storage, folder: str, model_digest: str | None = None
) -> tuple[Any, Vocabulary, dict[str, Any]]:
    """(model in eval mode, its vocabulary, config.json) of a model folder.

    model_digest: what `save_recommender` returned. Raises UserError when the folder is not one,
    its files are not those that were saved, or a weight is no finite number.
    """
    from safetensors.torch import load as load_weights

    uri, files = storage.uri(folder), _read_files(storage, folder)
    digests = {name: digest(data) for name, data in files.items()}
    check_files(storage, folder, digests, model_digest)
    config, facts = _config(storage.uri(folder, "config.json"), files["config.json"])
    vocabulary = of_items(_table(files["items.parquet"]))
    if vocabulary.digest != facts.get("vocabulary_digest"):
        raise UserError(f"{uri}: items.parquet and config.json do not belong together")
    user_ids: list[str] = []
    if "users.parquet" in files:
        user_ids = _table(files["users.parquet"])["user_id"].to_pylist()
    model = build(config, DataFacts(vocabulary, user_ids))
    try:
        weights = load_weights(files["model.safetensors"])
        model.load_state_dict(weights)
    except Exception as error:
        raise UserError(f"{uri}: model.safetensors is damaged: {error}") from error
    check_finite(storage, folder, "model.safetensors", weights.items())
    return model.eval(), vocabulary, facts


def _read_files(storage: Storage, folder: str) -> dict[str, bytes]:
    there = set(storage.names(folder))
    if "config.json" not in there:
        raise UserError(f"{storage.uri(folder)}: not a recommender folder (no config.json)")
    for name in ("items.parquet", "model.safetensors"):
        if name not in there:
            raise UserError(f"{storage.uri(folder)}: {name} is missing")
    return {name: storage.read(folder, name) for name in _FILES if name in there}


def _config(uri: str, data: bytes) -> tuple[TrainConfig, dict[str, Any]]:
    try:
        facts = json.loads(data)
        dict(facts["config"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"{uri}: damaged, or its folder is not a recommender folder: {error}"
        ) from error
    facts = MODEL.upgraded(facts, uri)
    try:
        return RECOMMENDERS.make(facts["config"]), facts
    except ValueError as error:
        field: tuple[int | str, ...] = (RECOMMENDERS.tag,)
        why = str(error)
        if isinstance(error, ValidationError):
            problem = error.errors(include_url=False, include_input=False)[0]
            field, why = problem["loc"], problem["msg"].removeprefix("Value error, ")
        place = ".".join(map(str, ("config", *field)))
        raise UserError(f"{uri}: {place}: {why}. {written_by(facts)}") from error


def _table(data: bytes) -> pa.Table:
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)


@lru_cache(maxsize=1)
def load_recommender_once(
    storage: Storage, folder: str, model_digest: str
) -> tuple[Any, Vocabulary]:
    """`load_recommender` for workers that score many parts: one model stays in the process.

    `model_digest` is part of the key: a later run may write another model to `folder`.
    """
    import torch

    torch.set_num_threads(1)
    model, vocabulary, _ = load_recommender(storage, folder, model_digest)
    return model, vocabulary
