"""Does augmentation help on a data set? Recipes are chosen by validation; test is opened on demand.

    python benchmarks/lift.py ml-100k-thin --output lift-thin
    python benchmarks/lift.py ml-100k-thin --output lift-thin --open-test
    python benchmarks/lift.py path/to/logs --output lift-logs --num-seeds 5

DATASET is `ml-100k`, `ml-100k-thin`, a config (.yaml), or a folder with events.parquet (user_id,
item_id and, if there is one, timestamp: without one the rows are in order) and maybe
items.parquet (item_id, title, tags).

A recipe is an arm and what is generated for it, as for `llmaug tune`. The one with the best mean
validation NDCG@10 over all seeds is chosen; `none` (the arm `real`) is among them. Beside each
stands its lift over `none` on up to 20,000 validation users, with its interval. Without
`--open-test` nothing behind training runs and no test figure exists. With it the chosen recipe
alone is measured on the test events, with paired bootstrap intervals over users and seeds against
`real` and against the control of its arm; that, when and how often is recorded in
OUTPUT/test_openings.json: each look at the test events that was followed by another choice makes
the figures worth less.

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

from llmaug import pipeline
from llmaug.arms.arms import AUGMENTED, CONTROLS, REAL
from llmaug.commands.datasets import write_ml_100k
from llmaug.commands.tune import by_seed
from llmaug.commands.tune_candidates import NONE, REAL_ALONE, Candidate, from_file
from llmaug.commands.tune_candidates import changed as with_sections
from llmaug.commands.validation_lift import validation_lift
from llmaug.config import Config, load_config, parse_config
from llmaug.core.cluster import disconnect
from llmaug.core.storage import Storage, digest
from llmaug.errors import UserError
from llmaug.evaluate.bootstrap import lift_text
from llmaug.report.sentences import covers

RUN, OPENINGS = "lift", "test_openings.json"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BUILT_IN = {"ml-100k": CONFIGS / "demo.yaml", "ml-100k-thin": CONFIGS / "demo_thin.yaml"}


def main(
    dataset: Annotated[str, typer.Argument(help="Name, config or folder.")] = "ml-100k-thin",
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run and figures; default: demo/lift-DATASET.")
    ] = None,
    recipes: Annotated[
        Path | None, typer.Option(help="YAML: {name: {arm: ..., plan: ..., lm: ..., train: ...}}.")
    ] = None,
    arms: Annotated[
        str, typer.Option(help="More arms for the test table, with commas: `oversampled,fusion`.")
    ] = "",
    num_seeds: Annotated[int, typer.Option(min=1, help="Seeds of each arm.")] = 3,
    open_test: Annotated[bool, typer.Option("--open-test", help="Measure on test events.")] = False,
) -> None:
    storage = Storage(str(output or Path("demo", f"lift-{Path(dataset).stem}")))
    base = base_config(dataset, storage, num_seeds)
    try:
        counts = pipeline.run(base, storage, RUN, until="split")["split"]["counts"]
        known = from_file(recipes, base) if recipes else default_recipes(base, counts)
        found = validate(base, storage, known, counts)
        chosen = choose(found)
        test = None
        if open_test:
            candidate = next((one for one in known if one.name == chosen), REAL_ALONE)
            test = measure(base, storage, candidate, [arm for arm in arms.split(",") if arm])
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


def default_recipes(base: Config, counts: dict[str, Any]) -> list[Candidate]:
    """As many synthetic users as real ones, or three times as many, about as long as real
    histories; closer to the likeliest items, or as the model says. And what the config says."""
    users = max(1, counts["train_users"])
    num_events = int(np.clip(2 * counts["train"] / users, 10, min(50, base.lm.context_len - 2)))
    preset = [Candidate("preset", AUGMENTED)] if base.plan.strategies else []
    grid = [
        Candidate(f"x{times}-t{temperature}", AUGMENTED, {"plan": {"strategies": [
            {"kind": "new_users", "num_users": times * users, "num_events": num_events,
             "temperature": temperature}
        ]}})
        for times in (1, 3)
        for temperature in (0.8, 1.0)
    ]  # fmt: skip
    return [*preset, *grid]


def validate(
    base: Config, storage: Storage, known: list[Candidate], counts: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """{recipe: {arm, validation_ndcg: mean over seeds, by_seed, best_steps, lift over none,
    synthetic}}, `none` first.

    One after another in one run folder, so that what they share is done once; what is known of
    a recipe stands in OUTPUT/recipes/ and is not trained again.
    """
    found: dict[str, dict[str, Any]] = {}
    for candidate in known:
        name, arm = candidate.name, candidate.arm
        config = candidate.config(base)
        basis = digest([config.model_dump(mode="json"), counts])
        done = storage.read_json("recipes", f"{name}.json")
        if not done or done["basis"] != basis:
            manifests = pipeline.run(config, storage, RUN, until="train")
            real, own = (manifests[f"model/{each}"]["counts"] for each in (REAL, arm))
            merged = manifests["merged/augmented"]["counts"] if candidate.generates else {}
            done = {
                "basis": basis,
                NONE: {"arm": REAL, **_trained(real), "synthetic": 0, "lift": None},
                name: {
                    "arm": arm,
                    **_trained(own),
                    "synthetic": merged.get("synthetic", 0),
                    "lift": validation_lift(storage, RUN, config, arm, REAL),
                },
            }
            storage.write_json(done, "recipes", f"{name}.json")
        found.setdefault(NONE, done[NONE])
        found[name] = done[name]
    return found


def _trained(counts: dict[str, Any]) -> dict[str, Any]:
    seeds = by_seed(counts)
    return {
        "validation_ndcg": float(np.mean(list(seeds.values()))),
        "by_seed": seeds,
        "best_steps": [facts["best_step"] for facts in counts.values()],
    }


def choose(found: dict[str, dict[str, Any]]) -> str:
    """The recipe with the best validation; `none` unless another one is better."""
    return max(found, key=lambda name: (found[name]["validation_ndcg"], name == NONE))


def measure(
    base: Config, storage: Storage, candidate: Candidate, more: list[str]
) -> dict[str, Any]:
    """Figures of the chosen recipe on the test events, beside `real`, its control and `more` arms;
    the opening is recorded first."""
    others = [] if candidate == REAL_ALONE else [CONTROLS[candidate.arm], *more]
    wanted = list(dict.fromkeys([REAL, *others, candidate.arm]))
    sections = candidate.sections(base, wanted)
    config = changed(base, sections)
    openings = storage.read_json(OPENINGS) or []
    opened = {
        "time_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "recipe": candidate.name,
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
    print(f"{'recipe':16} {'arm':18} {'synthetic':>10} {'NDCG@10':>8}   by seed (best step)")
    for name, row in found.items():
        figures = f"{row['synthetic']:>10,} {row['validation_ndcg']:>8.4f}"
        each = zip(row["by_seed"].values(), row["best_steps"], strict=True)
        seeds = ", ".join(f"{value:.4f} ({step})" for value, step in each)
        lift = f"; {lift_text(row['lift'])} over none" if row["lift"] else ""
        mark = " <- chosen" if name == chosen else ""
        print(f"{name:16} {row['arm']:18} {figures}   {seeds}{lift}{mark}")
    print(f"test events were opened {openings} times in this folder")
    if not test:
        print("not opened now: --open-test measures the chosen recipe")
        return
    print(f"\n{test['num_users']:,} test users, recipe {chosen}")
    print(f"{'arm':18} {test['metric']:>8}  95% interval")
    for arm, value in test["arms"].items():
        over = [
            f"{lift_text(lift)} over {lift['against']}"
            for lift in test["lifts"]
            if lift["arm"] == arm
        ]
        interval = f"{value['low']:.4f} - {value['high']:.4f}"
        print(f"{arm:18} {value['mean']:>8.4f}  {interval}   {'; '.join(over)}")
    print(covers(test["interval"]))


if __name__ == "__main__":
    typer.run(main)
