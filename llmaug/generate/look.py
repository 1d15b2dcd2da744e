"""Who looks at answers while they are generated: for the share that will be accepted, which
people see, and for quotas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from llmaug.config import FiltersConfig, StrategyConfig
from llmaug.core.storage import Storage
from llmaug.filter.rules import Candidate, items_seen, judge
from llmaug.generate.units import Units
from llmaug.items.sequences import user_histories
from llmaug.lm.generator import Generator, prompts_of, vocabulary_of


class Look(Protocol):
    """What a worker asks of it; kind: the `strategy` of a part of the plan."""

    def at(self, units: Units, kind: int, answers: pa.Table) -> dict[str, int]:
        """Counts of some of the answers (rows of ANSWER): accepted, rejected, events_kept,
        tokens_seen."""

    def quota(self, kind: int) -> int | None:
        """Accepted outcomes after which a user is not asked again; None: all units are."""

    def judge(self, units: Units, kind: int, train_part: str) -> Callable[[int, list[int]], bool]:
        """Where there is a quota: says of a row of the part and its tokens if they would be
        accepted."""


class EventLook:
    """Of events: by the filters of the config."""

    def __init__(
        self,
        storage: Storage,
        generator: Generator,
        strategies: Sequence[StrategyConfig] = (),
        filters: FiltersConfig | None = None,
        may_repeat: tuple[bool, ...] = (False,),
        train: str = "",
        every: int = 1,
    ) -> None:
        """every: how manieth unit is looked at."""
        self._storage, self._train, self._every = storage, train, every
        self._vocabulary = vocabulary_of(storage, generator)
        self._prompts = prompts_of(storage, generator)
        self._filters, self._may_repeat = filters or FiltersConfig(), may_repeat
        self._strategies = strategies
        self._items = items_seen(self._filters.rules, self._vocabulary)

    def quota(self, kind: int) -> int | None:
        return getattr(self._strategies[kind], "accepted_per_user", None)

    def judge(self, units: Units, kind: int, train_part: str) -> Callable[[int, list[int]], bool]:
        histories = user_histories(self._storage, [self._train], train_part, self._vocabulary)

        def accepts(number: int, tokens: list[int]) -> bool:
            history = histories.get(units.users[number] or "", [])
            candidate = self._candidate(units, kind, number, tokens, history)
            return judge(candidate, self._filters.rules)[1] is None

        return accepts

    def at(self, units: Units, kind: int, answers: pa.Table) -> dict[str, int]:
        looked = answers.filter(pc.is_null(answers["reason"]))
        looked = looked.filter(pa.array(looked["number"].to_numpy() % self._every == 0))
        if self._strategies[kind].soft:  # no events: nothing to judge
            num_events = int(pc.sum(pc.list_value_length(looked["tokens"])).as_py() or 0)
            return {
                "accepted": looked.num_rows, "events_kept": num_events, "tokens_seen": num_events
            }  # fmt: skip
        kept = accepted = seen = 0
        for number, tokens in zip(
            looked["number"].to_pylist(), looked["tokens"].to_pylist(), strict=True
        ):
            history = units.also_seen[number] or []
            chat = units.candidates[number] is not None  # then the prompt is no history
            if self._prompts.language.ids is None and not chat:
                history = [*history, *units.table["prompt"][number].as_py()]
            candidate = self._candidate(units, kind, number, tokens, history)
            reasons, verdict = judge(candidate, self._filters.rules)
            accepted += verdict is None
            kept += reasons.count(None) if verdict is None else 0
            seen += len(tokens)
        return {
            "accepted": accepted, "rejected": looked.num_rows - accepted, "events_kept": kept,
            "tokens_seen": seen,
        }  # fmt: skip

    def _candidate(
        self, units: Units, kind: int, number: int, tokens: list[int], history: list[int]
    ) -> Candidate:
        strategy = self._strategies[kind]
        return Candidate(
            unit_id=units.ids[number],
            strategy=strategy,
            tokens=self._prompts.events(strategy, tokens, units.candidates[number]),
            history=frozenset(history),
            num_items=self._vocabulary.num_items,
            may_repeat=self._may_repeat,
            items=self._items,
        )
