"""Does a model of one domain help another? Films to games, after equal steps.

A causal model is trained on MovieLens-100K. Then on a share of the users of the Games set, once
from scratch and once from the MovieLens trunk (`lm.warm_start`; no item is known to both), for
the same numbers of steps. Perplexity is that of the validation events, the last but one of
each user.

    python benchmarks/transfer.py PATH_OF_GAMES
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from llmaug import pipeline
from llmaug.commands.datasets import write_ml_100k
from llmaug.config import parse_config
from llmaug.core.cluster import disconnect
from llmaug.core.storage import Storage


def main(
    games: Annotated[Path, typer.Argument(help="Folder with events.parquet.")],
    share: Annotated[float, typer.Option(help="Of the users of Games.")] = 0.1,
    steps: Annotated[str, typer.Option(help="Numbers of steps to compare at.")] = "50,100,200,400",
    source_steps: Annotated[int, typer.Option(help="Steps on MovieLens.")] = 600,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 7,
) -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    rows = []
    with tempfile.TemporaryDirectory() as root:
        storage = Storage(root)
        write_ml_100k(f"{root}/ml-100k")
        films = {"path": f"{root}/ml-100k/events", "k_core": 5,
                 "items": {"path": f"{root}/ml-100k/items"}}  # fmt: skip
        _train(storage, "films", films, source_steps, seed)
        ingest = {
            "path": str(games.resolve() / "events.parquet"),
            # It has an order but no times: positions stand in as seconds since 1970.
            "columns": {"timestamp": "position"}, "timestamp_unit": "s",
            "earliest": "1970-01-01T00:00:00+00:00", "sample_users": share,
        }  # fmt: skip
        for number in map(int, steps.split(",")):
            scratch = _train(storage, "scratch", ingest, number, seed)
            warm = _train(storage, "warm", ingest, number, seed, warm_start="films")
            rows.append({"steps": number, "scratch": scratch, "warm": warm})
            print(f"{number:>6} steps: from scratch {scratch:8.1f}, from films {warm:8.1f}")
        disconnect()
    better = sum(row["warm"] < row["scratch"] for row in rows)
    figures = {"share": share, "source_steps": source_steps, "perplexity": rows}
    figures |= {"warm_is_better": f"{better} of {len(rows)}"}
    print(json.dumps({"benchmark": "transfer", **figures}))


def _train(
    storage: Storage, run_id: str, ingest: dict[str, Any], num_steps: int, seed: int, **lm: Any
) -> float:
    """Validation perplexity after `num_steps`."""
    training = {"num_steps": num_steps, "validate_every": num_steps, "stop_on": "perplexity",
                "warmup_steps": min(100, num_steps // 2), "item_features": False}  # fmt: skip
    config = parse_config(
        {"seed": seed, "ingest": ingest, "split": {"kind": "leave_one_out"},
         "lm": {**training, **lm},
         "plan": {"strategies": [{"kind": "new_users", "num_users": 1, "num_events": 2}]}}
    )  # fmt: skip
    manifests = pipeline.run(config, storage, run_id, until="lm")
    return math.exp(-manifests["lm/causal"]["counts"]["validation_log_likelihood"])


if __name__ == "__main__":
    typer.run(main)
