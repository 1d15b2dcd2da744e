"""`llmaug influence`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from llmaug.cli.options import AS_JSON, ENDPOINT, ROOT, open_storage
from llmaug.core.terminal import Terminal, emit_json


def influence(
    run: Annotated[str, typer.Option(help="Run that was trained.", show_default=False)],
    max_events: Annotated[
        int, typer.Option(min=64, help="Of each strategy, and of validation.")
    ] = 2048,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Which strategies would help whom, by a step on each from the model of `real`.

    Shown as a share of what a step on validation events themselves would bring (TracIn at one
    checkpoint), with 95% intervals; no test event is looked at. What misleads may be left out, or
    given less weight (`merge.strategy_weights`) in the next night: whether that helps, its report
    says.

    Example: `llmaug influence --run demo --root demo`
    """
    from llmaug.commands.influence import ALL
    from llmaug.commands.influence import influence as measure
    from llmaug.core.stage import Context
    from llmaug.core.stored import read_config

    storage = open_storage(None, root, endpoint_url)
    found = measure(Context(storage, read_config(storage, run), run), max_events)
    if as_json:
        return emit_json(found)
    console = Terminal()
    console.print(_table(found))
    for group in found["groups"]:
        if not group["on"]:
            console.print(f"{group['group']}: {group['events']:,} events are too few to measure")
        elif group["on"][ALL]["high"] < 0:
            console.print(f"{group['group']} misleads: its interval lies below 0", style="yellow")


def _table(found: dict[str, Any]) -> Table:
    names = list(dict.fromkeys(name for group in found["groups"] for name in group["on"]))
    table = Table(
        "events of", "how many", *(f"on {name}" for name in names),
        caption=f"share of a step on the {found['validation_events']:,} validation events "
        f"themselves; seed {found['seed']}",
    )  # fmt: skip
    for group in found["groups"]:
        cells = (group["on"].get(name) for name in names)
        table.add_row(group["group"], f"{group['events']:,}", *map(_cell, cells))
    return table


def _cell(on: dict[str, float] | None) -> str:
    return f"{on['share']:+.0%} ({on['low']:+.0%} to {on['high']:+.0%})" if on else "-"
