"""`llmaug score`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from llmaug.cli.options import AS_JSON, ENDPOINT, NAME, ROOT, open_storage
from llmaug.core.terminal import emit, emit_json, plain


def score(
    pairs: Annotated[Path, typer.Option(help="CSV with columns user_id and item_id.")],
    name: NAME = "recommender",
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Score (0 to 1; a rating by linear_rating) of user-item pairs by the published model, as CSV.

    Example: `llmaug score --pairs pairs.csv`
    """
    import csv
    import io

    from llmaug.publish.recommend import read_pairs, score_pairs

    rows = score_pairs(open_storage(None, root, endpoint_url), name, read_pairs(pairs))
    if as_json:
        return emit_json(rows)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    emit(plain(table.getvalue()) if sys.stdout.isatty() else table.getvalue())
