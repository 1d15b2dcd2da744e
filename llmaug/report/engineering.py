"""Tables and plots for whoever builds the models: arms, segments, lists, training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmaug.arms.arms import REAL
from llmaug.config import EvaluateConfig
from llmaug.evaluate.bootstrap import lift_text
from llmaug.evaluate.figures import candidate_of
from llmaug.report import plots
from llmaug.report.plots import Interval, Plot
from llmaug.report.sentences import lift_over, main_metric
from llmaug.report.tables import Cell, Table, interval, number, table

_INTERVAL = "95% interval"


def arms(metrics: dict[str, Any], main: str) -> Table:
    def row(arm: str, found: dict[str, Any]) -> Sequence[Any]:
        trained = metrics["training"][arm]
        seeds, lift = trained["seeds"], lift_over(metrics, arm)
        passes = [s["real_passes"] for s in seeds if s.get("real_passes") is not None]
        return (
            arm, trained["real"], trained["synthetic"],
            ", ".join(f"{s['steps']:,} ({s['best_step']:,})" for s in seeds),
            ", ".join(map(str, passes)), interval(found[main]), _lift(lift) if lift else None,
        )  # fmt: skip

    columns = ("arm", "real events", "synthetic", "steps (best)", "passes over real",
               f"{main} ({_INTERVAL})", f"lift over real ({_INTERVAL})")  # fmt: skip
    rows = [row(arm, found) for arm, found in metrics["arms"].items()]
    return table("arms", "Arms: what each was trained on, and how well it ranks", columns, rows)


def _lift(lift: dict[str, Any]) -> Cell:
    return Cell(lift_text(lift), lift["relative"])


def compared(metrics: dict[str, Any], main: str) -> Table:
    rows = [
        (own["arm"], own["against"], _lift(own), number(own.get("p"), "{:.4f}"))
        for own in metrics["lifts"]
        if own["metric"] == main
    ]
    columns = ("arm", "against", f"lift of {main} ({_INTERVAL})", "p of a gain")
    return table("compared", "Every comparison of two arms", columns, rows)


def all_metrics(metrics: dict[str, Any]) -> Table:
    names = list(metrics["arms"][REAL])
    rows = [(arm, *(interval(found[name]) for name in names)) for arm, found in
            metrics["arms"].items()]  # fmt: skip
    return table("metrics", f"All metrics ({_INTERVAL})", ("arm", *names), rows)


def labels(metrics: dict[str, Any]) -> Table:
    rows = [(arm, interval(own["log_loss"]), interval(own["rmse"])) for arm, own in
            metrics["labels"].items()]  # fmt: skip
    return table(
        "labels", "How good the probabilities are", ("arm", "log-loss", "RMSE"), rows,
        "Of the model's probabilities, against 1 for each held-out event and 0 for an unseen item "
        "drawn at random beside it; to say 0.5 always is a log-loss of 0.6931 and an RMSE of 0.5.",
    )  # fmt: skip


def ratings(metrics: dict[str, Any]) -> Table:
    rows = [
        (arm, interval(own["rmse"]), interval(own["difference"]) if own["difference"] else "",
         f"{own['num_ratings']:,}")
        for arm, own in metrics["ratings"].items()
    ]  # fmt: skip
    return table(
        "ratings", "How far predicted ratings are off",
        ("arm", "RMSE", f"less that of real ({_INTERVAL})", "ratings"), rows,
        "Of all held-out real events with a rating; below 0 is better than `real`.",
    )  # fmt: skip


def reranked(metrics: dict[str, Any]) -> Table:
    rows = [
        (name, *(interval(own["ndcg_at_10"][n]) for n in ("before", "after", "difference")),
         f"{own['reordered']:,} of {own['users']:,}")
        for name, own in metrics["reranked"].items()
        if own["ndcg_at_10"]
    ]  # fmt: skip
    return table(
        "reranked", "Lists that a chat model reordered",
        ("task", "NDCG@10", "reordered", f"difference ({_INTERVAL})", "users with an answer"), rows,
        "Of held-out users, by the arm that goes out; a list without an answer keeps its order.",
    )  # fmt: skip


def lists(metrics: dict[str, Any]) -> Table:
    rows = [(arm, *(number(value, "{:.3f}") for value in own.values())) for arm, own in
            metrics["lists"].items()]  # fmt: skip
    return table(
        "lists", "What the lists look like", ("arm", *metrics["lists"][REAL]), rows,
        "Coverage: share of the catalogue in anybody's list. Novelty: mean self-information of a "
        "recommended item, in bits. Diversity: how unlike the tags of two items of a list are (1 - "
        "Jaccard). Gini: 0 when all items are recommended alike, towards 1 when few are always. "
        "Means over seeds, without intervals.",
    )  # fmt: skip


def satisfaction(metrics: dict[str, Any], evaluate: EvaluateConfig) -> Table:
    columns = (
        "arm", "users who rated later", f"of top {evaluate.cutoffs[0]}, rated", "users with one",
        "rating", f"liked ({evaluate.liked_value:g} or more)", "at least own mean",
        "all they rated later",
    )  # fmt: skip
    rows = [
        (
            arm, own["num_users_with_ratings"], interval(own["rated_share"]),
            own["num_users_rated"], interval(own["rating"], "{:.2f}"),
            interval(own["liked_share"], "{:.3f}"),
            interval(own["at_least_own_mean_share"], "{:.3f}"),
            interval(own["held_out_rating"], "{:.2f}"),
        )
        for arm, own in metrics["satisfaction"].items()
    ]  # fmt: skip
    return table(
        "satisfaction", "Were users pleased?", columns, rows,
        "Recommendations from training and validation events, judged by ratings that the same "
        "users gave later, in the held-out events. Read it as a check, not as a proof: a "
        "recommendation counts only where its user happened to choose and rate that item anyway, "
        "and people rate what they expect to like. It cannot say how users would have liked what "
        "they never tried, and arms are judged on different users and items, so small differences "
        "between them mean nothing. A live test can say more (llmaug ab). One model an arm (its "
        "first seed); intervals over users, each by itself.",
    )  # fmt: skip


def segments(metrics: dict[str, Any], main: str) -> Table:
    rows = [
        (own["segment"], own["num_users"], own["arm"], interval(own),
         interval(own["difference"], "{:+.4f}") if own.get("difference") else None)
        for own in metrics["segments"]
    ]  # fmt: skip
    columns = ("segment", "users", "arm", f"{main} ({_INTERVAL})", "difference to real")
    return table(
        "segments", "By length of history and popularity of the item", columns, rows,
        "Head, middle and tail: the most popular items with a third of the training events, the "
        "next third, the rest. The intervals are those of one segment alone; the gate corrects for "
        "their number.",
    )  # fmt: skip


def comparison_plots(metrics: dict[str, Any], main: str, min_segment_users: int) -> list[Plot]:
    """Arms, and segments of the arm in question: smaller ones are shown and take no side."""
    candidate = candidate_of(metrics["gate"])
    found = [
        plots.intervals(
            "plot-arms", f"{main} of each arm ({_INTERVAL})",
            [_row(arm, own[main]) for arm, own in metrics["arms"].items()], main,
        )
    ]  # fmt: skip
    parts = [
        own for own in metrics["segments"] if own["arm"] == candidate and own.get("difference")
    ]
    if parts:
        rows = [
            replace(
                _row(f"{own['segment']} ({own['num_users']:,} users)", own["difference"]),
                counts=own["num_users"] >= min_segment_users,
            )
            for own in parts
        ]
        found.append(
            plots.intervals(
                "plot-segments", f"Arm {candidate} against real, by segment ({_INTERVAL})", rows,
                f"difference of {main}", line=0.0,
            )
        )  # fmt: skip
    return found


def lift_plot(metrics: dict[str, Any]) -> list[Plot]:
    """Of the first screen; none where nothing was compared."""
    found = {arm: lift_over(metrics, arm) for arm in metrics["arms"] if arm != REAL}
    rows = [
        Interval(arm, own["relative"], own["low"], own["high"])
        for arm, own in found.items()
        if own and own["relative"] is not None
    ]
    if not rows:
        return []
    title = f"Lift of {main_metric(metrics)} over real events alone ({_INTERVAL})"
    axis = f"lift of {main_metric(metrics)} over real"
    return [plots.intervals("plot-lift", title, rows, axis, plots.signed_percent, line=0.0)]


def _row(label: str, own: dict[str, Any]) -> Interval:
    return Interval(label, own["mean"], own["low"], own["high"])


def learning_plots(metrics: dict[str, Any]) -> list[Plot]:
    """Validations of each arm's first seed; none of models that are not trained by steps."""
    curves: dict[str, list[tuple[float, float]]] = {}
    of = "NDCG@10"
    best: dict[str, float] = {}
    for arm, own in metrics["training"].items():
        seed = own["seeds"][0]
        points = [(p["step"], p["value"]) for p in seed.get("curve", []) if p["value"] is not None]
        if len(points) > 1:
            curves[arm], best[arm] = points, seed["best_step"]
            of = seed.get("curve_of", of)  # of all arms alike: they are one kind of model
    if not curves:
        return []
    title = "Learning curves on validation users (first seed; the dot is what is kept)"
    return [plots.lines("plot-learning", title, curves, "step", f"{of} of validation", best)]
