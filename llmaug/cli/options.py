"""Options that several commands have, and the storage that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmaug.config import Config
    from llmaug.core.storage import Storage


ROOT = Annotated[
    str | None,
    typer.Option(envvar="LLMAUG_ROOT", help="Storage root: a folder or s3://bucket/prefix."),
]
ENDPOINT = Annotated[
    str | None, typer.Option(envvar="AWS_ENDPOINT_URL", help="S3 endpoint, for servers not AWS.")
]
AS_JSON = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
CONFIG = Annotated[Path, typer.Option("--config", "-c", help="YAML config.", show_default=False)]
RUN_ID = Annotated[str | None, typer.Option(help="Run folder; default: the config's name.")]
VERIFY = Annotated[
    bool,
    typer.Option("--verify", help="Check the digests of what is there too: reads every file."),
]
NAME = Annotated[str, typer.Option(help="Name of the published model.")]
COLUMNS = Annotated[
    list[str] | None, typer.Option(help="OURS=THEIRS, for columns of another name.")
]
UNIT = Annotated[str | None, typer.Option(help="Unit of times that are numbers: s, ms, us or ns.")]
DEFAULT_ROOT = "demo"


def open_storage(config: Config | None, root: str | None, endpoint_url: str | None) -> Storage:
    from llmaug.core.storage import at_root

    if config:
        root = root or config.storage.root
        endpoint_url = endpoint_url or config.storage.endpoint_url
    return at_root(root or DEFAULT_ROOT, endpoint_url)
