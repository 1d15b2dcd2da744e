"""Before and after, on held-out real events: full ranking, paired bootstrap over users.

Every user with a training history and a held-out event is ranked by every trained model;
the ranks are written (`evaluation/<model>/part-*.parquet`), and all figures are computed
from them, so anyone can compute them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug import recommenders
from llmaug.config import EvaluateConfig
from llmaug.merge import AUGMENTED_ARM, REAL_ARM
from llmaug.ranking import ndcg, target_ranks
from llmaug.schema import RANK, validate
from llmaug.sequences import user_histories
from llmaug.split import TEST, TRAIN, VALIDATION
from llmaug.stage import Context, Stage, map_parts
from llmaug.storage import Storage
from llmaug.vocabulary import NUM_SPECIAL

HISTORY_SEGMENTS = [("history <=3", 0, 3), ("history 4-7", 4, 7), ("history 8-19", 8, 19),
                    ("history >=20", 20, 10**9)]  # fmt: skip


def run(arms: tuple[str, ...], context: Context) -> dict[str, Any]:
    storage, config = context.storage, context.config
    split = context.folder("split")
    folders = []
    for arm in arms:
        for seed in config.train.seeds:
            folder = f"{context.folder('evaluation')}/{arm}-seed-{seed}"
            trained = context.manifest(f"model/{arm}")["counts"][f"seed-{seed}"]
            model = (context.folder(f"model/{arm}/seed-{seed}"), trained["model_digest"])
            work = partial(
                _rank_part, storage, model, split, folder, arm, seed, config.evaluate.exclude_seen
            )
            map_parts(context, folder, storage.parts(f"{split}/{TEST}"), work)
            folders.append(folder)
    ranks = pa.concat_tables(
        storage.read_part(folder, part) for folder in folders for part in storage.parts(folder)
    )
    figures = compare(ranks, arms, config.evaluate, config.seed)
    if figures["num_users"] < config.evaluate.min_users:
        context.progress.note(
            f"[yellow]only {figures['num_users']} held-out users with a history: the "
            "intervals are wide[/yellow]"
        )
    return figures


def _rank_part(
    storage: Storage,
    model_at: tuple[str, str],
    split: str,
    folder: str,
    arm: str,
    seed: int,
    exclude_seen: bool,
    part: str,
) -> dict[str, Any]:
    model, vocabulary = recommenders.load_once(storage, *model_at)
    train = user_histories(storage, [f"{split}/{TRAIN}"], part, vocabulary)
    known = user_histories(storage, [f"{split}/{TRAIN}", f"{split}/{VALIDATION}"], part, vocabulary)
    held_out = user_histories(storage, [f"{split}/{TEST}"], part, vocabulary)
    users = [user for user, tokens in held_out.items() if tokens and train.get(user)]
    targets = [held_out[user][0] for user in users]  # the first event after the cut-off
    ranks = target_ranks(model.score, users, [known[u] for u in users], targets, exclude_seen)
    popularity = vocabulary.items["train_events"].to_numpy()
    table = pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "item_id": pa.array([vocabulary.decode(t) for t in targets], pa.string()),
            "arm": pa.array([arm] * len(users), pa.string()),
            "seed": pa.array([seed] * len(users), pa.int32()),
            "rank": pa.array(ranks, pa.int32()),
            "history_len": pa.array([len(train[u]) for u in users], pa.int32()),
            "item_train_events": pa.array(
                [popularity[t - NUM_SPECIAL] for t in targets], pa.int32()
            ),
        }
    )
    storage.write_part(validate(table, RANK, part), {"users": len(users)}, folder, part)
    return {"users": len(users)}


def compare(
    ranks: pa.Table, arms: Iterable[str], config: EvaluateConfig, seed: int
) -> dict[str, Any]:
    """All figures of the report from the ranks of all arms and seeds.

    ranks: schema RANK. A user's metric is the mean over seeds; intervals are 95% percentile
    bootstrap over users, paired between arms (one resampling for all).
    Returns {"num_users", "arms": {arm: {metric: {mean, low, high}}}, "lift": {metric:
    {relative, low, high, against}}, "segments": [...]}.
    """
    arms = list(arms)
    per_arm = {arm: _per_user(ranks, arm, config.cutoffs) for arm in arms}
    first = per_arm[arms[0]]
    num_users = len(first["user_id"])
    for arm in arms:
        assert (per_arm[arm]["user_id"] == first["user_id"]).all(), "arms rank other users"
    if not num_users:
        return {"num_users": 0, "arms": {arm: {} for arm in arms}, "lift": {}, "segments": []}
    names = metric_names(config)
    means = {
        arm: bootstrap_means(_columns(per_arm[arm], names), config.num_bootstrap, seed)
        for arm in arms
    }
    out: dict[str, Any] = {"num_users": num_users, "arms": {}, "lift": {}}
    for arm in arms:
        out["arms"][arm] = {
            name: _interval(per_arm[arm][name], means[arm][:, column])
            for column, name in enumerate(names)
        }
    if AUGMENTED_ARM in arms:
        new, old = per_arm[AUGMENTED_ARM], per_arm[REAL_ARM]
        for column, name in enumerate(names):
            sampled = means[AUGMENTED_ARM][:, column], means[REAL_ARM][:, column]
            out["lift"][name] = relative_lift(new[name].mean(), old[name].mean(), *sampled)
    out["segments"] = _segments(per_arm, first["history_len"], config, seed)
    return out


def metric_names(config: EvaluateConfig) -> list[str]:
    return [f"{metric}@{k}" for k in config.cutoffs for metric in ("ndcg", "hr", "mrr")]


def bootstrap_means(values: np.ndarray, num_samples: int, seed: int) -> np.ndarray:
    """Means of (N, K) values over `num_samples` resamplings of the N users: (S, K).

    One seed gives one series of resamplings for one N: that is what pairs the arms. A
    sample is held as counts, so memory does not grow with their number.
    """
    num_users = len(values)
    rng = np.random.default_rng(seed)
    out = np.empty((num_samples, values.shape[1]))
    for sample in range(num_samples):
        drawn = np.bincount(rng.integers(num_users, size=num_users), minlength=num_users)
        out[sample] = drawn @ values / num_users
    return out


def relative_lift(
    new: float, old: float, new_means: np.ndarray, old_means: np.ndarray
) -> dict[str, Any]:
    """Relative lift of the mean with the interval of its paired bootstrap means (S,).

    Null where the old mean is 0: there is nothing to relate to.
    """
    if not old:
        return {"relative": None, "low": None, "high": None, "against": REAL_ARM}
    # The difference first: a sample in which both means are 0 shows no change.
    samples = (new_means - old_means) / np.maximum(old_means, 1e-12)
    low, high = np.quantile(samples, [0.025, 0.975])
    return {
        "relative": float(new / old - 1),
        "low": float(low),
        "high": float(high),
        "against": REAL_ARM,
    }


def _columns(values: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
    return np.stack([values[name] for name in names], axis=1)


def _per_user(ranks: pa.Table, arm: str, cutoffs: list[int]) -> dict[str, np.ndarray]:
    """Each user's metrics for one arm, mean over seeds, users in order of id."""
    frame = ranks.select(["user_id", "arm", "rank", "history_len"]).to_pandas()
    frame = frame[frame["arm"] == arm]
    rank = frame["rank"].to_numpy()
    for k in cutoffs:
        frame[f"ndcg@{k}"] = ndcg(rank, k)
        frame[f"hr@{k}"] = (rank < k).astype(float)
        frame[f"mrr@{k}"] = np.where(rank < k, 1 / (rank + 1.0), 0.0)
    means = frame.drop(columns=["arm", "rank"]).groupby("user_id", sort=True).mean().reset_index()
    return {name: means[name].to_numpy() for name in means.columns}


