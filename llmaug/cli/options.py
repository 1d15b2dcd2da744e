"""Options that several commands have, and the storage that they name."""

from __future__ import annotations

import re
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
DATE = Annotated[
    str | None,
    typer.Option(help="Day for {date} in the config: 2026-01-31, today or yesterday (UTC)."),
]
WAIT = Annotated[
    str,
    typer.Option(help="Wait for logs that are not all there (ingest.complete_days): 90s, 30m, 2h."),
]
RUN_ID = Annotated[
    str | None, typer.Option(help="Run folder; default: the config's name, with the day of --date.")
]
LOG_JSON = Annotated[
    bool,
    typer.Option(
        "--log-json", envvar="LLMAUG_LOG_JSON",
        help="Say everything on standard error as lines of JSON, with run and stage.",
    ),
]  # fmt: skip
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


def load(path: Path, date: str | None) -> Config:
    """The config for the day that `--date` names."""
    from llmaug.config import load_config
    from llmaug.config.dates import day_of

    return load_config(path, day_of(date) if date else None)


def seconds_of(wait: str) -> float:
    """Of 90s, 30m or 2h. Raises UserError for anything else."""
    from llmaug.errors import UserError

    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", wait.strip())
    if not found:
        raise UserError(f"--wait {wait}: a time such as 90s, 30m or 2h is expected")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def run_id_of(config: Config, date: str | None, run_id: str | None) -> str:
    """That of `--run-id`, as it was given; without it, by the config's name and the day."""
    from llmaug.config.dates import day_of, run_id_of_night

    return (
        run_id_of_night(config.name, day_of(date) if date else None) if run_id is None else run_id
    )


def open_storage(config: Config | None, root: str | None, endpoint_url: str | None) -> Storage:
    from llmaug.core.storage import at_root

    if config:
        root = root or config.storage.root
        endpoint_url = endpoint_url or config.storage.endpoint_url
    return at_root(root or DEFAULT_ROOT, endpoint_url)
