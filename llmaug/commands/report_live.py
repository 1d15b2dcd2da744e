"""The page of a run that goes on: its stages, and how far the present one is."""

from __future__ import annotations

from typing import Any

from llmaug.report.page import fill
from llmaug.report.tables import number, table


def render_live(status: dict[str, Any]) -> str:
    """status: what `llmaug status --json` prints."""
    progress = status["progress"] if status["holder"] else None
    rows = [(own["name"], own["state"], number(own["seconds"], "{:,.1f}"), own["rows"]) for own in
            status["stages"]]  # fmt: skip
    return fill(
        "live.html.j2",
        "live.js",
        run_id=status["run_id"],
        now=_now(status["holder"], progress),
        done=progress["done"] if progress else 0,
        total=progress["total"] if progress else None,
        stages=table("stages", "Stages", ("stage", "state", "seconds", "rows"), rows),
    )


def _now(holder: dict[str, Any] | None, progress: dict[str, Any] | None) -> str:
    if holder is None:
        return "Nobody is at this run: it has not ended, or has left no report. The command that "\
               "began it goes on with it."  # fmt: skip
    if not progress:
        return "It has begun."
    counts = [f"{name} {value}" for name, value in (progress.get("counts") or {}).items()]
    left = progress.get("remaining_s")
    place = (
        f"{progress['done']:,} of {progress['total'] or '?'} {progress.get('unit', '')}".rstrip()
    )
    told = [f"{progress['stage']}: {place}", *counts, *([f"{left:.0f} s left"] if left else [])]
    return ", ".join(told)