def _segments(
    per_arm: dict[str, dict[str, np.ndarray]],
    history_len: np.ndarray,
    config: EvaluateConfig,
    seed: int,
) -> list[dict[str, Any]]:
    """NDCG by history length: each arm's mean, and the paired difference to `real`."""
    metric = f"ndcg@{config.cutoffs[0]}"
    out = []
    for name, low, high in HISTORY_SEGMENTS:
        rows = (history_len >= low) & (history_len <= high)
        if not rows.any():
            continue
        for arm, values in per_arm.items():
            value = values[metric][rows]
            change = value - per_arm[REAL_ARM][metric][rows]
            means = bootstrap_means(np.stack([value, change], 1), config.num_bootstrap, seed)
            entry = {"segment": name, "arm": arm, "metric": metric, "num_users": len(value)}
            entry |= _interval(value, means[:, 0])
            if arm != REAL_ARM:
                entry["difference"] = _interval(change, means[:, 1])
            out.append(entry)
    return out


def _interval(values: np.ndarray, means: np.ndarray) -> dict[str, float]:
    """values (N,) and their bootstrap means (S,)."""
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def stage(arms: tuple[str, ...]) -> Stage:
    return Stage(
        name="evaluation",
        run=partial(run, arms),
        inputs=(*(f"model/{arm}" for arm in arms), "split", "vocabulary"),
        code=("llmaug.ranking", "llmaug.sequences"),
        settings=lambda config: [config.evaluate, config.train.seeds],
    )
