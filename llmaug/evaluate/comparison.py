"""From the ranks of all models to the figures of the report: arms, lifts, segments, lists.

Pure functions. Parts of the users are summed up one by one (`sum_ranks`, `sum_lists`), the
sums are added, and `figures` reads them: no process ever holds all users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.arms.arms import AUGMENTED, CONTROLS, REAL
from llmaug.config import EvaluateConfig
from llmaug.evaluate import metrics
from llmaug.evaluate.bootstrap import (
    interval,
    mean_over_seeds,
    means,
    p_of_gain,
    relative_lift,
    resampled_sums,
)
from llmaug.items.arrays import group_bounds
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary

Model = tuple[str, int]
"""(arm, seed)"""

EVERYBODY = ""  # the name of the segment that holds all


@dataclass(frozen=True)
class Segment:
    """The held-out events whose `column` of RANK lies within low..high (both inclusive)."""

    name: str
    column: str
    low: int = 0
    high: int = 2**31 - 1

    def rows(self, value: np.ndarray) -> np.ndarray:
        """Which of the (N,) values of `column` are in it."""
        return np.flatnonzero((value >= self.low) & (value <= self.high))


def segments(train_events: np.ndarray) -> list[Segment]:
    """All held-out events; by history length of the user; by popularity of the item.

    train_events: (I,) training events of each item. The most popular items that make up a
    third of all training events are the head, those of the next third the middle, and the
    rest is the tail; items with equally many events are in the same band.
    """
    counts = np.sort(train_events)[::-1]
    share = np.cumsum(counts) / max(1, counts.sum())
    last = [min(int(np.searchsorted(share, third / 3)), len(counts) - 1) for third in (1, 2)]
    head, middle = (int(counts[place]) for place in last)
    found = [
        Segment("history <=3", "history_len", high=3),
        Segment("history 4-7", "history_len", 4, 7),
        Segment("history 8-19", "history_len", 8, 19),
        Segment("history >=20", "history_len", 20),
        Segment("items head", "item_train_events", head),
        Segment("items middle", "item_train_events", middle, head - 1),
        Segment("items tail", "item_train_events", high=middle - 1),
    ]
    return [Segment(EVERYBODY, "history_len"), *found]


def sum_ranks(
    ranks: Sequence[pa.Table], parts: Sequence[Segment], config: EvaluateConfig, seed: int
) -> dict[str, np.ndarray]:
    """Bootstrap sums (see `resampled_sums`) of each segment that has somebody in it.

    ranks: one table of schema RANK for each model, all of the same held-out events. Columns
    of the sums: all metrics of all models for everybody, the first metric for the others.
    """
    tables = [table.sort_by([(n, "ascending") for n in ("user_id", "item_id")]) for table in ranks]
    first = tables[0]
    for table in tables:
        same = table.select(["user_id", "item_id"]).equals(first.select(["user_id", "item_id"]))
        assert same, "models rank other events"
    user_id = first["user_id"].to_numpy(zero_copy_only=False)
    starts = np.array([start for start, _ in group_bounds(user_id)], dtype=int)
    user = np.searchsorted(starts, np.arange(len(user_id)), side="right") - 1
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for part in parts:
        rows = part.rows(first[part.column].to_numpy())
        users, first_row = np.unique(user[rows], return_index=True)
        if not len(users):
            continue
        of_models = [
            metrics.user_metrics(
                first_row,
                table["rank"].to_numpy()[rows],
                table["num_ranked"].to_numpy()[rows][first_row],
                config.cutoffs,
            )
            for table in tables
        ]
        if part.name != EVERYBODY:
            of_models = [values[:, :1] for values in of_models]
        found[part.name] = users, np.concatenate(of_models, axis=1)
    sums = resampled_sums(
        user_id[starts].tolist(), list(found.values()), config.num_bootstrap, seed
    )
    return dict(zip(found, sums, strict=True))


@dataclass
class Lists:
    """What the lists of one model do at one cut-off."""

    exposures: np.ndarray
    """(I,) lists that hold item i."""
    unlike: float = 0.0
    """Sum over pairs of items in a list of how unlike their tags are."""
    num_pairs: int = 0

    def add(self, other: Lists) -> None:
        self.exposures += other.exposures
        self.unlike += other.unlike
        self.num_pairs += other.num_pairs


def sum_lists(recommended: np.ndarray, k: int, vocabulary: Vocabulary) -> Lists:
    """recommended: (N, K) tokens of each user's best items, -1 for none; the first k count."""
    items = np.where(recommended < 0, -1, recommended - NUM_SPECIAL)[:, :k]
    exposures = np.bincount(items[items >= 0], minlength=vocabulary.num_items)
    _, flat, offsets = vocabulary.tag_bags(min_items=1)
    return Lists(exposures, *metrics.unlike_pairs(items, flat, offsets))


