"""Budget in, Units out: who gets how many samples of which strategy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.config import NewUsersConfig, OfUsersConfig, Strategy
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.split import TRAIN
from llmaug.ingest.users import attributes_digest, load_users_once
from llmaug.items.arrays import group_bounds
from llmaug.items.vocabulary import load_statistics
from llmaug.lm.generator import (
    Generator,
    generator_of,
    prompts_of,
    repeatable,
    roots_of,
    vocabulary_of,
)
from llmaug.lm.prompts import Prompts
from llmaug.plan.budget import ALL_SAMPLES, Share, fraction, order, share_of, stays_together
from llmaug.plan.counts import PlanCounts
from llmaug.plan.parts import SOURCES, Source, read_parts, write_source
from llmaug.plan.unit_maker import UnitMaker


def run(context: Context) -> dict[str, Any]:
    config, storage = context.config, context.storage
    folder = context.folder("plan")
    generator = generator_of(context)
    train = f"{context.folder('split')}/{TRAIN}"
    limited = config.budget.max_units is not None or config.budget.max_tokens is not None
    wanted = [_demand(context, i, train) if limited else {} for i in _strategies(context)]
    totals = [sum(sum(counts.values()) for counts in users.values()) for users in wanted]
    prompts = prompts_of(storage, generator)
    demands = [
        (_units_of(strategy, users), prompts.num_tokens(strategy.num_events))
        for strategy, users in zip(config.plan.strategies, totals, strict=True)
    ]
    _check_room(prompts, config.plan.strategies)
    share = fraction(config.budget, demands)
    maker = UnitMaker(
        storage, generator, config.seed, repeatable(context, generator),
        context.folder("ingest/users") if config.lm.user_attributes_read else None,
        attributes_digest(context),
        load_statistics(storage, context.folder("vocabulary")).history_len,
    )  # fmt: skip
    for index, strategy in enumerate(config.plan.strategies):
        paid = int(share * demands[index][0])
        if not isinstance(strategy, NewUsersConfig):
            part_share = Share()
            if share < 1:
                part_share = share_of(strategy, config.plan.allocation, wanted[index], paid)
            asked = _OfUsers(
                storage, train, folder, strategy, index, maker, config.plan.allocation,
                part_share, config.plan.units_per_part, len(storage.parts(train)),
            )  # fmt: skip
            sources = [f"{index}-{part}" for part in storage.parts(train)]
            map_parts(context, f"{folder}/{SOURCES}", sources, asked)
        else:
            num_users = paid if share < 1 else strategy.num_users
            size = config.plan.units_per_part
            count = len(range(0, num_users, size))
            sources = [f"{index}-new-users-{number:05d}" for number in range(count)]
            work = partial(
                _new_users, storage, folder, strategy, index, maker, size, num_users, count
            )
            map_parts(context, f"{folder}/{SOURCES}", sources, work)
    return _summary(context, generator, share, sum(number for number, _ in demands))


def _check_room(prompts: Prompts, strategies: Sequence[Strategy]) -> None:
    """What the config could not know: how many tokens an event has."""
    language = prompts.language
    if language.ids is None:
        return
    if any(strategy.soft for strategy in strategies):
        raise UserError(
            "plan.strategies: soft_events needs events of one token, and here they have "
            f"{language.word_len}: set lm.action_tokens: false, and vocabulary.max_atomic_items to "
            "no less than there are items"
        )
    taken = 3 + len(language.attributes) + language.word_len  # and one item of the history
    for strategy in strategies:
        if prompts.num_tokens(strategy.num_events) + taken > prompts.context_len:
            most = (prompts.context_len - taken) // language.word_len
            raise UserError(
                f"plan.strategies: {strategy.num_events} events of {language.word_len} tokens "
                f"do not fit into lm.context_len {prompts.context_len}; at most {most}"
            )


def _strategies(context: Context) -> range:
    return range(len(context.config.plan.strategies))


def _summary(context: Context, generator: Generator, share: float, wanted: int) -> dict[str, Any]:
    storage, folder = context.storage, context.folder("plan")
    kinds: Counter[str] = Counter()
    parts = read_parts(storage, folder)
    for part in parts:
        kinds[context.config.plan.strategies[part.strategy].kind] += part.num_units
    units = sum(kinds.values())
    left_out = wanted - units if share < 1 else 0
    listed = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items())
    context.progress.note(f"{units:,} units: {listed}")
    if left_out:
        context.progress.warn(
            f"budget: {left_out:,} of {wanted:,} wanted units are left out "
            f"({context.config.plan.allocation})"
        )
    return PlanCounts.keeps({
        "units": units,
        "generator": generator.name,
        "max_output_tokens": sum(part.max_tokens for part in parts),
        "left_out_by_budget": left_out,
        **kinds,
    })  # fmt: skip


def _units_of(strategy: Strategy, num_users: int) -> int:
    if isinstance(strategy, NewUsersConfig):
        return strategy.num_users
    return num_users * strategy.samples_per_user


def _demand(context: Context, index: int, train: str) -> dict[str, dict[int, int]]:
    """{training part: {history length: users}} that a strategy would ask about."""
    strategy = context.config.plan.strategies[index]
    if isinstance(strategy, NewUsersConfig):
        return {}
    storage, folder = context.storage, f"{context.folder('plan')}/_demand-{index}"
    work = partial(_count_users, storage, train, folder, strategy)
    parts = storage.parts(train)
    map_parts(context, folder, parts, work)
    return {
        part: {row["history_len"]: row["users"] for row in rows}
        for part in parts
        for rows in [storage.read_part(folder, part).to_pylist()]
    }


def _count_users(
    storage: Storage, train: str, folder: str, strategy: OfUsersConfig, part: str
) -> dict[str, Any]:
    users = storage.read_part(train, part, columns=["user_id"])["user_id"]
    lengths = np.array([end - start for start, end in group_bounds(users.to_numpy())], np.int64)
    lengths = lengths[[_asks(strategy, length) for length in lengths]]
    values, counts = np.unique(lengths, return_counts=True)
    storage.write_part(pa.table({"history_len": values, "users": counts}), {}, folder, part)
    return {}


def _asks(strategy: OfUsersConfig, history_len: int) -> bool:
    most = strategy.max_history_len
    return history_len >= strategy.min_history_len and (most is None or history_len <= most)


@dataclass(frozen=True)
class _OfUsers:
    """Units about the users of one training part; picklable, called for a source."""

    storage: Storage
    train: str
    folder: str
    strategy: OfUsersConfig
    index: int
    maker: UnitMaker
    allocation: str
    share: Share
    units_per_part: int
    num_train_parts: int

    def __call__(self, source: str) -> dict[str, Any]:
        train_part = source.split("-", 1)[1]
        vocabulary = vocabulary_of(self.storage, self.maker.generator)
        columns = ["user_id", *vocabulary.event_columns]
        events = self.storage.read_part(self.train, train_part, columns=columns)
        users = events["user_id"].to_numpy(zero_copy_only=False)
        tokens = vocabulary.encode_events(events)
        bounds = group_bounds(users)
        chosen = self._chosen([end - start for start, end in bounds], train_part)
        maker = self.maker
        attributes = {}
        if maker.users:
            asked = [users[bounds[row][0]] for row, _ in chosen]
            known = load_users_once(self.storage, maker.users, maker.users_digest)
            attributes = known.attributes_of(asked)
        units = []
        for row, sample in chosen:
            start, end = bounds[row]
            history = tokens[start:end].tolist()
            user = users[start]
            unit = maker.of_user(self.strategy, user, history, sample, attributes.get(user))
            units.append(unit)
        size = self.units_per_part
        if self.strategy.accepted_per_user is not None:  # a user's tries stay in one part
            size = max(1, size // self.strategy.samples_per_user) * self.strategy.samples_per_user
        cache = f"{self.strategy.kind}.{train_part}.of-{self.num_train_parts}"
        described = Source(source, cache, self.index, train_part, size)
        return {"units": write_source(self.storage, self.folder, described, units)}

    def _chosen(self, lengths: list[int], train_part: str) -> list[tuple[int, int]]:
        """(user's place in the part, sample number) of each unit, first served first."""
        strategy = self.strategy
        together = stays_together(strategy, self.allocation)
        samples = [ALL_SAMPLES] if together else list(range(strategy.samples_per_user))
        left = self.share.cut_users.get(train_part, 0)
        found = []
        for row, length in enumerate(lengths):
            if not _asks(strategy, length):
                continue
            for sample in samples:
                cls = (length, sample)
                if not self.share.takes(cls):
                    if cls != self.share.cut or not left:
                        continue
                    left -= 1
                found.append((order(self.allocation)(cls), row, sample))
        every = range(strategy.samples_per_user)
        return [
            (row, number)
            for _, row, sample in sorted(found)
            for number in (every if sample == ALL_SAMPLES else [sample])
        ]


def _new_users(
    storage: Storage,
    folder: str,
    strategy: NewUsersConfig,
    index: int,
    maker: UnitMaker,
    size: int,
    num_users: int,
    num_sources: int,
    source: str,
) -> dict[str, Any]:
    number = int(source.rsplit("-", 1)[1])
    samples = range(number * size, min((number + 1) * size, num_users))
    units = [maker.new_user(strategy, sample) for sample in samples]
    cache = f"new_users.{number:05d}.by-{size}"
    described = Source(source, cache, index, None, size, place=(number + 0.5) / num_sources)
    return {"units": write_source(storage, folder, described, units)}


def stage(lm_stages: tuple[str, ...]) -> Stage:
    return Stage(
        name="plan",
        run=run,
        asks=lambda config, on_gpus: TASKS,
        inputs=("split", "vocabulary", *lm_stages),
        roots=lambda config: (*roots_of(config), *config.plan.modules),
        outside=attributes_digest,
        settings=lambda config: [
            config.plan,
            config.budget.max_units,
            config.budget.max_tokens,
            config.lm.model,
            config.lm.context_len,
            config.lm.user_attributes_read,
            config.filters.repeats,
            config.generate.engine,
        ],
    )
