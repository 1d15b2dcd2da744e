"""Recommenders: torch modules behind one small protocol, saved as plain files.

A model folder holds `model.safetensors`, `config.json`, `items.parquet` (item_id, title,
train_events; row i has token NUM_SPECIAL + i) and, for models with user vectors,
`users.parquet`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from llmaug.config import TrainConfig
from llmaug.errors import UserError
from llmaug.storage import Storage
from llmaug.stored import ModelFacts, damaged, read_record
from llmaug.vocabulary import Vocabulary, of_items


class Recommender(Protocol):
    """What training, evaluation and serving need of a model (a torch.nn.Module)."""

    def loss(self, *batch: Any) -> Any:
        """Mean loss of a batch as its task makes it (scalar tensor)."""

    def score(self, users: list[str], histories: list[list[int]]) -> Any:
        """(B, num_tokens) scores of all tokens for each user; higher is better."""

    def probability(self, scores: Any) -> Any:
        """`scores` mapped into (0, 1), same shape."""


class ClosedForm(Protocol):
    """What a model without a training loop has in place of `loss`."""

    def fit(self, events: Callable[[], Iterable[pa.Table]]) -> int:
        """Solve for the weights from the training events, table by table and each sorted by
        user; returns how many were counted."""


def build(
    config: TrainConfig,
    vocabulary: Vocabulary,
    user_ids: list[str],
    min_tag_items: int = 1,
    target_counts: np.ndarray | None = None,
) -> Any:
    """A fresh model of `config.model`.

    user_ids: those of the training events, for models with user vectors. min_tag_items: tags
    on fewer items are left out (with `config.item_features`). target_counts: (num_tokens,)
    how often each token is to be predicted, for losses on samples of the catalogue.
    """
    if config.model == "linear":
        from llmaug.recommenders.linear import Linear

        return Linear(config, vocabulary.num_tokens, user_ids)
    if config.model == "popularity":
        from llmaug.recommenders.popularity import Popularity

        return Popularity(config, vocabulary)
    if config.model == "ease":
        from llmaug.recommenders.ease import Ease

        return Ease(config, vocabulary)
    if config.model == "two_tower":
        from llmaug.recommenders.two_tower import TwoTower

        return TwoTower(config, vocabulary, min_tag_items, target_counts)
    from llmaug.recommenders.sasrec import SASRec

    return SASRec(config, vocabulary, min_tag_items, target_counts)


def save(
    storage: Storage, folder: str, model: Any, config: TrainConfig, vocabulary: Vocabulary
) -> str:
    """Write the model folder; returns its content digest.

    Features are folded into the item rows, and config.json says `item_features: false`: what is
    loaded scores alike without them.
    """
    from safetensors.torch import save_file

    from llmaug.item_features import folded_state

    with tempfile.TemporaryDirectory() as local:
        weights = {n: t.detach().cpu().contiguous() for n, t in folded_state(model).items()}
        save_file(weights, f"{local}/model.safetensors")
        items = vocabulary.items.select(["item_id", "title", "train_events"])
        pq.write_table(items, f"{local}/items.parquet")
        facts = {
            # The comparison that the model was part of is no part of the model.
            "config": config.model_dump(mode="json", exclude={"arms"}) | {"item_features": False},
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


def load(storage: Storage, folder: str) -> tuple[Any, Vocabulary, dict[str, Any]]:
    """(model in eval mode, its vocabulary, config.json) of a model folder.

    Raises UserError when the folder is not one, or its parts do not fit together.
    """
    from safetensors.torch import load as load_weights

    facts = read_record(storage, ModelFacts, folder, "config.json")
    if facts is None:
        raise UserError(f"{storage.uri(folder)}: not a recommender folder (no config.json)")
    try:
        config = TrainConfig(**facts["config"])
    except ValidationError as error:
        raise damaged(
            storage, f"the config in it is none: {error}", folder, "config.json"
        ) from error
    columns = ["item_id", "title", "train_events"]
    vocabulary = of_items(storage.read_table(folder, "items.parquet", columns=columns))
    if vocabulary.digest != facts["vocabulary_digest"]:
        raise UserError(
            f"{storage.uri(folder)}: items.parquet and config.json do not belong together"
        )
    user_ids: list[str] = []
    if "users.parquet" in storage.names(folder):
        users = storage.read_table(folder, "users.parquet", columns=["user_id"])
        user_ids = users["user_id"].to_pylist()
    model = build(config, vocabulary, user_ids)
    try:
        model.load_state_dict(load_weights(storage.read(folder, "model.safetensors")))
    except Exception as error:
        raise UserError(f"{storage.uri(folder)}: model.safetensors is damaged: {error}") from error
    return model.eval(), vocabulary, facts


@lru_cache(maxsize=1)
def load_once(storage: Storage, folder: str, model_digest: str) -> tuple[Any, Vocabulary]:
    """`load` for workers that score many parts: one model stays in the process.

    `model_digest` is part of the key: a later run may write another model to `folder`.
    """
    import torch

    torch.set_num_threads(1)
    model, vocabulary, _ = load(storage, folder)
    return model, vocabulary
