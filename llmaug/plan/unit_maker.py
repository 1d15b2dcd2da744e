"""What exactly one unit asks its generator, and the id that follows from it.

A Unit's id is the content digest of everything that decides its answer (prompt, strategy,
sampling, seed, generator), so the same question to the same model has the same id on any night.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmaug.config import NewUsersConfig, OfUsersConfig, SamplingConfig, Strategy
from llmaug.core.storage import Storage, digest
from llmaug.ingest.users import load_users_once
from llmaug.lm.generator import Generator, prompts_of

# Fields of strategies that units show, or that say how many there are.
_IN_UNITS = {
    *SamplingConfig.model_fields, "kind", "num_events", "num_candidates", "num_users",
    "samples_per_user", "accepted_per_user", "max_history_len",
}  # fmt: skip


@dataclass(frozen=True)
class UnitMaker:
    """Makes units from what all units of one plan share; picklable."""

    storage: Storage
    generator: Generator
    seed: int
    may_repeat: tuple[bool, ...]
    """Whether an event of each action may come again."""
    users: str | None
    """Folder of the users table, where the generator reads attributes."""
    users_digest: str | None = None
    """Of that table."""
    history_len: Sequence[float] = ()
    """Evenly spaced quantiles of the lengths of training histories."""

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
        places = prompts.draw_places(strategy, len(history), rng)
        candidates = prompts.offered(strategy, history, rng)
        user = prompts.language.user_tokens(attributes)
        prompt = prompts.question(strategy, history, places, user, candidates)
        if candidates is not None:  # of which none was seen
            return self._unit(strategy, prompt, sample, seed, user_id, places, (), candidates)
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
            users = load_users_once(self.storage, self.users, self.users_digest)
            drawn = users.of_somebody(np.random.default_rng(seed))
        num_events = strategy.num_events
        if strategy.lengths == "training":
            like = np.random.default_rng([seed, 1]).choice(self.history_len)
            num_events = min(max(2, round(like)), num_events)
        prompt = prompts.new_user(num_events, prompts.language.user_tokens(drawn))
        return self._unit(strategy, prompt, sample, seed, None, None, num_events=num_events)

    def _seed_of(self, strategy: Strategy, user_id: str | None, sample: int) -> int:
        # The sample number makes the seeds of equal prompts differ. 63 bits: with 31 a plan of
        # 100,000 new users would hold equal units.
        decided = [self.seed, strategy.kind, user_id, sample, *_apart(strategy)]
        return int(digest(decided)[:16], 16) >> 1

    def _unit(
        self,
        strategy: Strategy,
        prompt: list[int],
        sample: int,
        seed: int,
        user_id: str | None,
        places: list[int] | None,
        also_seen: Sequence[int] = (),
        candidates: list[int] | None = None,
        num_events: int | None = None,
    ) -> dict[str, Any]:
        """num_events: default: those of the strategy."""
        prompts = prompts_of(self.storage, self.generator)
        max_tokens = prompts.num_tokens(num_events or strategy.num_events)
        forbid_repeats = not all(self.may_repeat)
        sampling = sampling_of(strategy.sampling, max_tokens, forbid_repeats)
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


def _apart(strategy: Strategy) -> list[Any]:
    """What tells strategies apart whose units would else be the same ones."""
    own = strategy.model_dump(mode="json", exclude=_IN_UNITS, exclude_defaults=True)
    if own.get("lengths"):  # a short one is drawn whatever the most is
        own["num_events"] = strategy.num_events
    return [own] if own else []


def sampling_of(config: SamplingConfig, max_tokens: int, forbid_repeats: bool) -> dict[str, Any]:
    return {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "max_tokens": max_tokens,
        "forbid_repeats": forbid_repeats,
    }
