"""Budget in, Units out: who gets how many samples of which strategy.

A Unit's id is the content digest of everything that decides its answer (prompt, strategy,
sampling, seed, generator), so the same question to the same model has the same id on any
night. Each source (one part of the training events, or one range of new users) is written as
parts of `units_per_part` units, those to be served first in the first part; what is known of
the parts stands in `plan/_sources`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.budget import ALL_SAMPLES, Share, fraction, order, share_of, stays_together
from llmaug.config import ChooseConfig, NewUsersConfig, OfUsersConfig, SamplingConfig
from llmaug.errors import UserError
from llmaug.generators import Generator, generator_of, prompts_of, repeatable, vocabulary_of
from llmaug.lm.instruct import Choices
from llmaug.lm.prompts import Prompts
from llmaug.schema import UNIT, validate
from llmaug.sequences import group_bounds
from llmaug.split import TRAIN
from llmaug.stage import Context, Stage, map_parts
from llmaug.storage import Storage, digest
from llmaug.users import load_users

SOURCES = "_sources"


@dataclass(frozen=True)
class PlanPart:
    """A part of the plan."""

    name: str
    source: str
    """What it was made from; the outcomes cache is kept by it."""
    strategy: int
    """Place in `plan.strategies`."""
    train_part: str | None
    """Part of the training events whose users it continues; None for new users."""
    num_units: int
    max_tokens: int
    """Tokens that its units can generate, all together."""
    place: float
    """Of its source's units, the share that comes before its middle: parts are generated in
    this order, so whatever ends generation early cuts every strategy by the same share."""


def read_parts(storage: Storage, plan: str) -> list[PlanPart]:
    """The parts of a finished plan, in the order in which they should be generated."""
    folder = f"{plan}/{SOURCES}"
    parts = [
        PlanPart(**row)
        for source in storage.parts(folder)
        for row in storage.read_part(folder, source).to_pylist()
    ]
    return sorted(parts, key=lambda part: (part.place, part.name))


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
    maker = _UnitMaker(
        storage, generator, config.seed, repeatable(context, generator),
        context.folder("ingest/users") if config.lm.user_attributes else None,
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


def _check_room(prompts: Prompts, strategies: Sequence[OfUsersConfig | NewUsersConfig]) -> None:
    """What the config could not know: how many tokens an item has."""
    language = prompts.language
    if language.ids is None:
        return
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
        context.progress.note(
            f"[yellow]budget: {left_out:,} of {wanted:,} wanted units are left out "
            f"({context.config.plan.allocation})[/yellow]"
        )
    return {
        "units": units,
        "generator": generator.name,
        "max_output_tokens": sum(part.max_tokens for part in parts),
        "left_out_by_budget": left_out,
        **kinds,
    }


def _units_of(strategy: OfUsersConfig | NewUsersConfig, num_users: int) -> int:
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
class _UnitMaker:
    """Makes units from what all units of one plan share; picklable."""

    storage: Storage
    generator: Generator
    seed: int
    may_repeat: tuple[bool, ...]
    """Whether an event of each action may come again."""
    users: str | None
    """Folder of the users table, where the generator reads attributes."""

    def of_user(
        self,
        strategy: OfUsersConfig,
        user_id: str,
        history: list[int],
        sample: int,
        attributes: dict[str, str] | None,
    ) -> dict[str, Any]:
        """history: the user's training events as tokens, -1 for unknown ones."""
        prompts = prompts_of(self.storage, self.generator)
        seed = self._seed_of(strategy, user_id, sample)
        rng = np.random.default_rng(seed)
        places = prompts.draw_places(strategy.kind, len(history), strategy.num_events, rng)
        if isinstance(strategy, ChooseConfig):
            assert isinstance(prompts, Choices)
            candidates = prompts.candidates(history, strategy.num_candidates, rng)
            prompt = prompts.choice(history, candidates)
            return self._unit(strategy, prompt, sample, seed, user_id, places, (), candidates)
        prompt = prompts.question(
            strategy.kind, history, places, strategy.num_events,
            prompts.language.user_tokens(attributes),
        )  # fmt: skip
        shown = set(prompt) if prompts.language.word_len == 1 else set()
        also_seen = sorted(
            token
            for token in set(history) - shown
            if token >= 0 and not self.may_repeat[prompts.language.action_of(token)]
        )
        return self._unit(strategy, prompt, sample, seed, user_id, places, also_seen)

    def new_user(self, strategy: NewUsersConfig, sample: int) -> dict[str, Any]:
        """Where the generator reads attributes, with those of somebody drawn at random."""
        prompts = prompts_of(self.storage, self.generator)
        seed = self._seed_of(strategy, None, sample)
        drawn = None
        if self.users:
            users = load_users(self.storage, self.users)
            drawn = users.of_somebody(np.random.default_rng(seed))
        prompt = prompts.new_user(strategy.num_events, prompts.language.user_tokens(drawn))
        return self._unit(strategy, prompt, sample, seed, None, None)

    def _seed_of(
        self, strategy: OfUsersConfig | NewUsersConfig, user_id: str | None, sample: int
    ) -> int:
        # The sample number makes the seeds of equal prompts differ. 63 bits: with 31 a plan of
        # 100,000 new users would hold equal units.
        return int(digest([self.seed, strategy.kind, user_id, sample])[:16], 16) >> 1

    def _unit(
        self,
        strategy: OfUsersConfig | NewUsersConfig,
        prompt: list[int],
        sample: int,
        seed: int,
        user_id: str | None,
        places: list[int] | None,
        also_seen: Sequence[int] = (),
        candidates: list[int] | None = None,
    ) -> dict[str, Any]:
        prompts = prompts_of(self.storage, self.generator)
        max_tokens = prompts.num_tokens(strategy.num_events)
        forbid_repeats = not all(self.may_repeat)
        sampling = sampling_of(strategy, max_tokens, forbid_repeats)
        seen = list(also_seen)
        free = zip(prompts.language.actions, self.may_repeat, strict=False)
        words = prompts.language.action_words(name for name, may in free if may)
        may_repeat = words if forbid_repeats else []
        identity = [prompt, strategy.kind, sampling, seed, self.generator.name, seen, candidates]
        identity += [may_repeat] if may_repeat else []
        return {
            "unit_id": digest(identity),
            "user_id": user_id,
            "strategy": strategy.kind,
            "sample": sample,
            "prompt": prompt,
            "sampling": sampling,
            "seed": seed,
            "places": places,
            "also_seen": seen or None,
            "may_repeat": may_repeat or None,
            "candidates": candidates,
        }


