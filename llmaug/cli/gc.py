"""`llmaug gc`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from llmaug.cli.options import AS_JSON, ENDPOINT, ROOT, open_storage
from llmaug.core.terminal import Terminal, emit_json


def gc(
    keep: Annotated[int, typer.Option(help="So many of the newest nights stay.")] = 14,
    delete: Annotated[
        bool, typer.Option("--delete", help="Do it; else it is only said what would go.")
    ] = False,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Make room: old runs, versions, cached answers and rows of logs.

    Never what CURRENT or a rollback points to, what a kept run or version needs, or what somebody
    holds. Without --delete nothing is touched.

    Example: `llmaug gc --keep 14 --root s3://my-bucket/llmaug`, then the same with `--delete`
    """
    from llmaug.commands.gc import collect, look

    storage = open_storage(None, root, endpoint_url)
    found = look(storage, keep)
    gone = collect(storage, found) if delete else [each for each in found if not each.kept]
    if as_json:
        rows = [each.as_json() for each in found]
        return emit_json(
            {"deleted": delete, "found": rows, "bytes": sum(e.num_bytes for e in gone)}
        )
    table = Table("what", "name", "MB", "stays because", box=None)
    for each in found:
        table.add_row(each.kind, each.name, f"{each.num_bytes / 1e6:,.1f}", each.kept or "(goes)")
    console = Terminal()
    console.print(table)
    total = sum(each.num_bytes for each in gone)
    done = "deleted" if delete else "would be deleted; do it with --delete"
    console.print(f"{len(gone):,} of {len(found):,}, {total / 1e6:,.1f} MB: {done}")
