"""Training batches of a causal model: sequences as documents of one direction each.

A visit of a sequence draws its direction; infill also draws where the gap lies. Everything
drawn depends on the step alone, so a resumed run sees what the undisturbed one would have.
Packed, several documents share a row, and nothing is spent on padding: each sees only
itself, since its positions start anew.

Shapes: B documents, R rows, W the context length + 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmaug.items.batches import Batches, Row, padded
from llmaug.items.vocabulary import EOS, NUM_SPECIAL, PAD
from llmaug.lm.language import FORWARD, REVERSE, Language

_HIDDEN = 0.1  # share of the documents without their user's attributes: new users have none


class Documents:
    """Batches of documents made from the windows that `Batches` draws."""

    def __init__(
        self,
        batches: Batches,
        language: Language,
        shares: Mapping[Any, float],
        context_len: int,
        packed: bool,
        users: list[list[int]] | None,
        seed: int,
    ) -> None:
        """shares: weight of each direction. users: (N,) attribute tokens of each sequence."""
        self._batches, self._language = batches, language
        self._directions: list[str] = list(shares)
        self._until = np.cumsum(list(shares.values())) / sum(shares.values())
        self._width, self._packed = context_len + 1, packed
        self._users, self._seed = users, seed

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[np.ndarray, ...]:
        """The batch of `step`: tokens (B, T) int64 and weights (B, T) float32, padded right;
        packed: (R, W), and positions (R, W) int64."""
        rows = self._batches.rows(step, rank, world_size)
        rng = np.random.default_rng([self._seed, 3, step])
        documents = self.of(rows, rng.random((self._batches.size, 4))[rank::world_size])
        return packed(documents, self._width) if self._packed else padded(documents)

    @property
    def num_users(self) -> int:
        """Whose histories are long enough to learn from; each has one sequence."""
        return self._batches.num_sequences

    def drawn(self, rng: np.random.Generator, sample_rate: float) -> list[Row]:
        """One document of each user that a draw of its own takes (Poisson sampling)."""
        chosen = np.flatnonzero(rng.random(self.num_users) < sample_rate)
        rows = self._batches.some_rows(chosen, rng.random(len(chosen)))
        return self.of(rows, rng.random((len(chosen), 4)))

    def of(self, rows: list[Row], draws: np.ndarray) -> list[Row]:
        """A document of each of the (B,) windows; draws: (B, 4) numbers in [0, 1)."""
        documents = []
        for row, (which, start, length, hide) in zip(rows, draws, strict=True):
            user = self._users[row.index] if self._users else []
            if user and hide < _HIDDEN:
                user = self._language.user_tokens(None)
            # The last share's end may be a rounding error below 1.
            number = min(int(np.searchsorted(self._until, which, "right")), len(self._until) - 1)
            documents.append(
                document(
                    self._language, self._directions[number], row, user, self._width, start, length
                )
            )
        return documents


def document(
    language: Language,
    direction: str,
    row: Row,
    user: list[int],
    max_len: int,
    start: float = 0,
    length: float = 0,
) -> Row:
    """A window of a sequence as a document of at most `max_len` tokens, oldest events cut.

    start, length: numbers in [0, 1) that place the gap of an infill. Items keep their
    weights, so that prefix and suffix teach, too, as in the paper.
    """
    room, size = max_len - len(user), language.word_len
    if direction == FORWARD:
        fits = 1 + (len(row.tokens) - 1) * size <= room
        newest = slice(0 if fits else -(room // size), None)
        pieces = [_without_past(*_spelled(language, row.tokens[newest], row.weights[newest]))]
    elif direction == REVERSE:
        pieces = _reversed(language, *_items(row, (room - 1) // size))
    else:
        pieces = _with_gap(language, *_items(row, (room - 4) // size), start, length)
    tokens, weights = zip(_silent(user), *pieces, strict=True)
    return Row(
        row.index,
        np.concatenate(tokens).astype(np.int64),
        np.concatenate(weights).astype(np.float32),
    )


def packed(documents: list[Row], width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Documents in as few rows of `width` tokens as first-fit decreasing finds: tokens (R, W)
    int64, weights (R, W) float32, positions (R, W) int64 from 0 in each document."""
    bins: list[list[Row]] = []
    free: list[int] = []
    for row in sorted(documents, key=lambda row: -len(row.tokens)):
        size = len(row.tokens)
        place = next((n for n, room in enumerate(free) if room >= size), len(bins))
        if place == len(bins):
            bins.append([])
            free.append(width)
        bins[place].append(row)
        free[place] -= size
    tokens = np.full((len(bins), width), PAD, np.int64)
    weights = np.zeros((len(bins), width), np.float32)
    positions = np.zeros((len(bins), width), np.int64)
    for number, rows in enumerate(bins):
        used = width - free[number]
        tokens[number, :used] = np.concatenate([row.tokens for row in rows])
        weights[number, :used] = np.concatenate([row.weights for row in rows])
        positions[number] = np.concatenate(
            [np.arange(len(row.tokens)) for row in rows] + [np.arange(free[number])]
        )
    return tokens, weights, positions


_Piece = tuple[np.ndarray, np.ndarray]  # tokens and their weights


def _items(row: Row, room: int) -> _Piece:
    is_item = row.tokens >= NUM_SPECIAL
    return row.tokens[is_item][-room:], row.weights[is_item][-room:]


def _spelled(language: Language, tokens: np.ndarray, weights: np.ndarray) -> _Piece:
    """Items as the language writes them; each of their words has the weight of the item."""
    if language.ids is None:
        return tokens, weights
    is_item = tokens >= NUM_SPECIAL
    times = np.where(is_item, language.word_len, 1)
    words = np.repeat(tokens, times)
    words[np.repeat(is_item, times)] = language.ids.spell(tokens[is_item])
    return words, np.repeat(weights, times)


def _without_past(tokens: np.ndarray, weights: np.ndarray) -> _Piece:
    """No weight on what nothing stands before: BOS, or an event whose past was cut off."""
    return tokens, np.r_[np.float32(0), weights[1:]]


def _reversed(language: Language, items: np.ndarray, weights: np.ndarray) -> list[_Piece]:
    return [_silent([language.reverse]), _spelled(language, items[::-1], weights[::-1])]


def _with_gap(
    language: Language, items: np.ndarray, weights: np.ndarray, start: float, length: float
) -> list[_Piece]:
    first = int(start * len(items))
    end = first + 1 + int(length * (len(items) - first))
    prefix, middle, suffix = (
        _spelled(language, items[a:b], weights[a:b])
        for a, b in ((0, first), (first, end), (end, None))
    )
    return [
        _silent([language.infill]),
        prefix,
        _silent([language.suffix]),
        suffix,
        _silent([language.middle]),
        middle,
        (np.array([EOS]), np.ones(1)),
    ]


def _silent(tokens: list[int]) -> _Piece:
    """Tokens that are read and never asked for."""
    return np.array(tokens, np.int64), np.zeros(len(tokens))
