"""What runs units: vLLM (`vllm_engine`), a model of our own, or a stand-in that draws items at
random.

An engine is a queue with a `step`: units go in with a key each, finished ones come out. It is
driven through vLLM's own `add_request`/`step` loop rather than through `ray.data.llm`: a bad
unit must become a failed outcome without touching its neighbours, the model folder may lie on
storage that only we can read, and units of the next part are fed in while this one drains.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from llmaug.config import STRATEGIES
from llmaug.generate.units import Units
from llmaug.items.vocabulary import NUM_SPECIAL
from llmaug.lm import Answers, SaysChances
from llmaug.schema import SAID, SOFT

TOKENS = pa.list_(pa.int32())


@dataclass(frozen=True)
class Finished:
    """Units that a step has finished."""

    keys: np.ndarray
    """(N,) int64."""
    tokens: pa.Array
    """(N,) lists of token ids."""
    num_cached: np.ndarray
    """(N,) int32, prompt tokens answered by the prefix cache."""
    failed: Sequence[tuple[int, str, str]] = ()
    """(key, reason, detail) of units that have no answer."""
    soft: pa.Table | None = None
    """(N,) rows of SOFT from an engine that is asked for chances, null ones of other units."""
    said: pa.Table | None = None
    """(N,) rows of SAID from a chat model that is asked for texts."""


def together(pieces: list[Finished]) -> Finished:
    """What several steps have finished, as if one had."""
    if len(pieces) == 1:
        return pieces[0]
    return Finished(
        np.concatenate([piece.keys for piece in pieces]),
        pa.concat_arrays([piece.tokens for piece in pieces]),
        np.concatenate([piece.num_cached for piece in pieces]),
        [failure for piece in pieces for failure in piece.failed],
        _rows(SOFT, [(piece.soft, len(piece.keys)) for piece in pieces]),
        _rows(SAID, [(piece.said, len(piece.keys)) for piece in pieces]),
    )


def _rows(schema: pa.Schema, pieces: list[tuple[pa.Table | None, int]]) -> pa.Table | None:
    """All tables under each other, null rows for those that are missing; None where all are."""
    if all(table is None for table, _ in pieces):
        return None
    nulls = [pa.table([pa.nulls(n, field.type) for field in schema], schema) for _, n in pieces]
    return pa.concat_tables(
        none if table is None else table for (table, _), none in zip(pieces, nulls, strict=True)
    )


class Engine(Protocol):
    """What `EngineLoop` drives, always from one thread."""

    @property
    def num_unfinished(self) -> int:
        """Units that were added and are not finished."""

    @property
    def alive(self) -> bool:
        """False when its process is gone; asked from another thread while `step` runs."""

    def add(self, units: Units, numbers: np.ndarray, first_key: int) -> list[tuple[int, str]]:
        """Queue rows `numbers`, row `numbers[i]` with key `first_key + i`; returns (number,
        why) of those refused."""

    def step(self) -> Finished | None:
        """Work for a moment; what has finished, if anything."""

    def abort(self) -> None:
        """Forget all that is unfinished."""


class _InTurn:
    """The queue of an engine that answers units in the order in which they came."""

    alive = True

    def __init__(self) -> None:
        self._queue: deque[tuple[Units, np.ndarray, int]] = deque()
        self.num_unfinished = 0

    def add(self, units: Units, numbers: np.ndarray, first_key: int) -> list[tuple[int, str]]:
        self._queue.append((units, numbers, first_key))
        self.num_unfinished += len(numbers)
        return []

    def abort(self) -> None:
        self._queue.clear()
        self.num_unfinished = 0

    def _next(self, most: int) -> tuple[list[dict[str, Any]], int]:
        """Take rows of UNIT from the queue, at most so many; the key of the first."""
        units, numbers, first_key = self._queue.popleft()
        size = min(len(numbers), most)
        self._put_back(units, numbers, first_key, size)
        return units.table.take(numbers[:size]).to_pylist(), first_key

    def _put_back(self, units: Units, numbers: np.ndarray, first_key: int, size: int) -> None:
        """What was taken from the queue, less its first `size` units, which are done."""
        if size < len(numbers):
            self._queue.appendleft((units, numbers[size:], first_key + size))
        self.num_unfinished -= size


class UniformEngine(_InTurn):
    """Items drawn at random by seed: a control generator that the gate must refuse.

    With a rate it is a stand-in for a GPU: it takes the time of one without its work, so that
    everything around the engines can be tested and measured at the size of a cluster.
    """

    STEP_S = 0.2

    def __init__(self, num_items: int, tokens_per_s: float | None = None) -> None:
        super().__init__()
        self._num_items, self._rate = num_items, tokens_per_s
        self._due = 0.0  # when the units handed out so far would have been finished

    def step(self) -> Finished | None:
        units, numbers, first_key = self._queue.popleft()
        size = len(numbers)
        if self._rate:
            self._due = max(self._due, time.monotonic())
            seconds = np.cumsum(units.max_tokens[numbers]) / self._rate
            size = max(1, int(np.searchsorted(seconds, self.STEP_S)))
            self._due += float(seconds[size - 1])
            time.sleep(max(0.0, self._due - time.monotonic()))
        self._put_back(units, numbers, first_key, size)
        drawn = numbers[:size]
        return Finished(
            first_key + np.arange(size),
            uniform_tokens(units.seeds[drawn], units.max_tokens[drawn], self._num_items),
            np.zeros(size, np.int32),
        )


def uniform_tokens(seeds: np.ndarray, lengths: np.ndarray, num_items: int) -> pa.Array:
    """For each seed a list of that many item tokens: SplitMix64 (Steele et al. 2014)."""
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    state = np.repeat(seeds.astype(np.uint64), lengths)
    state = state + (place + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    tokens = (state ^ (state >> np.uint64(31))) % np.uint64(num_items) + np.uint64(NUM_SPECIAL)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, tokens.astype(np.int32))


class AnswerEngine(_InTurn):
    """A model that answers by itself, some units at a time (n-gram, masked)."""

    STEP_SIZE = 256

    def __init__(self, model: Answers) -> None:
        super().__init__()
        self._model = model

    def step(self) -> Finished | None:
        rows, first_key = self._next(self.STEP_SIZE)
        keys, tokens, failed = [], [], []
        for key, answer in enumerate(self._model.answer(self._model.requests(rows)), first_key):
            if isinstance(answer, str):
                reason, detail = answer.split(": ", 1)
                failed.append((key, reason, detail))
            else:
                keys.append(key)
                tokens.append(answer)
        return Finished(
            np.array(keys, np.int64), pa.array(tokens, TOKENS), np.zeros(len(keys), np.int32),
            failed,
        )  # fmt: skip


class ChancesEngine(_InTurn):
    """A model that says, of each event of a history, which items could as well have come."""

    STEP_SIZE = 512

    def __init__(self, model: SaysChances) -> None:
        super().__init__()
        self._model = model

    def step(self) -> Finished | None:
        rows, first_key = self._next(self.STEP_SIZE)
        found = self._model.chances(rows)
        soft = {
            "soft_k": [each.tokens.shape[1] for each in found],
            "soft_tokens": [each.tokens.ravel() for each in found],
            "soft_chances": [each.chances.ravel() for each in found],
        }
        return Finished(
            first_key + np.arange(len(found)),
            pa.array([each.events for each in found], TOKENS),
            np.zeros(len(found), np.int32),
            soft=pa.table(soft, SOFT),
        )


class BothEngines:
    """For a plan with soft_events and others: one engine of each kind, in one process."""

    def __init__(self, of_chances: Engine, of_events: Engine) -> None:
        self._of_chances, self._of_events = of_chances, of_events

    @property
    def num_unfinished(self) -> int:
        return self._of_chances.num_unfinished + self._of_events.num_unfinished

    @property
    def alive(self) -> bool:
        return self._of_chances.alive and self._of_events.alive

    def add(self, units: Units, numbers: np.ndarray, first_key: int) -> list[tuple[int, str]]:
        soft = STRATEGIES.find(units.strategies[0]).soft  # a part is of one strategy
        engine = self._of_chances if soft else self._of_events
        return engine.add(units, numbers, first_key)

    def step(self) -> Finished | None:
        """Of each one that has work."""
        working = [each for each in (self._of_chances, self._of_events) if each.num_unfinished]
        pieces = [finished for engine in working if (finished := engine.step()) is not None]
        return together(pieces) if pieces else None

    def abort(self) -> None:
        self._of_chances.abort()
        self._of_events.abort()


EngineMaker = Callable[[], Engine]
