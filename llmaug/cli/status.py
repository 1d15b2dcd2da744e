"""`llmaug status`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from llmaug.cli.options import AS_JSON, ENDPOINT, ROOT, open_storage
from llmaug.core.terminal import Terminal, emit_json


def status(run: Annotated[str, typer.Argument(help="Run id.")], root: ROOT = None,
           endpoint_url: ENDPOINT = None, as_json: AS_JSON = False) -> None:  # fmt: skip
    """How far a run is: read from storage, so any machine can ask.

    Example: `llmaug status demo --root demo`
    """
    from llmaug.commands.status import read_status

    state = read_status(open_storage(None, root, endpoint_url), run)
    if as_json:
        return emit_json(state)
    console = Terminal()
    holder = state["holder"]
    held = (
        f"{'running' if holder['alive'] else 'held'}: {holder['seen']}" if holder else "not running"
    )
    console.print(Text.assemble("run ", (run, "bold"), f", {held}"))
    table = Table("stage", "state", "seconds", "rows", "", box=None)
    for stage in state["stages"]:
        seconds = f"{stage['seconds']:.1f}" if stage["seconds"] is not None else ""
        notes = "; ".join(stage["notes"])
        table.add_row(stage["name"], stage["state"], seconds, f"{stage['rows']:,}", notes)
    console.print(table)
    for stage in state["stages"]:
        for file, what in stage["damage"].items():
            console.print(f"{stage['name']}/{file}: {what}", soft_wrap=True)
    if holder and state["progress"]:
        now = state["progress"]
        counts = [f"{name} {value}" for name, value in (now.get("counts") or {}).items()]
        left = [f"{now['remaining_s']:.0f} s left"] if now.get("remaining_s") else []
        place = f"{now['done']:,}/{now['total'] or '?'} {now.get('unit', '')}".rstrip()
        console.print(f"now: {now['stage']} " + ", ".join([place, *counts, *left]))
