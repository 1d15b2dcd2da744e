"""The comparison on several data sets: does it help, and on how many of them?

Each config is a run of its own, up to its report; nothing is published. A data set that fails
is a row with its error, and counts as one on which augmentation did not help.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.table import Table

from llmaug import pipeline
from llmaug.arms.arms import CONTROLS, REAL
from llmaug.config import Config, load_config
from llmaug.core.cluster import disconnect
from llmaug.core.progress import Progress
from llmaug.core.storage import Storage
from llmaug.errors import Interrupted, UserError
from llmaug.evaluate.bootstrap import lift_text
from llmaug.evaluate.figures import candidate_of
from llmaug.evaluate.significance import ALPHA, holm
from llmaug.report import stage as report

FOLDER = "datasets"


def compare(
    paths: Sequence[Path],
    storage_of: Callable[[Config], Storage],
    progress: Callable[[Callable[[dict], None]], Progress] | None = None,
) -> dict[str, Any]:
    """Run the comparison of each config, or what is left of it; one failure stops no other.

    Returns what `summarise` does. Ctrl-C goes through: a run goes on when it is asked for again.
    """
    rows: list[dict[str, Any]] = []
    taken: dict[str, Path] = {}
    for path in paths:
        row: dict[str, Any] = {"dataset": path.stem, "config": str(path), "error": None}
        try:
            config = load_config(path)
            row["dataset"] = config.name
            storage = storage_of(config)
            place = storage.uri("runs", config.name)
            if place in taken:
                raise UserError(f"{place} is the run of {taken[place]}: give one another `name`")
            taken[place] = path
            pipeline.run(config, storage, config.name, progress=progress, publishing=False)
            metrics = report.load_metrics(storage, config.name)
            assert metrics is not None
            row |= figures(metrics)
            row["report"] = storage.uri("runs", config.name, "report", "report.html")
        except Interrupted:
            raise
        except UserError as error:
            row["error"] = error.message
        except Exception as error:  # of one data set: the others may be fine
            row["error"] = f"{type(error).__name__}: {error}"
        finally:
            disconnect()  # each config has its own `ray` section
        rows.append(row)
    return summarise(rows)


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """One data set's row, from its metrics.json: {num_users, num_events, metric, arms, lifts
    of the arm in question by the arm it is compared with, gate, ...}."""
    arms, candidate = metrics["arms"], candidate_of(metrics["gate"])
    metric = next(iter(arms[REAL]), None)
    return {
        "num_users": metrics["num_users"],
        "num_events": metrics["training"][REAL]["real"],
        "metric": metric,
        "candidate": candidate,
        "arms": {arm: arms[arm].get(metric) for arm in (REAL, candidate) if arm in arms},
        "lifts": {
            lift["against"]: {name: lift[name] for name in ("relative", "low", "high", "p")}
            for lift in metrics["lifts"]
            if (lift["arm"], lift["metric"]) == (candidate, metric)
            and lift["against"] in (REAL, CONTROLS[candidate])
        },
        "gate": metrics["gate"],
    }


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """{num_datasets, num_failed, num_helped, helped: [names], claim, datasets: rows with `p`
    and `adjusted_p`}.

    A data set's p is the larger one of its lifts over `real` and over the control: both have
    to be beaten. Corrected over all data sets that were asked for (Holm).
    """
    names = [f"{number} {row['dataset']}" for number, row in enumerate(rows)]
    p = {
        name: max((lift["p"] for lift in row.get("lifts", {}).values()), default=1.0)
        for name, row in zip(names, rows, strict=True)
    }
    adjusted = holm(p)
    tested = [
        {**row, "p": p[name], "adjusted_p": adjusted[name], "helped": adjusted[name] < ALPHA}
        for name, row in zip(names, rows, strict=True)
    ]
    helped = [row["dataset"] for row in tested if row["helped"]]
    failed = [row["dataset"] for row in tested if row["error"]]
    claim = f"Augmentation helped on {len(helped)} of {len(rows)} data sets"
    claim += f" ({', '.join(helped)})" if helped else ""
    claim += f": a lift at a level of {ALPHA:.0%} for all of them together (Holm)."
    if failed:
        claim += f" {len(failed)} failed and count as not helped."
    return {
        "num_datasets": len(rows), "num_failed": len(failed), "num_helped": len(helped),
        "helped": helped, "claim": claim, "datasets": tested,
    }  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """What the table and the page show of a data set."""
    if row["error"]:
        return [row["dataset"], *[""] * 6, f"failed: {row['error']}"]
    candidate = row["candidate"]
    values = [row["arms"].get(arm) for arm in (REAL, candidate)]
    lifts = [row["lifts"].get(against) for against in (REAL, CONTROLS[candidate])]
    return [
        row["dataset"],
        f"{row['num_users']:,}",
        f"{row['num_events']:,}",
        *(f"{value['mean']:.4f}" if value else "n/a" for value in values),
        *(lift_text(lift) if lift else "not trained" for lift in lifts),
        ("passed" if row["gate"]["passed"] else "refused")
        + (f", p {row['adjusted_p']:.3f}" if row["lifts"] else ""),
    ]


def header(summary: dict[str, Any]) -> list[str]:
    metrics = list(dict.fromkeys(row["metric"] for row in summary["datasets"] if row.get("metric")))
    metric = metrics[0] if len(metrics) == 1 else "first metric"
    arms = list(dict.fromkeys(row["candidate"] for row in summary["datasets"] if not row["error"]))
    arm, control = (arms[0], CONTROLS[arms[0]]) if len(arms) == 1 else ("arm", "its control")
    return ["data set", "held-out users", "real events", f"real {metric}", f"{arm} {metric}",
            "lift over real (95%)", f"over {control} (95%)", "gate, p (Holm)"]  # fmt: skip


def table(summary: dict[str, Any]) -> Table:
    out = Table(*header(summary), box=None)
    for row in summary["datasets"]:
        out.add_row(*cells(row))
    return out


def write(storage: Storage, summary: dict[str, Any]) -> str:
    """Write `datasets/datasets.json` and `datasets.html`; returns where the page is."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    source = (
        files("llmaug.report").joinpath("templates/datasets.html.j2").read_text(encoding="utf-8")
    )
    page = environment.from_string(source).render(
        summary=summary, header=header(summary), rows=[(r, cells(r)) for r in summary["datasets"]]
    )
    storage.write(json.dumps(summary, indent=1).encode(), FOLDER, "datasets.json")
    storage.write(page.encode(), FOLDER, "datasets.html")
    return storage.uri(FOLDER, "datasets.html")
