"""Tables and plots of what was generated: fates, reasons, throughput, forecast, fidelity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmaug.report import plots
from llmaug.report.plots import Interval, Plot
from llmaug.report.sentences import arm_in_question
from llmaug.report.tables import Cell, Table, interval, number, table, words

_INTERVAL = "95% interval"
_OF_EVENTS = "events_dropped."


def texts(metrics: dict[str, Any]) -> Table:
    """Where the questions of each text task went."""
    rows = [
        [
            name, own["units"], own["accepted"], own["rejected"], own["failed"],
            number(own["parsed_share"], "{:.1%}"),
            ", ".join(f"{reason} {count:,}" for reason, count in sorted(own["by_reason"].items())),
        ]
        for name, own in metrics["texts"].items()
    ]  # fmt: skip
    columns = (
        "text task",
        "questions",
        "accepted",
        "rejected",
        "failed",
        "by the schema",
        "why not",
    )
    return table("texts", "Texts that were written", columns, rows)


def fates(metrics: dict[str, Any]) -> Table:
    ledger, speed = metrics["ledger"], metrics["throughput"]
    by_arm = f"by arm {arm_in_question(metrics['gate'], metrics['training'])}"
    rows = [
        ("units planned", ledger["planned"], "what the strategies ask the generator for"),
        ("answered", ledger["units"], "each with one outcome and no id twice"),
        ("accepted", ledger["accepted"], "answered = accepted + rejected + failed"),
        ("rejected", ledger["rejected"], "by a filter"),
        ("failed", ledger["failed"], "no usable answer"),
        ("left out", ledger["left_out"], ledger["stopped"] or "by a limit"),
        ("not needed", ledger["not_needed"], "their users had enough"),
        ("left out by the budget", ledger["left_out_by_budget"], "not even planned"),
        ("answered by earlier nights", ledger["cache_hits"], "from the outcomes cache"),
        ("synthetic events trained on", metrics["events"]["synthetic"], by_arm),
        ("real events with soft targets", metrics["events"]["soft"], by_arm),
        ("tokens a second", number(speed["output_tokens_per_s"], "{:,.1f}"), "of one engine"),
        ("kept events a second", number(speed["events_per_s"], "{:,.1f}"), "of one engine"),
        ("engine hours", number(speed["engine_hours"], "{:,.3f}"), "killed attempts too"),
        ("cost", number(speed["cost"], "{:,.2f}"), "by budget.price_per_hour"),
        ("engines waited", number(_percent(speed["idle_share"]), "{:.1f}%"),
         "between their first and last unit"),
        ("engines that died", speed["restarts"], "each was started again"),
        ("parts that were begun again", speed["repeated_parts"], ""),
    ]  # fmt: skip
    return table("fates", "What was asked, and what came of it", ("", "count", "meaning"), rows)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def reasons(metrics: dict[str, Any]) -> Table:
    rows = sorted(metrics["ledger"]["by_reason"].items(), key=lambda own: -own[1])
    note = "rejected and failed are units, events_dropped are events of units."
    return table("reasons", "Dropped because", ("reason", "count"), rows, note)


def forecast(metrics: dict[str, Any]) -> Table:
    columns = ("figure", f"predicted ({_INTERVAL})", "actual", "actual / predicted")
    rows = [
        (words(own["figure"]), interval(own, "{:,.1f}"), number(own["actual"], "{:,.1f}"),
         number(own["ratio"], "{:.3f}"))
        for own in metrics["forecast"]
    ]  # fmt: skip
    return table("forecast", "Forecast against actual", columns, rows)


def generation_plots(metrics: dict[str, Any]) -> list[Plot]:
    """Reasons, throughput and engines over time, forecast."""
    found: list[Plot] = []
    by_reason = sorted(metrics["ledger"]["by_reason"].items(), key=lambda own: -own[1])
    for name, title, is_event in (
        ("plot-units", "Units refused, by reason", False),
        ("plot-events", "Events dropped, by reason", True),
    ):
        own = [(label, n) for label, n in by_reason if label.startswith(_OF_EVENTS) == is_event]
        if own:
            found.append(plots.counts(name, title, own[:10], "events" if is_event else "units"))
    curve = metrics["throughput"]["utilisation"]
    if len(curve) > 2:
        speed = [(point["second"], point["tokens_per_s"]) for point in curve]
        found.append(
            plots.lines(
                "plot-throughput",
                "Throughput while the engines ran",
                {"all engines": speed},
                "second",
                "tokens a second",
            )  # fmt: skip
        )
        engines = {
            label: [(point["second"], float(point[name])) for point in curve]
            for label, name in (("engines", "engines"), ("busy engines", "busy"))
        }
        found.append(
            plots.lines("plot-engines", "Engines, and those at work", engines, "second", "engines")
        )
    rows = [
        Interval(words(own["figure"]), *(own[n] / own["actual"] for n in ("mean", "low", "high")))
        for own in metrics["forecast"]
        if own["actual"]
    ]
    if rows:
        title = f"Forecast, as a share of what came of it ({_INTERVAL}; 1 is exact)"
        found.append(plots.intervals("plot-forecast", title, rows, "predicted / actual", line=1.0))
    return found


# -- fidelity -------------------------------------------------------------------------------

_MEASURES = {
    "popularity_js": "popularity of items: Jensen-Shannon distance (0: alike)",
    "popularity_spearman": "popularity of items: rank correlation (1: the same order)",
    "action_js": "mix of actions: Jensen-Shannon distance",
    "hour_js": "hours of the day: Jensen-Shannon distance",
    "gap_ks": "gaps between events: Kolmogorov-Smirnov distance",
    "length_ks": "lengths of histories: Kolmogorov-Smirnov distance",
    "transition_js": "neighbouring items: Jensen-Shannon distance",
}
_DRAWN = {
    "popularity": ("How popular the items are", "items by popularity, most popular first"),
    "length": ("How long histories are", "events in a history"),
    "action": ("What is done", "action"),
    "hour": ("When it is done", "hour of the day (UTC)"),
    "gap": ("How much time is between", "gap between events, from"),
}


def fidelity(found: dict[str, Any]) -> Table:
    rows: list[Sequence[Any]] = []
    for name, label in _MEASURES.items():
        own = found[name] or {"value": None, "halves": None}
        rows.append((label, number(own["value"], "{:.3f}"), number(own["halves"], "{:.3f}")))
    for name, label, form in (
        ("tail_share", "share of events with items of the tail", "{:.3f}"),
        ("effective_items", "as diverse as so many equally popular items", "{:,.0f}"),
        ("distinct_histories", "share of distinct histories", "{:.3f}"),
    ):
        pair = found[name]
        rows.append((label, number(pair["synthetic"], form), number(pair["real"], form)))
    rows.append(
        ("share of the tail's items that were generated", number(found["tail_coverage"], "{:.3f}"),
         number(found["tail_coverage_expected"], "{:.3f}"))
    )  # fmt: skip
    if own := found["classifier"]:
        told = f"{own['auc']:.3f} ({own['low']:.3f} to {own['high']:.3f})"
        label = f"AUC of a classifier on {own['pairs']:,} pairs of histories"
        rows.append((label, Cell(told, own["auc"]), number(0.5, "{:.1f}")))
    return table(
        "fidelity", "How like real behaviour the synthetic events are",
        ("figure", "synthetic", "to be expected"), rows,
        "To be expected: of distances, what two halves of the real users are apart; of shares and "
        "diversity, what the real events have; of the tail's items, what as many draws from the "
        "real popularity would hit; of the classifier, what chance gives. Training events are "
        "compared with what was generated, held-out events are not looked at. Likeness is no aim "
        "in itself: what is just like the real events teaches nothing new.",
    )  # fmt: skip


def fidelity_plots(found: dict[str, Any]) -> list[Plot]:
    return [
        plots.both_sides(f"plot-{name}", f"{title}, real and synthetic", bins, axis)
        for name, (title, axis) in _DRAWN.items()
        if len(bins := found["distributions"].get(name, [])) > 1
        and any(row["synthetic"] for row in bins)
    ]
