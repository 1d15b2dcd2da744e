"""Do the ratings that a chat model makes up help? MovieLens, most of whose ratings are hidden.

Of one event in twenty the rating is known (`--known-share`), and of each user's last two, which are
held out. SmolLM2 is asked about `--share` of the others (task `write_reviews`), and `linear_rating`
is trained with its answers (arm `reviewed`) and without (`real`): the RMSE of both on the held-out
ratings. What was hidden tells how right the answers are: their correlation with it.

    python benchmarks/reviews.py --share 0.012
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from inputs import smollm2

import llmaug
from llmaug.commands.datasets import write_ml_100k
from llmaug.core.storage import Storage
from llmaug.ingest.cleaning import id_hash


def main(
    share: Annotated[float, typer.Option(help="Of the hidden ratings: asked about.")] = 0.012,
    known_share: Annotated[float, typer.Option(help="Of the ratings: not hidden.")] = 0.05,
    root: Annotated[str, typer.Option(help="Where it goes on; without: a new folder.")] = "",
) -> None:
    with tempfile.TemporaryDirectory() as own:
        figures = measured(root or own, share, known_share)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    print(json.dumps(figures))


def measured(root: str, share: float, known_share: float) -> dict[str, Any]:
    hidden = write_logs(root, known_share)
    run = llmaug.run(
        {
            "name": "reviews",
            "ingest": {
                "path": f"{root}/thin/events.parquet", "columns": {"value": "rating"},
                "items": {"path": f"{root}/logs/items"},
            },
            "split": {"kind": "leave_one_out"},
            "text": {"folder": smollm2(), "tasks": [{"kind": "write_reviews", "share": share}]},
            "plan": {"strategies": []},
            "generate": {"dtype": "bfloat16", "max_num_seqs": 64, "kv_cache_gib": 2.0},
            "train": {
                "model": "linear_rating", "arms": ["real", "reviewed"], "num_steps": 1500,
                "learning_rate": 0.003, "batch_size": 512,
            },
            "gate": {"arm": "reviewed"},
        },
        root=root,
    )  # fmt: skip
    said = run.table("text/write_reviews/rows", ["user_id", "item_id", "value"]).to_pylist()
    pairs = np.array([[row["value"], hidden[row["user_id"], row["item_id"]]] for row in said])
    ledger = run.metrics["texts"]["write_reviews"]
    return {
        "benchmark": "reviews",
        "known_ratings": run.metrics["training"]["real"]["seeds"][0]["num_targets"],
        "ledger": ledger,
        "ratings": dict(sorted(Counter(pairs[:, 0].tolist()).items())),
        "correlation_with_hidden": round(float(np.corrcoef(pairs.T)[0, 1]), 4),
        "rmse": run.metrics["ratings"],
    }


def write_logs(root: str, known_share: float) -> dict[tuple[str, str], float]:
    """One table of events whose ratings are hidden but for some; {(user, item): rating} of all."""
    write_ml_100k(f"{root}/logs")
    events = pq.read_table(f"{root}/logs/events", partitioning=None).sort_by("timestamp")
    users, items = (events[name].cast(pa.string()).to_pylist() for name in ("user_id", "item_id"))
    ratings = events["rating"].to_pylist()
    names = pa.array([f"{user} {item}" for user, item in zip(users, items, strict=True)])
    hide = np.asarray(id_hash(names), np.float64) / 2.0**64 >= known_share
    later: Counter[str] = Counter()
    for place in range(len(users) - 1, -1, -1):
        hide[place] &= later[users[place]] >= 2  # the last two are held out
        later[users[place]] += 1
    known = pa.array(ratings, pa.float32(), mask=hide)
    column = events.schema.get_field_index("rating")
    Storage(root).write_part(events.set_column(column, "rating", known), {}, "thin", "events")
    return dict(zip(zip(users, items, strict=True), ratings, strict=True))


if __name__ == "__main__":
    typer.run(main)
