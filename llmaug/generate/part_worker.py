"""What an engine's actor does with one part of the plan: read, answer, write.

Answers of a part that is not finished are put aside in `outcomes/_kept`. How often a part was
begun stands in `outcomes/_attempts`: a part that brought its engine down twice is run unit by
unit, and a unit in whose company the engine dies once more is given up as `engine_crashed`.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from llmaug.core.formats import UNITS
from llmaug.core.stored import Note, read_record
from llmaug.errors import UserError
from llmaug.generate.engine_loop import EngineLoop
from llmaug.generate.engines import EngineMaker
from llmaug.generate.look import Look
from llmaug.generate.part_answer import KEEP_EVERY_S, OutcomeFolders, PartAnswer
from llmaug.generate.units import Units, failures_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WHOLE_ATTEMPTS = 2  # begun more often without an end, a part is run unit by unit
CRASHES = 2  # and a unit is given up after so many crashes in its company


class PartWorker:
    """A Ray Data actor: one engine, loaded once, several parts in it at a time."""

    def __init__(
        self,
        folders: OutcomeFolders,
        engine: EngineMaker,
        board: Any = None,
        *,
        look: Callable[[], Look],
    ) -> None:
        """look: makes what looks at answers while they come."""
        self._folders, self._look = folders, look()
        line = _BoardLine(board)
        self._loop = EngineLoop(engine, line.report, line.died)
        self._together = _Together()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """One row of the plan's parts in; `{part, counts}` out, counts as JSON."""
        storage, part = self._folders.storage, row["name"]
        if self._loop.stopped:
            return {"part": part, "counts": "{}"}
        note = read_record(storage, Note, self._folders.outcomes, f"{part}.json")
        if note:  # the machine that wrote it was lost before it could say so
            return {"part": part, "counts": json.dumps(note["counts"])}
        units = Units(storage.read_part(self._folders.plan, part, stored=UNITS))
        answer = PartAnswer(self._folders, row["source"], part, units)
        self._loop.count(kept=answer.num_kept)
        careful = answer.unfinished > WHOLE_ATTEMPTS
        kind = row["strategy"]
        try:
            with self._together.alone() if careful else self._together.among_others():
                if careful:
                    self._one_by_one(answer, kind)
                elif quota := self._look.quota(kind):
                    self._by_quota(answer, kind, quota, row["train_part"])
                else:
                    self._collect(answer, kind, answer.open_numbers())
        except UserError:  # of a filter, once for all: no engine died of it, and no answer is lost
            answer.set_aside()
            raise
        if self._loop.broken:
            raise self._loop.broken
        if self._loop.stopped:
            answer.set_aside()
            return {"part": part, "counts": "{}"}
        counts = answer.commit()
        return {"part": part, "counts": json.dumps(counts)}

    def _collect(self, answer: PartAnswer, kind: int, numbers: np.ndarray) -> None:
        """Run rows `numbers` and take their answers, until all are there or we are stopped."""
        if not len(numbers):
            return
        job = self._loop.submit(answer.units, numbers)
        num_open = len(numbers)
        while num_open:
            try:
                answers = job.answers.get(timeout=KEEP_EVERY_S)
            except queue.Empty:
                answer.keep()
                continue
            if answers is None:
                return
            num_open -= answers.num_rows
            answer.add(answers)
            self._loop.count(**self._look.at(answer.units, kind, answers))
            answer.keep_now_and_then()

    def _one_by_one(self, answer: PartAnswer, kind: int) -> None:
        for number in answer.open_numbers():
            if answer.crashes_at(number) >= CRASHES:
                detail = f"the engine died {CRASHES} times while only this unit ran"
                answer.add(failures_of([(int(number), "engine_crashed", detail)]))
                self._loop.count(failed=1)
                continue
            answer.begin_unit(number)
            self._collect(answer, kind, np.array([number]))
            if self._loop.stopped or self._loop.broken:
                break
        # Before the next part has the engine: were it to die of that one while this one is
        # being committed, the last unit here would be blamed.
        answer.end_units()

    def _by_quota(self, answer: PartAnswer, kind: int, quota: int, train_part: str) -> None:
        """Tries of each user, until `quota` of its outcomes would be accepted."""
        accepts = self._look.judge(answer.units, kind, train_part)
        accepted: Counter[str | None] = Counter()

        for number, tokens in answer.known_tokens():
            user = answer.units.users[number]
            accepted[user] += accepts(number, tokens)
        waiting: dict[str | None, list[int]] = {}
        for number in answer.open_numbers():
            waiting.setdefault(answer.units.users[number], []).append(int(number))
        while not self._loop.stopped and not self._loop.broken:
            wave = []
            for user, numbers in waiting.items():
                take = max(quota - accepted[user], 0)
                wave += numbers[:take]
                waiting[user] = numbers[take:]
            if not wave:
                break
            self._collect(answer, kind, np.array(sorted(wave)))
            asked = set(wave)
            for number, tokens in answer.known_tokens():
                if number in asked:
                    user = answer.units.users[number]
                    accepted[user] += accepts(number, tokens)
        answer.not_needed = sum(len(numbers) for numbers in waiting.values())


class _Together:
    """Parts run side by side, except for a careful one, which has the engine to itself."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._others, self._alone = 0, False

    @contextmanager
    def among_others(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._others += 1
        try:
            yield
        finally:
            with self._changed:
                self._others -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._changed.wait_for(lambda: not self._others)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


class _BoardLine:
    """An engine's line to the board; a board that does not answer stops nobody."""

    def __init__(self, board: Any) -> None:
        self._board, self._answer = board, None
        self._name = ""
        if board is not None:
            import ray

            actor = ray.get_runtime_context().get_actor_id()
            self._name = f"{actor}-{os.getpid()}"
            # Waited for: an engine that dies before its first report must be known to have lived.
            with suppress(Exception):
                ray.get(board.report.remote(self._name, {}), timeout=10)

    def report(self, news: dict[str, Any]) -> str:
        """Sends without waiting; the answer is that to an earlier report."""
        if self._board is None:
            return ""
        import ray

        verdict = ""
        if self._answer is not None:
            ready, _ = ray.wait([self._answer], timeout=0)
            if not ready:
                return ""
            with suppress(ray.exceptions.RayError):
                verdict = ray.get(self._answer)
        self._answer = self._board.report.remote(self._name, news)
        return verdict

    def died(self, last_words: str) -> None:
        if self._board is None:
            return
        import ray

        with suppress(Exception):
            ray.get(self._board.died.remote(self._name, last_words), timeout=5)
