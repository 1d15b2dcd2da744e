"""`llmaug datasets`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmaug.cli.options import ENDPOINT, open_storage
from llmaug.core.terminal import Terminal
from llmaug.errors import UserError


def datasets(
    dataset: Annotated[str, typer.Argument(help="ml-100k")],
    to: Annotated[str, typer.Option(help="Folder or s3://bucket/prefix to write to.")],
    endpoint_url: ENDPOINT = None,
    max_users: Annotated[int | None, typer.Option(help="Only so many users.")] = None,
) -> None:
    """Write a public data set as an ordinary customer's logs.

    Example: `llmaug datasets ml-100k --to demo/logs`
    """
    from llmaug.commands.datasets import write_ml_100k

    if dataset != "ml-100k":
        raise UserError(f"no data set '{dataset}'; there is: ml-100k")
    counts = write_ml_100k(open_storage(None, to, endpoint_url), max_users=max_users)
    Terminal().print(f"{to}: " + ", ".join(f"{value} {key}" for key, value in counts.items()))
