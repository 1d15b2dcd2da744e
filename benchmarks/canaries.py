"""How much of single users a generator learns by heart: canaries (Carlini et al. 2019).

Made-up users, whose items are drawn at random, are planted among the training events of
MovieLens-100K, some once, some 10 and some 100 times over. Nobody could guess such a history, so
what the trained model makes of it is memory. Exposure says how much, in bits: of so many other
histories that were drawn in the same way and never planted, log2(all / rank of the canary by its
likelihood). 1.4 is chance on average, log2(all) is as much as can be seen.

Canaries are planted here and in no night: they would be wrong events in somebody's model, and
popular ones at 100 times.

    python benchmarks/canaries.py
    python benchmarks/canaries.py --epsilon 8 --num-steps 200
"""

from __future__ import annotations

import json
import math
import tempfile
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import LlamaForCausalLM

from llmaug import pipeline
from llmaug.commands.datasets import write_ml_100k
from llmaug.config import parse_config
from llmaug.core.cluster import disconnect
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.ingest.split import TRAIN
from llmaug.items.vocabulary import BOS, NUM_SPECIAL, load_vocabulary
from llmaug.lm import train as lm_train

CANARIES = {1: 20, 10: 5, 100: 2}
"""Times that a canary is planted: how many there are of such."""
_LENGTH, _AT_ONCE = 10, 250


def main(
    epsilon: Annotated[float | None, typer.Option(help="Train by DP-SGD, lm.private.")] = None,
    delta: Annotated[float, typer.Option(help="Of lm.private.")] = 1e-4,
    num_steps: Annotated[int, typer.Option(help="Steps of training at most.")] = 600,
    num_others: Annotated[int, typer.Option(help="Histories to compare a canary with.")] = 4000,
    max_users: Annotated[int | None, typer.Option(help="Only so many real users.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 7,
) -> None:
    private: dict[str, Any] = {
        "private": {"epsilon": epsilon, "delta": delta}, "batch_size": 256, "dropout": 0.0,
        "learning_rate": 2e-3, "warmup_steps": 20,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as root:
        write_ml_100k(f"{root}/logs", max_users=max_users)
        config = parse_config({
            "name": "canaries", "seed": seed, "storage": {"root": root},
            "ingest": {"path": f"{root}/logs/events", "k_core": 5,
                       "items": {"path": f"{root}/logs/items"}},
            "split": {"kind": "leave_one_out"},
            "lm": {"num_steps": num_steps, "stop_on": "perplexity", **(private if epsilon else {})},
        }, "canaries")  # fmt: skip
        storage = Storage(root)
        pipeline.run(config, storage, "canaries", until="vocabulary")
        context = Context(storage, config, "canaries")
        vocabulary = load_vocabulary(storage, context.folder("vocabulary"))
        rng = np.random.default_rng(seed)
        canaries = {times: histories(rng, number, vocabulary.num_items)
                    for times, number in CANARIES.items()}  # fmt: skip
        plant(context, canaries, vocabulary.items["item_id"])
        facts = lm_train.run(context)
        folder = storage.path(context.folder("lm/causal"))
        model = LlamaForCausalLM.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False
        ).eval()
        others = log_likelihood(model, histories(rng, num_others, vocabulary.num_items))
        found = {
            times: exposure(log_likelihood(model, planted), others)
            for times, planted in canaries.items()
        }
        disconnect()
    show(found, num_others)
    print(json.dumps({
        "benchmark": "canaries", "private": facts.get("private"), "steps": facts["steps"],
        "num_others": num_others, "most": round(math.log2(num_others + 1), 2),
        "exposure": {times: own.round(2).tolist() for times, own in found.items()},
    }))  # fmt: skip


def histories(rng: np.random.Generator, number: int, num_items: int) -> np.ndarray:
    """(number, L) different places in the catalogue each, drawn at random."""
    return np.stack([rng.permutation(num_items)[:_LENGTH] for _ in range(number)])


def plant(context: Context, canaries: dict[int, np.ndarray], item_ids: pa.ChunkedArray) -> None:
    """Add users with these histories to the training events."""
    storage, train = context.storage, f"{context.folder('split')}/{TRAIN}"
    rows = [
        (f"canary-{times}-{number}-{copy}", place)
        for times, own in canaries.items()
        for number, history in enumerate(own)
        for copy in range(times)
        for place in history
    ]
    like = storage.read_part(train, storage.parts(train)[0]).slice(0, 1)
    table = like.take(np.zeros(len(rows), np.int64))
    for column, values in (
        ("user_id", pa.array([user for user, _ in rows])),
        ("item_id", item_ids.take(pa.array([place for _, place in rows])).cast(pa.string())),
    ):
        at = table.schema.get_field_index(column)
        table = table.set_column(at, table.schema.field(at), values)
    storage.write_part(table, {}, train, "canaries")


def log_likelihood(model: Any, own: np.ndarray) -> np.ndarray:
    """(N,) of histories (N, L), from nothing."""
    found = []
    with torch.inference_mode():
        for some in torch.from_numpy(own + NUM_SPECIAL).split(_AT_ONCE):
            tokens = torch.cat([torch.full((len(some), 1), BOS), some], 1)
            logits = model(tokens[:, :-1]).logits.log_softmax(-1)
            found.append(logits.gather(2, some[..., None]).sum((1, 2)).double())
    return torch.cat(found).numpy()


def exposure(canaries: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) bits, of log-likelihoods (N,) of canaries and (M,) of histories never planted."""
    rank = 1 + (others[None] >= canaries[:, None]).sum(1)
    return np.log2((len(others) + 1) / rank)


def show(found: dict[int, np.ndarray], num_others: int) -> None:
    most = f"{math.log2(num_others + 1):.1f}"
    table = Table("planted", "canaries", "exposure, mean", "lowest", "highest",
                  title=f"Exposure in bits; chance 1.4, at most {most}")  # fmt: skip
    for times, own in found.items():
        figures = (f"{of:.1f}" for of in (own.mean(), own.min(), own.max()))
        table.add_row(f"{times} times", str(len(own)), *figures)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
