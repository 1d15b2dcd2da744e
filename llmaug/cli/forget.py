"""`llmaug forget`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from llmaug.cli.options import AS_JSON, ENDPOINT, ROOT, open_storage
from llmaug.config.names import CLEAN_LOGS
from llmaug.core.terminal import Terminal, emit_json


def forget(
    user: Annotated[
        list[str], typer.Option(help="User id as in the logs; may be given several times.")
    ],
    delete: Annotated[
        bool, typer.Option("--delete", help="Do it; without this it is only shown.")
    ] = False,
    models: Annotated[
        bool,
        typer.Option("--models", help="Published versions are deleted too, and not only marked."),
    ] = False,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Remove all that descends from a user: runs, cached answers, lists, models.

    Without --delete it shows what would go. With it, runs that were made of the user's events are
    deleted whole, the user is dropped whenever logs are read again (reason `forgotten`), and a
    receipt is written that names nobody. Published versions are marked for retraining. Run the
    night again afterwards: what was deleted is made anew without the user. The logs are not
    touched.

    Example: `llmaug forget --user 196`, then `llmaug forget --user 196 --delete --models`
    """
    from llmaug.commands import forget as command

    console = Terminal(stderr=True)
    found = command.forget(
        open_storage(None, root, endpoint_url), user, delete, models, console.print
    )
    if as_json:
        return emit_json(found)
    out, done = Terminal(), "deleted" if delete else "would be deleted"
    table = Table("what", "where", "why", box=None)
    for run_id, facts in found["runs"].items():
        table.add_row(f"run {done}", run_id, f"{facts['why']} ({facts['rows']:,} rows)")
    for folder in found["cache_folders"]:
        table.add_row(f"cache {done}", folder, "answers of a model that was trained on them")
    if found["clean_logs"]:
        shown = f"{len(found['clean_logs']):,} files of them name a user"
        table.add_row(f"rows of logs {done}", CLEAN_LOGS, shown)
    for path in (*found["cache_files"], *found["lists"]):
        table.add_row(f"rows {done}", path, "they name a user")
    fate = done if models else "marked" if delete else "would be marked"
    for version, why in found["versions"].items():
        table.add_row(f"model {fate}", version, why)
    for place, why in found["unsearched"].items():
        table.add_row("NOT SEARCHED", place, why)
    out.print(table if table.row_count else "nothing below the root descends from them")
    for place in (*found["logs"], *found["others"]):
        out.print(f"logs, which are yours to clean: {place}", soft_wrap=True)
    if delete:
        out.print(f"receipt: {found['receipt']}", soft_wrap=True)
    elif table.row_count:
        out.print("nothing was changed; --delete does it", style="yellow")
