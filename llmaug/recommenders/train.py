"""Stages `model/<arm>`: the recommender on the merged shards of one arm, one model a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug import recommenders
from llmaug.arms.arms import REAL, Arm
from llmaug.config import ByDescentConfig, ClosedFormConfig, Config, TrainConfig
from llmaug.core.placing import Ask, workers
from llmaug.core.stage import Context, Stage
from llmaug.core.storage import Storage
from llmaug.ingest.cleaning import id_hash
from llmaug.ingest.split import TRAIN, VALIDATION
from llmaug.items.batches import Batches
from llmaug.items.sequences import load_sequences
from llmaug.items.vocabulary import Vocabulary, load_vocabulary
from llmaug.recommenders import DataFacts
from llmaug.recommenders.pair_batches import PairBatches, RatingBatches
from llmaug.recommenders.start import Start, start_from
from llmaug.schema import EVENT
from llmaug.training.loop import Private, Task
from llmaug.training.trainer import fit
from llmaug.training.validation import ValidationUsers, load_validation

_MAX_RATING_USERS = 20_000
"""Whose validation events a model of ratings stops by."""


def run(arm: Arm, context: Context) -> dict[str, Any]:
    """Train every seed of `arm`; a seed that is done already is not trained again."""
    config, train = context.config, arm.train_config(context.config)
    facts = {}
    for seed in train.seeds:
        name = f"model/{arm.name}/seed-{seed}"
        done = context.storage.read_json(context.folder(name), "_trained.json")
        if done is None:
            inputs = Inputs(
                context.storage,
                context.folder(name),
                context.folder(f"merged/{arm.shards}"),
                context.folder("split"),
                context.folder("vocabulary"),
                config.vocabulary.min_tag_items,
                config.evaluate.exclude_seen,
                _start(arm, context, seed),
            )
            if isinstance(train, ClosedFormConfig):
                done = _solve(context, inputs, train, seed)
            else:
                assert isinstance(train, ByDescentConfig)
                done = fit(context, name, partial(build_task, inputs, train, seed), train, seed)
        facts[f"seed-{seed}"] = done
    return facts


def _start(arm: Arm, context: Context, seed: int) -> Start | None:
    lm, vocabulary = context.config.lm, context.folder("vocabulary")
    source = arm.starts_from(context.config)
    if source is None:
        return None
    if source == REAL:
        return Start(context.folder(f"model/{REAL}/seed-{seed}"), "items.weight", vocabulary)
    counts = context.manifest(f"lm/{lm.name}")["counts"]
    folder = counts.get("model_folder") or context.folder(f"lm/{lm.name}")
    assert lm.item_table is not None  # the config was checked
    return Start(folder, lm.item_table, counts.get("vocabulary_folder") or vocabulary)


@dataclass(frozen=True)
class Inputs:
    """What a worker needs to find its data and to leave its model."""

    storage: Storage
    folder: str
    """Where the model goes."""
    shards: str
    split: str
    vocabulary: str
    min_tag_items: int
    exclude_seen: bool
    start: Start | None = None
    """Item vectors to start from."""

    def validation(self, vocabulary: Vocabulary, seed: int) -> ValidationUsers:
        train, held_out = f"{self.split}/{TRAIN}", f"{self.split}/{VALIDATION}"
        return load_validation(self.storage, train, held_out, vocabulary, seed)


def build_task(inputs: Inputs, config: ByDescentConfig, seed: int) -> Task:
    """Called in each worker: loads the shards and makes the fresh model."""
    return _TASKS[config.batches](inputs, config, seed)


def _solve(context: Context, inputs: Inputs, config: ClosedFormConfig, seed: int) -> dict[str, Any]:
    """A model in closed form, in one Ray task; it has no steps."""
    import ray

    from llmaug.core.cluster import connect

    connect(context.config.ray)
    work = ray.remote(solve).options(num_cpus=config.threads_per_worker)
    return ray.get(work.remote(inputs, config, seed))


def solve(inputs: Inputs, config: ClosedFormConfig, seed: int) -> dict[str, Any]:
    """Fit, validate and write a model in closed form, one part of the shards at a time."""
    import torch

    torch.set_num_threads(config.threads_per_worker)
    storage, vocabulary = inputs.storage, load_vocabulary(inputs.storage, inputs.vocabulary)
    model = recommenders.build(config, DataFacts(vocabulary))
    num_targets = model.fit(
        lambda: (storage.read_part(inputs.shards, part) for part in storage.parts(inputs.shards))
    )
    ndcg = inputs.validation(vocabulary, seed).ndcg_at_10(model.score, inputs.exclude_seen)
    facts = {
        "model_digest": recommenders.save_recommender(
            storage, inputs.folder, model, config, vocabulary
        ),
        "num_targets": num_targets,
        "steps": 0,
        "best_step": 0,
        "validation_ndcg": None if math.isnan(ndcg) else ndcg,
    }
    storage.write_json(facts, inputs.folder, "_trained.json")
    return facts


class _RecommenderTask:
    """What both kinds of task share: validation and export of the model folder."""

    metric = "ndcg"
    model: Any
    patient_until = 0
    private: Private | None = None

    def __init__(self, inputs: Inputs, config: Any, seed: int) -> None:
        self._inputs, self._config = inputs, config
        self._facts: dict[str, Any] = {}
        self._vocabulary = load_vocabulary(inputs.storage, inputs.vocabulary)
        self._batches = self._load(seed)
        self._validation = inputs.validation(self._vocabulary, seed)

    def _load(self, seed: int) -> Any:
        """Load the shards, and make `model`."""
        raise NotImplementedError

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Any, ...]:
        return self._batches.at(step, rank, world_size)

    def validate(self) -> float:
        return self._validation.ndcg_at_10(self.model.score, self._inputs.exclude_seen)

    def export(self) -> dict[str, Any]:
        digest = recommenders.save_recommender(
            self._inputs.storage, self._inputs.folder, self.model, self._config, self._vocabulary
        )
        return {"model_digest": digest, "num_targets": self._batches.num_targets, **self._facts}


class _SequenceTask(_RecommenderTask):
    def batch(self, step: int, rank: int, world_size: int) -> tuple[Any, ...]:
        if self._real and step >= self.patient_until:
            return self._real.at(step - self.patient_until, rank, world_size)
        return super().batch(step, rank, world_size)

    def weight(self, batch: tuple[Any, ...]) -> float:
        return float(batch[1].sum())

    def _load(self, seed: int) -> Batches:
        inputs, config, vocabulary = self._inputs, self._config, self._vocabulary
        soft = getattr(config, "soft_share", 0.0) > 0
        sequences = load_sequences(inputs.storage, inputs.shards, vocabulary, soft)
        like = config.batch_size, config.history_len, seed
        batches = Batches(sequences, *like)
        # Steps on everything merged, then on real events alone.
        self.patient_until = config.finetune_after or 0
        real = replace(sequences, soft=None)
        self._real = Batches(real, *like, only=real.is_real) if config.finetune_after else None
        self._facts = {
            "batch_size": batches.size,
            "sequences": batches.num_sequences,
            "real_sequences": batches.num_real_sequences,
            "finetune_after": config.finetune_after,
        }
        counts = batches.target_counts(vocabulary.num_tokens)
        facts = DataFacts(vocabulary, (), inputs.min_tag_items, counts)
        self.model = recommenders.build(config, facts)
        if inputs.start:
            self._facts |= start_from(self.model.items, inputs.storage, inputs.start, vocabulary)
        return batches


class _PairTask(_RecommenderTask):
    def weight(self, batch: tuple[Any, ...]) -> float:
        return float(batch[1][:, 1].sum())

    def _load(self, seed: int) -> PairBatches:
        events = _events(self._inputs.storage, self._inputs.shards, ["weight"])
        batches = PairBatches(events, self._vocabulary, self._config, seed)
        facts = DataFacts(self._vocabulary, batches.user_ids)
        self.model = recommenders.build(self._config, facts)
        return batches


class _RatingTask(_RecommenderTask):
    """Stops by how far it is from the ratings of validation events."""

    metric = "negative_rmse"

    def weight(self, batch: tuple[Any, ...]) -> float:
        return float(batch[1][:, 1].sum())

    def _load(self, seed: int) -> RatingBatches:
        inputs = self._inputs
        batches = RatingBatches(
            _events(inputs.storage, inputs.shards, ["weight", "value"]),
            self._vocabulary, self._config, seed,
        )  # fmt: skip
        facts = DataFacts(self._vocabulary, batches.user_ids, mean_value=batches.mean)
        self.model = recommenders.build(self._config, facts)
        self._held_out = rated_events(inputs.storage, f"{inputs.split}/{VALIDATION}")
        return batches

    def validate(self) -> float:
        import torch

        users = self._held_out["user_id"].to_pylist()
        if not users:
            return math.nan
        tokens = self._vocabulary.encode(self._held_out["item_id"]).tolist()
        with torch.inference_mode():
            found = self.model.ratings(users, tokens).double().cpu().numpy()
        return -float(np.sqrt(np.mean((found - self._held_out["value"].to_numpy()) ** 2)))

    def export(self) -> dict[str, Any]:
        ndcg = super().validate()
        return super().export() | {"validation_ndcg": None if math.isnan(ndcg) else ndcg}


def rated_events(storage: Storage, folder: str, max_users: int = _MAX_RATING_USERS) -> pa.Table:
    """Events with a `value` below a folder, with user and item: of all users, or of the
    `max_users` with the smallest hashes, whose rows and one part more are in memory."""
    found, hashes = EVENT.empty_table().select(["user_id", "item_id", "value"]), np.empty(0, "u8")
    for events in _events(storage, folder, ["value"]):
        rated = events.filter(pc.is_valid(events["value"]))
        found = pa.concat_tables([found, rated])
        hashes = np.concatenate([hashes, id_hash(rated["user_id"].combine_chunks())])
        if len(users := np.unique(hashes)) > max_users:
            kept = hashes <= users[max_users - 1]
            found, hashes = found.filter(pa.array(kept)), hashes[kept]
    return found


def _events(storage: Storage, folder: str, columns: list[str]) -> Iterator[pa.Table]:
    """All events below a folder, part by part: who took what, and `columns`."""
    names = ["user_id", "item_id", *columns]
    for part in storage.parts(folder):
        yield storage.read_part(folder, part, columns=names)


_TASKS: dict[str, Callable[[Inputs, Any, int], Task]] = {
    "sequences": _SequenceTask,
    "pairs": _PairTask,
    "ratings": _RatingTask,
}
"""By `batches` of the config."""


def _ask(train: TrainConfig) -> Ask:
    if isinstance(train, ClosedFormConfig):
        return Ask("task", train.threads_per_worker, num=1, fields="train.threads_per_worker")
    assert isinstance(train, ByDescentConfig)
    return workers("train", train)


def stage(arm: Arm, config: Config) -> Stage:
    """The stage that trains `model/<arm>`."""
    started = {None: (), REAL: (f"model/{REAL}",), "generator": (f"lm/{config.lm.name}",)}
    return Stage(
        name=f"model/{arm.name}",
        run=partial(run, arm),
        asks=lambda config, on_gpus: (_ask(arm.train_config(config)),),
        inputs=(f"merged/{arm.shards}", "vocabulary", "split", *started[arm.starts_from(config)]),
        independent=True,
        roots=lambda config: recommenders.roots_of(config, [arm]),
        settings=lambda config: [
            arm.train_config(config).model_dump(mode="json", exclude={"seeds"}),
            config.evaluate.exclude_seen,
        ],
        extends=lambda config: config.train.seeds,
    )
