"""Training sequences to padded batches: the batch of a step depends on the step alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmaug.errors import UserError
from llmaug.items.sequences import Sequences
from llmaug.items.vocabulary import PAD


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
        only: np.ndarray | None = None,
    ) -> None:
        """only: (N,) bool, the sequences to draw from; None for all."""
        self._first_loss = sequences.first_losses
        wanted = (np.diff(sequences.offsets) >= 2) & (self._first_loss >= 0)
        if only is not None:
            wanted &= only
        self._usable = np.flatnonzero(wanted)
        if not len(self._usable):
            raise UserError(
                "no training sequence has an event to learn from: check the split and the "
                "weights (merge.synthetic_weight)"
            )
        self._order: tuple[int, np.ndarray] = (-1, self._usable)  # of the epoch asked for last
        self._sequences = sequences
        self.size = min(batch_size, len(self._usable))
        self._window = window
        self._seed = seed
        self.num_targets = sequences.num_targets
        self.num_sequences = len(self._usable)
        self.num_real_sequences = int(sequences.is_real[self._usable].sum())

    def target_counts(self, num_tokens: int) -> np.ndarray:
        """(num_tokens,) how many events of each token are to be predicted."""
        counts = np.zeros(num_tokens, np.int64)
        for tokens, weights in self._sequences.blocks():
            counts += np.bincount(tokens[weights > 0], minlength=num_tokens)
        return counts

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[np.ndarray, ...]:
        """The batch of `step`: tokens (B, T) int64 and weights (B, T) float32, padded right; of
        sequences with soft targets these, too: (B, T, K) tokens and chances."""
        _, start, length = self._windows(step, rank, world_size)
        sequences = self._sequences
        place = start[:, None] + np.arange(length.max())  # (B, T)
        inside = place < (start + length)[:, None]
        place = np.minimum(place, len(sequences.tokens) - 1)
        tokens = np.where(inside, sequences.tokens[place], PAD).astype(np.int64)
        weights = np.where(inside, sequences.weights[place], 0).astype(np.float32)
        weights[:, 0] = 0  # nothing stands before the first token to predict it from
        if sequences.soft is None:
            return tokens, weights
        return tokens, weights, *sequences.soft.at(place, inside)

    def rows(self, step: int, rank: int = 0, world_size: int = 1) -> list[Row]:
        """The (B,) windows of `step` one by one."""
        return self._rows(*self._windows(step, rank, world_size))

    def some_rows(self, chosen: np.ndarray, draw: np.ndarray) -> list[Row]:
        """A window of each of the (B,) sequences `chosen`, numbers below `num_sequences`; where it
        lies say the (B,) numbers `draw` in [0, 1)."""
        return self._rows(*self._cut(self._usable[chosen], draw))

    def _rows(self, index: np.ndarray, start: np.ndarray, length: np.ndarray) -> list[Row]:
        tokens, weights = self._sequences.tokens, self._sequences.weights
        return [
            Row(int(i), tokens[a : a + n], weights[a : a + n])
            for i, a, n in zip(index, start, length, strict=True)
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
        return self._cut(chosen, rng.random(self.size)[rank::world_size])

    def _cut(
        self, chosen: np.ndarray, draw: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
