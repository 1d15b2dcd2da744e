"""vLLM for questions with images: threads read the images, and the engine never waits for storage.

An image lies in memory from when it is read until its answer is there, so no more are read than the
engine has room for. One that cannot be read is a failed unit with its reason.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from llmaug.generate.engines import TOKENS, Engine, Finished, together
from llmaug.generate.units import Units
from llmaug.schema import SAID
from llmaug.text.images import ImageError, Images

_READERS = 8
_STEP_S = 0.2


class TakesImages(Engine, Protocol):
    """An engine that is shown an image with a question."""

    def add_one(self, key: int, units: Units, number: int, image: Any = None) -> str:
        """Queue a row; returns why it is refused, or ''."""


class ImageEngine:
    """What `EngineLoop` drives."""

    def __init__(self, engine: TakesImages, images: Images, max_shown: int) -> None:
        """max_shown: units at a time that the engine has, or that wait for it with their image."""
        self._engine, self._images = engine, images
        self._most = max_shown + _READERS
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="images")
        self._waiting: deque[tuple[int, Units, int]] = deque()
        self._reading: dict[Future[Any], tuple[int, Units, int]] = {}

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting) + len(self._reading) + self._engine.num_unfinished

    @property
    def alive(self) -> bool:
        return self._engine.alive

    def add(self, units: Units, numbers: np.ndarray, first_key: int) -> list[tuple[int, str]]:
        numbered = enumerate(numbers.tolist(), first_key)
        self._waiting.extend((key, units, number) for key, number in numbered)
        self._read_on()
        return []

    def step(self) -> Finished | None:
        if self._reading and not self._engine.num_unfinished:  # nothing else to do meanwhile
            wait(self._reading, _STEP_S, FIRST_COMPLETED)
        failed = self._show()
        self._read_on()
        pieces = [_failures(failed)] if failed else []
        if self._engine.num_unfinished and (finished := self._engine.step()) is not None:
            pieces.append(finished)
        return together(pieces) if pieces else None

    def abort(self) -> None:
        for future in self._reading:
            future.cancel()
        self._reading.clear()
        self._waiting.clear()
        self._engine.abort()

    def _read_on(self) -> None:
        while self._waiting and len(self._reading) + self._engine.num_unfinished < self._most:
            unit = _, units, number = self._waiting.popleft()
            self._reading[self._pool.submit(self._images.read, *units.images[number])] = unit

    def _show(self) -> list[tuple[int, str, str]]:
        """Give the engine what has been read; returns (key, reason, detail) of the others."""
        failed = []
        for future in [future for future in self._reading if future.done()]:
            key, units, number = self._reading.pop(future)
            try:
                image = future.result()
            except ImageError as error:
                failed.append((key, *error.args))
                continue
            if why := self._engine.add_one(key, units, number, image):
                failed.append((key, "refused_by_engine", why))
        return failed


def _failures(failed: list[tuple[int, str, str]]) -> Finished:
    none = np.array([], np.int64)
    return Finished(
        none, pa.array([], TOKENS), none.astype(np.int32), failed, said=SAID.empty_table()
    )
