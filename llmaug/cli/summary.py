"""The tables at the end of a run, from metrics.json."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from llmaug.arms.arms import CONTROLS, REAL
from llmaug.core.storage import Storage
from llmaug.core.terminal import Terminal
from llmaug.evaluate.bootstrap import lift_text
from llmaug.evaluate.metrics import ACCURACY
from llmaug.publish.card import LEFT
from llmaug.report.sentences import arm_in_question, covers


def print_summary(
    console: Terminal, storage: Storage, run_id: str, metrics: dict[str, Any]
) -> None:
    """Arms and lift, ledger, throughput, gate, places, and sample recommendations."""
    if metrics["num_users"]:
        console.print(_arms(metrics))
        console.print(_lifts(metrics))
        console.print(covers(metrics["interval"]))
    else:
        console.print("nothing was held out: nothing was measured")
    if metrics["ledger"]["units"]:
        _print_generation(console, metrics)
    gate = metrics["gate"]
    verdict = ("passed", "green") if gate["passed"] else ("not passed", "yellow")
    published = metrics["published"]
    left = published.get("outcome") == LEFT
    fate = f"kept, not published: {published['why']}" if left else "published"
    arm = (published["arm"], "bold")
    console.print(Text.assemble("gate: ", verdict, ", arm ", arm, f" is {fate}"))
    if force := metrics["published"]["forced"]:
        why = f" ({force['forced_utc']}): {force['reason']}"
        console.print(Text.assemble(("by force", "red"), why))
    for reason in gate["reasons"]:
        console.print(f"  - {reason}")
    for alarm in (metrics.get("drift") or {}).get("alarms", []):
        console.print(Text.assemble(("alarm: ", "red"), alarm))
    slowest = max(metrics["stages"].values(), key=lambda stage: stage["peak_rss_mb"])
    seconds = sum(s["seconds"] for s in metrics["stages"].values() if not s["skipped"])
    console.print(f"time: {seconds:.0f} s in stages, peak memory {slowest['peak_rss_mb']:,} MB")
    console.print(_sample(storage, run_id, metrics["published"]["version"]))
    console.print(f"model:  {metrics['published']['uri']}", soft_wrap=True)
    console.print(f"report: {storage.uri('runs', run_id, 'report', 'report.html')}", soft_wrap=True)


def _print_generation(console: Terminal, metrics: dict[str, Any]) -> None:
    ledger, num_soft = metrics["ledger"], metrics["events"].get("soft", 0)
    soft = f" ({num_soft:,} with soft targets)" if num_soft else ""
    arm = arm_in_question(metrics["gate"], metrics["training"])
    console.print(
        f"units: {ledger['units']:,} = {ledger['accepted']:,} accepted + "
        f"{ledger['rejected']:,} rejected + {ledger['failed']:,} failed; events of arm {arm}: "
        f"{metrics['events']['real']:,} real{soft}, {metrics['events']['synthetic']:,} synthetic"
    )
    planned, left_out = ledger["planned"], ledger["left_out"]
    if planned != ledger["units"]:
        console.print(
            f"  planned {planned:,} = {ledger['units']:,} answered + {left_out:,} left out "
            f"({ledger['stopped'] or 'limit'}) + {ledger['not_needed']:,} not needed"
        )
    if ledger["cache_hits"]:
        console.print(f"  answered by the outcomes cache: {ledger['cache_hits']:,}")
    for reason, count in sorted(ledger["by_reason"].items()):
        console.print(f"  {reason}: {count:,}")
    speed = metrics["throughput"]
    console.print(
        f"generation: {speed['output_tokens_per_s']:,.1f} tokens/s, "
        f"{speed['events_per_s']:,.1f} kept events/s"
    )


def forecast_table(predicted: dict[str, Any]) -> Table:
    """What `llmaug forecast` prints."""
    table = Table(title=f"forecast from {predicted['probe_units']:,} units", box=None)
    for column in ("", "expected", "95% interval"):
        table.add_column(column)
    table.add_row("units", f"{predicted['units']:,}")
    table.add_row("answered by the cache", f"{predicted['cache_hits']:,}")
    for label, name, form in (
        ("tokens generated", "output_tokens", ",.0f"),
        ("outcomes accepted", "accepted", ",.0f"),
        ("engine hours", "engine_hours", ",.4f"),
        ("hours on the clock", "wall_hours", ",.4f"),
        ("cost", "cost", ",.2f"),
    ):
        value = predicted[name]
        table.add_row(label, f"{value['mean']:{form}}", f"{value['low']:{form}} to "
                      f"{value['high']:{form}}")  # fmt: skip
    return table


def _arms(metrics: dict[str, Any]) -> Table:
    """The metrics of the first cut-off, one row an arm (recall: see the report)."""
    arms = metrics["arms"]
    main, *others = list(arms[REAL])[: len(ACCURACY) - 1]
    table = Table(title=f"held-out real events of {metrics['num_users']:,} users", box=None)
    for column in ("arm", main, "95% interval", *others):
        table.add_column(column, no_wrap=True)
    for arm, values in arms.items():
        found = values[main]
        interval = f"{found['low']:.4f} - {found['high']:.4f}"
        means = [f"{values[name]['mean']:.4f}" for name in others]
        table.add_row(arm, f"{found['mean']:.4f}", interval, *means)
    return table


def _lifts(metrics: dict[str, Any]) -> Table:
    """Lifts of the first metric, of each arm over `real` and over its control."""
    main = next(iter(metrics["arms"][REAL]))
    table = Table("arm", "over", f"lift of {main} (95% interval)", box=None)
    for lift in metrics["lifts"]:
        if lift["metric"] == main and lift["against"] in (REAL, CONTROLS[lift["arm"]]):
            table.add_row(lift["arm"], lift["against"], lift_text(lift))
    return table


def _sample(storage: Storage, run_id: str, version: str, num_users: int = 2) -> Table:
    """Top five of the first users."""
    table = Table("user", "title", "score", title="recommendations, for example", box=None)
    items = storage.read_table(version, "items.parquet", columns=["item_id", "title"])
    titles = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    folder = f"runs/{run_id}/recommendations"
    for part in storage.parts(folder):
        rows = storage.read_part(folder, part).to_pylist()
        users = list(dict.fromkeys(row["user_id"] for row in rows))[:num_users]
        for row in rows:
            if row["user_id"] in users and row["position"] <= 5:
                user = row["user_id"] if row["position"] == 1 else ""
                title = titles.get(row["item_id"]) or row["item_id"]
                table.add_row(user, title, f"{row['score']:.4f}")
        if rows:
            break
    return table
