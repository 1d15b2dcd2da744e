"""Event parts to training sequences; `batches` has them by batches.

A sequence is BOS and one user's events in time order, as tokens of the vocabulary. What was
generated for a real user becomes its own sequence: the history with the generated events in
their places (before an event of it, after the last one, or in the stead of some). Its loss
begins with the first generated event; what stands before that already trains in the real
sequence. New users are sequences like real ones. Events of real sequences may have soft targets:
the items that could as well have come in their stead, and how likely.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.config import STRATEGIES, OfUsersConfig
from llmaug.core.storage import Storage
from llmaug.items.arrays import group_bounds, mapped
from llmaug.items.vocabulary import BOS, Vocabulary

_BLOCK = 1 << 22  # events looked at together


@dataclass(frozen=True)
class SoftTargets:
    """Of M events of sequences, with S soft targets all together, event by event."""

    offsets: np.ndarray
    """(M + 1,) int64."""
    tokens: np.ndarray
    """(S,) int32."""
    chances: np.ndarray
    """(S,) float32."""

    def at(self, place: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, T) events, and whether there is one, to (B, T, K) int64 tokens, -1 where there are
        fewer, and float32 chances; K: the most that one of them has, 1 at least."""
        first = self.offsets[place]
        number = np.where(inside, self.offsets[place + 1] - first, 0)
        rank = np.arange(max(1, int(number.max(initial=0))))
        there = rank < number[..., None]
        tokens, chances = np.full(there.shape, -1, np.int64), np.zeros(there.shape, np.float32)
        entry = (first[..., None] + rank)[there]
        tokens[there], chances[there] = self.tokens[entry], self.chances[entry]
        return tokens, chances


@dataclass(frozen=True)
class Sequences:
    """N sequences back to back.

    tokens: (M,) int32, each sequence starting with BOS. weights: (M,) float32, the loss
    weight of predicting that token (0 for BOS and for context). offsets: (N + 1,) int64.
    user_ids: (N,) strings. is_real: (N,) whether all of its events are real ones.
    """

    tokens: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    user_ids: np.ndarray
    is_real: np.ndarray
    soft: SoftTargets | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def num_targets(self) -> int:
        return sum(int((weights > 0).sum()) for _, weights in self.blocks())

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Tokens and weights of all events, a piece at a time."""
        for start in range(0, len(self.tokens), _BLOCK):
            yield self.tokens[start : start + _BLOCK], self.weights[start : start + _BLOCK]

    @cached_property
    def first_losses(self) -> np.ndarray:
        """(N,) where in the tokens each sequence's first loss stands; -1 for none."""
        first = np.full(len(self), -1)
        for number, (_, weights) in enumerate(self.blocks()):
            place = np.flatnonzero(weights > 0) + number * _BLOCK
            sequence = np.searchsorted(self.offsets, place, side="right") - 1
            # In reverse, so that the first one of a sequence is written last.
            later = first[sequence] < 0
            first[sequence[later][::-1]] = place[later][::-1]
        return first


def load_sequences(
    storage: Storage, folder: str, vocabulary: Vocabulary, soft: bool = False
) -> Sequences:
    """All sequences of the event parts in `folder`, in part order, one part in memory at a time;
    `soft`: with soft targets, where any part has some.

    What there is of each event (8 bytes; with soft targets 8 more, and 8 for each of them) streams
    into files on this machine's disk, without a name, that are mapped into memory; a batch reads
    its own windows. In memory stays what there is of each sequence.
    """
    lengths, user_ids, is_real = [], [], []
    with ExitStack() as stack:
        tokens, weights, ends, others, chances = (
            stack.enter_context(tempfile.TemporaryFile()) for _ in range(5)
        )
        num_soft = 0
        np.zeros(1, np.int64).tofile(ends)
        for part in storage.parts(folder):
            piece = of_events(storage.read_part(folder, part), vocabulary)
            piece.tokens.tofile(tokens)
            piece.weights.tofile(weights)
            lengths.append(np.diff(piece.offsets))
            user_ids.append(piece.user_ids)
            is_real.append(piece.is_real)
            if soft:
                found = piece.soft or _no_soft_targets(len(piece.tokens))
                (num_soft + found.offsets[1:]).tofile(ends)
                found.tokens.tofile(others)
                found.chances.tofile(chances)
                num_soft += len(found.tokens)
        return Sequences(
            tokens=mapped(tokens, np.int32),
            weights=mapped(weights, np.float32),
            offsets=np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64),
            user_ids=np.concatenate(user_ids),
            is_real=np.concatenate(is_real),
            soft=SoftTargets(
                mapped(ends, np.int64), mapped(others, np.int32), mapped(chances, np.float32)
            )
            if num_soft
            else None,
        )


def _no_soft_targets(num_events: int) -> SoftTargets:
    return SoftTargets(
        np.zeros(num_events + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)
    )


