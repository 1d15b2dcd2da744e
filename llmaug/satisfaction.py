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

from llmaug.bootstrap import interval, means, resampled_sums

if TYPE_CHECKING:
    import pandas as pd


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

    recommendations: schema RECOMMENDATION, made without a look at the held-out events;
    held_out, training: schema EVENT, real rows, `value` is the rating (rows without one do not
    count, of several for one item the last one does). Each figure is {mean, low, high}, the
    mean over users of the user's own mean with its 95% percentile bootstrap interval over
    users, or null without users:

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
    shown = recommendations.to_pandas()
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

    out: dict[str, Any] = {
        "num_users": num_users,
        "num_users_with_ratings": rows["user_id"].nunique(),
        "num_users_rated": rated["user_id"].nunique(),
        "num_users_with_own_mean": known["user_id"].nunique(),
        "num_rated": len(rated),
    }
    for frame, names in (
        (rows, ["rated_share"]),
        (rated, ["rating", "liked_share"]),
        (everything, ["held_out_rating"]),
        (known, ["at_least_own_mean_share", "over_own_mean"]),
    ):
        out |= _over_users(frame, names, num_bootstrap, seed)
    return out


def _last_ratings(events: pa.Table) -> pd.DataFrame:
    """user_id, item_id, value: the last rating of each pair."""
    table = events.select(["user_id", "item_id", "timestamp", "value"])
    frame = table.filter(table["value"].is_valid()).to_pandas()
    frame = frame.sort_values("timestamp", kind="stable").astype({"value": float})
    return frame.drop_duplicates(["user_id", "item_id"], keep="last").drop(columns="timestamp")


def _over_users(
    frame: pd.DataFrame, names: list[str], num_bootstrap: int, seed: int
) -> dict[str, dict[str, float] | None]:
    if not len(frame):
        return dict.fromkeys(names)
    of_users = frame.groupby("user_id")[names].mean()
    everyone = np.arange(len(of_users))
    users = of_users.index.tolist()
    (sums,) = resampled_sums(users, [(everyone, of_users.to_numpy())], num_bootstrap, seed)
    found = means(sums)
    return {name: dict(interval(found[:, at])) for at, name in enumerate(names)}
