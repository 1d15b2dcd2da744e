"""`llmaug run`, and the same for a job of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from llmaug.cli.options import (
    AS_JSON,
    CONFIG,
    DATE,
    ENDPOINT,
    LOG_JSON,
    ROOT,
    RUN_ID,
    VERIFY,
    WAIT,
    load,
    open_storage,
    run_id_of,
    seconds_of,
)
from llmaug.core.terminal import Terminal, emit_json
from llmaug.errors import Interrupted, UserError


def run(
    config: CONFIG,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    run_id: RUN_ID = None,
    date: DATE = None,
    wait: WAIT = "0m",
    until: Annotated[
        str, typer.Option(help="Last step to run, e.g. `split` or `train`.")
    ] = "report",
    verify: VERIFY = False,
    as_json: AS_JSON = False,
    log_json: LOG_JSON = False,
) -> None:
    """Run the job, or what is left of it; what is missing or damaged is made anew.

    Example: `llmaug run --config configs/demo.yaml --root demo --until split`, or every night
    `llmaug run --config shop.yaml --date yesterday --wait 2h`
    """
    run_job(config, root, endpoint_url, run_id, until, as_json, verify, date, wait, log_json)


def run_job(
    config_path: Path,
    root: str | None,
    endpoint_url: str | None,
    run_id: str | None,
    until: str,
    as_json: bool = False,
    verify: bool = False,
    date: str | None = None,
    wait: str = "0m",
    log_json: bool = False,
) -> dict[str, Any]:
    """What `llmaug run` and the scripts in jobs/ do: run, and print what came out."""
    from llmaug import pipeline
    from llmaug.cli.json_log import JsonProgress
    from llmaug.commands.lineage import send_lineage
    from llmaug.commands.notify import message, notify
    from llmaug.commands.track import track
    from llmaug.config.names import check_name, run_folder
    from llmaug.core.cluster import disconnect
    from llmaug.core.progress import Progress
    from llmaug.report import stage as report

    config = load(config_path, date)
    storage = open_storage(config, root, endpoint_url)
    run_id = check_name(run_id_of(config, date, run_id), "--run-id")
    console = Terminal(stderr=True)
    log = JsonProgress(run_id) if log_json else None

    def progress(publish: Callable[[dict], None]) -> Progress:
        return log.publishing(publish) if log else Progress(console, publish)

    def say(text: str) -> None:
        log.warn(text) if log else console.print(text, soft_wrap=True)

    def tell(metrics: dict[str, Any] | None = None, error: str | None = None) -> None:
        if manifests and all(manifest["skipped"] for manifest in manifests.values()):
            return
        told = message(run_id, manifests, metrics, error)
        notify(config.notify, told, say)
        settings, place = config.model_dump(mode="json"), storage.uri(run_folder(run_id))
        track(config.tracking, told, metrics, settings, place, say)
        send_lineage(config, storage, run_id, error, say)

    manifests: dict[str, Any] = {}
    try:
        manifests = pipeline.run(
            config, storage, run_id, until, progress, verify=verify, wait_s=seconds_of(wait)
        )
    except KeyboardInterrupt as stop:  # typer would say no more than "Aborted."
        raise Interrupted(
            "stopped: what is finished is kept; run the same command again to go on"
        ) from stop
    except Exception as error:  # only what was written to be read leaves the house
        if log:
            log.say("failed", error=str(error))
        tell(error=error.message if isinstance(error, UserError) else type(error).__name__)
        raise
    finally:
        disconnect()
    metrics = report.load_metrics(storage, run_id) if "report" in manifests else None
    tell(metrics)
    if as_json:
        emit_json(metrics or {name: m["counts"] for name, m in manifests.items()})
    elif metrics:
        from llmaug.cli.summary import print_summary

        print_summary(Terminal(), storage, run_id, metrics)
    else:
        skipped = sum(m["skipped"] for m in manifests.values())
        Terminal().print(f"Ran to {until}: {len(manifests)} stages, {skipped} unchanged.")
        if "ingest" in manifests:
            from llmaug.cli.ledger_table import counted_otherwise, ledger_table

            counts = manifests["ingest"]["counts"]
            Terminal().print(ledger_table(counts))
            Terminal().print(counted_otherwise(counts))
    return manifests
