"""`llmaug ab`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmaug.cli.options import AS_JSON, COLUMNS, ENDPOINT, UNIT
from llmaug.core.terminal import Terminal, emit_json


def ab(
    exposures: Annotated[
        str, typer.Option(help="File or folder (or s3://): user_id, variant, timestamp, item_id.")
    ],
    feedback: Annotated[
        str, typer.Option(help="The same: user_id, action, timestamp, item_id, value.")
    ],
    control: Annotated[str, typer.Option(help="Variant to compare with.")],
    treatment: Annotated[
        str | None, typer.Option(help="The other variant; needed where there are more than two.")
    ] = None,
    click: Annotated[list[str] | None, typer.Option(help="Action that is a click.")] = None,
    conversion: Annotated[
        list[str] | None, typer.Option(help="Action that is a conversion.")
    ] = None,
    score: Annotated[
        list[str] | None, typer.Option(help="Action whose value is a satisfaction score.")
    ] = None,
    window_hours: Annotated[
        float, typer.Option(help="Feedback counts so long after the exposure.")
    ] = 24.0,
    treatment_share: Annotated[
        float, typer.Option(help="Share of the users that was to get the treatment.")
    ] = 0.5,
    expected_lift: Annotated[
        float | None, typer.Option(help="State the power for this relative lift, e.g. 0.02.")
    ] = None,
    exposures_columns: COLUMNS = None,
    feedback_columns: COLUMNS = None,
    timestamp_unit: UNIT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Read a live A/B test: lift of clicks, conversions and satisfaction, and whether to trust it.

    Files are Parquet, JSON lines or CSV, `.gz` too. --click, --conversion, --score and the column
    options may be repeated.

    Example: `llmaug ab --exposures logs/shown --feedback logs/done --control old --click click
    --score rate --feedback-columns value=stars`
    """
    import tempfile
    from pathlib import Path

    from llmaug.live.ab import analyse
    from llmaug.live.experiment import Experiment
    from llmaug.live.tables import read_live
    from llmaug.live.user_parts import UserParts
    from llmaug.schema import EXPOSURE, FEEDBACK

    experiment = Experiment(
        control=control,
        treatment=treatment,
        clicks=tuple(click or ()),
        conversions=tuple(conversion or ()),
        scores=tuple(score or ()),
        window_hours=window_hours,
        treatment_share=treatment_share,
        expected_lift=expected_lift,
    )
    with tempfile.TemporaryDirectory() as folder:
        with UserParts(Path(folder)) as logs:
            how = (timestamp_unit, endpoint_url, logs.add)
            shown = read_live(exposures, "--exposures", EXPOSURE, exposures_columns, *how)
            said = read_live(feedback, "--feedback", FEEDBACK, feedback_columns, *how)
        result = analyse(logs, experiment)
    result["warnings"] += [*shown.warnings("exposures"), *said.warnings("feedback")]
    result["ledger"]["refused"] = {"exposures": shown.refused, "feedback": said.refused}
    if as_json:
        return emit_json(result)
    from llmaug.cli.live_summary import print_ab

    print_ab(Terminal(), result)
