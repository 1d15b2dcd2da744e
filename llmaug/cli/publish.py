"""`llmaug publish`, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmaug.cli.options import AS_JSON, ENDPOINT, NAME, ROOT, VERIFY, open_storage
from llmaug.core.terminal import Terminal, emit_json

if TYPE_CHECKING:
    from llmaug.core.storage import Storage


def publish(
    run: Annotated[str | None, typer.Argument(help="Run id.", show_default=False)] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Although the gate refused it, or a newer night is current."),
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why; goes with --force.")] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Back to the version before, or to that of --to.")
    ] = False,
    listed: Annotated[
        bool, typer.Option("--list", help="Show the versions of --name, and which is current.")
    ] = False,
    to: Annotated[str | None, typer.Option(help="Version; goes with --rollback.")] = None,
    name: NAME = "recommender",
    verify: VERIFY = False,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Publish a run that has come to the gate, roll back what is published, or list it.

    What the gate chose is published, by --force the augmented model that it refused. A night
    does not replace a newer one: it is kept as a version, and the command says so. --force
    replaces it all the same, for this once. A force, its reason and what the gate had said are
    recorded. Without --force an earlier force is taken back.

    --rollback points model --name to the version that was current before. It stays until a newer
    night is published; resuming an old one does not bring it back.

    --list shows all versions of the model: by which run and when, what was current before what,
    and the lift that the run measured.

    Example: `llmaug publish 2026-01-31 --force --reason "agreed with the shop team, ticket 71"`,
    or `llmaug publish --rollback`
    """
    if force != (reason is not None):
        raise typer.BadParameter("--force and --reason go together")
    if (run is not None) + rollback + listed != 1 or (force and run is None):
        raise typer.BadParameter("give a run to publish, or --rollback or --list (without --force)")
    if to is not None and not rollback:
        raise typer.BadParameter("--to goes with --rollback")
    if run is None and verify:
        raise typer.BadParameter("--verify is for a run that is published; leave it out here")
    storage = open_storage(None, root, endpoint_url)
    if listed:
        return _list(storage, name, as_json)
    if run is None:
        return _roll_back(storage, name, to, as_json)
    from llmaug.commands.force import publish_run
    from llmaug.core.cluster import disconnect
    from llmaug.core.progress import Progress
    from llmaug.publish.stage import said

    console = Terminal(stderr=True)
    try:
        card = publish_run(storage, run, reason, lambda put: Progress(console, put), verify)
    finally:
        disconnect()
    if as_json:
        return emit_json(card)
    Terminal().print(said(card), soft_wrap=True)


def _list(storage: Storage, name: str, as_json: bool) -> None:
    from rich.table import Table

    from llmaug.commands.versions import list_versions
    from llmaug.evaluate.bootstrap import lift_text

    found = list_versions(storage, name)
    if as_json:
        return emit_json(found)
    table = Table("version", "", "published (UTC)", "run", "arm", "lift", box=None)
    for each in found:
        place = each["place"]
        state = "" if place is None else f"{place} before" if place else "current"
        if each["held"]:
            state += f", held: {each['held']['reason']}"
        if each["retrain"]:
            state += ", retrain"
        lifts = [f"{metric} {lift_text(lift)}" for metric, lift in (each["lift"] or {}).items()]
        arm = f"{each['arm']} (forced)" if each["forced"] else each["arm"]
        when = each["published_utc"] or ""
        table.add_row(each["version"], state, when, each["run_id"], arm, "; ".join(lifts))
    Terminal().print(table)


def _roll_back(storage: Storage, name: str, to: str | None, as_json: bool) -> None:
    from llmaug.publish import pointer

    card = pointer.roll_back(storage, name, to)
    if as_json:
        return emit_json(card)
    Terminal().print(
        f"rolled back: {storage.uri(card['version'])} (arm {card['arm']}) is current, until a "
        "night is published that is newer than all before", soft_wrap=True,
    )  # fmt: skip
