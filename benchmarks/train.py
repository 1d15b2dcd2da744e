"""Training targets a second of our SASRec against RecTools' and RecBole's, and NDCG@10 of each.

The same events (MovieLens-100K, 5-core, leave one out), size (64 wide, 2 layers, 2 heads, 50
events), softmax over the whole catalogue, one thread, one after another in processes of their own.
Our training sets the memory allocator (cluster.py); `--our-allocator` gives peers the same. Timed
is the training alone, without validation, in seconds of the CPU. Each is stopped early by its
validation NDCG@10, or after `--max-seconds` of training, and what it then says of every item
(`score_s`: seconds of the CPU for all users and items) is ranked by our evaluation.

A target is an event to be predicted. RecTools and we predict all events of a window at a time,
RecBole one event of each prefix. RecTools reads each user's last 51 events, we read a random
window of as many.

Each peer lives in a virtual environment of its own, which is made once (pip, minutes) below
`--environments`; PIP_EXTRA_INDEX_URL may name PyTorch's CPU wheels. One that cannot be installed
or fails is reported with its error.

    python benchmarks/train.py
    python benchmarks/train.py --peers rectools --num-seeds 3
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from environments import CACHE, ONE_THREAD, environment, without_ours

from llmaug import pipeline
from llmaug.commands.datasets import write_ml_100k
from llmaug.config import Config, parse_config
from llmaug.core.cluster import WORKER_ENV, disconnect
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.evaluate.bootstrap import interval, means, relative_lift, resampled_sums
from llmaug.ingest.split import TEST, TRAIN, VALIDATION
from llmaug.items.sequences import user_histories
from llmaug.items.vocabulary import NUM_SPECIAL, load_vocabulary
from llmaug.recommenders.train import Inputs, build_task
from llmaug.training.loop import make_optimiser, train_step
from llmaug.training.ranking import ndcg, target_ranks

OURS = "llmaug"
NEEDS = {
    "rectools": ["install rectools[torch]==0.19.0"],
    # Without its own dependencies: it pins a Ray that is used for tuning alone.
    "recbole": ["install --no-deps recbole==1.2.1",
                "install torch numpy<2 pandas<3 scipy tqdm colorlog==4.7.2 colorama==0.4.4 "
                "scikit-learn pyyaml tensorboard thop tabulate plotly texttable psutil"],
}  # fmt: skip


def main(
    peers: Annotated[str, typer.Option(help="Which, with commas.")] = "rectools,recbole",
    environments: Annotated[
        Path, typer.Option(help="Folder of the peers' virtual environments.")
    ] = CACHE,
    num_seeds: Annotated[int, typer.Option(min=1, help="Seeds of ours and each peer.")] = 1,
    max_seconds: Annotated[float, typer.Option(help="Training time of each at most.")] = 600,
    our_allocator: Annotated[
        bool, typer.Option("--our-allocator", help="Peers, too, get our allocator's settings.")
    ] = False,
) -> None:
    names = [name.strip() for name in peers.split(",") if name.strip()]
    if unknown := set(names) - set(NEEDS):
        raise typer.BadParameter(f"no peer {sorted(unknown)}; there are {sorted(NEEDS)}")
    found: dict[str, list[dict[str, Any]]] = {}
    errors: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as root:
        split = prepare(root)
        for name in [OURS, *names]:
            try:
                python = (
                    sys.executable if name == OURS else environment(environments, name, NEEDS[name])
                )
                settings = ONE_THREAD | (WORKER_ENV if name == OURS or our_allocator else {})
                for seed in range(1, num_seeds + 1):
                    run = measure(name, python, settings, split, seed, max_seconds)
                    found.setdefault(name, []).append(run)
            except UserError as error:
                if name == OURS:
                    raise
                errors[name] = error.message
                found.pop(name, None)
    show(found, errors, split, our_allocator)


@dataclass(frozen=True)
class Split:
    """The events that all are trained on, and where our run lies."""

    root: str
    config: Config
    user_ids: list[str]
    histories: list[list[int]]
    """Item tokens of training and validation, user by user."""
    targets: list[int]
    num_items: int
    events: str
    """The same for peers, as an .npz file."""


def prepare(root: str) -> Split:
    """Run our pipeline up to the training shards of the arm `real`."""
    config = parse_config(
        {
            "name": "benchmark",
            "ingest": {"path": "{root}/logs/events", "k_core": 5, "num_parts": 1},
            "split": {"kind": "leave_one_out"},
            "train": {"arms": ["real"], "num_steps": 10_000, "validate_every": 50, "patience": 8},
        }
    )
    storage = Storage(root)
    write_ml_100k(f"{root}/logs")
    pipeline.run(config, storage, config.name, until="merge")
    disconnect()
    context = Context(storage, config, config.name)
    vocabulary = load_vocabulary(storage, context.folder("vocabulary"))
    split = context.folder("split")
    [part] = storage.parts(f"{split}/{TRAIN}")
    folds = [
        user_histories(storage, [f"{split}/{fold}"], part, vocabulary)
        for fold in (TRAIN, VALIDATION, TEST)
    ]
    user_ids = [user for user in folds[0] if folds[2].get(user)]
    rows = [
        (number, token - NUM_SPECIAL, fold)
        for number, user in enumerate(folds[0])
        for fold, own in enumerate(folds)
        for token in own.get(user, [])
    ]
    user, item, fold = np.array(rows, np.int64).T
    events = f"{root}/events.npz"
    np.savez(events, user=user, item=item, fold=fold)
    assert user_ids == list(folds[0]), "somebody has no held-out event"
    known = [folds[0][user] + folds[1].get(user, []) for user in user_ids]
    targets = [folds[2][user][0] for user in user_ids]
    return Split(root, config, user_ids, known, targets, vocabulary.num_items, events)


def measure(
    name: str,
    python: str,
    settings: dict[str, str],
    split: Split,
    seed: int,
    max_seconds: float,
) -> dict[str, Any]:
    """Train in a process of its own; its figures, and NDCG@10 of each test user.

    Raises UserError with the last words of a process that fails.
    """
    train = split.config.train
    task = {
        "root": split.root, "config": split.config.model_dump(mode="json"), "events": split.events,
        "num_items": split.num_items, "scores": f"{split.root}/{name}-{seed}.npy", "seed": seed,
        "max_seconds": max_seconds, "patience": train.patience, "dim": train.embedding_dim,
        "num_layers": train.num_layers, "num_heads": train.num_heads, "dropout": train.dropout,
        "history_len": train.history_len, "batch_size": train.batch_size,
        "learning_rate": train.learning_rate,
    }  # fmt: skip
    path = Path(split.root, f"{name}-{seed}.json")
    path.write_text(json.dumps(task))
    script = [__file__, "--child", str(path)] if name == OURS else [
        str(Path(__file__).with_name("peers.py")), name, str(path)
    ]  # fmt: skip
    print(f"training {name}, seed {seed}", flush=True)
    # Ray's workers get our allocator from this process.
    inherited = without_ours()
    if name == OURS and "PYTHONPATH" in os.environ:
        inherited["PYTHONPATH"] = os.environ["PYTHONPATH"]
    done = subprocess.run(
        [python, *script], text=True, capture_output=True, env={**inherited, **settings}
    )
    if done.returncode:
        raise UserError(f"{name} failed: {done.stderr.strip()[-2000:]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    return {**figures, "seed": seed, "user_ndcg": user_ndcg(split, task["scores"])}


def user_ndcg(split: Split, scores: str) -> np.ndarray:
    """(users,) NDCG@10 of a (users, items) file of scores, seen items left out."""
    import torch

    special = np.full((len(split.user_ids), NUM_SPECIAL), -np.inf, np.float32)
    matrix = torch.from_numpy(np.concatenate([special, np.load(scores)], axis=1))
    row = {user: number for number, user in enumerate(split.user_ids)}
    ranks = target_ranks(
        lambda users, _: matrix[[row[user] for user in users]].clone(),
        split.user_ids, split.histories, split.targets,
    )  # fmt: skip
    return ndcg(ranks, 10)


def _child(path: str) -> None:
    """Our own training: the steps of the trainer, with its own early stop."""
    import torch

    task = json.loads(Path(path).read_text())
    config, seed = Config(**task["config"]), task["seed"]
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    context = Context(Storage(task["root"]), config, config.name)
    inputs = Inputs(
        context.storage, "", context.folder("merged/real"), context.folder("split"),
        context.folder("vocabulary"), config.vocabulary.min_tag_items, exclude_seen=True,
    )  # fmt: skip
    ours: Any = build_task(inputs, config.train, seed)
    optimiser = make_optimiser(ours.model, config.train)
    seconds, score_s, targets, step, best, stale = 0.0, 0.0, 0, 0, (-1.0, 0), 0
    while stale < task["patience"] and seconds < task["max_seconds"]:
        begin = time.process_time()
        for _ in range(config.train.validate_every):
            train_step(ours, ours.model, optimiser, config.train, seed, step)
            step += 1
        seconds += time.process_time() - begin
        steps = range(step - config.train.validate_every, step)
        targets += sum(int((ours.batch(s, 0, 1)[1] > 0).sum()) for s in steps)
        ours.model.eval()
        found, stale = ours.validate(), stale + 1
        if found > best[0]:
            best, stale = (found, step), 0
            begin = time.process_time()
            scores = _scores(ours, task)
            score_s = time.process_time() - begin
            np.save(task["scores"], scores)
    figures = {
        "version": "this", "targets_per_s": round(targets / seconds, 1),
        "train_s": round(seconds, 1), "targets_per_epoch": ours._batches.num_targets,
        "epochs": round(targets / ours._batches.num_targets, 1), "steps": step,
        "best_step": best[1], "score_s": round(score_s, 2), "validation_ndcg": best[0],
        "stopped": "patience" if stale >= task["patience"] else "time",
    }  # fmt: skip
    print(json.dumps(figures))


def _scores(ours: Any, task: dict[str, Any]) -> np.ndarray:
    """(users, items) after training and validation events."""
    import torch

    with np.load(task["events"]) as events:
        known = events["fold"] < 2
        user, token = events["user"][known], events["item"][known] + NUM_SPECIAL
    bounds = np.searchsorted(user, np.arange(user.max() + 2))
    own = [token[a:b].tolist() for a, b in zip(bounds, bounds[1:], strict=False)]
    with torch.inference_mode():
        pieces = [
            ours.model.score([""] * len(own[at : at + 256]), own[at : at + 256])
            for at in range(0, len(own), 256)
        ]
    return torch.cat(pieces)[:, NUM_SPECIAL:].numpy()


def show(
    found: dict[str, list[dict[str, Any]]],
    errors: dict[str, str],
    split: Split,
    our_allocator: bool,
) -> None:
    """The table, and the line of JSON."""
    columns = {name: np.mean([run["user_ndcg"] for run in runs], 0) for name, runs in found.items()}
    everyone = np.arange(len(split.user_ids))
    values = np.stack(list(columns.values()), axis=1)
    (sums,) = resampled_sums(split.user_ids, [(everyone, values)], 2000, seed=7)
    resampled = dict(zip(columns, means(sums).T, strict=True))
    table: dict[str, Any] = {}
    for name, runs in found.items():
        speed = float(np.median([run["targets_per_s"] for run in runs]))
        table[name] = {
            "targets_per_s": speed, "score_s": float(np.median([run["score_s"] for run in runs])),
            "ndcg@10": interval(resampled[name]),
            "runs": [{k: v for k, v in run.items() if k != "user_ndcg"} for run in runs],
        }  # fmt: skip
        if name != OURS and OURS in table:
            table[name]["ours_is_faster_by"] = round(table[OURS]["targets_per_s"] / speed, 2)
            table[name]["our_lift"] = relative_lift(resampled[OURS], resampled[name])
    print(f"{'':10} {'targets/s':>10} {'scoring, s':>10} {'NDCG@10':>8}  95% interval     "
          "ours is faster, NDCG lift")  # fmt: skip
    for name, row in table.items():
        value = row["ndcg@10"]
        line = f"{name:10} {row['targets_per_s']:>10,.0f} {row['score_s']:>10.2f} "
        line += f"{value['mean']:>8.4f}  "
        line += f"{value['low']:.4f} - {value['high']:.4f}"
        if "our_lift" in row:
            lift = row["our_lift"]
            line += f"  {row['ours_is_faster_by']} x, {lift['relative']:+.1%} "
            line += f"({lift['low']:+.1%} to {lift['high']:+.1%})"
        if row["runs"][0]["stopped"] == "time":
            line += "  (stopped by --max-seconds)"
        print(line)
    for name, error in errors.items():
        print(f"{name:10} not measured: {error}")
    figures = {
        "benchmark": "train", "num_users": len(split.user_ids), "num_items": split.num_items,
        "our_allocator": our_allocator, "models": table, "errors": errors,
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    if "--child" in sys.argv:
        _child(sys.argv[-1])
    else:
        typer.run(main)
