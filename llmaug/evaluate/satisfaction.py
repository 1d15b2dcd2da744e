"""Were users pleased with what they were recommended? From ratings that they gave later.

Only recommendations that the user happened to rate can be judged, and users rate what they
chose: these figures say how good the judged ones are, `rated_share` how few they are, and
`held_out_rating` what the same users gave to anything that they rated. Live tests (ab.py)
say more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from llmaug.evaluate.bootstrap import interval, means, resampled_sums

if TYPE_CHECKING:
    import pandas as pd


FIGURES = (
    "rated_share",
    "rating",
    "liked_share",
    "held_out_rating",
    "at_least_own_mean_share",
    "over_own_mean",
)


def satisfaction(
    recommendations: pa.Table,
    held_out: pa.Table,
    training: pa.Table,
    k: int,
    liked_value: float,
    num_bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Ratings of the top `k` by users who rated anything in the held-out events.

    recommendations: user_id, item_id and position (from 1) as in schema RECOMMENDATION, made
    without a look at the held-out events; held_out, training: schema EVENT, real rows, `value`
    is the rating (rows without one do not count, of several for one item the last one does).
    Each figure is {mean, low, high}, the mean over users of the user's own mean with its 95%
    percentile bootstrap interval over users, or null without users:

    rated_share             of the user's recommendations, those that it rated later
    rating                  of its rated recommendations
    liked_share             rated at least `liked_value`
    held_out_rating         of all that the same users rated later, recommended or not
    at_least_own_mean_share rated at least the user's mean rating in training
    over_own_mean           rating less that mean

    Returns them with {"num_users": with recommendations, "num_users_with_ratings": of these,
    with a rating in the held-out events (`rated_share`), "num_users_rated": with a rated
    recommendation (the next three), "num_users_with_own_mean": of these, with a rating in
    training (the last two), "num_rated": rated recommendations}.
    """
    return from_sums(
        sum_users(recommendations, held_out, training, k, liked_value, num_bootstrap, seed)
    )


def sum_users(
    recommendations: pa.Table,
    held_out: pa.Table,
    training: pa.Table,
    k: int,
    liked_value: float,
    num_bootstrap: int,
    seed: int,
) -> np.ndarray:
    """What `satisfaction` knows of some of the users; sums of disjoint users add up.

    Returns (1 + num_bootstrap, 2 + 2 x FIGURES): users with recommendations, rated
    recommendations, and for each figure the weight of its users and the weighted sum of their
    means. Row 0 is the data, the others are resamples.
    """
    shown = recommendations.select(["user_id", "item_id", "position"]).to_pandas()
    shown = shown.loc[shown["position"] <= k, ["user_id", "item_id"]].drop_duplicates()
    later = _last_ratings(held_out)
    own_mean = _last_ratings(training).groupby("user_id")["value"].mean()
    num_users = shown["user_id"].nunique()
    later = later[later["user_id"].isin(shown["user_id"])]
    shown = shown[shown["user_id"].isin(later["user_id"])]

    rows = shown.merge(later, on=["user_id", "item_id"], how="left")
    rows["rated_share"] = rows["value"].notna().astype(float)
    rated = rows[rows["value"].notna()].rename(columns={"value": "rating"})
    rated["liked_share"] = (rated["rating"] >= liked_value).astype(float)
    everything = later[later["user_id"].isin(rated["user_id"])]
    everything = everything.rename(columns={"value": "held_out_rating"})
    known = rated[rated["user_id"].isin(own_mean.index)].copy()
    known["over_own_mean"] = known["rating"] - own_mean.reindex(known["user_id"]).to_numpy()
    known["at_least_own_mean_share"] = (known["over_own_mean"] >= 0).astype(float)

    users = sorted(rows["user_id"].unique())
    frames = (rows, rated, rated, everything, known, known)
    groups = []
    for frame, name in zip(frames, FIGURES, strict=True):
        own = frame.groupby("user_id")[name].mean()  # sorted by user
        groups.append((np.searchsorted(users, own.index.to_numpy()), own.to_numpy()[:, None]))
    sums = resampled_sums(users, groups, num_bootstrap, seed)
    counts = np.tile([float(num_users), float(len(rated))], (1 + num_bootstrap, 1))
    return np.concatenate([counts, *sums], axis=1)


def from_sums(sums: np.ndarray) -> dict[str, Any]:
    """The figures of `satisfaction` from sums over all users."""
    of_figure = {name: sums[:, 2 + 2 * at : 4 + 2 * at] for at, name in enumerate(FIGURES)}
    out: dict[str, Any] = {
        "num_users": int(sums[0, 0]),
        "num_users_with_ratings": int(of_figure["rated_share"][0, 0]),
        "num_users_rated": int(of_figure["rating"][0, 0]),
        "num_users_with_own_mean": int(of_figure["over_own_mean"][0, 0]),
        "num_rated": int(sums[0, 1]),
    }
    for name, own in of_figure.items():
        out[name] = dict(interval(means(own)[:, 0])) if own[0, 0] else None
    return out


def _last_ratings(events: pa.Table) -> pd.DataFrame:
    """user_id, item_id, value: the last rating of each pair."""
    table = events.select(["user_id", "item_id", "timestamp", "value"])
    frame = table.filter(table["value"].is_valid()).to_pandas()
    frame = frame.sort_values("timestamp", kind="stable").astype({"value": float})
    return frame.drop_duplicates(["user_id", "item_id"], keep="last").drop(columns="timestamp")
