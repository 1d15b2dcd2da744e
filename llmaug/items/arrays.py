"""Small steps over arrays of events: where each user begins, prompts of one length, files as
arrays."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import IO, Literal

import numpy as np


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


def padded_prompts(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(B,) token lists to tokens (B, T) int64, padded right with 0 (PAD), and the (B,) places
    of their last."""
    length = np.array([len(prompt) for prompt in prompts])
    tokens = np.zeros((len(prompts), length.max()), np.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens, length - 1


def mapped(file: IO[bytes], dtype: type, mode: Literal["r", "r+"] = "r") -> np.ndarray:
    """(M,) what was written to `file`; it lives as long as the array does."""
    file.flush()
    if not file.tell():
        return np.empty(0, dtype)
    return np.memmap(file, dtype, mode=mode)
