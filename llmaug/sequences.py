"""Event parts to training sequences, and sequences to padded batches.

A sequence is BOS and one user's item tokens in time order. What was generated for a real user
becomes its own sequence: the history with the generated events in their places (before an
event of it, after the last one, or in the stead of some). Its loss begins with the first
generated event; what stands before that already trains in the real sequence. New users are
sequences like real ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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
    user_ids: (N,) strings. is_real: (N,) whether all of its events are real ones.
    """

    tokens: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    user_ids: np.ndarray
    is_real: np.ndarray

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
        user_ids=np.concatenate([piece.user_ids for piece in pieces]),
        is_real=np.concatenate([piece.is_real for piece in pieces]),
    )


def of_events(events: pa.Table, vocabulary: Vocabulary) -> Sequences:
    """Sequences of events sorted by user, real before synthetic, units together.

    Events of items outside the vocabulary are context no model can see: they are left out.
    """
    token = vocabulary.encode(events["item_id"])
    user = events["user_id"].to_numpy(zero_copy_only=False)
    unit = pc.fill_null(events["unit_id"], "").to_numpy(zero_copy_only=False)
    weight = events["weight"].to_numpy().astype(np.float32)
    # Without a place, behind everything that the user has.
    place = pc.fill_null(events["place"], np.iinfo(np.int32).max).to_numpy()
    replaces = pc.fill_null(pc.equal(events["strategy"], "substitute"), False).to_numpy(
        zero_copy_only=False
    )
    tokens, weights, lengths, user_ids, is_real = [], [], [], [], []
    history, history_user = token[:0], None
    for start, end in group_bounds(user, unit):
        run, run_weight = token[start:end], weight[start:end]
        if not unit[start]:
            history, history_user = run, user[start]
        elif user[start] == history_user:
            run, run_weight = _placed(
                history, run, run_weight, place[start:end], bool(replaces[start])
            )
        run, run_weight = run[run >= 0], run_weight[run >= 0]
        if not len(run):
            continue
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
    )


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


@dataclass(frozen=True)
class Row:
    """One sequence, or a window of it: tokens (T,) and their loss weights (T,)."""

    index: int
    """Of the sequence."""
    tokens: np.ndarray
    weights: np.ndarray


class Batches:
    """Deterministic batches: the same step gives the same batch, whatever ran before.

    So a run that resumes from a checkpoint sees what the undisturbed run would have seen.
    """

    def __init__(
        self,
        sequences: Sequences,
        batch_size: int,
        window: int,
        seed: int,
        only_real: bool = False,
    ) -> None:
        lengths = np.diff(sequences.offsets)
        carries_loss = np.add.reduceat(sequences.weights, sequences.offsets[:-1]) > 0
        wanted = sequences.is_real if only_real else True
        self._usable = np.flatnonzero((lengths >= 2) & carries_loss & wanted)
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
        self.size = min(batch_size, len(self._usable))
        self._window = window
        self._seed = seed
        self.num_targets = sequences.num_targets

    def target_counts(self, num_tokens: int) -> np.ndarray:
        """(num_tokens,) how many events of each token are to be predicted."""
        tokens = self._sequences.tokens[self._sequences.weights > 0]
        return np.bincount(tokens, minlength=num_tokens)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The batch of `step`: tokens (B, T) int64 and weights (B, T) float32, padded right."""
        _, start, length = self._windows(step, rank, world_size)
        sequences = self._sequences
        place = start[:, None] + np.arange(length.max())  # (B, T)
        inside = place < (start + length)[:, None]
        place = np.minimum(place, len(sequences.tokens) - 1)
        tokens = np.where(inside, sequences.tokens[place], PAD).astype(np.int64)
        weights = np.where(inside, sequences.weights[place], 0).astype(np.float32)
        weights[:, 0] = 0  # nothing stands before the first token to predict it from
        return tokens, weights

    def rows(self, step: int, rank: int = 0, world_size: int = 1) -> list[Row]:
        """The (B,) windows of `step` one by one."""
        tokens, weights = self._sequences.tokens, self._sequences.weights
        return [
            Row(int(index), tokens[start : start + length], weights[start : start + length])
            for index, start, length in zip(*self._windows(step, rank, world_size), strict=True)
        ]

    def _windows(
        self, step: int, rank: int, world_size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(B,) sequences of the batch, and where in the tokens each one's window starts, and
        its length.

        Long sequences contribute one random window of `window` + 1 tokens a visit; a long
        context is cut rather than the events behind it, which carry the loss.
        """
        rng = np.random.default_rng([self._seed, 1, step])
        chosen = self._chosen(step)[rank::world_size]
        if not len(chosen):
            raise UserError(
                f"a batch of {self.size} sequences cannot be cut into {world_size} shares: "
                "lower num_workers or num_accumulations"
            )
        draw = rng.random(self.size)[rank::world_size]
        start, end = self._sequences.offsets[chosen], self._sequences.offsets[chosen + 1]
        spare = np.maximum(0, end - start - self._window - 1)
        earliest = np.minimum(spare, self._first_loss[chosen] - start - 1)
        start = start + earliest + (draw * (spare - earliest + 1)).astype(int)
        return chosen, start, np.minimum(end - start, self._window + 1)

    def _chosen(self, step: int) -> np.ndarray:
        """Sequence indices: a fresh shuffle each epoch, batches running over its end."""
        first = step * self.size
        out: list[np.ndarray] = []
        missing = self.size
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


def padded(rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    """(B,) rows to tokens (B, T) int64 and weights (B, T) float32, padded right."""
    width = max(len(row.tokens) for row in rows)
    tokens = np.full((len(rows), width), PAD, dtype=np.int64)
    weights = np.zeros((len(rows), width), dtype=np.float32)
    for i, row in enumerate(rows):
        tokens[i, : len(row.tokens)] = row.tokens
        weights[i, : len(row.tokens)] = row.weights
    weights[:, 0] = 0  # nothing stands before the first token to predict it from
    return tokens, weights


def padded_prompts(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(B,) token lists to tokens (B, T) int64, padded right, and the (B,) places of their last."""
    length = np.array([len(prompt) for prompt in prompts])
    tokens = np.full((len(prompts), length.max()), PAD, dtype=np.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens, length - 1
