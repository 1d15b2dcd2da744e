"""`llmaug evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmaug.cli.options import AS_JSON, ENDPOINT, ROOT, open_storage
from llmaug.core.terminal import Terminal, emit_json
from llmaug.errors import Interrupted

if TYPE_CHECKING:
    from llmaug.config import Config
    from llmaug.core.storage import Storage


def evaluate(
    datasets: Annotated[str, typer.Option(help="Configs, with commas: a.yaml,b.yaml.")],
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Compare the arms on several data sets, and say on how many augmentation helped.

    Each config is a run of its own (its `name`), up to its report, and goes on where it was;
    nothing is published. A data set that fails is reported, the others go on, exit code 1.

    Example: `llmaug evaluate --datasets configs/demo.yaml,configs/demo_thin.yaml --root demo`
    """
    from llmaug.commands import datasets_compare as across
    from llmaug.core.progress import Progress

    paths = [Path(name.strip()) for name in datasets.split(",") if name.strip()]
    if not paths:
        raise typer.BadParameter("name at least one config", param_hint="--datasets")
    console = Terminal(stderr=True)
    places: list[Storage] = []

    def storage_of(config: Config) -> Storage:
        places.append(open_storage(config, root, endpoint_url))
        return places[-1]

    try:
        summary = across.compare(paths, storage_of, lambda put: Progress(console, put))
    except KeyboardInterrupt as stop:
        raise Interrupted(
            "stopped: what is finished is kept; run the same command again to go on"
        ) from stop
    page = across.write(places[0] if places else open_storage(None, root, endpoint_url), summary)
    if as_json:
        emit_json(summary)
    else:
        Terminal().print(across.table(summary))
        Terminal().print(summary["claim"], soft_wrap=True)
        Terminal().print(f"page: {page}", soft_wrap=True)
    if summary["num_failed"]:
        raise typer.Exit(1)
