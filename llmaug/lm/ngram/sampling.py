"""Drawing tokens from rows of probabilities, as vLLM would: temperature, top-k, top-p.

B rows, V items.
"""

from __future__ import annotations

import numpy as np


def shaped(p: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """(B, V) probabilities to (B, V) weights of what is sampled from; they need not add to 1.

    top_k -1 takes all. The nucleus (Holtzman et al. 2020) is the smallest set of the
    likeliest items that holds `top_p` of what temperature and top-k have left.
    """
    if temperature != 1:
        peak = p.max(axis=1, keepdims=True)
        p = (p / np.where(peak > 0, peak, 1)) ** (1 / temperature)
    if 0 < top_k < p.shape[1]:
        weakest = np.partition(p, -top_k, axis=1)[:, -top_k, None]
        p = np.where(p < weakest, 0, p)
    if top_p < 1:
        order = np.argsort(-p, axis=1, kind="stable")
        ranked = np.take_along_axis(p, order, axis=1)
        before = np.cumsum(ranked, axis=1) - ranked
        inside = before < top_p * ranked.sum(axis=1, keepdims=True)
        keep = np.zeros(p.shape, bool)
        np.put_along_axis(keep, order, inside, axis=1)
        p = np.where(keep, p, 0)
    return p


def draw(weights: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Inverse of the cumulated (B, V) weights at (B,) uniforms in [0, 1): (B,) columns.

    A column without weight is never drawn. A row without any weight gives -1.
    """
    total = np.cumsum(weights, axis=1)
    whole = total[:, -1]
    # Rounding may lift the point to the total, which no column lies beyond.
    point = np.minimum(uniforms * whole, np.nextafter(whole, 0))
    return np.where(whole > 0, (total > point[:, None]).argmax(axis=1), -1)
