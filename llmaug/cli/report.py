"""`llmaug report`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from llmaug.cli.options import AS_JSON, ENDPOINT, ROOT, open_storage
from llmaug.core.terminal import Terminal, emit_json
from llmaug.errors import UserError

if TYPE_CHECKING:
    from llmaug.core.storage import Storage
    from llmaug.report import tables


def report(
    runs: Annotated[list[str], typer.Argument(help="One run, or two to compare.")],
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the page on this machine, also while it runs.")
    ] = False,
    port: Annotated[int, typer.Option(help="For --serve; 0: any that is free.")] = 0,
) -> None:
    """What came of a run; of two runs or nights, what is different: as tables, and as a page.

    Example: `llmaug report monday tuesday --root demo`
    """
    if serve:
        return _serve(runs, open_storage(None, root, endpoint_url), port)
    from llmaug.commands.report import compare, figures
    from llmaug.commands.report_versus import versus
    from llmaug.report.sentences import answers, verdict

    if len(runs) > 2:
        raise UserError(f"{len(runs)} runs: name one, or two to compare")
    storage = open_storage(None, root, endpoint_url)
    found = [figures(storage, run) for run in runs]
    if as_json:
        return emit_json(found[0] if len(runs) == 1 else dict(zip(runs, found, strict=True)))
    console = Terminal()
    if len(runs) == 1:
        from llmaug.config import Config

        console.print(Text(verdict(found[0]), "bold"))
        for own in answers(found[0], Config.model_validate(found[0]["config"])):
            console.print(Text.assemble((f"{own.question} ", "dim"), (own.headline, "bold")))
            console.print(own.detail, soft_wrap=True)
        place = storage.uri("runs", runs[0], "report", "report.html")
        return console.print(f"report: {place}", soft_wrap=True)
    for each in versus(found[0], found[1]):
        if each.rows:
            console.print(_shown(each))
            console.print(each.note or "", soft_wrap=True)
    console.print(f"page: {compare(storage, found[0], found[1])}", soft_wrap=True)


def _serve(runs: list[str], storage: Storage, port: int) -> None:
    from llmaug.commands.report_server import server

    if len(runs) != 1:
        raise UserError("--serve shows one run: name one")
    with server(storage, runs[0], port) as serving, contextlib.suppress(KeyboardInterrupt):
        host, taken = serving.server_address[:2]
        Terminal().print(f"http://{host!s}:{taken}/ shows {runs[0]}; Ctrl-C ends it")
        serving.serve_forever()


def _shown(own: tables.Table) -> Table:
    """A table of the report for the terminal."""
    out = Table(title=own.caption, box=None, title_justify="left")
    for number, name in enumerate(own.columns):
        out.add_column(name, justify="right" if own.numeric(number) else "left")
    for row in own.rows:
        out.add_row(*(Text(cell.text) for cell in row))
    return out
