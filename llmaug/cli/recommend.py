"""`llmaug recommend`, for one user or for everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from llmaug.cli.options import AS_JSON, ENDPOINT, NAME, ROOT, VERIFY, open_storage
from llmaug.core.terminal import Terminal, emit_json

if TYPE_CHECKING:
    from llmaug.core.storage import Storage


def recommend(
    user: Annotated[
        str | None, typer.Option(help="User id as in the logs; without it: everybody.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="How many items.")] = 10,
    to: Annotated[
        str, typer.Option(help="Everybody: folder below the root, new or of an earlier time.")
    ] = "recommendations",
    name: NAME = "recommender",
    verify: VERIFY = False,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Recommendations by the published model: for one user, or for all users in batch.

    Example: `llmaug recommend --user 196 --k 10`, or `llmaug recommend --k 20 --to tonight`
    """
    if user is None:
        return _recommend_all(open_storage(None, root, endpoint_url), name, k, to, verify, as_json)
    from llmaug.publish.recommend import for_user

    answer = for_user(open_storage(None, root, endpoint_url), name, user, k, verify)
    if as_json:
        return emit_json(answer)
    console = Terminal()
    if not answer["known_user"]:
        console.print(f"user {user} is not in the logs: what suits anyone", style="yellow")
    table = Table("#", "item", "title", "score", box=None)
    for row in answer["items"]:
        table.add_row(
            str(row["position"]), row["item_id"], row["title"] or "", f"{row['score']:.4f}"
        )
    console.print(table)
    console.print(f"model {answer['model']} (arm {answer['arm']})", style="dim")


def _recommend_all(
    storage: Storage, name: str, k: int, to: str, verify: bool, as_json: bool
) -> None:
    from llmaug.commands.recommend_all import recommend_all
    from llmaug.core.cluster import disconnect
    from llmaug.core.progress import Progress

    console = Terminal(stderr=True)
    try:
        done = recommend_all(
            storage, name, k, to, lambda publish: Progress(console, publish), verify
        )
    finally:
        disconnect()
    if as_json:
        return emit_json(done)
    Terminal().print(
        f"top {k} of {done['users']:,} users by {done['model']}, {done['users_per_s']:,.0f} users "
        f"a second and actor: {done['folder']}", soft_wrap=True,
    )  # fmt: skip
