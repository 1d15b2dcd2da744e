"""How like two samples of behaviour are, from counts: pure functions on numpy arrays.

Every figure depends on how much was sampled: of few events even two halves of the same users look
different. So each is measured twice, synthetic against real and one half of the real users against
the other (`figures.Pair`): the second says what is to be expected of a perfect generator. It may be
a little nearer even, since the halves are smaller than the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HALVES = (0, 1)
SYNTHETIC_SIDE = 2

_GAP_BINS = 40  # powers of two seconds: up to 17,000 years


@dataclass
class Counts:
    """Of one side: each half of the real users, or what was generated."""

    items: np.ndarray
    """(I,) events of each item of the catalogue."""
    actions: np.ndarray
    """(A + 1,) of each action; the last: of none of these."""
    hours: np.ndarray = field(default_factory=lambda: np.zeros(24, np.int64))
    """(24,) of each hour of the day, UTC."""
    gaps: np.ndarray = field(default_factory=lambda: np.zeros(_GAP_BINS, np.int64))
    """Of neighbouring events: bin b has gaps of 2**b - 1 up to 2**(b + 1) - 2 seconds."""
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    """lengths[n]: whole histories of n events."""
    transitions: np.ndarray = field(default_factory=lambda: np.zeros((2, 0), np.int64))
    """(2, P): codes of pairs of popular items that stood beside each other, ascending, and how
    often."""

    def __add__(self, other: Counts) -> Counts:
        lengths = np.zeros(max(len(self.lengths), len(other.lengths)), np.int64)
        for own in (self, other):
            lengths[: len(own.lengths)] += own.lengths
        pairs = np.concatenate([self.transitions, other.transitions], axis=1)
        codes, place = np.unique(pairs[0], return_inverse=True)
        number = np.bincount(place, pairs[1], minlength=len(codes))
        return Counts(
            self.items + other.items, self.actions + other.actions, self.hours + other.hours,
            self.gaps + other.gaps, lengths, np.stack([codes, number.astype(np.int64)]),
        )  # fmt: skip


def gap_bins(seconds: np.ndarray) -> np.ndarray:
    """(N,) gaps to the bins of `Counts.gaps`; what runs backward counts as no gap."""
    bins = np.log2(np.maximum(seconds, 0) + 1.0).astype(np.int64)
    return np.minimum(bins, _GAP_BINS - 1)


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> float | None:
    """Distance of two (K,) vectors of counts: the square root of their Jensen-Shannon divergence
    in bits (Lin 1991; Endres and Schindelin 2003), 0 where they are alike and 1 where nothing is
    in both. None where one is empty."""
    from scipy.spatial.distance import jensenshannon

    if not first.sum() or not second.sum():
        return None
    return float(np.nan_to_num(jensenshannon(first, second, base=2)))


def kolmogorov_smirnov(first: np.ndarray, second: np.ndarray) -> float | None:
    """The largest difference of the cumulative shares of two vectors of counts of ordered bins
    (the shorter one has none of the others). None where one is empty."""
    if not first.sum() or not second.sum():
        return None
    longest = max(len(first), len(second))
    shares = [
        np.cumsum(np.pad(own, (0, longest - len(own)))) / own.sum() for own in (first, second)
    ]
    return float(np.abs(shares[0] - shares[1]).max())


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's, of the items that either side has. None where there are fewer than two, or
    where one side has all equally often."""
    from scipy.stats import spearmanr

    there = (first + second) > 0
    first, second = first[there], second[there]
    if len(first) < 2 or not np.ptp(first) or not np.ptp(second):
        return None
    return float(spearmanr(first, second).statistic)


def transition_distance(first: np.ndarray, second: np.ndarray) -> float | None:
    """`jensen_shannon` of two (2, P) `transitions`."""
    codes = np.union1d(first[0], second[0])
    dense = np.zeros((2, len(codes)))
    for row, (own, number) in enumerate((first, second)):
        dense[row, np.searchsorted(codes, own)] = number
    return jensen_shannon(dense[0], dense[1])


def effective_items(items: np.ndarray) -> float:
    """How many equally popular items would be as diverse: exp of the entropy of (I,) counts
    (Hill 1973); 0 where there are none."""
    if not items.sum():
        return 0.0
    share = items[items > 0] / items.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def tail_items(train_events: np.ndarray) -> np.ndarray:
    """(I,) bool: those of the tail, the least popular items with a third of the training events
    (`comparison.segments`), that have any."""
    counts = np.sort(train_events)[::-1]
    share = np.cumsum(counts) / max(1, counts.sum())
    middle = counts[min(int(np.searchsorted(share, 2 / 3)), len(counts) - 1)] if len(counts) else 0
    return np.asarray((train_events < middle) & (train_events > 0))


