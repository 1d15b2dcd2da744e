"""The answer to one part of the plan: what of it is kept on the way, and what is committed."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.core.formats import OUTCOMES
from llmaug.core.storage import Storage
from llmaug.core.stored import Kept, read_record
from llmaug.generate.outcome_cache import remember
from llmaug.generate.units import ANSWER, Units, counts_of, outcomes_of
from llmaug.schema import OUTCOME

if TYPE_CHECKING:
    from collections.abc import Iterator


KEPT, ATTEMPTS = "_kept", "_attempts"
KEEP_EVERY_S = 30.0


@dataclass(frozen=True)
class OutcomeFolders:
    """Where a run's units lie and its outcomes go."""

    storage: Storage
    plan: str
    outcomes: str
    run_id: str
    generator: str


def commit(
    folders: OutcomeFolders, source: str, part: str, outcomes: pa.Table, extra: dict[str, int]
) -> dict[str, int]:
    """Write a part of outcomes, for good and for the cache; returns its counts.

    The same answers are the same bytes, from an engine or from the cache: columns in one piece, and
    nothing in the schema that a file put there when it was read.
    """
    outcomes = outcomes.cast(OUTCOME).combine_chunks()
    counts = {**counts_of(outcomes), **extra}
    remember(folders.storage, folders.generator, source, folders.run_id, part, outcomes)
    folders.storage.write_part(OUTCOMES.stamped(outcomes), counts, folders.outcomes, part)
    return counts


def keep(
    folders: OutcomeFolders,
    part: str,
    outcomes: pa.Table,
    counts: dict[str, int],
    only: list[str] | None = None,
) -> None:
    """Put answers of a part aside; whoever takes the part up asks for the rest (or `only` for
    these units) and adds `counts` to its own. The note makes the file count, as with parts."""
    folders.storage.write_table(
        OUTCOMES.stamped(outcomes), folders.outcomes, KEPT, f"{part}.parquet"
    )
    folders.storage.write_json(
        {"counts": counts, "only": only}, folders.outcomes, KEPT, f"{part}.json"
    )


def kept_of(
    folders: OutcomeFolders, part: str
) -> tuple[pa.Table, dict[str, int], list[str] | None]:
    """(outcomes, counts, only) of a part as `keep` put them aside; of others there are none."""
    note = read_record(folders.storage, Kept, folders.outcomes, KEPT, f"{part}.json")
    if note is None:
        return OUTCOME.empty_table(), {}, None
    file = f"{part}.parquet"
    kept = folders.storage.read_table(folders.outcomes, KEPT, file, stored=OUTCOMES)
    return kept.select(OUTCOME.names), note["counts"], note["only"]


def in_order(outcomes: pa.Table, unit_ids: pa.Array) -> pa.Table:
    """As the units stand in the plan."""
    return outcomes.take(pc.sort_indices(pc.index_in(outcomes["unit_id"], value_set=unit_ids)))


class PartAnswer:
    """The answers to one part so far."""

    def __init__(self, folders: OutcomeFolders, source: str, part: str, units: Units) -> None:
        self._folders, self._source, self._part, self.units = folders, source, part, units
        storage, folder = folders.storage, folders.outcomes
        past = storage.read_json(folder, ATTEMPTS, f"{part}.json") or {}
        self._crashes: Counter[str] = Counter(past.get("crashes"))
        if past.get("at") is not None:
            self._crashes[str(past["at"])] += 1
        self.attempts: int = past.get("attempts", 0) + 1
        self.unfinished: int = past.get("unfinished", 0) + 1
        self._note_attempt()
        self._kept, self._extra, self._only = kept_of(folders, part)
        self.num_kept = self._kept.num_rows
        self._answers = [ANSWER.empty_table()]
        self._kept_at = time.monotonic()
        self.not_needed = 0

    def open_numbers(self) -> np.ndarray:
        """(M,) rows of the part that have no answer yet."""
        ids = self.units.table["unit_id"]
        wanted = ~_among(ids, self._kept["unit_id"].combine_chunks())
        if self._only is not None:
            wanted &= _among(ids, pa.array(self._only, pa.string()))
        numbers = np.flatnonzero(wanted)
        new = [answers["number"].to_numpy() for answers in self._answers]
        return np.setdiff1d(numbers, np.concatenate(new))

    def known_tokens(self) -> Iterator[tuple[int, list[int]]]:
        """(row, tokens) of what was generated, earlier or now."""
        row_of = {unit_id: number for number, unit_id in enumerate(self.units.ids)}
        ids, tokens = self._kept["unit_id"].to_pylist(), self._kept["tokens"].to_pylist()
        yield from ((row_of[i], t) for i, t in zip(ids, tokens, strict=True) if t)
        for answers in self._answers:
            rows = zip(answers["number"].to_pylist(), answers["tokens"].to_pylist(), strict=True)
            yield from ((number, t) for number, t in rows if t)

    def add(self, answers: pa.Table) -> None:
        self._answers.append(answers)

    def keep_now_and_then(self) -> None:
        if time.monotonic() - self._kept_at > KEEP_EVERY_S:
            self.keep()

    def keep(self) -> None:
        """Put aside what is there, for whoever goes on with this part."""
        self._kept_at = time.monotonic()
        outcomes = self._outcomes()
        if outcomes.num_rows > self.num_kept:
            keep(self._folders, self._part, outcomes, self._extra, self._only)

    def set_aside(self) -> None:
        """Keep, and say that this attempt ended in good order."""
        self.keep()
        self.unfinished = 0
        self._note_attempt()

    def commit(self) -> dict[str, int]:
        outcomes = self._outcomes()
        not_needed = self.not_needed + self._extra.get("not_needed", 0)
        extra = {"repeated": self.attempts - 1} | self._extra | {"not_needed": not_needed}
        extra = {name: number for name, number in extra.items() if number}
        rest = extra.get("not_needed", 0) + extra.get("left_out", 0)
        assert outcomes.num_rows + rest == len(self.units), self._part
        counts = commit(self._folders, self._source, self._part, outcomes, extra)
        if self.attempts > 1:
            self.unfinished, self._crashes = 0, Counter()
            self._note_attempt()
        return counts

    def begin_unit(self, number: int) -> None:
        self._note_attempt(at=int(number))

    def end_units(self) -> None:
        self._note_attempt()

    def crashes_at(self, number: int) -> int:
        return self._crashes[str(number)]

    def _note_attempt(self, at: int | None = None) -> None:
        note = {"attempts": self.attempts, "unfinished": self.unfinished, "at": at,
                "crashes": self._crashes}  # fmt: skip
        self._folders.storage.write_json(
            note, self._folders.outcomes, ATTEMPTS, f"{self._part}.json"
        )

    def _outcomes(self) -> pa.Table:
        """Kept ones and new ones, in the order of the plan."""
        new = outcomes_of(self.units, pa.concat_tables(self._answers), self.attempts, self._part)
        if not self._kept.num_rows:
            return new
        both = pa.concat_tables([self._kept, new])
        return in_order(both, self.units.table["unit_id"].combine_chunks())


def _among(values: pa.ChunkedArray, others: pa.Array) -> np.ndarray:
    """(N,) bool: which of the values are among the others."""
    return pc.is_in(values, value_set=others).to_numpy(zero_copy_only=False)
