"""Do descriptions that a chat model wrote help a recommender that reads them? Cold items above all.

MovieLens-100K, of each user the last `--max-events` training events, so that most films have few.
SmolLM2 describes all films (task `describe_items`); `two_tower` and `sasrec` with `item_features`
read titles, tags and descriptions (all-MiniLM-L6-v2), once as the logs have them and once with what
was written. NDCG@10 of the first VALIDATION event of each user, by how many training events its
film has, and the lift with its interval over users and seeds. No test event is looked at.

    python benchmarks/descriptions.py
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from typing import Annotated, Any

import numpy as np
import typer
from answers import rows_of
from inputs import smollm2

from llmaug import pipeline
from llmaug.commands.datasets import write_ml_100k
from llmaug.commands.validation_lift import MAX_USERS, lift_of_users, ndcg_of_users
from llmaug.config import Config, parse_config
from llmaug.core.cluster import disconnect
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.evaluate.bootstrap import lift_text
from llmaug.ingest.split import TRAIN, VALIDATION
from llmaug.items.vocabulary import load_vocabulary
from llmaug.training.validation import ValidationUsers, load_validation

MODELS, PLAIN, DESCRIBED = ("two_tower", "sasrec"), "plain", "described"
SEGMENTS = {"all": (0, np.inf), "0 to 3": (0, 3), "4 to 10": (4, 10), "more": (11, np.inf)}


def main(
    num_items: Annotated[int | None, typer.Option(help="Films to describe; all.")] = None,
    max_events: Annotated[int, typer.Option(help="Last training events of each user.")] = 10,
    num_seeds: Annotated[int, typer.Option(min=1, help="Of each recommender.")] = 3,
    root: Annotated[str, typer.Option(help="Where it goes on; without: a new folder.")] = "",
) -> None:
    with tempfile.TemporaryDirectory() as own:
        storage = Storage(root or own)
        write_ml_100k(storage.path("logs"))
        found = {}
        for model in MODELS:
            configs = {
                what: config_of(storage, model, what, num_items, max_events, num_seeds)
                for what in (PLAIN, DESCRIBED)
            }
            for what, config in configs.items():
                pipeline.run(config, storage, f"{model}-{what}", until="train")
            found[model] = lifts(storage, model, configs[PLAIN])
        disconnect()
        texts = Context(storage, config, f"{model}-{DESCRIBED}").manifest(
            "text/describe_items/filtered"
        )["counts"]
    show(found)
    print(json.dumps({"benchmark": "descriptions", "texts": texts, "found": found}))


def config_of(
    storage: Storage,
    model: str,
    what: str,
    num_items: int | None,
    max_events: int,
    num_seeds: int,
) -> Config:
    tasks = [{"kind": "describe_items", "max_rows": num_items}] if what == DESCRIBED else []
    return parse_config(
        {
            "ingest": {"path": storage.path("logs", "events"), "num_parts": 2,
                       "items": {"path": storage.path("logs", "items")}},
            "split": {"kind": "leave_one_out", "max_train_events": max_events},
            "vocabulary": {"title_words": True, "text_encoder": "minilm"},
            "text": {"folder": smollm2(), "tasks": tasks},
            "plan": {"strategies": []},
            "generate": {"dtype": "bfloat16", "max_num_seqs": 64, "kv_cache_gib": 2.0},
            "train": {"model": model, "arms": ["real"], "item_features": True, "num_steps": 800,
                      "validate_every": 50, "patience": 6, "dropout": 0.3,
                      "seeds": list(range(1, num_seeds + 1))},
        }
    )  # fmt: skip


def lifts(storage: Storage, model: str, config: Config) -> dict[str, Any]:
    """{segment: {users, plain, described: NDCG@10, lift}}."""
    (users, old), (others, new) = (
        values_of(storage, config, f"{model}-{what}") for what in (PLAIN, DESCRIBED)
    )
    assert (users.user_ids, users.targets) == (others.user_ids, others.targets)
    context = Context(storage, config, f"{model}-{PLAIN}")
    vocabulary = load_vocabulary(storage, context.folder("vocabulary"))
    counts = Counter(row["item_id"] for row in rows_of(context, f"split/{TRAIN}"))
    events = np.array([counts[vocabulary.decode(target)] for target in users.targets])
    found = {}
    for name, (low, high) in SEGMENTS.items():
        place = np.flatnonzero((low <= events) & (events <= high))
        found[name] = {
            "users": len(place),
            PLAIN: round(float(old[place].mean()), 4),
            DESCRIBED: round(float(new[place].mean()), 4),
            "lift": lift_of_users(users.user_ids, place, new[place], old[place], config),
        }
    return found


def values_of(storage: Storage, config: Config, run: str) -> tuple[ValidationUsers, np.ndarray]:
    """Validation users, and the (N, seeds) NDCG@10 of each."""
    context = Context(storage, config, run)
    vocabulary = load_vocabulary(storage, context.folder("vocabulary"))
    folds = (context.folder(f"split/{fold}") for fold in (TRAIN, VALIDATION))
    users = load_validation(storage, *folds, vocabulary, config.seed, MAX_USERS)
    return users, ndcg_of_users(storage, context.folder("model/real"), config, users)


def show(found: dict[str, Any]) -> None:
    print("| | training events of the film | users | plain | described | lift |\n|" + "---|" * 6)
    for model, segments in found.items():
        for name, own in segments.items():
            cells = [model, name, f"{own['users']:,}", f"{own[PLAIN]:.4f}",
                     f"{own[DESCRIBED]:.4f}", lift_text(own["lift"])]  # fmt: skip
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    typer.run(main)
