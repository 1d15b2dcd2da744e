"""`llmaug tune`: which arm, and which recipe, is best on the validation events of these logs.

Successive halving (Jamieson and Talwalkar 2016): all candidates are trained for a quarter of the
steps, the better half of them for a half, the better half of those for all; `none`, the arm `real`
alone, is trained for each of these lengths, and a candidate is better only where it beats `real`
at the same one. Before anything is generated the generator has to rank validation events better
than `real`, or candidates with synthetic events are dropped.

All happens in one run folder, `runs/tune-NAME`, one candidate after another, so that what they
share is done once, and units that were answered come out of the outcomes cache. No step behind
`train` is run: the test events stay closed. What was measured stands in `tune/NAME/` and is not
trained again: the same command goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmaug import __version__, pipeline
from llmaug.arms.arms import AUGMENTED, CONTROLS, REAL
from llmaug.commands.tune_candidates import REAL_ALONE, Candidate, Facts, built_in, shortened
from llmaug.commands.validation_lift import validation_lift
from llmaug.config import ByDescentConfig, Config
from llmaug.core.progress import Progress
from llmaug.core.storage import Storage, digest
from llmaug.errors import Interrupted, UserError
from llmaug.ingest.split import TRAIN, VALIDATION
from llmaug.items.vocabulary import load_vocabulary
from llmaug.report.sentences import generator_text
from llmaug.training.validation import load_validation

FOLDER = "tune"
_SHARES = (0.25, 0.5, 1.0)  # of the training steps
# Sections that decide nothing of what training says on validation.
_ELSEWHERE = {"name", "storage", "ray", "gate", "publish", "recommend"}


@dataclass
class Row:
    """A candidate, and what came of it."""

    candidate: Candidate
    by_steps: dict[int, dict[str, float]] = field(default_factory=dict)
    """{steps: {seed: validation NDCG@10}}."""
    synthetic: int = 0
    """Synthetic events, and real ones with soft targets."""
    seconds: float = 0.0
    """Of all its trainings, those of earlier calls, too."""
    lift: dict[str, Any] | None = None
    """Over `none` after all steps, on validation events, with its interval (`validation_lift`)."""
    why: str = ""
    """Why it was not trained further."""

    def ndcg(self, steps: int) -> float | None:
        """Mean over the seeds; None where it was not trained for so long."""
        found = self.by_steps.get(steps)
        return float(np.mean(list(found.values()))) if found else None


@dataclass(frozen=True)
class Tuned:
    """What `tune` found out."""

    facts: Facts
    rungs: list[int]
    """Training steps of each rung; 0 for a model in closed form."""
    rows: list[Row]
    """`none` first."""
    generator: dict[str, Any] | None
    """How the generator and `real` rank validation events; None where it was not measured."""
    spent_s: float
    complete: bool
    """Whether the minutes were enough."""

    @property
    def decided_at(self) -> int:
        """Steps of the last rung at which something else than `real` was trained."""
        real, *others = self.rows
        both = [
            s for s in self.rungs if real.by_steps.get(s) and any(r.by_steps.get(s) for r in others)
        ]
        return both[-1] if both else self.rungs[-1]

    @property
    def winner(self) -> Row:
        """The best at that length; `none` unless another one is better."""
        steps = self.decided_at
        trained = [row for row in self.rows if row.ndcg(steps) is not None]
        return max(trained, key=lambda row: (row.ndcg(steps) or 0.0, row.candidate == REAL_ALONE))


def tune(
    config: Config,
    storage: Storage,
    minutes: float,
    candidates: list[Candidate] | None = None,
    progress: Callable[[Callable[[dict], None]], Progress] | None = None,
    say: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
) -> Tuned:
    """Train candidates (default: `built_in`) until one is chosen or `minutes` are spent; they are
    looked at before each training, so the last one may end later. `say` is told a line for each.

    Raises UserError where there is no validation event to choose by.
    """
    return _Tuning(config, storage, minutes, progress, say, clock).run(candidates)


class _Tuning:
    def __init__(
        self,
        config: Config,
        storage: Storage,
        minutes: float,
        progress: Callable[[Callable[[dict], None]], Progress] | None,
        say: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._base, self._storage, self._progress = config, storage, progress
        self._say, self._clock, self._begin, self._minutes = say, clock, clock(), minutes
        self._run_id = run_of(config)

    def run(self, candidates: list[Candidate] | None) -> Tuned:
        self._facts = self._look()
        if not self._facts.validation_users:
            raise UserError("no user has both training and validation events: nothing to choose by")
        if candidates is None:
            candidates = built_in(self._base, self._facts)
        rows = [Row(candidate) for candidate in candidates]
        shares = _shares(self._base, len(rows))
        real, steps = Row(REAL_ALONE), [_steps(self._base, share) for share in shares]
        self._say(f"{len(rows)} candidates beside `none`: "
                  f"{', '.join(row.candidate.name for row in rows)}")  # fmt: skip
        self._measure(real, 1.0, real, always=True)
        generator = None
        asked = [r for r in rows if r.candidate.needs_lm and "lm" not in r.candidate.changes]
        if asked and not self._is_over():
            generator = self._ask_generator(asked, real)
        going = [row for row in rows if not row.why]
        for number, share in enumerate(shares):
            going = self._climb(going, share, real, keeps_all=number + 1 == len(shares))
        return Tuned(
            self._facts, steps, [real, *rows], generator, self._clock() - self._begin,
            complete=not any(row.why == _OUT_OF_TIME for row in rows),
        )  # fmt: skip

    def _climb(self, rows: list[Row], share: float, real: Row, keeps_all: bool) -> list[Row]:
        """Train each for `share` of the steps, `none` first and then the best so far; returns
        those that go on."""
        for row in [real, *rows] if rows else []:
            self._measure(row, share, real)
        steps = _steps(self._base, share)
        trained = [row for row in rows if row.by_steps.get(steps)]
        ranked = sorted(trained, key=lambda row: -(row.ndcg(steps) or 0.0))
        if keeps_all or len(trained) < len(rows) and self._is_over():
            return ranked
        best = ranked[: math.ceil(len(ranked) / 2)]
        # What comes close without synthetic events says what the events are worth.
        controls = {CONTROLS[row.candidate.arm] for row in best}
        on = [
            row
            for row in ranked
            if row in best or (row.candidate.arm in controls and not row.candidate.generates)
        ]
        for row in ranked:
            row.why = "" if row in on else "not in the better half"
        return on

    def _measure(self, row: Row, share: float, real: Row, always: bool = False) -> None:
        """Recall what came of `row` after `share` of the steps, or train it while there is time (or
        `always`)."""
        config, steps = row.candidate.config(self._base, share), _steps(self._base, share)
        if row.by_steps.get(steps):
            return
        place = (FOLDER, self._base.name, f"{self._basis(config)}.json")
        begin, arm = self._clock(), row.candidate.arm
        done = self._storage.read_json(*place)
        if done is None:
            if self._is_over() and not always:
                row.why = "" if row is real else _OUT_OF_TIME
                return
            try:
                manifests = self._pipeline(config, "train")
            except Interrupted:
                raise
            except Exception as error:
                if row is real:
                    raise
                row.why = _failed(error)
                self._tell(row, steps, real)
                return
            merged = manifests.get(f"merged/{AUGMENTED}") if row.candidate.generates else None
            done = {
                "candidate": row.candidate.name,
                "steps": steps,
                "by_seed": by_seed(manifests[f"model/{arm}"]["counts"]),
                "synthetic": _learned_from(merged["counts"]) if merged else 0,
                "lift": self._lift(config, arm) if share == 1.0 and row is not real else None,
                "seconds": round(self._clock() - begin, 2),
            }
            self._storage.write_json(done, *place)
        row.by_steps[steps], row.synthetic = done["by_seed"], done["synthetic"]
        row.lift = done.get("lift")
        row.seconds += done["seconds"]
        self._tell(row, steps, real)

    def _ask_generator(self, rows: list[Row], real: Row) -> dict[str, Any] | None:
        """Train the generator; where it ranks validation events no better than `real` does, its
        synthetic events are dropped: they could teach nothing."""
        first = min(rows, key=lambda row: row.candidate.generates)  # no plan is made for it
        try:
            manifests = self._pipeline(first.candidate.config(self._base), "lm")
        except Interrupted:
            raise
        except Exception as error:
            for row in rows:
                row.why = _failed(error)
            self._say(f"the generator: {_failed(error)}")
            return None
        counts = [m["counts"] for name, m in manifests.items() if name.startswith("lm/")]
        ndcg = counts[0].get("validation_ndcg") if counts else None
        if ndcg is None:  # n-grams and chat models are not measured so
            return None
        against = real.ndcg(_steps(self._base, 1.0)) or 0.0
        found = {
            "validation_ndcg": ndcg, "real_validation_ndcg": against, "ahead": ndcg > against
        }  # fmt: skip
        self._say(generator_text(found))
        if not found["ahead"]:
            own = [row for row in rows if row.candidate.generates]
            for row in own:
                row.why = "dropped: the generator ranks no better than real"
            self._say(f"{len(own)} candidates with its synthetic events are dropped")
        return found

    def _look(self) -> Facts:
        """Read and split the logs, and look at what there is."""
        manifests = self._pipeline(REAL_ALONE.config(self._base), "vocabulary")
        counts = manifests["split"]["counts"]
        content = digest([manifests[name].get("content") for name in ("split", "vocabulary")])
        has_features, validation_users = self._contents()
        return Facts(
            counts["train_users"], counts["train"], has_features, validation_users, content
        )

    def _contents(self) -> tuple[bool, int]:
        """Whether items have tags or texts, and the number of validation users."""
        folder, config = f"runs/{self._run_id}", self._base
        vocabulary = load_vocabulary(self._storage, f"{folder}/vocabulary")
        users = load_validation(
            self._storage, f"{folder}/split/{TRAIN}", f"{folder}/split/{VALIDATION}", vocabulary,
            config.train.seeds[0],
        )  # fmt: skip
        has_features = vocabulary.has_features(config.vocabulary.min_tag_items).any()
        return bool(has_features), len(users.user_ids)

    def _lift(self, config: Config, arm: str) -> dict[str, Any]:
        """Of what was just trained: the candidate, and `none` beside it."""
        return validation_lift(self._storage, self._run_id, config, arm, REAL)

    def _pipeline(self, config: Config, until: str) -> dict[str, Any]:
        return pipeline.run(config, self._storage, self._run_id, until, self._progress)

    def _basis(self, config: Config) -> str:
        raw = config.model_dump(mode="json", exclude=_ELSEWHERE)
        return digest([raw, self._facts.content, __version__])

    def _is_over(self) -> bool:
        return self._clock() - self._begin >= 60 * self._minutes

    def _tell(self, row: Row, steps: int, real: Row) -> None:
        name, ndcg, against = row.candidate.name, row.ndcg(steps), real.ndcg(steps)
        length = f"{steps:,} steps" if steps else "closed form"
        found = row.why if ndcg is None else f"NDCG@10 {ndcg:.4f}"
        if ndcg is not None and row is not real and against is not None:
            found += f" (none {against:.4f})"
        spent = (self._clock() - self._begin) / 60
        self._say(f"{name}, {length}: {found}; {spent:.1f} of {self._minutes:g} minutes")


_OUT_OF_TIME = "out of time"


def run_of(config: Config) -> str:
    """Id of the run in which candidates are trained."""
    return f"tune-{config.name}"


def by_seed(seeds: dict[str, Any]) -> dict[str, float]:
    """{seed: validation NDCG@10} from the counts of a stage `model/<arm>`."""
    found = {name.removeprefix("seed-"): facts["validation_ndcg"] for name, facts in seeds.items()}
    if None in found.values():
        raise UserError("no user has both training and validation events: nothing to choose by")
    return found


def _learned_from(merged: dict[str, Any]) -> int:
    """Events that the generator has a part in, by the counts of the merged shards."""
    return merged["synthetic"] + merged.get("soft", 0)


def _failed(error: Exception) -> str:
    text = error.message if isinstance(error, UserError) else repr(error)
    return f"failed: {text}"


def _shares(config: Config, num_candidates: int) -> list[float]:
    """Of the steps, a rung each: few candidates need no short trials."""
    if not isinstance(config.train, ByDescentConfig):
        return [1.0]
    num_rungs = 1 + math.ceil(math.log2(max(1, num_candidates)))
    shares = list(_SHARES[-num_rungs:])
    return [s for s in shares if s == 1 or 1 <= _steps(config, s) < config.train.num_steps]


def _steps(config: Config, share: float) -> int:
    train = shortened(config, share).train
    return train.num_steps if isinstance(train, ByDescentConfig) else 0
