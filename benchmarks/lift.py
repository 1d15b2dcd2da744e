"""Does augmentation help on a data set? Recipes are chosen by validation; test is opened on demand.

    python benchmarks/lift.py ml-100k-thin --output lift-thin
    python benchmarks/lift.py ml-100k-thin --output lift-thin --open-test
    python benchmarks/lift.py path/to/logs --output lift-logs --num-seeds 5

DATASET is `ml-100k`, `ml-100k-thin`, a config (.yaml), or a folder with events.parquet (user_id,
item_id and, if there is one, timestamp: without one the rows are in order) and maybe
items.parquet (item_id, title, tags).

Each recipe says what is generated. The one with the best mean validation NDCG@10 of the arm
`augmented` over all seeds is chosen; `none` (the arm `real`) is among them. Without `--open-test`
nothing behind training runs and no test figure exists. With it the chosen recipe alone is
measured on the test events, with paired bootstrap intervals over users and seeds against `real`
and against `oversampled`; that, when and how often is recorded in OUTPUT/test_openings.json: each
look at the test events that was followed by another choice makes the figures worth less.

The same command again goes on where it was. `llmaug tune` chooses the arm, too, under a budget of
minutes; this is for the figures of a claim.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml

from llmaug import pipeline
from llmaug.commands.datasets import write_ml_100k
from llmaug.commands.tune import by_seed
from llmaug.commands.tune_candidates import NONE
from llmaug.commands.tune_candidates import changed as with_sections
from llmaug.config import Config, load_config, parse_config
from llmaug.core.cluster import disconnect
from llmaug.core.storage import Storage, digest
from llmaug.errors import UserError
from llmaug.evaluate.bootstrap import lift_text
from llmaug.report.stage import covers

RUN, OPENINGS = "lift", "test_openings.json"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BUILT_IN = {"ml-100k": CONFIGS / "demo.yaml", "ml-100k-thin": CONFIGS / "demo_thin.yaml"}


def main(
    dataset: Annotated[str, typer.Argument(help="Name, config or folder.")] = "ml-100k-thin",
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run and figures; default: demo/lift-DATASET.")
    ] = None,
    recipes: Annotated[
        Path | None, typer.Option(help="YAML: {name: {plan: ..., lm: ..., train: ...}}.")
    ] = None,
    arms: Annotated[
        str, typer.Option(help="Arms of the test table, with commas.")
    ] = "real,oversampled,augmented",
    num_seeds: Annotated[int, typer.Option(min=1, help="Seeds of each arm.")] = 3,
    open_test: Annotated[bool, typer.Option("--open-test", help="Measure on test events.")] = False,
) -> None:
    storage = Storage(str(output or Path("demo", f"lift-{Path(dataset).stem}")))
    base = base_config(dataset, storage, num_seeds)
    try:
        found = validate(base, storage, recipes)
        chosen = choose(found)
        test = None
        if open_test:
            test = measure(base, storage, found[chosen]["recipe"], chosen, arms.split(","))
    finally:
        disconnect()
    openings = len(storage.read_json(OPENINGS) or [])
    show(found, chosen, test, openings)
    figures: dict[str, Any] = {
        "benchmark": "lift", "dataset": dataset, "num_seeds": num_seeds, "recipes": found,
        "chosen": chosen, "test_openings": openings, "test": test,
    }  # fmt: skip
    print(json.dumps(figures))


def base_config(dataset: str, storage: Storage, num_seeds: int) -> Config:
    """The config of a data set without a recipe: what is read, how it is split, the models."""
    folder = Path(dataset)
    if dataset in BUILT_IN:
        write_ml_100k(Storage(storage.path("logs")))
        config = load_config(BUILT_IN[dataset])
    elif folder.suffix in (".yaml", ".yml"):
        config = load_config(folder)
    elif (folder / "events.parquet").exists():
        config = parse_config(_of_folder(folder))
    else:
        raise UserError(f"{dataset}: neither {', '.join(BUILT_IN)}, nor a config, nor a folder "
                        "with events.parquet")  # fmt: skip
    return changed(config, {"train": {"seeds": list(range(1, num_seeds + 1))}})


def _of_folder(folder: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    timed = "timestamp" in pq.read_schema(folder / "events.parquet").names
    place = str(folder.resolve())
    ingest: dict[str, Any] = {"path": f"{place}/events.parquet", "k_core": 5, "num_parts": 4}
    if not timed:
        ingest["order"] = "line"
    if (folder / "items.parquet").exists():
        ingest["items"] = {"path": f"{place}/items.parquet"}
    return {
        "ingest": ingest,
        "split": {"kind": "temporal" if timed else "leave_one_out"},
        "lm": {"num_steps": 1000},
        "train": {"num_steps": 1200, "patience": 8},
    }


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """`config` with fields of its sections replaced, as the run of this benchmark."""
    return with_sections(config, changes).model_copy(update={"name": RUN})


def default_recipes(base: Config, counts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """As many synthetic users as real ones, or three times as many, about as long as real
    histories; closer to the likeliest items, or as the model says. And what the config says."""
    users = max(1, counts["train_users"])
    num_events = int(np.clip(2 * counts["train"] / users, 10, min(50, base.lm.context_len - 2)))
    grid = {
        f"x{times}-t{temperature}": {
            "plan": {
                "strategies": [
                    {"kind": "new_users", "num_users": times * users, "num_events": num_events,
                     "temperature": temperature}
                ]
            }
        }
        for times in (1, 3)
        for temperature in (0.8, 1.0)
    }  # fmt: skip
    preset = base.model_dump(mode="json")["plan"]["strategies"]
    return {**({"preset": {"plan": {"strategies": preset}}} if preset else {}), **grid}


def validate(base: Config, storage: Storage, file: Path | None) -> dict[str, dict[str, Any]]:
    """{recipe: {validation_ndcg: mean over seeds, by_seed, synthetic, recipe}}, `none` first.

    One after another in one run folder, so that what they share is done once; what is known of
    a recipe stands in OUTPUT/recipes/ and is not trained again.
    """
    arms = ["real", "augmented"]
    counts = pipeline.run(changed(base, {}), storage, RUN, until="split")["split"]["counts"]
    known = (
        yaml.safe_load(file.read_text(encoding="utf-8")) if file else default_recipes(base, counts)
    )
    found: dict[str, dict[str, Any]] = {}
    for name, recipe in known.items():
        config = changed(base, {**recipe, "train": {**recipe.get("train", {}), "arms": arms}})
        basis = digest([config.model_dump(mode="json"), counts])
        done = storage.read_json("recipes", f"{name}.json")
        if not done or done["basis"] != basis:
            manifests = pipeline.run(config, storage, RUN, until="train")
            done = {
                "basis": basis,
                "recipe": recipe,
                "synthetic": manifests["merged/augmented"]["counts"]["synthetic"],
                **{arm: by_seed(manifests[f"model/{arm}"]["counts"]) for arm in arms},
            }
            storage.write_json(done, "recipes", f"{name}.json")
        found.setdefault(
            NONE, {**_mean(done["real"]), "synthetic": 0, "recipe": {"plan": {"strategies": []}}}
        )
        found[name] = {**_mean(done["augmented"]), "synthetic": done["synthetic"], "recipe": recipe}
    return found


def _mean(seeds: dict[str, float]) -> dict[str, Any]:
    return {"validation_ndcg": float(np.mean(list(seeds.values()))), "by_seed": seeds}


def choose(found: dict[str, dict[str, Any]]) -> str:
    """The recipe with the best validation; `none` unless another one is better."""
    return max(found, key=lambda name: (found[name]["validation_ndcg"], name == NONE))


def measure(
    base: Config, storage: Storage, recipe: dict[str, Any], name: str, arms: list[str]
) -> dict[str, Any]:
    """Figures of the chosen recipe on the test events; the opening is recorded first."""
    wanted = ["real"] if name == NONE else list(dict.fromkeys(["real", *arms]))
    train = {**recipe.get("train", {}), "arms": wanted}
    config = changed(base, {**recipe, "train": train})
    openings = storage.read_json(OPENINGS) or []
    opened = {
        "time_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "recipe": name,
        "arms": wanted, "config": digest(config.model_dump(mode="json")),
    }  # fmt: skip
    storage.write_json([*openings, opened], OPENINGS)
    counts = pipeline.run(config, storage, RUN, until="evaluate")["evaluation"]["counts"]
    metric = f"ndcg@{config.evaluate.cutoffs[0]}"
    return {
        "num_users": counts["num_users"],
        "metric": metric,
        "interval": counts["interval"],
        "arms": {arm: values.get(metric) for arm, values in counts["arms"].items()},
        "lifts": [lift for lift in counts["lifts"] if lift["metric"] == metric],
    }


def show(
    found: dict[str, dict[str, Any]], chosen: str, test: dict[str, Any] | None, openings: int
) -> None:
    print(f"{'recipe':16} {'synthetic':>10} {'validation NDCG@10':>20}   by seed")
    for name, row in found.items():
        seeds = ", ".join(f"{value:.4f}" for value in row["by_seed"].values())
        mark = " <- chosen" if name == chosen else ""
        print(f"{name:16} {row['synthetic']:>10,} {row['validation_ndcg']:>20.4f}   {seeds}{mark}")
    print(f"test events were opened {openings} times in this folder")
    if not test:
        print("not opened now: --open-test measures the chosen recipe")
        return
    print(f"\n{test['num_users']:,} test users, recipe {chosen}")
    print(f"{'arm':16} {test['metric']:>8}  95% interval      over real; over oversampled")
    for arm, value in test["arms"].items():
        over = [
            f"{lift_text(lift)} over {lift['against']}"
            for lift in test["lifts"]
            if lift["arm"] == arm and lift["against"] in ("real", "oversampled")
        ]
        interval = f"{value['low']:.4f} - {value['high']:.4f}"
        print(f"{arm:16} {value['mean']:>8.4f}  {interval}   {'; '.join(over)}")
    print(covers(test["interval"]))


if __name__ == "__main__":
    typer.run(main)