def expected_coverage(train_events: np.ndarray, among: np.ndarray, num_events: int) -> float | None:
    """The share of the items `among` (I,) bool that `num_events` draws from the real popularity
    would hit; None where there are no such items."""
    if not among.any():
        return None
    share = train_events[among] / train_events.sum()
    return float((1 - (1 - share) ** num_events).mean())


Measure = Callable[[Counts, Counts], float | None]

MEASURES: dict[str, Measure] = {
    "popularity_js": lambda a, b: jensen_shannon(a.items, b.items),
    "popularity_spearman": lambda a, b: rank_correlation(a.items, b.items),
    "action_js": lambda a, b: jensen_shannon(a.actions, b.actions),
    "hour_js": lambda a, b: jensen_shannon(a.hours, b.hours),
    "gap_ks": lambda a, b: kolmogorov_smirnov(a.gaps, b.gaps),
    "length_ks": lambda a, b: kolmogorov_smirnov(a.lengths, b.lengths),
    "transition_js": lambda a, b: transition_distance(a.transitions, b.transitions),
}


def measured(halves: tuple[Counts, Counts], generated: Counts) -> dict[str, Any]:
    """{measure: {value, halves}}: synthetic against real, and half of the real users against the
    other half; None where a side has nothing to compare (`value`), or both (the whole entry)."""
    real = halves[0] + halves[1]
    found = {
        name: {"value": of(real, generated), "halves": of(*halves)} for name, of in MEASURES.items()
    }
    return {name: own if own["value"] is not None else None for name, own in found.items()}


# -- what the page draws --------------------------------------------------------------------

_POPULARITY_BINS = 20
_LENGTH_EDGES = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024])


def distributions(real: Counts, generated: Counts, actions: list[str]) -> dict[str, Any]:
    """{name: [{label, real, synthetic}]}: shares of both sides in a few bins each."""
    by_popularity = np.argsort(-real.items, kind="stable")
    bins = np.minimum(
        np.arange(len(by_popularity)) * _POPULARITY_BINS // max(1, len(by_popularity)),
        _POPULARITY_BINS - 1,
    )
    popularity = [np.bincount(bins, own.items[by_popularity], _POPULARITY_BINS) for own in
                  (real, generated)]  # fmt: skip
    percent = 100 // _POPULARITY_BINS
    found = {
        "popularity": _shares(
            [f"{percent * n} to {percent * (n + 1)}%" for n in range(_POPULARITY_BINS)], *popularity
        ),
        "action": _shares([*actions, "other"], real.actions, generated.actions),
        "hour": _shares([str(hour) for hour in range(24)], real.hours, generated.hours),
        "gap": _trimmed(
            _shares([_gap_label(b) for b in range(_GAP_BINS)], real.gaps, generated.gaps)
        ),
        "length": _trimmed(_shares(_length_labels(), _binned(real), _binned(generated))),
    }
    found["action"] = [row for row in found["action"] if row["real"] or row["synthetic"]]
    return found


def _shares(labels: list[str], real: np.ndarray, generated: np.ndarray) -> list[dict[str, Any]]:
    shares = [own / own.sum() if own.sum() else np.zeros(len(own)) for own in (real, generated)]
    return [
        {"label": label, "real": round(float(a), 6), "synthetic": round(float(b), 6)}
        for label, a, b in zip(labels, *shares, strict=True)
    ]


def _trimmed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without empty bins at either end."""
    filled = [place for place, row in enumerate(rows) if row["real"] or row["synthetic"]]
    return rows[filled[0] : filled[-1] + 1] if filled else []


def _binned(own: Counts) -> np.ndarray:
    lengths = np.arange(len(own.lengths))
    bins = np.searchsorted(_LENGTH_EDGES, lengths, side="right") - 1
    return np.bincount(np.maximum(bins, 0), own.lengths, len(_LENGTH_EDGES))


def _length_labels() -> list[str]:
    ends = [*(_LENGTH_EDGES[1:] - 1).tolist(), None]
    starts = _LENGTH_EDGES.tolist()
    return [
        f"{a}+" if b is None else str(a) if a == b else f"{a}-{b}"
        for a, b in zip(starts, ends, strict=True)
    ]


_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def _gap_label(number: int) -> str:
    """Where the bin begins."""
    seconds = 2**number - 1
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "0 s"
