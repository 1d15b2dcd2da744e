"""How many users a core ranks against the whole catalogue, with their best 20 items.

An untrained SASRec of 64 numbers, histories of 30 events, one held-out event each: what evaluation
does for every user and model, and recommendation for every user. Seconds of the CPU, one thread.

    python benchmarks/ranking.py --items 1400,20000,100000
"""

from __future__ import annotations

import json
import time
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
import typer

from llmaug.config import SasrecConfig
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary, of_items
from llmaug.recommenders import DataFacts
from llmaug.recommenders.sasrec import SASRec
from llmaug.schema import ITEM
from llmaug.training.ranking import rank_targets

HISTORY_LEN, NUM_BEST = 30, 20


def main(
    items: Annotated[str, typer.Option(help="Sizes of the catalogue.")] = "1400,20000,100000",
    num_users: Annotated[int, typer.Option(help="Users that are ranked for.")] = 512,
    rounds: Annotated[int, typer.Option(help="The best of so many counts.")] = 2,
) -> None:
    torch.set_num_threads(1)
    found = {}
    for number in map(int, items.split(",")):
        model = SASRec(SasrecConfig(), DataFacts(catalogue(number))).eval()
        found[number] = max(users_per_s(model, number, num_users) for _ in range(rounds))
        print(f"{number:>9,} items: {found[number]:>8,.0f} users/s", flush=True)
    print(json.dumps({"benchmark": "ranking", "num_users": num_users, "users_per_s": found}))


def catalogue(number: int) -> Vocabulary:
    known = {
        "item_id": pa.array([f"{item:08d}" for item in range(number)]),
        "origin": pa.array(["real"] * number),
    }
    columns = [known.get(field.name, pa.nulls(number, field.type)) for field in ITEM]
    table = pa.table([column.cast(f.type) for column, f in zip(columns, ITEM, strict=True)], ITEM)
    return of_items(table.append_column("train_events", pa.array(np.ones(number, np.int64))))


def users_per_s(model: SASRec, num_items: int, num_users: int) -> float:
    rng = np.random.default_rng(0)
    histories = rng.integers(num_items, size=(num_users, HISTORY_LEN)) + NUM_SPECIAL
    targets = (rng.integers(num_items, size=(num_users, 1)) + NUM_SPECIAL).tolist()
    begin = time.process_time()
    rank_targets(
        model.score, [str(user) for user in range(num_users)], histories.tolist(), targets,
        num_best=NUM_BEST,
    )  # fmt: skip
    return num_users / (time.process_time() - begin)


if __name__ == "__main__":
    typer.run(main)
