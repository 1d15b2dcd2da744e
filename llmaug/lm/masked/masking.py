"""Histories with some events hidden: what a masked model is trained on and asked.

In training, most visits hide a share of the events at random; some hide the last one alone,
for that is how the next event is asked for (Sun et al. 2019, BERT4Rec). What is hidden
depends on the step alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmaug.errors import UserError
from llmaug.items.batches import Batches, Row, padded
from llmaug.items.vocabulary import BOS, NUM_SPECIAL

_LAST_ONLY = 0.2


class MaskedBatches:
    """Batches from the windows that `Batches` draws; its window is the context length - 1."""

    def __init__(self, batches: Batches, mask: int, share: float, seed: int) -> None:
        """mask: the token that hides an event. share: of the events of a row."""
        self._batches, self._mask, self._share, self._seed = batches, mask, share, seed

    def at(
        self, step: int, rank: int = 0, world_size: int = 1
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The batch of `step`: tokens with masks (B, T) int64, weights (B, T) float32 of the
        hidden events and 0 elsewhere, what was hidden (B, T) int64; padded right."""
        rows = self._batches.rows(step, rank, world_size)
        rng = np.random.default_rng([self._seed, 4, step])
        seeds = rng.integers(2**62, size=self._batches.size)[rank::world_size]
        hidden = [
            self._hidden(row, np.random.default_rng(s)) for row, s in zip(rows, seeds, strict=True)
        ]
        whole, _ = padded(rows)
        tokens, weights = padded(hidden)
        return tokens, weights, whole

    def _hidden(self, row: Row, rng: np.random.Generator) -> Row:
        is_item = (row.tokens >= NUM_SPECIAL) & (row.weights > 0)
        is_item[0] = False  # `padded` gives the first token no weight
        hide = is_item & (rng.random(len(row.tokens)) < self._share)
        if not hide.any() or rng.random() < _LAST_ONLY:
            hide = np.zeros(len(hide), bool)
            hide[np.flatnonzero(is_item)[-1]] = True
        return Row(
            row.index, np.where(hide, self._mask, row.tokens), np.where(hide, row.weights, 0)
        )


def masked_prompt(
    history: Sequence[int], positions: Sequence[int], mask: int, max_len: int
) -> list[int]:
    """BOS and the history with `mask` at `positions`; of a history that is too long, the
    window around them. Raises UserError when they lie farther apart than `max_len`."""
    tokens = [BOS, *history]
    for position in positions:
        tokens[position + 1] = mask
    if len(tokens) <= max_len:
        return tokens
    first, span = min(positions) + 1, max(positions) - min(positions) + 1
    if span > max_len:
        raise UserError(
            f"events {min(positions)} and {max(positions)} of a history are farther apart than "
            f"the {max_len} tokens that the model sees (lm.context_len)"
        )
    start = min(max(0, first - (max_len - span) // 2), len(tokens) - max_len)
    return tokens[start : start + max_len]