def figures(
    sums: dict[str, np.ndarray],
    lists: dict[tuple[Model, int], Lists],
    models: Sequence[Model],
    train_events: np.ndarray,
    config: EvaluateConfig,
    seed: int,
    candidate: str = AUGMENTED,
) -> dict[str, Any]:
    """All figures of the report.

    candidate: the arm in question, which is compared with all others. sums: as of `sum_ranks`,
    added over all parts of the users; `models` is their order.
    A user's metric is the mean over seeds. Returns {"num_users", "interval", "arms": {arm:
    {metric: {mean, low, high}}}, "by_seed": {arm: {seed: {metric: mean}}}, "lists": {arm:
    {figure: mean over seeds}}, "lifts": [{arm, against, metric, relative, low, high, p}],
    "lift": {metric: the candidate's against its control}, "segments": [...]}.
    """
    arms = list(dict.fromkeys(arm for arm, _ in models))
    names = metrics.accuracy_names(config.cutoffs)
    out: dict[str, Any] = {
        "num_users": 0, "interval": _interval_facts(models), "arms": {arm: {} for arm in arms},
        "by_seed": {}, "lists": {}, "lifts": [], "lift": {}, "segments": [],
    }  # fmt: skip
    if not sums:
        return out
    per_arm = _per_arm(sums[EVERYBODY], models, seed)
    out["num_users"] = int(sums[EVERYBODY][0, 0])
    out["arms"] = {
        arm: {name: interval(per_arm[arm][:, i]) for i, name in enumerate(names)} for arm in arms
    }
    of_data = means(sums[EVERYBODY])[0].reshape(len(models), len(names))
    for (arm, model_seed), row in zip(models, of_data.tolist(), strict=True):
        out["by_seed"].setdefault(arm, {})[str(model_seed)] = dict(zip(names, row, strict=True))
    out["lists"] = {arm: _list_figures(arm, lists, train_events) for arm in arms}
    for arm, against in _compared(arms, candidate):
        for i, name in enumerate(names):
            new, old = per_arm[arm][:, i], per_arm[against][:, i]
            lift = {**relative_lift(new, old), "p": p_of_gain(new, old)}
            out["lifts"].append({"arm": arm, "against": against, "metric": name, **lift})
    out["lift"] = _headline(out["lifts"], arms, candidate)
    out["segments"] = [
        entry
        for name, own in sums.items()
        if name != EVERYBODY
        for entry in _segment(name, own, _per_arm(own, models, seed), names[0])
    ]
    return out


def _compared(arms: list[str], candidate: str) -> list[tuple[str, str]]:
    """(arm, arm that it is compared with): each with `real` and with its control, the
    candidate with all."""
    pairs = [(arm, against) for arm in arms for against in (REAL, CONTROLS[arm])]
    pairs += [(candidate, against) for against in arms if candidate in arms]
    return [
        (arm, against)
        for arm, against in dict.fromkeys(pairs)
        if arm not in (against, REAL) and against in arms
    ]


def _headline(
    lifts: list[dict[str, Any]], arms: list[str], candidate: str
) -> dict[str, dict[str, Any]]:
    """The candidate's lifts against its control, or `real` where that was not trained."""
    against = CONTROLS[candidate] if CONTROLS[candidate] in arms else REAL
    return {
        lift["metric"]: {n: lift[n] for n in ("relative", "low", "high", "against")}
        for lift in lifts
        if (lift["arm"], lift["against"]) == (candidate, against)
    }


def _per_arm(sums: np.ndarray, models: Sequence[Model], seed: int) -> dict[str, np.ndarray]:
    """Each arm's means over users and seeds in the data and in each resample: (1 + S, M)."""
    of_models = means(sums).reshape(len(sums), len(models), -1)
    out = {}
    for number, arm in enumerate(dict.fromkeys(arm for arm, _ in models)):
        columns = [i for i, (of, _) in enumerate(models) if of == arm]
        out[arm] = mean_over_seeds(of_models[:, columns], [seed, number])
    return out


def _segment(
    name: str, sums: np.ndarray, per_arm: dict[str, np.ndarray], metric: str
) -> list[dict[str, Any]]:
    """Each arm's mean in a segment, and its difference to `real` with standard error."""
    out = []
    for arm, values in per_arm.items():
        entry = {"segment": name, "arm": arm, "metric": metric, "num_users": int(sums[0, 0])}
        entry |= interval(values[:, 0])
        if arm != REAL:
            change = values[:, 0] - per_arm[REAL][:, 0]
            entry["difference"] = {**interval(change), "error": float(np.nanstd(change[1:]))}
        out.append(entry)
    return out


def _list_figures(
    arm: str, lists: dict[tuple[Model, int], Lists], train_events: np.ndarray
) -> dict[str, float | None]:
    """Means over the arm's seeds; null where there is nothing to say (no tags, no lists)."""
    by_name: dict[str, list[float]] = {}
    for ((of, _), k), found in lists.items():
        if of != arm:
            continue
        values = {
            "coverage": metrics.coverage(found.exposures),
            "novelty": metrics.novelty(found.exposures, train_events),
            "diversity": found.unlike / found.num_pairs if found.num_pairs else np.nan,
            "gini": metrics.gini(found.exposures),
        }
        for name, value in values.items():
            by_name.setdefault(f"{name}@{k}", []).append(value)
    found_means = {name: float(np.mean(values)) for name, values in by_name.items()}
    return {name: None if np.isnan(mean) else mean for name, mean in found_means.items()}


def _interval_facts(models: Sequence[Model]) -> dict[str, Any]:
    num_seeds = len({seed for _, seed in models})
    covers = "users and seeds" if num_seeds > 1 else "users"
    return {"level": 0.95, "covers": covers, "num_seeds": num_seeds}
