"""`llmaug counterfactual`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmaug.cli.options import AS_JSON, COLUMNS, ENDPOINT
from llmaug.core.terminal import Terminal, emit_json


def counterfactual(
    log: Annotated[
        str,
        typer.Option(
            help="File or folder (or s3://): user_id, item_id, propensity, reward, new_probability;"
            " and for dr predicted_reward, expected_reward."
        ),
    ],
    clip: Annotated[
        float | None, typer.Option(help="Largest weight new_probability / propensity.")
    ] = None,
    log_columns: COLUMNS = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """What a new policy would have earned, from a log with propensities: ips, snips, dr.

    Example: `llmaug counterfactual --log logs/shown.parquet --clip 50
    --log-columns new_probability=p_model_b`
    """
    from llmaug.live.counterfactual import estimate
    from llmaug.live.tables import read_live
    from llmaug.schema import LOGGED_CHOICE

    rows = read_live(log, "--log", LOGGED_CHOICE, log_columns, endpoint_url=endpoint_url)
    result = estimate(rows.table, clip=clip)
    result["warnings"] += rows.warnings("log")
    result["refused"] = rows.refused
    if as_json:
        return emit_json(result)
    from llmaug.cli.live_summary import print_counterfactual

    print_counterfactual(Terminal(), result)
