"""`llmaug submit`, `logs` and `stop`: a run as a job of a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmaug.cli.options import (
    CONFIG,
    DATE,
    LOG_JSON,
    ROOT,
    RUN_ID,
    WAIT,
    load,
    run_id_of,
    seconds_of,
)
from llmaug.core.terminal import Terminal, emit
from llmaug.errors import Interrupted

ADDRESS = Annotated[
    str | None,
    typer.Option(help="http://HEAD:8265. Default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS."),
]
RUN = Annotated[str, typer.Argument(help="Run id.")]


def submit(
    config: CONFIG,
    root: ROOT = None,
    run_id: RUN_ID = None,
    date: DATE = None,
    wait: WAIT = "0m",
    until: Annotated[str, typer.Option(help="Last step to run.")] = "report",
    working_dir: Annotated[
        Path | None,
        typer.Option(help="Folder to upload; default: the config's. `.` for a checkout of llmaug."),
    ] = None,
    address: ADDRESS = None,
    log_json: LOG_JSON = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow it.")] = False,
) -> None:
    """Hand a run to a Ray cluster and follow it; the exit code is the job's.

    The same run again joins the job that is running, and where it has ended goes on with what is
    left. llmaug must be installed on the machines of the cluster, or be in --working-dir. Ctrl-C
    leaves the job alone.

    Example: `llmaug submit --config shop.yaml --date yesterday --wait 2h --address http://head:8265`
    """
    from llmaug.commands import jobs
    from llmaug.config.dates import day_of

    # `yesterday` is that of now, also where the job begins after midnight.
    date = day_of(date).isoformat() if date else None
    parsed = load(config, date)
    run_id = run_id_of(parsed, date, run_id)
    seconds_of(wait)
    options = ["--until", until, "--wait", wait, *(("--date", date) if date else ())]
    options += ["--log-json"] * log_json
    folder = working_dir or config.parent
    entrypoint = jobs.command(config, folder, root or parsed.storage.root, run_id, options)
    client = jobs.connect(address)
    new = jobs.submit(client, run_id, entrypoint, folder)
    said = "submitted" if new else "it is running already: joined"
    Terminal(stderr=True).print(f"job {jobs.job_id(run_id)}: {said}", soft_wrap=True)
    if not detach:
        _follow(client, run_id)


def logs(
    run: RUN,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends.")] = False,
    address: ADDRESS = None,
) -> None:
    """What the job of a run has said; with --follow until it ends, with its exit code.

    Example: `llmaug logs 2026-01-31 --follow --address http://head:8265`
    """
    from llmaug.commands import jobs

    client = jobs.connect(address)
    if follow:
        return _follow(client, run)
    emit(jobs.logs(client, run))


def stop(run: RUN, address: ADDRESS = None) -> None:
    """Stop the job of a run. What is finished is kept: `llmaug submit` goes on with it.

    Example: `llmaug stop 2026-01-31 --address http://head:8265`
    """
    from llmaug.commands import jobs

    stopped = jobs.stop(jobs.connect(address), run)
    said = "is told to stop" if stopped else "had ended already"
    Terminal().print(f"job {jobs.job_id(run)} {said}", soft_wrap=True)


def _follow(client: object, run_id: str) -> None:
    from llmaug.commands import jobs

    try:
        code = jobs.follow(client, run_id, emit)  # type: ignore[arg-type]
    except KeyboardInterrupt as stopped:
        raise Interrupted(
            f"the job goes on; `llmaug logs {run_id} --follow` joins it, `llmaug stop {run_id}` "
            "ends it"
        ) from stopped
    if code:
        raise typer.Exit(code)
