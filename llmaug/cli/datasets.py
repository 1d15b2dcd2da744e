"""`llmaug datasets`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmaug.cli.options import ENDPOINT, open_storage
from llmaug.core.terminal import Terminal
from llmaug.errors import UserError


def datasets(
    dataset: Annotated[str, typer.Argument(help="ml-100k, ecommerce, social, news or health.")],
    to: Annotated[str, typer.Option(help="Folder or s3://bucket/prefix to write to.")],
    endpoint_url: ENDPOINT = None,
    max_users: Annotated[int | None, typer.Option(help="Only so many users.")] = None,
) -> None:
    """Write a public data set, or made-up logs of a domain, as an ordinary customer's logs.

    Example: `llmaug datasets ml-100k --to demo/logs`, or `llmaug datasets news --to news/logs`
    """
    from llmaug.commands.datasets import write_ml_100k
    from llmaug.commands.made_up_logs import DOMAINS, write_made_up

    if dataset not in ("ml-100k", *DOMAINS):
        raise UserError(f"no data set '{dataset}'; there are ml-100k, {', '.join(DOMAINS)}")
    storage = open_storage(None, to, endpoint_url)
    if dataset == "ml-100k":
        counts = write_ml_100k(storage, max_users=max_users)
    elif max_users is not None:
        raise UserError(f"--max-users is for ml-100k; the logs of {dataset} are small")
    else:
        counts = write_made_up(storage, dataset)
    Terminal().print(f"{to}: " + ", ".join(f"{value} {key}" for key, value in counts.items()))
