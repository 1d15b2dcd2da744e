"""Training speed of the causal behaviour model against transformers' own `Trainer`.

The same Llama (plain, without item features), the same histories of MovieLens-100K, batches of
as many histories, AdamW, one thread; each in a process of its own, by turns. A target is an
event that is to be predicted. Ours is measured padded, as the Trainer pads, and packed.

    pip install accelerate    # the Trainer asks for it
    python benchmarks/lm_train.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from typing import Annotated, Any

import typer

from llmaug import pipeline
from llmaug.commands.datasets import write_ml_100k
from llmaug.config import Config, parse_config
from llmaug.core.cluster import disconnect
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.lm.causal.training import CausalTask
from llmaug.training.loop import make_optimiser, train_step

LM = {"item_features": False, "dropout": 0.0, "context_len": 64, "warmup_steps": 0}
WAYS = ("trainer", "padded", "packed")


def main(
    num_steps: Annotated[int, typer.Option(help="Steps that are measured.")] = 60,
    rounds: Annotated[int, typer.Option(help="Take turns so often; the best counts.")] = 2,
) -> None:
    with tempfile.TemporaryDirectory() as root:
        write_ml_100k(f"{root}/ml-100k")
        config = _config(f"{root}/ml-100k", packed=False)
        pipeline.run(config, Storage(root), "logs", until="vocabulary")
        disconnect()
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way in WAYS:
                found[way].append(_apart(root, way, num_steps))
    best = {way: max(rates) for way, rates in found.items()}
    for way, rate in best.items():
        print(f"{way:8} {rate:>10,.0f} targets/s")
    figures = {"targets_per_s": best, "all_rounds": found}
    figures["ratio"] = {way: round(best[way] / best["trainer"], 2) for way in WAYS[1:]}
    print(json.dumps({"benchmark": "lm_train", "num_steps": num_steps, **figures}))


def _config(logs: str, packed: bool) -> Config:
    return parse_config(
        {
            "ingest": {"path": f"{logs}/events", "k_core": 5},
            "split": {"kind": "leave_one_out"},
            "lm": {**LM, "packed": packed},
        }
    )


def _apart(root: str, way: str, num_steps: int) -> float:
    done = subprocess.run(
        [sys.executable, __file__, "--child", root, way, str(num_steps)],
        text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert done.returncode == 0, f"{way} failed"
    return float(done.stdout.splitlines()[-1])


def _child(root: str, way: str, num_steps: int) -> float:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(1)
    config = _config(f"{root}/ml-100k", packed=way == "packed")
    context = Context(Storage(root), config, "logs")
    names = ("split", "vocabulary", "ingest/users")
    folders = {"model": "lm"} | {name: context.folder(name) for name in names}
    task = CausalTask(context.storage, folders, config)
    return _trainer(task, config, num_steps) if way == "trainer" else _ours(task, config, num_steps)


def _ours(task: CausalTask, config: Config, num_steps: int) -> float:
    optimiser = make_optimiser(task.model, config.lm)
    num_targets, warm = 0, 5
    for step in range(warm + num_steps):
        if step == warm:
            begin = time.monotonic()
        train_step(task, task.model, optimiser, config.lm, 1, step)
    seconds = time.monotonic() - begin
    for step in range(warm, warm + num_steps):
        num_targets += int((task.batch(step, 0, 1)[1][:, 1:] > 0).sum())
    return num_targets / seconds


def _trainer(task: CausalTask, config: Config, num_steps: int) -> float:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    # What our batches hold, as the rows of a data set.
    batches = [task.batch(step, 0, 1) for step in range(num_steps)]
    rows = [
        {"tokens": torch.from_numpy(tokens[: int((tokens != 0).sum())]), "weights": weights}
        for batch in batches
        for tokens, weights in zip(batch[0], batch[1], strict=True)
    ]
    num_targets = sum(int((batch[1][:, 1:] > 0).sum()) for batch in batches)

    def collate(some: list[dict[str, Any]]) -> dict[str, Any]:
        tokens = torch.nn.utils.rnn.pad_sequence([row["tokens"] for row in some], batch_first=True)
        labels = tokens.masked_fill(tokens == 0, -100)
        return {"input_ids": tokens, "attention_mask": (tokens != 0).long(), "labels": labels}

    class Clock(TrainerCallback):
        begin = end = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begin = time.monotonic()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.end = time.monotonic()

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=config.lm.batch_size,
            max_steps=num_steps, learning_rate=config.lm.learning_rate, save_strategy="no",
            report_to=[], remove_unused_columns=False, disable_tqdm=True, use_cpu=True,
            logging_strategy="no", dataloader_drop_last=False,
        )  # fmt: skip
        plain = task.model.folded().train()
        Trainer(
            model=plain, args=arguments, train_dataset=rows, data_collator=collate,
            callbacks=[clock],
        ).train()  # fmt: skip
    return num_targets / (clock.end - clock.begin)


if __name__ == "__main__":
    if "--child" in sys.argv:
        root, way, num_steps = sys.argv[2:]
        print(_child(root, way, int(num_steps)))
    else:
        typer.run(main)
