"""Does a chat model know what cold items and cold users want? MovieLens, with some users hidden.

The events of `--num` users are taken out of the logs, and the users table keeps them. SmolLM2 is
asked twice, with the candidates in both orders, about `--num` pairs of items with few events (task
`cold_items`) and about the hidden users (`cold_users`). Three figures: how many choices are the
same in both orders; how often, of the item that a user really took next (the validation event)
and one that as many others took, the first is preferred, where 50% is chance; and how many of
the items chosen for the hidden users these really took, beside those that they were offered.
The arm `warmed` is trained with what was kept, beside `real`.

    python benchmarks/cold.py --num 150
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from functools import partial
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
from answers import interval, rows_of
from inputs import smollm2

from llmaug import pipeline
from llmaug.commands.datasets import write_ml_100k
from llmaug.config import ColdItemsConfig, Config, parse_config
from llmaug.core.stage import Context, Stage, run_stage
from llmaug.core.storage import Storage
from llmaug.ingest.cleaning import id_hash
from llmaug.ingest.split import TRAIN, VALIDATION
from llmaug.schema import CANDIDATES, validate
from llmaug.text.stages import task_stages

RUN, HELD_OUT = "cold", "held_out"


def main(
    num: Annotated[int, typer.Option(help="Questions of each kind, and hidden users.")] = 150,
    root: Annotated[str, typer.Option(help="Where it goes on; without: a new folder.")] = "",
) -> None:
    with tempfile.TemporaryDirectory() as own:
        figures = measured(root or own, num)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    print(json.dumps(figures))


def measured(root: str, num: int) -> dict[str, Any]:
    hidden = write_logs(root, num)
    storage, config = Storage(root), _config(root, num, [])
    done = pipeline.run(config, storage, RUN, until="evaluate")
    own = ColdItemsConfig(name=HELD_OUT)
    context = Context(storage, _config(root, num, [own.model_dump()]), RUN)
    pairs = Stage(
        f"text/{HELD_OUT}/candidates", partial(write_pairs, num), inputs=("split", "vocabulary")
    )
    for stage in (pairs, *task_stages(context.config, own)):
        done[stage.name] = run_stage(stage, context)
    return {
        "benchmark": "cold",
        **{task: of_task(context, task) for task in ("cold_items", "cold_users", HELD_OUT)},
        "preferred_the_one_taken": preferred(context),
        "cold_users_hits": hits(context, hidden),
        "arms": {arm: own["ndcg@10"] for arm, own in done["evaluation"]["counts"]["arms"].items()},
        "events": {name: done["merged/warmed"]["counts"][name] for name in ("real", "synthetic")},
    }


def _config(root: str, num: int, more: list[dict[str, Any]]) -> Config:
    tasks = [{"kind": "cold_items", "max_rows": num}, {"kind": "cold_users", "max_users": num}]
    return parse_config(
        {
            "ingest": {
                "path": f"{root}/thin/events.parquet", "items": {"path": f"{root}/logs/items"},
                "users": {"path": f"{root}/logs/users"},
            },
            "split": {"kind": "leave_one_out"},
            "text": {"folder": smollm2(), "tasks": [*tasks, *more]},
            "plan": {"strategies": []},
            "generate": {"dtype": "bfloat16", "max_num_seqs": 64, "kv_cache_gib": 2.0},
            "train": {"model": "ease", "arms": ["real", "warmed"]},
            "gate": {"arm": "warmed"},
        }
    )  # fmt: skip


def write_logs(root: str, num: int) -> dict[str, set[str]]:
    """One table of events without those of `num` users; {hidden user: items}."""
    write_ml_100k(f"{root}/logs")
    events = pq.read_table(f"{root}/logs/events", partitioning=None)
    users = events["user_id"].cast(pa.string())
    names = pc.unique(users)
    hide = names.take(pa.array(np.argsort(id_hash(names))[:num]))
    is_hidden = pc.is_in(users, value_set=hide)
    Storage(root).write_part(events.filter(pc.invert(is_hidden)), {}, "thin", "events")
    hidden: dict[str, set[str]] = defaultdict(set)
    for row in events.filter(is_hidden).select(["user_id", "item_id"]).to_pylist():
        hidden[str(row["user_id"])].add(str(row["item_id"]))
    return hidden


def write_pairs(num: int, context: Context) -> dict[str, Any]:
    """For `num` users: what they took in validation, and an item that they never took and that is
    as popular in training."""
    storage, split = context.storage, context.folder("split")
    parts = storage.parts(f"{split}/{TRAIN}")
    folds = {
        part: [storage.read_part(f"{split}/{fold}", part) for fold in (TRAIN, VALIDATION)]
        for part in parts
    }
    count: Counter[str] = Counter()
    for train, _ in folds.values():
        count.update(train["item_id"].to_pylist())
    rng, left = np.random.default_rng(7), num
    for part, (train, validation) in folds.items():
        had: dict[str, list[str]] = defaultdict(list)
        for row in train.select(["user_id", "item_id"]).to_pylist():
            had[row["user_id"]].append(row["item_id"])
        rows = []
        for row in validation.to_pylist()[:left]:
            user, taken = row["user_id"], row["item_id"]
            near = sorted(
                (abs(count[other] - count[taken]), rng.random(), other)
                for other in count
                if other != taken and other not in had[user]
            )
            rows.append(
                {
                    "user_id": user, "item_id": taken, "history": had[user][-10:],
                    "candidates": [taken, near[0][2]], "held_out": [taken],
                    "timestamp": row["timestamp"],
                }
            )  # fmt: skip
        left -= len(rows)
        table = validate(pa.Table.from_pylist(rows, schema=CANDIDATES), CANDIDATES, part)
        storage.write_part(table, {}, context.folder(f"text/{HELD_OUT}/candidates"), part)
    return {}


def of_task(context: Context, task: str) -> dict[str, Any]:
    """Of both questions: what was answered, and how many name what stands first."""
    found: dict[str, Any] = {}
    for name, track in (("first", task), ("turned_round", f"{task}/judge")):
        verdicts = list(rows_of(context, f"text/{track}/filtered"))
        answers = [json.loads(row["answer"])["best"] for row in verdicts if row["answer"]]
        found[name] = {
            "asked": len(verdicts),
            "by_the_schema": len(answers),
            "kept": sum(row["status"] == "accepted" for row in verdicts),
            "first_numbers": Counter(answer[0] for answer in answers).most_common(3),
            "in_their_order": sum(answer == list(range(1, len(answer) + 1)) for answer in answers),
        }
    return found


def preferred(context: Context) -> dict[str, Any]:
    """Of the answers to both orders: the share that names the item that was taken, and of the
    pairs with one choice in both; with 95% intervals over users."""
    first = {row["user_id"]: _best(row) == 1 for row in rows_of(context, _filtered(""))
             if row["answer"]}  # fmt: skip
    again = {row["user_id"]: _best(row) == 2 for row in rows_of(context, _filtered("/judge"))
             if row["answer"]}  # fmt: skip
    both = np.array([[first[user], again[user]] for user in first.keys() & again.keys()], float)
    same = both[both[:, 0] == both[:, 1], 0]
    return {
        "all_answers": interval(both.mean(1)),
        "same_in_both_orders": len(same),
        "of_these": interval(same),
    }


def hits(context: Context, hidden: dict[str, set[str]]) -> dict[str, Any]:
    """Of the hidden users who were asked about: the share of items that they really took, of those
    that were offered, named in the first answer, and kept."""
    offered, named, kept = [], [], []
    lists = {row["user_id"]: row for row in rows_of(context, "text/cold_users/candidates")}
    for row in rows_of(context, "text/cold_users/filtered"):
        own, took = lists[row["user_id"]], hidden[row["user_id"]]
        offered.append(np.mean([item in took for item in own["candidates"]]))
        if row["answer"]:
            best = {own["candidates"][n - 1] for n in json.loads(row["answer"])["best"]}
            named.append(np.mean([item in took for item in best]))
    units = {row["unit_id"]: row["user_id"] for row in rows_of(context, "text/cold_users/filtered")}
    for row in rows_of(context, "text/cold_users/rows"):
        took = hidden[units[row["unit_id"]]]
        kept.append(np.mean([item in took for item in row["item_ids"]]))
    return {
        "users": len(offered),
        "offered": interval(np.array(offered)),
        "named": interval(np.array(named)),
        "kept_users": len(kept),
        "kept": interval(np.array(kept)),
    }


def _filtered(which: str) -> str:
    return f"text/{HELD_OUT}{which}/filtered"


def _best(row: dict[str, Any]) -> int:
    return int(json.loads(row["answer"])["best"][0])


if __name__ == "__main__":
    typer.run(main)
