"""`llmaug doctor`."""

from __future__ import annotations

import typer
from rich.table import Table
from rich.text import Text

from llmaug.cli.options import AS_JSON, ENDPOINT, ROOT, open_storage
from llmaug.core.terminal import Terminal, emit_json


def doctor(root: ROOT = None, endpoint_url: ENDPOINT = None, as_json: AS_JSON = False) -> None:
    """What is installed, what storage allows, and how to mend what is wrong.

    Example: `llmaug doctor --root s3://my-bucket/llmaug`
    """
    from dataclasses import asdict

    from llmaug.commands.doctor import checks

    found = checks(open_storage(None, root, endpoint_url))
    if as_json:
        emit_json([asdict(check) for check in found])
    else:
        table = Table("", "check", "found", "what to do", box=None)
        marks = {
            True: Text("ok", "green"),
            None: Text("note", "yellow"),
            False: Text("wrong", "red"),
        }
        for item in found:
            table.add_row(marks[item.ok], item.name, item.found, item.fix)
        Terminal().print(table)
    if any(check.ok is False for check in found):
        raise typer.Exit(1)
