"""Our generator beside those of tables: MOSTLY AI's engine, SDV's PARSynthesizer, REaLTabFormer.

    python benchmarks/peers_synthetic.py ml-100k --output peers-full
    python benchmarks/peers_synthetic.py ml-100k-thin --output peers-thin --times 6
    python benchmarks/peers_synthetic.py logs/events.parquet --output peers-logs --max-users 3000

The same training events and as many new users from each (`synthesisers.py`, a process in an
environment of its own, made once below `--environments`). What comes back is merged as our own
synthetic events are, so that the stages `fidelity` and `privacy` measure it and the same
recommender is trained on real and synthetic events. NDCG@10 is that of VALIDATION events (leave one
out), against `real`; no test event is looked at. A fifth of the users is left out of all training:
from them members are told (`llmaug/evaluate/membership.py`), or not. Ours is what the product
writes, with its filters, which refuse copies; of peers everything is taken but items that do not
exist, and those that a user had before, as our filter `repeated` does.

A peer that fails or is not done by `--budget-s` is a row that says why. What is done is kept in
OUTPUT: the same command goes on, `--peers` does some of them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import typer
from environments import CACHE, ONE_THREAD, environment, without_ours

from llmaug import pipeline
from llmaug.arms.arms import ARMS, AUGMENTED, REAL
from llmaug.commands.datasets import write_ml_100k
from llmaug.commands.tune_candidates import changed
from llmaug.commands.validation_lift import validation_lift
from llmaug.config import Config, load_config, parse_config
from llmaug.config.names import run_folder
from llmaug.core.cluster import disconnect
from llmaug.core.stage import MANIFEST, Context, run_stage
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.evaluate import fidelity, privacy
from llmaug.evaluate.bootstrap import lift_text
from llmaug.evaluate.figures import measured_value
from llmaug.evaluate.membership import attack, likeness_to_nearest
from llmaug.ingest.cleaning import id_hash
from llmaug.ingest.split import TRAIN
from llmaug.items.arrays import group_bounds
from llmaug.items.vocabulary import load_statistics, load_vocabulary
from llmaug.recommenders import train
from llmaug.schema import EVENT, SYNTHETIC, validate

OURS = "llmaug"
NEEDS = {
    # These two are not used, and where their builds do not fit torch's, nothing can be imported.
    "mostlyai": ["install mostlyai-engine==2.7.3", "uninstall -y torchvision torchaudio"],
    "sdv": ["install sdv==2.0.0 pyarrow"],
    "realtabformer": ["install realtabformer==0.2.4 transformers<5"],
}
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BUILT_IN = {"ml-100k": "demo.yaml", "ml-100k-thin": "demo_thin.yaml"}
FIGURES = ("popularity_js", "popularity_spearman", "length_ks", "gap_ks", "hour_js",
           "transition_js", "tail_coverage", "classifier_auc")  # fmt: skip
_OF_TIMES = ("gap_ks", "hour_js")
_HELD_OUT = 5  # one user in so many


def main(
    dataset: Annotated[str, typer.Argument(help="Name, or events.parquet.")] = "ml-100k",
    output: Annotated[Path, typer.Option(help="Folder of runs and figures.")] = Path("demo/peers"),
    peers: Annotated[str, typer.Option(help="Which, with commas.")] = ",".join([OURS, *NEEDS]),
    times: Annotated[int, typer.Option(min=1, help="New users for each real one.")] = 1,
    max_events: Annotated[int, typer.Option(min=2, help="Last events of each user.")] = 50,
    max_users: Annotated[int | None, typer.Option(min=50, help="Of the logs.")] = None,
    num_seeds: Annotated[int, typer.Option(min=1, help="Of the recommender.")] = 2,
    budget_s: Annotated[float, typer.Option(help="Of each peer, fitting and sampling.")] = 600,
    environments: Annotated[Path, typer.Option(help="Folder of the peers' own.")] = CACHE,
) -> None:
    names = [name.strip() for name in peers.split(",") if name.strip()]
    if unknown := set(names) - {OURS, *NEEDS}:
        raise typer.BadParameter(f"no peer {sorted(unknown)}; there are {OURS}, {sorted(NEEDS)}")
    storage = Storage(str(output))
    config = prepare(storage, dataset, times, max_events, max_users, num_seeds)
    try:
        pipeline.run(config, storage, OURS, until="train")
        context = Context(storage, config, OURS)
        write_task(context)
        for name in names:
            if not storage.read_json("found", f"{name}.json"):
                own = measure(context, name, environments, budget_s)
                storage.write_json(own, "found", f"{name}.json")
    finally:
        disconnect()
    found = {name: storage.read_json("found", f"{name}.json") for name in [OURS, *NEEDS]}
    show({name: own for name, own in found.items() if own}, config, context)


# -- the logs -------------------------------------------------------------------------------


def prepare(
    storage: Storage, dataset: str, times: int, max_events: int, max_users: int | None, seeds: int
) -> Config:
    """Write the logs without a fifth of the users, whose events stand in others.parquet; the config
    of our run on them."""
    if dataset in BUILT_IN:
        write_ml_100k(Storage(storage.path("all")))
        config = load_config(CONFIGS / BUILT_IN[dataset])
        source = storage.path("all", "events")
        for side in ("items", "users"):
            shutil.copytree(storage.path("all", side), storage.path("logs", side),
                            dirs_exist_ok=True)  # fmt: skip
    elif Path(dataset).is_file():
        config = parse_config({
            "ingest": {"path": "{root}/logs/events", "k_core": 5, "num_parts": 2},
            "lm": {"num_steps": 800, "context_len": 64, "dropout": 0.2},
            "plan": {"strategies": [{"kind": "new_users", "num_events": 30, "lengths": "training",
                                     "temperature": 1.0}]},
            "train": {"num_steps": 1200, "validate_every": 50, "patience": 8, "dropout": 0.3},
        })  # fmt: skip
        source = dataset
    else:
        raise UserError(f"{dataset}: neither {', '.join(BUILT_IN)} nor a parquet file")
    events = pyarrow.dataset.dataset(source, partitioning=None).to_table()
    keys = id_hash(events["user_id"].combine_chunks().cast(pa.string()))
    if max_users:
        kept = np.sort(np.unique(keys))[:max_users][-1]
        events, keys = events.filter(pa.array(keys <= kept)), keys[keys <= kept]
    others = keys // np.uint64(1 << 20) % np.uint64(_HELD_OUT) == 0
    Path(storage.path("logs", "events")).mkdir(parents=True, exist_ok=True)
    pq.write_table(events.filter(pa.array(~others)), storage.path("logs", "events", "all.parquet"))
    pq.write_table(events.filter(pa.array(others)), storage.path("others.parquet"))
    num_users = times * len(np.unique(keys[~others]))
    strategy = config.plan.strategies[0].model_dump(mode="json")
    last = min(max_events, config.split.max_train_events or max_events)
    return changed(config, {
        "split": {"kind": "leave_one_out", "max_train_events": last, "num_test_events": 1},
        "plan": {"strategies": [{**strategy, "num_users": num_users}]},
        "train": {"arms": [REAL, AUGMENTED], "seeds": list(range(1, seeds + 1))},
    })  # fmt: skip


def write_task(context: Context) -> None:
    """What peers are given: training events as they were merged, and who their users are."""
    storage, split = context.storage, f"{context.folder('split')}/{TRAIN}"
    columns = ["user_id", "item_id", "timestamp"]
    parts = [storage.read_part(split, part, columns=columns) for part in storage.parts(split)]
    pq.write_table(pa.concat_tables(parts), storage.path("train.parquet"))
    users = Path(storage.path("logs", "users", "users.parquet"))
    if users.exists():
        names = ["user_id", *getattr(context.config.lm, "user_attributes", [])]
        pq.write_table(pq.read_table(users, columns=names), storage.path("users.parquet"))


# -- one generator --------------------------------------------------------------------------


def measure(ours: Context, name: str, environments: Path, budget_s: float) -> dict[str, Any]:
    """Its row; {"error": ...} where it has none."""
    print(f"measuring {name}", flush=True)
    if name == OURS:
        return {**_own_speed(ours), **_judged(ours)}
    try:
        figures = generate(ours, name, environments, budget_s)
    except UserError as error:
        return {"error": error.message}
    context = replace(ours, run_id=name)
    shutil.rmtree(context.storage.path(run_folder(name)), ignore_errors=True)
    for stage in ("split", "vocabulary", "real_runs", f"merged/{REAL}", f"model/{REAL}"):
        shutil.copytree(ours.storage.path(ours.folder(stage)),
                        ours.storage.path(context.folder(stage)))  # fmt: skip
    merge(context, f"{name}@{figures['version']}")
    [arm] = [arm for arm in ARMS if arm.name == AUGMENTED]
    for stage in (privacy.STAGE, fidelity.STAGE, train.stage(arm, context.config)):
        run_stage(stage, context)
    judged = _judged(context)
    if not figures["times"]:  # the events have some that we made up
        judged["fidelity"] |= dict.fromkeys(_OF_TIMES)
    return {**figures, **judged}


def generate(ours: Context, name: str, environments: Path, budget_s: float) -> dict[str, Any]:
    """Fit and sample in a process of the peer's own. Raises UserError saying why it has nothing."""
    storage = ours.storage
    users = storage.path("users.parquet")
    task = {
        "events": storage.path("train.parquet"), "users": users if Path(users).exists() else None,
        "num_users": ours.config.plan.strategies[0].num_users, "seed": ours.config.seed,
        "budget_s": budget_s, "output": storage.path(f"{name}.parquet"),
    }  # fmt: skip
    path = Path(storage.path(f"{name}.json"))
    path.write_text(json.dumps(task))
    python = environment(environments, name, NEEDS[name])
    script = str(Path(__file__).with_name("synthesisers.py").resolve())
    try:
        done = subprocess.run(
            [python, script, name, str(path.resolve())], text=True, capture_output=True,
            env={**without_ours(), **ONE_THREAD}, timeout=1.5 * budget_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UserError(f"not one user after {1.5 * budget_s:,.0f} s") from error
    if done.returncode:
        raise UserError(f"failed: {done.stderr.strip()[-1500:]}")
    has_times = "timestamp" in pq.read_schema(task["output"]).names
    return {**json.loads(done.stdout.splitlines()[-1]), "times": has_times}


def merge(context: Context, generator: str) -> None:
    """The stage `merged/augmented` of a peer: the real shards, and its users' events as ours."""
    storage, name = context.storage, context.run_id
    real, merged = context.folder(f"merged/{REAL}"), context.folder(f"merged/{AUGMENTED}")
    for part in storage.parts(real):
        storage.write_part(storage.read_part(real, part), {}, merged, part)
    events = foreign_events(context, pq.read_table(storage.path(f"{name}.parquet")), generator)
    storage.write_part(events, {}, merged, "new-users")
    synthetic = events.num_rows
    manifest = {"fingerprint": generator, "counts": {"synthetic": synthetic}, "parts": []}
    storage.write_json(manifest, merged, MANIFEST)


def foreign_events(context: Context, found: pa.Table, generator: str) -> pa.Table:
    """(N,) rows of user_id, item_id and maybe timestamp, user by user, as synthetic events of new
    users; without items that do not exist or that a user had before."""
    vocabulary = load_vocabulary(context.storage, context.folder("vocabulary"))
    action = load_statistics(context.storage, context.folder("vocabulary")).actions[0]
    known = set(vocabulary.items["item_id"].to_pylist())
    items = found["item_id"].cast(pa.string()).to_pylist()
    names = found["user_id"].cast(pa.string()).to_pylist()
    if "timestamp" in found.column_names:
        when = found["timestamp"].cast(pa.timestamp("us")).to_pylist()
    else:
        when = [None] * len(items)
    rows: list[dict[str, Any]] = []
    seen: dict[str, set[str]] = {}
    for name, item, at in zip(names, items, when, strict=True):
        own = seen.setdefault(name, set())
        if item not in known or item in own:
            continue
        unit_id = f"{context.run_id}-{name}"
        rows.append({
            "user_id": f"synthetic:{unit_id}", "item_id": item, "action": action,
            "timestamp": at or len(own) * 1_000_000,
            "weight": context.config.merge.synthetic_weight, "origin": SYNTHETIC,
            "run_id": context.run_id, "unit_id": unit_id, "strategy": "new_users",
            "generator": generator, "position": len(own),
        })  # fmt: skip
        own.add(item)
    order = sorted(range(len(rows)), key=lambda n: (rows[n]["unit_id"], rows[n]["position"]))
    return validate(pa.Table.from_pylist([rows[n] for n in order], schema=EVENT), EVENT, generator)


# -- its figures ----------------------------------------------------------------------------


def _own_speed(context: Context) -> dict[str, Any]:
    """With the start of Ray and of the engine, and with the filters."""
    stages = {name: context.manifest(name) for name in
              (f"lm/{context.config.lm.name}", "outcomes", "filtered")}  # fmt: skip
    fitted, *drawn = [manifest["seconds"] for manifest in stages.values()]
    return {"version": "this", "train_s": fitted, "generate_s": round(sum(drawn), 1), "note": ""}


def _judged(context: Context) -> dict[str, Any]:
    audit = context.manifest("privacy")["counts"]
    likeness = context.manifest("fidelity")["counts"]["found"]
    events = _synthetic(context)
    trained = {
        arm: context.manifest(f"model/{arm}")["counts"].values() for arm in (REAL, AUGMENTED)
    }
    return {
        "users": audit["synthetic"],
        "events": len(events),
        "fidelity": {name: measured_value(likeness, name) for name in FIGURES},
        "halves": {name: (likeness.get(name) or {}).get("halves") for name in FIGURES
                   if isinstance(likeness.get(name), dict)},
        "lengths": len(events) / max(1, audit["synthetic"]),
        "identifying_share": audit["identifying_share"],
        "membership": told(context, events),
        "validation_ndcg": {
            arm: [facts["validation_ndcg"] for facts in own] for arm, own in trained.items()
        },
        "lift": validation_lift(context.storage, context.run_id, context.config, AUGMENTED, REAL),
    }  # fmt: skip


def _synthetic(context: Context) -> pa.Table:
    storage, merged = context.storage, context.folder(f"merged/{AUGMENTED}")
    columns = ["item_id", "origin", "unit_id"]
    events = pa.concat_tables(
        storage.read_part(merged, part, columns=columns) for part in storage.parts(merged)
    )
    return events.filter(pc.equal(events["origin"].cast(pa.string()), SYNTHETIC))


def told(context: Context, synthetic: pa.Table) -> dict[str, Any]:
    """`membership.attack` on pairs: a user who was left out, and a training user of whom as many
    events are compared; of items that stand in the training events."""
    storage = context.storage
    size = context.config.split.max_train_events
    members, others = (
        _histories(pq.read_table(storage.path(file), columns=["user_id", "item_id", "timestamp"]))
        for file in ("train.parquet", "others.parquet")
    )
    known = {item for items in members for item in items}
    others = [[item for item in items if item in known][-size:] for items in others]
    others = [items for items in others if len(items) >= 5]
    pairs: list[tuple[list[str], list[str]]] = []
    for items in others:
        fit = next((n for n, own in enumerate(members) if len(own) >= len(items)), None)
        if fit is not None:
            pairs.append((members.pop(fit)[: len(items)], items))
    items, bounds = synthetic["item_id"].combine_chunks().cast(pa.string()), group_bounds(
        synthetic["unit_id"].to_numpy(zero_copy_only=False))  # fmt: skip
    sizes = np.array([end - start for start, end in bounds])

    def likeness(side: int) -> np.ndarray:
        own = [pair[side] for pair in pairs]
        flat = pa.array([item for one in own for item in one], pa.string())
        return likeness_to_nearest(flat, np.array([len(one) for one in own]), items, sizes)

    return attack(likeness(0), likeness(1))


def _histories(events: pa.Table) -> list[list[str]]:
    """Items in their order, users in that of a hash."""
    frame = events.to_pandas().sort_values("timestamp", kind="stable")
    found = {str(user): own.astype(str).tolist() for user, own in
             frame.groupby("user_id", sort=False)["item_id"]}  # fmt: skip
    names = list(found)
    order = np.argsort(id_hash(pa.array(names, pa.string())), kind="stable")
    return [found[names[place]] for place in order]


def show(found: dict[str, dict[str, Any]], config: Config, context: Context) -> None:
    """The table, as Markdown, and the line of JSON."""
    counts = context.manifest("split")["counts"]
    wanted = config.plan.strategies[0].num_users
    print(f"\n{counts['train_users']:,} training users, {counts['train']:,} training events; "
          f"{wanted:,} new users asked for\n")  # fmt: skip
    columns = ["", "fit, s", "sample, s", "events/s", "users", "events a user", *FIGURES,
               "identifying", "membership AUC", "NDCG@10", "lift over real"]  # fmt: skip
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    halves = next((own["halves"] for own in found.values() if "halves" in own), {})
    for name, own in found.items():
        if "error" in own:
            print(f"| {name} | {own['error'].splitlines()[-1]} |")
            continue
        values = own["fidelity"]
        member, ndcg = own["membership"], own["validation_ndcg"]
        cells = [
            f"{name} {own['version']}", f"{own['train_s']:,.0f}", f"{own['generate_s']:,.0f}",
            f"{own['events'] / own['generate_s']:,.0f}", f"{own['users']:,}",
            f"{own['lengths']:.1f}",
            *(f"{values[figure]:.3f}" if values[figure] is not None else "" for figure in FIGURES),
            f"{own['identifying_share']:.1%}",
            f"{member['auc']:.3f} ({member['low']:.3f} to {member['high']:.3f})",
            f"{np.mean(ndcg[AUGMENTED]):.4f}", lift_text(own["lift"]),
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |")
    expected = [f"{halves[name]:.3f}" if halves.get(name) is not None else "" for name in FIGURES]
    print("| two halves of the real users |" + " |" * 5 + " " + " | ".join(expected) + " |")
    for name, own in found.items():
        if own.get("note"):
            print(f"{name}: {own['note']}")
    print(json.dumps({"benchmark": "peers_synthetic", "asked_users": wanted, "found": found}))


if __name__ == "__main__":
    typer.run(main)
