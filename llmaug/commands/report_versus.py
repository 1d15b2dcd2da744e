"""Two runs or nights beside each other, from their metrics.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmaug.evaluate.bootstrap import lift_text
from llmaug.evaluate.figures import candidate_of, measured_value
from llmaug.report import plots
from llmaug.report.page import fill
from llmaug.report.plots import Interval, Plot
from llmaug.report.sentences import lift_over, main_metric, verdict
from llmaug.report.tables import NOT_THERE, Cell, Table, flat, interval, number, table, words

_FIDELITY = ("popularity_js", "popularity_spearman", "action_js", "hour_js", "gap_ks", "length_ks",
             "transition_js", "tail_coverage", "classifier_auc")  # fmt: skip
NOTE = (
    "Each interval is of one run alone. Where the logs, the split or the seeds differ, the runs "
    "were measured on other users: a difference may be theirs. Lifts are within each run."
)


def versus(first: dict[str, Any], second: dict[str, Any]) -> list[Table]:
    """What differs between two runs: decision, arms, events, safety and cost."""
    both, names = (first, second), (first["run_id"], second["run_id"])
    decided = [
        ("verdict", *(verdict(own) for own in both)),
        ("arm in question", *(candidate_of(own["gate"]) for own in both)),
        ("its lift over real", *(_lift(own) for own in both)),
    ]
    return [
        table("decision", "What was decided", ("", *names), decided),
        _changes("arms", "Arms", names, _arms(both), NOTE),
        _changes("events", "Events and units", names, _pairs(both, _events)),
        _changes("safety", "Privacy and likeness to real behaviour", names, _pairs(both, _safety)),
        _changes("cost", "Cost", names, _pairs(both, _costs)),
        _settings(both, names),
    ]


Row = tuple[str, Cell, Cell]


def _lift(metrics: dict[str, Any]) -> str:
    lift = lift_over(metrics, candidate_of(metrics["gate"]))
    return lift_text(lift) if lift else NOT_THERE


def _arms(both: tuple[dict[str, Any], ...]) -> list[Row]:
    main = main_metric(both[0]) or main_metric(both[1])
    names = dict.fromkeys(arm for own in both for arm in own["arms"])
    found = []
    for arm in names:
        first, second = (interval(own["arms"].get(arm, {}).get(main)) for own in both)
        found.append((f"{main} of {arm}", first, second))
    return found


def _pairs(both: tuple[dict[str, Any], ...], of: Callable[..., dict[str, Cell]]) -> list[Row]:
    first, second = (of(own) for own in both)
    absent = Cell(NOT_THERE)
    names = dict.fromkeys([*first, *second])
    return [(name, first.get(name, absent), second.get(name, absent)) for name in names]


def _changes(
    name: str, caption: str, runs: tuple[str, str], rows: list[Row], note: str = ""
) -> Table:
    """With the change from the first to the second."""
    columns = ("", *runs, "change")
    return table(name, caption, columns, [(*row, _change(*row[1:])) for row in rows], note)


def _change(first: Cell, second: Cell) -> Cell:
    if first.order is None or second.order is None:
        return Cell("")
    if not first.order:
        return Cell("") if second.order else Cell("none", 0.0)
    change = second.order / first.order - 1
    return Cell(f"{change:+.1%}" if change else "none", change)


def _events(metrics: dict[str, Any]) -> dict[str, Cell]:
    ledger = metrics["ledger"]
    counts = {f"{name} events": metrics["events"][name] for name in ("real", "synthetic")}
    counts |= {"held-out users": metrics["num_users"], "units": ledger["units"]}
    counts |= {f"units {name}": ledger[name] for name in ("accepted", "rejected", "failed")}
    counts |= {words(name): count for name, count in ledger["by_reason"].items()}
    return {name: number(count, "{:,}") for name, count in counts.items()}


def _safety(metrics: dict[str, Any]) -> dict[str, Cell]:
    audit, fidelity = metrics["privacy"] or {}, metrics.get("fidelity")
    found = {name: number(measured_value(fidelity, name), "{:.3f}") for name in _FIDELITY}
    return {
        "histories that identify somebody": number(audit.get("identifying_share"), "{:.4f}"),
        "membership AUC": number((audit.get("membership") or {}).get("auc"), "{:.3f}"),
        **{words(name): cell for name, cell in found.items()},
    }


def _costs(metrics: dict[str, Any]) -> dict[str, Cell]:
    speed = metrics["throughput"]
    seconds = {name: own["seconds"] for name, own in metrics["stages"].items()}
    return {
        "engine hours": number(speed["engine_hours"], "{:.3f}"),
        "cost": number(speed["cost"], "{:,.2f}"),
        "output tokens a second": number(speed["output_tokens_per_s"], "{:,.1f}"),
        "seconds of all stages": number(sum(seconds.values()), "{:,.1f}"),
        **{f"seconds of {name}": number(own, "{:,.1f}") for name, own in seconds.items()},
    }


def _settings(both: tuple[dict[str, Any], ...], names: tuple[str, str]) -> Table:
    """Fields of the two configs that differ; the metrics carry them as `config`."""
    configs = [dict(flat(own.get("config", {}))) for own in both]
    keys = dict.fromkeys([*configs[0], *configs[1]])
    texts = [(key, *(own[key].text if key in own else NOT_THERE for own in configs)) for key in
             keys]  # fmt: skip
    differing = [row for row in texts if row[1] != row[2]]
    return table("settings", "Fields of the config that differ", ("field", *names), differing)


def versus_plots(first: dict[str, Any], second: dict[str, Any]) -> list[Plot]:
    """Arms of both runs on one scale."""
    main = main_metric(first) or main_metric(second)
    rows = [
        Interval(f"{arm} ({own['run_id']})", *(found[main][n] for n in ("mean", "low", "high")))
        for arm in dict.fromkeys([*first["arms"], *second["arms"]])
        for own in (first, second)
        if main in (found := own["arms"].get(arm, {}))
    ]
    title = f"{main} of each arm in both runs (95% interval)"
    return [plots.intervals("plot-arms", title, rows, str(main))] if rows else []


def render_versus(first: dict[str, Any], second: dict[str, Any]) -> str:
    return fill(
        "versus.html.j2",
        names=(first["run_id"], second["run_id"]),
        tables=[own for own in versus(first, second) if own.rows],
        plots=versus_plots(first, second),
    )