def sampling_of(config: SamplingConfig, max_tokens: int, forbid_repeats: bool) -> dict[str, Any]:
    return {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "max_tokens": max_tokens,
        "forbid_repeats": forbid_repeats,
    }


@dataclass(frozen=True)
class _OfUsers:
    """Units about the users of one training part; picklable, called for a source."""

    storage: Storage
    train: str
    folder: str
    strategy: OfUsersConfig
    index: int
    maker: _UnitMaker
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
        attributes = load_users(self.storage, maker.users).by_id() if maker.users else {}
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
    maker: _UnitMaker,
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


@dataclass(frozen=True)
class Source:
    """What some parts of the plan are made from."""

    name: str
    """First part of their names."""
    cache: str
    """Name of the source in the outcomes cache."""
    strategy: int
    train_part: str | None
    units_per_part: int
    place: float | None = None
    """Place of its one part, where all parts of a strategy are sources of their own."""


def write_source(storage: Storage, plan: str, source: Source, units: list[dict[str, Any]]) -> int:
    """Write the parts of a source, then the note that makes the source count as done."""
    rows = []
    starts = range(0, len(units), source.units_per_part)
    for number, start in enumerate(starts):
        piece = units[start : start + source.units_per_part]
        part = source.name if source.place is not None else f"{source.name}-{number:05d}"
        table = validate(pa.Table.from_pylist(piece, schema=UNIT), UNIT, part)
        storage.write_part(table, {"units": len(piece)}, plan, part)
        described = PlanPart(
            name=part,
            source=source.cache,
            strategy=source.strategy,
            train_part=source.train_part,
            num_units=len(piece),
            max_tokens=sum(unit["sampling"]["max_tokens"] for unit in piece),
            place=(number + 0.5) / len(starts) if source.place is None else source.place,
        )
        rows.append(vars(described))
    table = pa.Table.from_pylist(rows, schema=_SOURCE_SCHEMA)
    storage.write_part(table, {"units": len(units)}, f"{plan}/{SOURCES}", source.name)
    return len(units)


_SOURCE_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string()),
        pa.field("source", pa.string()),
        pa.field("strategy", pa.int32()),
        pa.field("train_part", pa.string()),
        pa.field("num_units", pa.int64()),
        pa.field("max_tokens", pa.int64()),
        pa.field("place", pa.float64()),
    ]
)


def stage(lm_stages: tuple[str, ...]) -> Stage:
    return Stage(
        name="plan",
        run=run,
        inputs=("split", "vocabulary", *lm_stages),
        code=(
            "llmaug.budget",
            "llmaug.generators",
            "llmaug.lm.prompts",
            "llmaug.lm.language",
            "llmaug.lm.actions",
            "llmaug.lm.masking",
            "llmaug.lm.instruct",
        ),  # fmt: skip
        settings=lambda config: [
            config.plan,
            config.budget.max_units,
            config.budget.max_tokens,
            config.lm.model,
            config.lm.context_len,
            config.lm.user_attributes,
            config.filters.repeats,
            config.generate.engine,
        ],
    )
