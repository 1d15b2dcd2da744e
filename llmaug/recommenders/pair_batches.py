"""Batches of users and items, for models with a vector of each."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from llmaug.config import OfPairsConfig, OfRatingsConfig
from llmaug.errors import UserError
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary


class PairBatches:
    """(user, item) pairs with label 1, and `num_negatives` random items with label 0 each.

    As with sequences, a step's batch depends on the step alone. A negative that the user
    did take is redrawn once; what remains of those is given no weight.
    """

    def __init__(
        self, events: pa.Table, vocabulary: Vocabulary, config: OfPairsConfig, seed: int
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


class RatingBatches:
    """(user, item) pairs of the events that have a `value`; a step's batch depends on the step
    alone."""

    def __init__(
        self, events: pa.Table, vocabulary: Vocabulary, config: OfRatingsConfig, seed: int
    ) -> None:
        token = vocabulary.encode(events["item_id"])
        rated = (token >= 0) & events["value"].is_valid().to_numpy()
        encoded = events["user_id"].combine_chunks().dictionary_encode()
        self.user_ids: list[str] = encoded.dictionary.to_pylist()
        user = encoded.indices.to_numpy()[rated]
        self._pairs = np.stack([user, token[rated]], axis=1).astype(np.int64)
        labels = [events[name].to_numpy()[rated] for name in ("value", "weight")]
        self._labels = np.stack(labels, axis=1).astype(np.float32)
        if not len(self._pairs):
            raise UserError(
                "there is no training event with a value: no rating to learn (ingest.columns)"
            )
        self.mean = float(np.average(self._labels[:, 0], weights=self._labels[:, 1]))
        self._size, self._seed = min(config.batch_size, len(self._pairs)), seed

    @property
    def num_targets(self) -> int:
        return len(self._pairs)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """pairs (N, 2) int64 of (user row, item token), labels (N, 2) of (value, weight)."""
        rng = np.random.default_rng([self._seed, 2, step])
        chosen = rng.choice(len(self._pairs), self._size, replace=False)[rank::world_size]
        return self._pairs[chosen], self._labels[chosen]
