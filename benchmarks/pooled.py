"""One comparison out of several finished runs: the same logs and recipe, other seeds.

    python benchmarks/pooled.py games-1:night games-2:night games-3:night --arm started

`train.seeds` are seeds of the recommender; what comes before it, the generator above all, has the
one `seed` of its config. Runs with other ones, each evaluated (`llmaug run --until evaluate`), are
put together: a user's metric is the mean over runs, intervals cover users and seeds of both. RUN is
ROOT:RUN_ID. All have to have held out the same events.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from llmaug.arms.arms import ARMS
from llmaug.config.names import check_name, run_folder
from llmaug.core.contents import check_stage
from llmaug.core.storage import Storage, at_root
from llmaug.core.stored import read_config
from llmaug.errors import UserError
from llmaug.evaluate.bootstrap import lift_text
from llmaug.evaluate.comparison import Model, figures, segments, sum_ranks
from llmaug.items.vocabulary import load_vocabulary
from llmaug.report.sentences import covers


def main(
    runs: Annotated[list[str], typer.Argument(help="ROOT:RUN_ID of each.")],
    arm: Annotated[str, typer.Option(help="The one in question.")] = "augmented",
) -> None:
    found = pooled([_opened(run) for run in runs], arm)
    metric = next(iter(next(iter(found["arms"].values()))))
    print(f"{found['num_users']:,} users, {len(runs)} runs; {covers(found['interval'])}")
    for name, values in found["arms"].items():
        each = ", ".join(f"{one[metric]:.4f}" for one in found["by_seed"][name].values())
        value = values[metric]
        print(f"{name:18} {value['mean']:.4f} ({value['low']:.4f} to {value['high']:.4f})  {each}")
    for lift in found["lifts"]:
        if lift["metric"] == metric and arm in (lift["arm"], lift["against"]):
            print(f"{lift['arm']} over {lift['against']}: {lift_text(lift)}")
    for row in found["segments"]:
        if row["arm"] in (arm, "real", "restarted"):
            print(f"  {row['segment']:24} {row['arm']:12} {row['mean']:.4f}  {row['num_users']:,}")
    print(json.dumps({"benchmark": "pooled", "runs": runs, **found}))


def _opened(run: str) -> tuple[Storage, str]:
    root, _, run_id = run.rpartition(":")
    if not root:
        raise UserError(f"{run}: ROOT:RUN_ID is expected")
    storage = at_root(root)
    check_stage(storage, check_name(run_id, "run id"), "evaluation")
    return storage, run_id


def pooled(runs: list[tuple[Storage, str]], arm: str) -> dict[str, Any]:
    """`figures` of the models of all runs, run i as seed i; of the arms that all of them have."""
    configs = [read_config(storage, run_id) for storage, run_id in runs]
    trained = [set(config.train.arms) for config in configs]
    arms = [each.name for each in ARMS if each.name in set.intersection(*trained)]
    storage, first = runs[0]
    vocabulary = load_vocabulary(storage, f"{run_folder(first)}/vocabulary")
    popularity = vocabulary.items["train_events"].to_numpy()
    models: list[Model] = [(name, number) for name in arms for number in range(1, len(runs) + 1)]
    seeds = [config.train.seeds[0] for config in configs]
    sums: dict[str, np.ndarray] = {}
    for part in storage.parts(f"{run_folder(first)}/split/test"):
        ranks = [_ranks(*runs[n - 1], name, seeds[n - 1], part) for name, n in models]
        if any(not _asked(table).equals(_asked(ranks[0])) for table in ranks):
            raise UserError("the runs have not held out the same events")
        added = sum_ranks(ranks, segments(popularity), configs[0].evaluate, configs[0].seed)
        for name, own in added.items():
            sums[name] = sums[name] + own if name in sums else own
    return figures(sums, {}, models, popularity, configs[0].evaluate, configs[0].seed, arm)


def _ranks(storage: Storage, run_id: str, arm: str, seed: int, part: str) -> pa.Table:
    folder = f"{run_folder(run_id)}/evaluation/{arm}-seed-{seed}"
    table = storage.read_part(folder, part)
    return table.sort_by([(name, "ascending") for name in _WHO])


_WHO = ("user_id", "item_id")


def _asked(table: pa.Table) -> pa.Table:
    return table.select(list(_WHO))


if __name__ == "__main__":
    typer.run(main)
