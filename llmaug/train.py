"""Stages `model/<arm>`: the recommender on the merged shards of one arm, one model a seed."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug import recommenders
from llmaug.arms import Arm
from llmaug.config import TrainConfig
from llmaug.errors import UserError
from llmaug.sequences import Batches, load_sequences
from llmaug.split import TRAIN, VALIDATION
from llmaug.stage import Context, Stage
from llmaug.storage import Storage
from llmaug.trainer import Task, fit
from llmaug.validation import load_validation
from llmaug.vocabulary import NUM_SPECIAL, Vocabulary, load


def run(arm: Arm, context: Context) -> dict[str, Any]:
    """Train every seed of `arm`; a seed that is done already is not trained again."""
    config, train = context.config, arm.train_config(context.config)
    facts = {}
    for seed in train.seeds:
        name = f"model/{arm.name}/seed-{seed}"
        done = context.storage.read_json(context.folder(name), "_trained.json")
        if done is None:
            build = partial(
                build_task,
                context.storage,
                context.folder(name),
                context.folder(f"merged/{arm.shards}"),
                context.folder("split"),
                context.folder("vocabulary"),
                train,
                config.vocabulary.min_tag_items,
                config.evaluate.exclude_seen,
                seed,
            )
            done = fit(context, name, build, train, seed)
        facts[f"seed-{seed}"] = done
    return facts


def build_task(
    storage: Storage,
    folder: str,
    shards: str,
    split: str,
    vocabulary_folder: str,
    config: TrainConfig,
    min_tag_items: int,
    exclude_seen: bool,
    seed: int,
) -> Task:
    """Called in each worker: loads the shards and makes the fresh model."""
    vocabulary = load(storage, vocabulary_folder)
    task_class = _PairTask if config.model == "linear" else _SequenceTask
    batches = task_class.load(storage, shards, vocabulary, config, seed)
    task = task_class(batches, vocabulary, config, min_tag_items)
    task.place = (storage, folder, exclude_seen)
    task.validation = load_validation(
        storage, f"{split}/{TRAIN}", f"{split}/{VALIDATION}", vocabulary, seed
    )
    return task


class _RecommenderTask:
    """What both kinds of task share: validation and export of the model folder."""

    metric = "ndcg"
    place: tuple[Storage, str, bool]
    validation: Any
    model: Any

    def __init__(
        self, batches: Any, vocabulary: Vocabulary, config: TrainConfig, min_tag_items: int
    ) -> None:
        self._batches, self._vocabulary, self._config = batches, vocabulary, config
        users = getattr(batches, "user_ids", [])
        self.model = recommenders.build(config, vocabulary, users, min_tag_items)

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Any, Any]:
        return self._batches.at(step, rank, world_size)

    def validate(self) -> float:
        return self.validation.ndcg_at_10(self.model.score, self.place[2])

    def export(self) -> dict[str, Any]:
        storage, folder, _ = self.place
        digest = recommenders.save(storage, folder, self.model, self._config, self._vocabulary)
        return {"model_digest": digest, "num_targets": self._batches.num_targets}


class _SequenceTask(_RecommenderTask):
    def weight(self, batch: tuple[Any, ...]) -> float:
        return float(batch[1].sum())

    @staticmethod
    def load(
        storage: Storage, shards: str, vocabulary: Vocabulary, config: TrainConfig, seed: int
    ) -> Batches:
        sequences = load_sequences(storage, shards, vocabulary)
        return Batches(sequences, config.batch_size, config.history_len, seed)


class _PairTask(_RecommenderTask):
    def weight(self, batch: tuple[Any, ...]) -> float:
        return float(batch[1][:, 1].sum())

    @staticmethod
    def load(
        storage: Storage, shards: str, vocabulary: Vocabulary, config: TrainConfig, seed: int
    ) -> PairBatches:
        parts = storage.parts(shards)
        columns = ["user_id", "item_id", "weight"]
        events = pa.concat_tables([storage.read_part(shards, p, columns=columns) for p in parts])
        return PairBatches(events, vocabulary, config, seed)


class PairBatches:
    """(user, item) pairs with label 1, and `num_negatives` random items with label 0 each.

    As with sequences, a step's batch depends on the step alone. A negative that the user
    did take is redrawn once; what remains of those is given no weight.
    """

    def __init__(
        self, events: pa.Table, vocabulary: Vocabulary, config: TrainConfig, seed: int
    ) -> None:
        token = vocabulary.encode(events["item_id"])
        events, self._item = events.filter(pa.array(token >= 0)), token[token >= 0]
        encoded = events["user_id"].combine_chunks().dictionary_encode()
        self.user_ids: list[str] = encoded.dictionary.to_pylist()
        self._user = encoded.indices.to_numpy().astype(np.int64)
        self._weight = events["weight"].to_numpy().astype(np.float32)
        if not len(self._item):
            raise UserError("there is no training event: nothing to learn from")
        self._num_items = vocabulary.num_items
        self._taken = np.unique(self._key(self._user, self._item))
        self._size = min(config.batch_size, len(self._item))
        self._negatives, self._seed = config.num_negatives, seed

    @property
    def num_targets(self) -> int:
        return len(self._item)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """pairs (N, 2) int64 of (user row, item token), labels (N, 2) of (label, weight)."""
        rng = np.random.default_rng([self._seed, 2, step])
        chosen = rng.choice(len(self._item), self._size, replace=False)[rank::world_size]
        user = np.repeat(self._user[chosen], 1 + self._negatives)
        item = np.repeat(self._item[chosen], 1 + self._negatives).astype(np.int64)
        weight = np.repeat(self._weight[chosen], 1 + self._negatives)
        negative = np.arange(len(user)) % (1 + self._negatives) > 0
        for _ in range(2):
            redraw = negative & self._is_taken(user, item)
            item[redraw] = rng.integers(self._num_items, size=redraw.sum()) + NUM_SPECIAL
        weight[negative & self._is_taken(user, item)] = 0
        labels = np.stack([(~negative).astype(np.float32), weight], axis=1)
        return np.stack([user, item], axis=1), labels

    def _key(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        return user.astype(np.int64) * (self._num_items + NUM_SPECIAL) + item

    def _is_taken(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        return np.isin(self._key(user, item), self._taken)


def stage(arm: Arm) -> Stage:
    """The stage that trains `model/<arm>`."""
    return Stage(
        name=f"model/{arm.name}",
        run=partial(run, arm),
        inputs=(f"merged/{arm.shards}", "vocabulary", "split"),
        code=(
            "llmaug.recommenders.sasrec",
            "llmaug.recommenders.linear",
            "llmaug.item_tags",
            "llmaug.trainer",
            "llmaug.sequences",
        ),
        settings=lambda config: [
            # Without the names of the arms: one more arm does not train the others again.
            arm.train_config(config).model_dump(mode="json", exclude={"arms"}),
            config.evaluate.exclude_seen,
        ],
    )
