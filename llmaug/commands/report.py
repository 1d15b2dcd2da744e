"""`llmaug report`: the figures of finished runs, read from storage."""

from __future__ import annotations

from typing import Any

from llmaug.commands.report_versus import render_versus
from llmaug.config.names import check_name
from llmaug.core.storage import Storage
from llmaug.core.stored import read_config, read_run
from llmaug.errors import UserError
from llmaug.report.stage import load_metrics

COMPARISONS = "comparisons"


def figures(storage: Storage, run_id: str) -> dict[str, Any]:
    """metrics.json of a run, and its `config`. Raises UserError where there is no such run, or
    where it has no report yet."""
    read_run(storage, check_name(run_id, "run id"))
    metrics = load_metrics(storage, run_id)
    if metrics is None:
        raise UserError(
            f"{storage.uri('runs', run_id)}: there is no report yet; `llmaug status {run_id}` says "
            "how far the run is"
        )
    return {**metrics, "config": read_config(storage, run_id).model_dump(mode="json")}


def compare(storage: Storage, first: dict[str, Any], second: dict[str, Any]) -> str:
    """Write the page that has both runs beside each other; returns where it is."""
    name = f"{first['run_id']}--{second['run_id']}.html"
    storage.write(render_versus(first, second).encode(), COMPARISONS, name)
    return storage.uri(COMPARISONS, name)
