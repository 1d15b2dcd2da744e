"""`llmaug recommend`, for one user or for everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

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
    explain: Annotated[
        bool, typer.Option("--explain", help="With --user: which items of the history moved it.")
    ] = False,
    verify: VERIFY = False,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Recommendations by the published model: for one user, or for all users in batch.

    --explain leaves each item of the history out in turn, and shows those without which a
    recommendation stands lower, with the place that it would have.

    Example: `llmaug recommend --user 196 --k 10`, or `llmaug recommend --k 20 --to tonight`
    """
    if explain and user is None:
        raise typer.BadParameter("--explain goes with --user")
    if user is None:
        return _recommend_all(open_storage(None, root, endpoint_url), name, k, to, verify, as_json)
    from llmaug.publish.recommend import of_user, serve

    served = serve(open_storage(None, root, endpoint_url), name, verify)
    answer = of_user(served, user, k)
    if explain:
        from llmaug.commands.explain import explain as reasons_of

        reasons = {row["item_id"]: row["because"] for row in reasons_of(served, user, k)}
        answer["items"] = [{**row, "because": reasons[row["item_id"]]} for row in answer["items"]]
    if as_json:
        return emit_json(answer)
    console = Terminal()
    if not answer["known_user"]:
        console.print(f"user {user} is not in the logs: what suits anyone", style="yellow")
    table = Table("#", "item", "title", "score", *(["because of"] if explain else []), box=None)
    for row in answer["items"]:
        facts = [str(row["position"]), row["item_id"], row["title"] or "", f"{row['score']:.4f}"]
        table.add_row(*facts, *([_because(row["because"])] if explain else []))
    console.print(table)
    console.print(f"model {answer['model']} (arm {answer['arm']})", style="dim")


def _because(reasons: list[dict[str, Any]]) -> str:
    shown = [
        f"{row['title'] or row['item_id']} (#{row['rank_without']} without)" for row in reasons
    ]
    return "; ".join(shown) or "nothing in the history"


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