def of_events(events: pa.Table, vocabulary: Vocabulary) -> Sequences:
    """Sequences of events sorted by user, real before synthetic, units together.

    events: of schema EVENT, or SOFT_EVENT, whose soft targets go with real sequences. Events of
    items outside the vocabulary are context no model can see: they are left out.
    """
    token = vocabulary.encode_events(events)
    user = events["user_id"].to_numpy(zero_copy_only=False)
    unit = pc.fill_null(events["unit_id"], "").to_numpy(zero_copy_only=False)
    weight = events["weight"].to_numpy().astype(np.float32)
    # Without a place, behind everything that the user has.
    place = pc.fill_null(events["place"], np.iinfo(np.int32).max).to_numpy()
    replaces = _replaces(events)
    tokens, weights, lengths, user_ids, is_real, rows = [], [], [], [], [], []
    history, history_user = token[:0], None
    for start, end in group_bounds(user, unit):
        run, run_weight = token[start:end], weight[start:end]
        if not unit[start]:
            history, history_user = run, user[start]
        elif user[start] == history_user:
            run, run_weight = _placed(
                history, run, run_weight, place[start:end], bool(replaces[start])
            )
        known = run >= 0
        if not known.any():
            continue
        # Soft targets are of the events as they came.
        own = np.arange(start, end)[known] if not unit[start] else np.full(known.sum(), -1)
        rows += [[-1], own]
        run, run_weight = run[known], run_weight[known]
        tokens += [[BOS], run]
        weights += [[0.0], run_weight]
        lengths.append(1 + len(run))
        user_ids.append(user[start])
        is_real.append(not unit[start])
    return Sequences(
        tokens=np.concatenate([np.empty(0), *tokens]).astype(np.int32),
        weights=np.concatenate([np.empty(0), *weights]).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        user_ids=np.array(user_ids, dtype=object),
        is_real=np.array(is_real, dtype=bool),
        soft=_soft_targets(events, np.concatenate([np.empty(0), *rows]).astype(np.int64)),
    )


def _soft_targets(events: pa.Table, rows: np.ndarray) -> SoftTargets | None:
    """Those of the (M,) rows of `events`, none where a row is -1."""
    if "soft_tokens" not in events.column_names:
        return None
    index = pa.array(rows, mask=rows < 0)
    tokens, chances = (events[name].take(index) for name in ("soft_tokens", "soft_chances"))
    number = pc.fill_null(pc.list_value_length(tokens), 0).to_numpy()
    return SoftTargets(
        np.concatenate([[0], np.cumsum(number)]).astype(np.int64),
        pc.list_flatten(tokens).to_numpy(),
        pc.list_flatten(chances).to_numpy(),
    )


def _replaces(events: pa.Table) -> np.ndarray:
    """(N,) whether the strategy of each event replaces events of the history."""
    placed = pc.filter(events["strategy"], pc.is_valid(events["place"]))
    kinds = {name: STRATEGIES.find(name) for name in placed.unique().to_pylist() if name}
    replacing = [
        name for name, kind in kinds.items() if issubclass(kind, OfUsersConfig) and kind.replaces
    ]
    known = pc.is_in(events["strategy"], pa.array(replacing, pa.string()))
    return known.to_numpy(zero_copy_only=False)


def _placed(
    history: np.ndarray, run: np.ndarray, weight: np.ndarray, place: np.ndarray, replaces: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(H,) tokens of a history with the (M,) generated ones of `run` in their places, and loss
    weights: 0 before the first generated event; what follows it counts as much as that one."""
    own = np.arange(len(history))
    if replaces:
        own = np.setdiff1d(own, place)
    # By place; there, what was generated stands before the real event.
    order = np.lexsort((np.r_[np.zeros(len(run)), np.ones(len(own))], np.r_[place, own]))
    tokens = np.r_[run, history[own]][order]
    generated = np.r_[np.ones(len(run), bool), np.zeros(len(own), bool)][order]
    first = int(np.argmax(generated))
    weights = np.where(np.arange(len(tokens)) < first, 0.0, weight[0])
    weights[generated] = weight
    return tokens, weights.astype(np.float32)


def user_histories(
    storage: Storage, folders: list[str], part: str, vocabulary: Vocabulary
) -> dict[str, list[int]]:
    """user_id to event tokens (folders in time order: train, then validation) in one part."""
    histories: dict[str, list[int]] = {}
    for folder in folders:
        events = storage.read_part(folder, part, columns=["user_id", *vocabulary.event_columns])
        token = vocabulary.encode_events(events)
        user = events["user_id"].to_numpy(zero_copy_only=False)
        for start, end in group_bounds(user):
            run = token[start:end]
            histories.setdefault(user[start], []).extend(run[run >= 0].tolist())
    return histories


def timed_events(
    storage: Storage, folder: str, part: str, vocabulary: Vocabulary
) -> dict[str, list[tuple[int, float]]]:
    """user_id to (event token, seconds since 1970) of the events in one part, unknown ones left
    out."""
    columns = ["user_id", "timestamp", *vocabulary.event_columns]
    events = storage.read_part(folder, part, columns=columns)
    token = vocabulary.encode_events(events)
    seconds = events["timestamp"].cast(pa.int64()).to_numpy() / 1e6
    user = events["user_id"].to_numpy(zero_copy_only=False)
    return {
        user[start]: [
            (int(token[at]), float(seconds[at])) for at in range(start, end) if token[at] >= 0
        ]
        for start, end in group_bounds(user)
    }
