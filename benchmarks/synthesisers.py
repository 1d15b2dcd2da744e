"""Generators of tables by other people, on events; runs in their environments.

    python benchmarks/synthesisers.py NAME TASK.json    # writes a parquet, prints a line of JSON

TASK.json: {events: parquet of user_id, item_id, timestamp, by user and time; users: parquet of
user_id and attributes, or null; num_users: how many new ones are wanted; seed; budget_s: of
seconds, half for training at most; output: where the new users' events go}. Each is used as its
documentation says, with items as categories and what is known of a user as context; where a
default cannot be had in the time, its note says what was taken instead. New users who are still
to come when the time is over are left out. Needs what the peer itself needs.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

Sampler = Callable[[int, int], pd.DataFrame]
"""(how many users, seed) to their events, user_id being unlike within one call."""


class Task:
    """What is asked for, and the clock."""

    def __init__(self, path: str) -> None:
        self._begin = time.monotonic()
        asked = json.loads(Path(path).read_text())
        self.num_users, self.seed = int(asked["num_users"]), int(asked["seed"])
        self.budget_s, self.output = float(asked["budget_s"]), str(asked["output"])
        self.events = pd.read_parquet(asked["events"])
        names = pd.Series(self.events["user_id"].unique(), name="user_id")
        known = pd.read_parquet(asked["users"]) if asked["users"] else pd.DataFrame(names)
        self.users = pd.DataFrame(names).merge(known, on="user_id", how="left").fillna("unknown")
        self.attributes = [name for name in self.users.columns if name != "user_id"]

    def left_s(self, share: float = 1.0) -> float:
        """Seconds until this share of the budget is gone."""
        return share * self.budget_s - (time.monotonic() - self._begin)

    def new_users(self, num_users: int, seed: int) -> pd.DataFrame:
        """Attributes of new users: those of real ones, drawn with replacement."""
        drawn = self.users.sample(num_users, replace=True, random_state=seed)
        names = [f"{seed}-{number}" for number in range(num_users)]
        return drawn.assign(user_id=names).reset_index(drop=True)


# -- MOSTLY AI ------------------------------------------------------------------------------------


def mostlyai(task: Task) -> tuple[Sampler, str]:
    from mostlyai.engine import TabularARGN

    context = task.users if task.attributes else task.users.assign(kind="user")
    model = TabularARGN(
        tgt_context_key="user_id", ctx_primary_key="user_id", ctx_data=context,
        tgt_encoding_types={"item_id": "TABULAR_CATEGORICAL",
                            "timestamp": "TABULAR_DATETIME_RELATIVE"},
        max_training_time=task.left_s(0.5) / 60, random_state=task.seed, device="cpu",
        workspace_dir=tempfile.mkdtemp(),
    )  # fmt: skip
    model.fit(task.events)

    def sample(num_users: int, seed: int) -> pd.DataFrame:
        asked = task.new_users(num_users, seed)
        return model.sample(ctx_data=asked if task.attributes else asked.assign(kind="user"))

    return sample, "defaults; rare items are hidden by its value protection"


# -- SDV ------------------------------------------------------------------------------------------


def sdv(task: Task) -> tuple[Sampler, str]:
    from deepecho.models import par
    from sdv.metadata import Metadata
    from sdv.sequential import PARSynthesizer

    table = task.events.merge(task.users, on="user_id")
    # Of microseconds it would take the numbers for nanoseconds.
    table["timestamp"] = table["timestamp"].dt.tz_localize(None).astype("datetime64[ns]")
    columns: dict[str, Any] = {name: {"sdtype": "categorical"} for name in task.attributes}
    columns |= {"user_id": {"sdtype": "id"}, "item_id": {"sdtype": "categorical"},
                "timestamp": {"sdtype": "datetime"}}  # fmt: skip
    metadata = Metadata.load_from_dict(
        {"tables": {"events": {"columns": columns, "sequence_key": "user_id",
                               "sequence_index": "timestamp"}}}
    )  # fmt: skip

    done: list[int] = []

    def until_late(epochs: Iterable[int], **_: Any) -> Iterator[int]:
        """It has no limit of time; its bar of progress is what it goes through."""
        for epoch in epochs:
            if done and task.left_s(0.5) < 0:
                return
            yield epoch
            done.append(epoch)

    par.tqdm = until_late
    model = PARSynthesizer(metadata, context_columns=task.attributes, cuda=False)
    model.fit({"events": table})
    note = f"{len(done)} of its 128 epochs"

    def sample(num_users: int, seed: int) -> pd.DataFrame:
        # It draws where its last call stopped.
        return model.sample_sequences(num_sequences=num_users)["events"]

    return sample, note


# -- REaLTabFormer --------------------------------------------------------------------------------


def realtabformer(task: Task) -> tuple[Sampler, str]:
    from realtabformer import REaLTabFormer
    from transformers import EncoderDecoderConfig, GPT2Config, TrainerCallback

    class OutOfTime(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_training_stop = task.left_s(0.5) < 0
            return control

    small = GPT2Config(n_layer=4, n_embd=128, n_head=4)
    place = tempfile.mkdtemp()
    model = REaLTabFormer(
        model_type="relational",
        relational_config=EncoderDecoderConfig(
            encoder=small.to_dict(), decoder=small.to_dict()
        ),
        output_max_length=None, epochs=1000, batch_size=8, train_size=0.95,
        random_state=task.seed, checkpoints_dir=place, learning_rate=1e-3, report_to=[],
    )  # fmt: skip
    build = model._fit_relational
    steps = []

    def with_clock(*arguments: Any, **options: Any) -> Any:
        trainer = build(*arguments, **options)
        trainer.add_callback(OutOfTime())
        steps.append(trainer.state)
        steps.append(trainer)
        return trainer

    model._fit_relational = with_clock
    parents = task.users if task.attributes else task.users.assign(kind="user")
    # Numbers it would write digit by digit, and times do not fit beside the items.
    children = task.events[["user_id", "item_id"]].assign(
        item_id=[f"i{item}" for item in task.events["item_id"]]
    )
    model.fit(children, in_df=parents, join_on="user_id", device="cpu")
    state = steps[1].state

    def sample(num_users: int, seed: int) -> pd.DataFrame:
        asked = task.new_users(num_users, seed)
        own = asked if task.attributes else asked.assign(kind="user")
        found = model.sample(
            input_unique_ids=own["user_id"], input_df=own.drop(columns="user_id"), device="cpu",
            gen_batch=64,
        )  # fmt: skip
        found = found.rename_axis("user_id").reset_index()
        return found.assign(item_id=found["item_id"].str.removeprefix("i"))

    note = (f"relational, 4 + 4 layers of 128 in place of 6 + 6 of 768, items without times, "
            f"{state.epoch:.1f} epochs")  # fmt: skip
    return sample, note


# -- all of them ----------------------------------------------------------------------------------

PEERS = {
    "mostlyai": (mostlyai, "mostlyai-engine"),
    "sdv": (sdv, "sdv"),
    "realtabformer": (realtabformer, "realtabformer"),
}


def in_pieces(task: Task, sample: Sampler) -> Iterator[pd.DataFrame]:
    """Events of new users, a few users at a time, until there are enough or time is over."""
    size, done = 16, 0
    while done < task.num_users and (not done or task.left_s() > 0):
        begin = time.monotonic()
        size = min(size, task.num_users - done)
        found = sample(size, task.seed + done)
        yield found.assign(user_id=[f"{done}-{name}" for name in found["user_id"]])
        done += size
        # As many as take a third of what is left: starting a call costs something, too.
        speed = size / max(1e-3, time.monotonic() - begin)
        size = max(1, int(speed * max(0.0, task.left_s()) / 3))


def main(name: str, path: str) -> None:
    task = Task(path)
    fit, package = PEERS[name]
    begin = time.monotonic()
    sample, note = fit(task)
    trained = time.monotonic()
    pieces = list(in_pieces(task, sample))
    figures = {
        "version": version(package),
        "train_s": round(trained - begin, 1),
        "generate_s": round(time.monotonic() - trained, 1),
        "note": note,
    }
    columns = [name for name in ("user_id", "item_id", "timestamp") if name in pieces[0]]
    pd.concat(pieces)[columns].to_parquet(task.output)
    print(json.dumps(figures), flush=True)


if __name__ == "__main__" and len(sys.argv) == 3:
    main(*sys.argv[1:])
