"""Run folders small enough to check by hand; event tables and catalogues come from
`llmaug.testing`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from llmaug.core.stage import Context, total_counts
from llmaug.core.storage import Storage
from llmaug.items.catalogue import SEEN
from llmaug.plan.parts import Source, write_source
from llmaug.testing.tables import (
    START,
    Row,
    catalogue,
    events,
    histories,
    hour,
    write_finished,
    write_vocabulary,
)

__all__ = [
    "START",
    "Row",
    "VllmConfig",
    "catalogue",
    "events",
    "histories",
    "hour",
    "map_parts_here",
    "read_rows",
    "seen",
    "share_here",
    "write_finished",
    "write_plan",
    "write_vocabulary",
]


def write_plan(context: Context, source: str, train_part: str | None, units: list[dict]) -> str:
    """One part of a plan, as stage `plan` leaves it; returns its name."""
    place = None if train_part else 0.5
    described = Source(source, source, int(source[0]), train_part, len(units), place)
    write_source(context.storage, context.folder("plan"), described, units)
    return f"{source}-00000" if train_part else source


def seen(**train_events: int) -> pa.Table:
    """`seen(a=3)`: three training events of item a."""
    columns = [list(train_events), list(train_events.values()), [None] * len(train_events)]
    return pa.table(columns, schema=SEEN)


def read_rows(storage: Storage, folder: str) -> list[dict[str, Any]]:
    """All rows of all finished parts of `folder`."""
    return [
        row for part in storage.parts(folder) for row in storage.read_part(folder, part).to_pylist()
    ]


def map_parts_here(
    context: Context,
    folder: str,
    parts: list[str],
    work: Callable[[str], Any] | type,
    **options: Any,
) -> Counter[str]:
    """`stage.map_parts` without Ray, for the variations of a test that Ray ran once."""
    done = context.storage.parts(folder)
    if isinstance(work, type):  # an actor
        work = work(**options["fn_constructor_kwargs"])
    for part in parts:
        if part not in done:
            work(part)
    return total_counts(context.storage, folder)


def share_here(context: Context, make: Callable[[], Any]) -> Callable[[], Any]:
    """`shared.share` without Ray: everybody makes its own."""
    return make


class VllmConfig:
    """As much of vLLM's config as the processor reads."""

    def __init__(self, folder: str, num_tokens: int) -> None:
        self.model, self._num_tokens, self.max_num_seqs = folder, num_tokens, 8
        self.model_config = self.scheduler_config = self

    def get_vocab_size(self) -> int:
        return self._num_tokens
