"""Which strategies help? Each one is left out in turn, and validation says what was lost.

    python benchmarks/influence.py configs/demo.yaml --root demo --num-seeds 3

The arm `augmented` is trained with all strategies of the config, and without each of them; `real`
is there for comparison. One after another in one run folder, so that what they share is done
once, and answers come from the outcomes cache. Beside each strategy stands the lift of all of them
over those without it, on validation events, paired by user and seed, with its interval: above zero
it helped, below zero it hurt, else this cannot tell. No test event is looked at.

With a strategy less there are fewer synthetic events, too: what is measured is what it adds to the
others as they are. Two that say the same are each worth nothing here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llmaug import pipeline
from llmaug.arms.arms import AUGMENTED, REAL
from llmaug.commands.tune_candidates import changed
from llmaug.commands.validation_lift import validation_lift
from llmaug.config import Config, load_config
from llmaug.config.names import run_folder
from llmaug.core.cluster import disconnect
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.evaluate.bootstrap import lift_text

RUN, ALL = "influence", "all-strategies"


def main(
    config: Annotated[Path, typer.Argument(help="With two strategies or more.")],
    root: Annotated[str, typer.Option(help="Folder of runs; the logs are where the config says.")],
    num_seeds: Annotated[int, typer.Option(min=1, help="Seeds of the recommender.")] = 3,
) -> None:
    storage = Storage(root)
    seeds = {"train": {"seeds": list(range(1, num_seeds + 1)), "arms": [REAL, AUGMENTED]}}
    try:
        found = influence(changed(load_config(config), seeds), storage)
    finally:
        disconnect()
    show(found)
    print(json.dumps({"benchmark": "influence", "num_seeds": num_seeds, **found}))


def influence(config: Config, storage: Storage) -> dict[str, Any]:
    """{"all": lift of all strategies over `real`, "strategies": [{strategy, synthetic: its events,
    lift: of all over all but this one}]}. Raises UserError where there is one strategy alone."""
    strategies = config.plan.strategies
    if len(strategies) < 2:
        raise UserError("plan.strategies: with fewer than two there is nothing to leave out")
    events = _train(config, storage)
    whole = f"{run_folder(RUN)}/model/{ALL}"
    storage.delete(whole)
    for seed in config.train.seeds:
        name = f"seed-{seed}"
        there = storage.names(run_folder(RUN), "model", AUGMENTED, name)
        for file in (file for file in there if file[0] not in "_."):
            data = storage.read(run_folder(RUN), "model", AUGMENTED, name, file)
            storage.write(data, whole, name, file)
    found: dict[str, Any] = {
        "all": {"synthetic": events, "lift": validation_lift(storage, RUN, config, ALL, REAL)},
        "strategies": [],
    }
    for number, strategy in enumerate(strategies):
        kept = [
            own.model_dump(mode="json") for place, own in enumerate(strategies) if place != number
        ]
        without = changed(config, {"plan": {"strategies": kept}})
        own = {
            "strategy": f"{number}: {strategy.kind}",
            "synthetic": events - _train(without, storage),
            "lift": validation_lift(storage, RUN, config, ALL, AUGMENTED),
        }
        found["strategies"].append(own)
    return found


def _train(config: Config, storage: Storage) -> int:
    """Up to the trained arms; the number of synthetic events."""
    manifests = pipeline.run(config, storage, RUN, until="train", publishing=False)
    return int(manifests[f"merged/{AUGMENTED}"]["counts"]["synthetic"])


def show(found: dict[str, Any]) -> None:
    print(f"{'strategy':24} {'synthetic':>10}   lift of NDCG@10 by it")
    for own in found["strategies"]:
        print(f"{own['strategy']:24} {own['synthetic']:>10,}   {lift_text(own['lift'])}")
    own = found["all"]
    print(f"{'all, over real':24} {own['synthetic']:>10,}   {lift_text(own['lift'])}")


if __name__ == "__main__":
    typer.run(main)
