"""`llmaug retry-failed`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmaug.cli.options import AS_JSON, ENDPOINT, ROOT, open_storage
from llmaug.core.terminal import Terminal, emit_json


def retry_failed(
    run: Annotated[str, typer.Argument(help="Run id.")],
    reason: Annotated[
        str | None, typer.Option(help="Only units that failed with this reason.")
    ] = None,
    text_task: Annotated[
        str | None,
        typer.Option(
            help="Those of this text task; of its judge: NAME/judge. Default: units of "
            "the behaviour model."
        ),
    ] = None,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Generate again the units of a run that failed, and no others.

    Example: `llmaug retry-failed demo --reason engine_crashed --root demo`
    """
    from llmaug.commands.retry import retry_failed as retry
    from llmaug.core.cluster import disconnect
    from llmaug.core.progress import Progress

    console = Terminal(stderr=True)
    try:
        done = retry(
            open_storage(None, root, endpoint_url), run, reason,
            lambda publish: Progress(console, publish), text_task,
        )  # fmt: skip
    finally:
        disconnect()
    if as_json:
        return emit_json(done)
    listed = ", ".join(f"{name} {number:,}" for name, number in done["by_reason"].items())
    Terminal().print(f"{done['retried']:,} units tried again ({listed}); "
                    f"{done['still_failed']:,} units of the run fail still")  # fmt: skip
    Terminal().print("Run the job again to renew what follows: filter, merge, train, report.")
