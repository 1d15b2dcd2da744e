"""Budget in, Units out: who gets how many samples of which strategy.

A Unit's id is the content digest of everything that decides its answer (prompt, strategy,
sampling, seed, generator), so the same question to the same model has the same id on any
night. Units are cut into parts: one `continue` part for each part of the training events
(the users stay together), and `new-users` parts of a fixed size.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pyarrow as pa

from llmaug.config import ContinueConfig, NewUsersConfig, SamplingConfig
from llmaug.schema import UNIT, validate
from llmaug.sequences import group_bounds
from llmaug.split import TRAIN
from llmaug.stage import Context, Stage, map_parts
from llmaug.storage import Storage, digest
from llmaug.vocabulary import BOS, Vocabulary, load


def run(context: Context) -> dict[str, Any]:
    config, storage = context.config, context.storage
    folder = context.folder("plan")
    lm = context.manifest(f"lm/{config.lm.name}") if config.generate.engine == "vllm" else None
    generator = generator_name(config.lm.name, lm)
    vocabulary = load(storage, context.folder("vocabulary"))
    maker = _UnitMaker(generator, config.seed)
    total: Counter[str] = Counter()
    train = f"{context.folder('split')}/{TRAIN}"
    for index, strategy in enumerate(config.plan.strategies):
        if isinstance(strategy, ContinueConfig):
            work = partial(
                _continue_part, storage, train, folder, strategy, index, maker, vocabulary,
                config.lm.context_len,
            )  # fmt: skip
            map_parts(context, folder, [f"{index}-{p}" for p in storage.parts(train)], work)
        else:
            size = config.plan.units_per_part
            starts = range(0, strategy.num_users, size)
            parts = [f"{index}-new-users-{number:05d}" for number in range(len(starts))]
            work = partial(_new_users_part, storage, folder, strategy, maker, size)
            map_parts(context, folder, parts, work)
    for part in storage.parts(folder):
        total.update(storage.read_json(folder, f"{part}.json")["counts"])
    units = sum(total.values())
    context.progress.note(f"{units:,} units: " + ", ".join(f"{n} {k}" for k, n in total.items()))
    return {"units": units, "generator": generator, **total}


def generator_name(lm_name: str, lm_manifest: dict[str, Any] | None) -> str:
    """`model name @ content digest`; the uniform control has no weights."""
    if lm_manifest is None:
        return "uniform"
    return f"{lm_name}@{lm_manifest['counts']['model_digest'][:16]}"


class _UnitMaker:
    """Fills in what all units of one plan share."""

    def __init__(self, generator: str, seed: int) -> None:
        self._generator, self._seed = generator, seed

    def unit(
        self,
        strategy: ContinueConfig | NewUsersConfig,
        prompt: list[int],
        sample: int,
        user_id: str | None = None,
        after: Any = None,
    ) -> dict[str, Any]:
        sampling = sampling_of(strategy, strategy.num_events)
        # The sample number makes the seeds of equal prompts differ. 63 bits: with 31 a plan of
        # 100,000 new users would hold equal units.
        seed = int(digest([self._seed, strategy.kind, user_id, sample])[:16], 16) >> 1
        identity = [prompt, strategy.kind, sampling, seed, self._generator]
        return {
            "unit_id": digest(identity),
            "user_id": user_id,
            "strategy": strategy.kind,
            "sample": sample,
            "prompt": prompt,
            "sampling": sampling,
            "seed": seed,
            "after": after,
        }


def sampling_of(config: SamplingConfig, max_tokens: int) -> dict[str, Any]:
    return {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "max_tokens": max_tokens,
    }


def _continue_part(
    storage: Storage,
    train: str,
    folder: str,
    strategy: ContinueConfig,
    index: int,
    maker: _UnitMaker,
    vocabulary: Vocabulary,
    context_len: int,
    part: str,
) -> dict[str, Any]:
    events = storage.read_part(train, part.removeprefix(f"{index}-"))
    users = events["user_id"].to_numpy(zero_copy_only=False)
    tokens = vocabulary.encode(events["item_id"])
    times = events["timestamp"]
    units = []
    for start, end in group_bounds(users):
        if strategy.max_history_len is not None and end - start > strategy.max_history_len:
            continue
        # Histories longer than the context are windowed: the newest events are what counts.
        prompt = [BOS, *tokens[start:end].tolist()][-(context_len - strategy.num_events) :]
        after = times[end - 1]
        units += [
            maker.unit(strategy, prompt, sample, users[start], after)
            for sample in range(strategy.samples_per_user)
        ]
    return _write(storage, folder, part, units, strategy.kind)


def _new_users_part(
    storage: Storage,
    folder: str,
    strategy: NewUsersConfig,
    maker: _UnitMaker,
    size: int,
    part: str,
) -> dict[str, Any]:
    first = int(part.rsplit("-", 1)[1]) * size
    samples = range(first, min(first + size, strategy.num_users))
    units = [maker.unit(strategy, [BOS], sample) for sample in samples]
    return _write(storage, folder, part, units, strategy.kind)


def _write(
    storage: Storage, folder: str, part: str, units: list[dict[str, Any]], kind: str
) -> dict[str, Any]:
    table = validate(pa.Table.from_pylist(units, schema=UNIT), UNIT, part)
    counts = {kind: len(units)}
    storage.write_part(table, counts, folder, part)
    return counts


def stage(lm_stages: tuple[str, ...]) -> Stage:
    return Stage(
        name="plan",
        run=run,
        inputs=("split", "vocabulary", *lm_stages),
        settings=lambda config: [config.plan, config.lm.context_len, config.generate.engine],
    )
