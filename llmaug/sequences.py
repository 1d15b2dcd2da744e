"""Event parts to training sequences, and sequences to padded batches.

A sequence is BOS and one user's item tokens in time order. A continuation (a unit that
carries on a real user) becomes its own sequence, the real history and then the generated
events, with loss on the generated events only: the real ones already train in their own
sequence. New users are sequences like real ones.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.errors import UserError
from llmaug.storage import Storage
from llmaug.vocabulary import BOS, PAD, Vocabulary


@dataclass(frozen=True)
class Sequences:
    """N sequences back to back.

    tokens: (M,) int32, each sequence starting with BOS. weights: (M,) float32, the loss
    weight of predicting that token (0 for BOS and for context). offsets: (N + 1,) int64.
    """

    tokens: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_targets(self) -> int:
        return int((self.weights > 0).sum())


def load_sequences(storage: Storage, folder: str, vocabulary: Vocabulary) -> Sequences:
    """All sequences of the event parts in `folder`, in part order."""
    pieces = [of_events(storage.read_part(folder, p), vocabulary) for p in storage.parts(folder)]
    lengths = np.concatenate([np.diff(piece.offsets) for piece in pieces])
    return Sequences(
        tokens=np.concatenate([piece.tokens for piece in pieces]),
        weights=np.concatenate([piece.weights for piece in pieces]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def of_events(events: pa.Table, vocabulary: Vocabulary) -> Sequences:
    """Sequences of events sorted by user, real before synthetic, units together.

    Events of items outside the vocabulary are context no model can see: they are left out.
    """
    token = vocabulary.encode(events["item_id"])
    events, token = events.filter(pa.array(token >= 0)), token[token >= 0]
    user = events["user_id"].to_numpy(zero_copy_only=False)
    unit = pc.fill_null(events["unit_id"], "").to_numpy(zero_copy_only=False)
    weight = events["weight"].to_numpy().astype(np.float32)
    tokens, weights, lengths = [], [], []
    history, history_user = np.empty(0, np.int32), None
    for start, end in group_bounds(user, unit):
        run, run_weight = token[start:end], weight[start:end]
        if not unit[start]:
            history, history_user = run, user[start]
        context = history if unit[start] and user[start] == history_user else run[:0]
        tokens += [[BOS], context, run]
        weights += [[0.0], np.zeros(len(context)), run_weight]
        lengths.append(1 + len(context) + len(run))
    return Sequences(
        tokens=np.concatenate([np.empty(0), *tokens]).astype(np.int32),
        weights=np.concatenate([np.empty(0), *weights]).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def group_bounds(*columns: np.ndarray) -> list[tuple[int, int]]:
    """(start, end) of each run of rows with equal values in all of the (N,) columns."""
    num_rows = len(columns[0])
    if not num_rows:
        return []
    change = np.zeros(num_rows - 1, dtype=bool)
    for column in columns:
        change |= column[1:] != column[:-1]
    edges = [0, *(np.flatnonzero(change) + 1).tolist(), num_rows]
    return list(itertools.pairwise(edges))


def user_histories(
    storage: Storage, folders: list[str], part: str, vocabulary: Vocabulary
) -> dict[str, list[int]]:
    """user_id to item tokens (folders in time order: train, then validation) in one part."""
    histories: dict[str, list[int]] = {}
    for folder in folders:
        events = storage.read_part(folder, part, columns=["user_id", "item_id"])
        token = vocabulary.encode(events["item_id"])
        user = events["user_id"].to_numpy(zero_copy_only=False)
        for start, end in group_bounds(user):
            run = token[start:end]
            histories.setdefault(user[start], []).extend(run[run >= 0].tolist())
    return histories


class Batches:
    """Deterministic batches: the same step gives the same batch, whatever ran before.

    So a run that resumes from a checkpoint sees what the undisturbed run would have seen.
    """

    def __init__(self, sequences: Sequences, batch_size: int, window: int, seed: int) -> None:
        lengths = np.diff(sequences.offsets)
        carries_loss = np.add.reduceat(sequences.weights, sequences.offsets[:-1]) > 0
        self._usable = np.flatnonzero((lengths >= 2) & carries_loss)
        if not len(self._usable):
            raise UserError(
                "no training sequence has an event to learn from: check the split and the "
                "weights (merge.synthetic_weight)"
            )
        # Where each sequence's first loss stands, and the order of the epoch asked for last.
        losses = np.flatnonzero(sequences.weights > 0)
        following = np.searchsorted(losses, sequences.offsets[:-1])
        self._first_loss = losses[np.minimum(following, len(losses) - 1)]
        self._order: tuple[int, np.ndarray] = (-1, self._usable)
        self._sequences = sequences
        self._size = min(batch_size, len(self._usable))
        self._window = window
        self._seed = seed
        self.num_targets = sequences.num_targets

    def target_counts(self, num_tokens: int) -> np.ndarray:
        """(num_tokens,) how many events of each token are to be predicted."""
        tokens = self._sequences.tokens[self._sequences.weights > 0]
        return np.bincount(tokens, minlength=num_tokens)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The batch of `step`: tokens (B, T) int64 and weights (B, T) float32, padded right.

        Long sequences contribute one random window of `window` + 1 tokens a visit; a long
        context is cut rather than the events behind it, which carry the loss.
        """
        rng = np.random.default_rng([self._seed, 1, step])
        chosen = self._chosen(step)[rank::world_size]
        draw = rng.random(self._size)[rank::world_size]
        sequences, size = self._sequences, self._window + 1
        start, end = sequences.offsets[chosen], sequences.offsets[chosen + 1]
        spare = np.maximum(0, end - start - size)
        earliest = np.minimum(spare, self._first_loss[chosen] - start - 1)
        start = start + earliest + (draw * (spare - earliest + 1)).astype(int)
        length = np.minimum(end - start, size)
        place = start[:, None] + np.arange(length.max())  # (B, T)
        inside = place < (start + length)[:, None]
        place = np.minimum(place, len(sequences.tokens) - 1)
        tokens = np.where(inside, sequences.tokens[place], PAD).astype(np.int64)
        weights = np.where(inside, sequences.weights[place], 0).astype(np.float32)
        weights[:, 0] = 0  # nothing stands before the first token to predict it from
        return tokens, weights

    def _chosen(self, step: int) -> np.ndarray:
        """Sequence indices: a fresh shuffle each epoch, batches running over its end."""
        first = step * self._size
        out: list[np.ndarray] = []
        missing = self._size
        while missing:
            epoch, place = divmod(first, len(self._usable))
            out.append(self._order_of(epoch)[place : place + missing])
            missing -= len(out[-1])
            first += len(out[-1])
        return np.concatenate(out)

    def _order_of(self, epoch: int) -> np.ndarray:
        """A shuffle that depends on the epoch alone, made once an epoch."""
        if self._order[0] != epoch:
            rng = np.random.default_rng([self._seed, 0, epoch])
            self._order = epoch, rng.permutation(self._usable)
        return self._order[1]
