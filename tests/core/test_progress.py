"""What the terminal and `llmaug status` are told."""

from __future__ import annotations

import io
from typing import Any

from llmaug.core.progress import MemoryMeter, Progress
from llmaug.core.terminal import Terminal


def test_counts_of_all_steps_are_added_up_and_published() -> None:
    states: list[dict[str, Any]] = []
    progress = Progress(publish=states.append)
    progress.plan(["ingest", "split"])
    progress.start("split")
    with progress.track(4, "parts", done=1) as advance:
        advance(1, {"train": 1200, "loss": 0.25})
        advance(2, '{"train": 34, "loss": 0.125}')
    first, last = states[0], states[-1]
    assert (first["stage"], first["done"], first["number"], first["of"]) == ("split", 0, 2, 2)
    assert (last["done"], last["total"], last["unit"]) == (4, 4, "parts")
    assert last["counts"] == {"train": "1,234", "loss": "0.125"}  # counts add up, a loss does not
    assert last["remaining_s"] == 0


def test_without_a_terminal_stages_are_plain_numbered_lines() -> None:
    out = io.StringIO()
    progress = Progress(Terminal(file=out, width=200))
    progress.plan(["ingest", "split"])
    progress.skipped("ingest")
    progress.start("split")
    progress.note("a warning")
    progress.finish("split", 1.25)
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "[ 1/2] ingest unchanged, skipped",
        "[ 2/2] split ...",
        "      a warning",
        "[ 2/2] split done in 1.2 s",
    ]


def test_memory_is_measured_even_in_a_short_block() -> None:
    with MemoryMeter() as memory:
        pass
    assert memory.peak_mb > 0
