"""Batches of users and items, for models with a vector of each; a step's batch depends on the step
alone.

What there is of each event (12 bytes, and 8 to know what was taken) streams into files on this
machine's disk that are mapped into memory, one table at a time; in memory stay the users.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llmaug.config import OfPairsConfig, OfRatingsConfig
from llmaug.errors import UserError
from llmaug.items.arrays import mapped
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary

_BLOCK = 1 << 22  # events looked at together


@dataclass(frozen=True)
class _Columns:
    """N events: (N,) int32 rows of users, (N,) int32 tokens of items, and the (N,) float32 of each
    further column. user_ids: by row, in order of first appearance."""

    user: np.ndarray
    item: np.ndarray
    numbers: dict[str, np.ndarray]
    user_ids: list[str]

    def pairs(self, chosen: np.ndarray) -> np.ndarray:
        """(B, 2) int64 of (user row, item token)."""
        return np.stack([self.user[chosen], self.item[chosen]], axis=1).astype(np.int64)


class PairBatches:
    """(user, item) pairs with label 1, and `num_negatives` random items with label 0 each.

    A negative that the user did take is redrawn once; what remains of those is given no weight.
    """

    def __init__(
        self, events: Iterable[pa.Table], vocabulary: Vocabulary, config: OfPairsConfig, seed: int
    ) -> None:
        self._events = _columns(events, vocabulary, ["weight"])
        self.user_ids = self._events.user_ids
        if not self.num_targets:
            raise UserError("there is no training event: nothing to learn from")
        self._num_items = vocabulary.num_items
        self._taken = self._sorted_keys()
        self._size = min(config.batch_size, self.num_targets)
        self._negatives, self._seed = config.num_negatives, seed

    @property
    def num_targets(self) -> int:
        return len(self._events.item)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """pairs (N, 2) int64 of (user row, item token), labels (N, 2) of (label, weight)."""
        rng = np.random.default_rng([self._seed, 2, step])
        chosen = rng.choice(self.num_targets, self._size, replace=False)[rank::world_size]
        chosen = np.repeat(chosen, 1 + self._negatives)
        user, item = self._events.pairs(chosen).T
        weight = self._events.numbers["weight"][chosen]
        negative = np.arange(len(user)) % (1 + self._negatives) > 0
        if rank:  # workers chose among themselves; each draws negatives of its own
            rng = np.random.default_rng([self._seed, 2, step, rank])
        for _ in range(2):
            redraw = negative & self._is_taken(user, item)
            item[redraw] = rng.integers(self._num_items, size=redraw.sum()) + NUM_SPECIAL
        weight[negative & self._is_taken(user, item)] = 0
        labels = np.stack([(~negative).astype(np.float32), weight], axis=1)
        return np.stack([user, item], axis=1), labels

    def _key(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        return user.astype(np.int64) * (self._num_items + NUM_SPECIAL) + item

    def _sorted_keys(self) -> np.ndarray:
        """(N,) int64 of all pairs that were taken, in a file of their own."""
        with tempfile.TemporaryFile() as file:
            for some in _blocks(self.num_targets):
                self._key(self._events.user[some], self._events.item[some]).tofile(file)
            keys = mapped(file, np.int64, "r+")
        keys.sort()
        return keys

    def _is_taken(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        key = self._key(user, item)
        place = np.minimum(np.searchsorted(self._taken, key), len(self._taken) - 1)
        return np.asarray(self._taken[place] == key)


class RatingBatches:
    """(user, item) pairs of the events that have a `value`."""

    def __init__(
        self, events: Iterable[pa.Table], vocabulary: Vocabulary, config: OfRatingsConfig, seed: int
    ) -> None:
        self._events = _columns(events, vocabulary, ["value", "weight"])
        self.user_ids = self._events.user_ids
        if not self.num_targets:
            raise UserError(
                "there is no training event with a value: no rating to learn (ingest.columns)"
            )
        value, weight = (self._events.numbers[name] for name in ("value", "weight"))
        sums = [[value[b] @ weight[b].astype(float), weight[b].sum(dtype=float)]
                for b in _blocks(len(value))]  # fmt: skip
        self.mean = float(np.divide(*np.sum(sums, axis=0)))
        self._size, self._seed = min(config.batch_size, self.num_targets), seed

    @property
    def num_targets(self) -> int:
        return len(self._events.item)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """pairs (N, 2) int64 of (user row, item token), labels (N, 2) of (value, weight)."""
        rng = np.random.default_rng([self._seed, 2, step])
        chosen = rng.choice(self.num_targets, self._size, replace=False)[rank::world_size]
        numbers = [self._events.numbers[name][chosen] for name in ("value", "weight")]
        return self._events.pairs(chosen), np.stack(numbers, axis=1)


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))


def _columns(tables: Iterable[pa.Table], vocabulary: Vocabulary, numbers: list[str]) -> _Columns:
    """Events of items of the vocabulary that have all of `numbers`."""
    row_of: dict[str, int] = {}
    with ExitStack() as stack:
        user, item, *others = (
            stack.enter_context(tempfile.TemporaryFile()) for _ in range(2 + len(numbers))
        )
        for table in tables:
            token = vocabulary.encode(table["item_id"])
            known = token >= 0
            for name in numbers:
                known &= table[name].is_valid().to_numpy()
            encoded = table["user_id"].filter(known).combine_chunks().dictionary_encode()
            # A user may stand in several tables: `oversampled` has some twice.
            rows = [row_of.setdefault(u, len(row_of)) for u in encoded.dictionary.to_pylist()]
            np.array(rows, np.int32)[encoded.indices.to_numpy()].tofile(user)
            token[known].astype(np.int32).tofile(item)
            for name, file in zip(numbers, others, strict=True):
                table[name].filter(known).to_numpy().astype(np.float32).tofile(file)
        floats = (mapped(file, np.float32) for file in others)
        return _Columns(
            mapped(user, np.int32),
            mapped(item, np.int32),
            dict(zip(numbers, floats, strict=True)),
            list(row_of),
        )
