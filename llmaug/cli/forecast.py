"""`llmaug forecast`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmaug.cli.options import (
    AS_JSON,
    CONFIG,
    DATE,
    ENDPOINT,
    ROOT,
    RUN_ID,
    load,
    open_storage,
    run_id_of,
)
from llmaug.core.terminal import Terminal, emit_json


def forecast(
    config: CONFIG,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    run_id: RUN_ID = None,
    probe_units: Annotated[
        int | None, typer.Option(min=8, help="Units to try; default: 2 x generate.max_num_seqs.")
    ] = None,
    date: DATE = None,
    as_json: AS_JSON = False,
) -> None:
    """What generation will cost: units, tokens, engine hours, accepted outcomes.

    Runs the job up to the plan and a sample of the plan through the real engine; what that
    generates is kept, so it is not paid for twice. `budget.price_per_hour` gives the cost.

    Example: `llmaug forecast --config configs/demo.yaml --root demo`
    """
    from llmaug.cli.summary import forecast_table
    from llmaug.commands.forecast import forecast as predict
    from llmaug.core.cluster import disconnect
    from llmaug.core.progress import Progress

    parsed = load(config, date)
    run_id = run_id_of(parsed, date, run_id)
    storage = open_storage(parsed, root, endpoint_url)
    console = Terminal(stderr=True)
    try:
        predicted = predict(
            parsed, storage, run_id, probe_units,
            lambda publish: Progress(console, publish),
        )  # fmt: skip
    finally:
        disconnect()
    if as_json:
        return emit_json(predicted)
    Terminal().print(forecast_table(predicted))
