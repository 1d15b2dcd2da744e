"""What a run says as lines of JSON with run and stage, for log collectors (`--log-json`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from llmaug.core.formats import utc_now
from llmaug.core.progress import Progress
from llmaug.core.terminal import Terminal


class JsonProgress(Progress):
    """Each line is an object {time, run, stage, event} and what there is to say of the event:
    started, skipped, finished (seconds), note and warning (text), progress (done, total, unit,
    counts, remaining_s), failed (error)."""

    def __init__(self, run_id: str) -> None:
        super().__init__(Terminal(stderr=True, force_terminal=False))  # no bars
        self._run_id = run_id

    def publishing(self, publish: Callable[[dict], None]) -> Progress:
        """The same, which puts its state to `publish`, too."""
        self._publish = publish
        return self

    def say(self, event: str, stage: str | None = None, **facts: Any) -> None:
        stage = stage or self._stage or None
        line = {"time": utc_now(), "run": self._run_id, "stage": stage, "event": event, **facts}
        self._console.print(json.dumps(line, default=str), soft_wrap=True)

    def skipped(self, stage: str) -> None:
        self.say("skipped", stage)

    def start(self, stage: str) -> None:
        self._stage = stage
        self.say("started")
        self._put({"stage": stage, "done": 0, "total": None})

    def finish(self, stage: str, seconds: float) -> None:
        self.say("finished", stage, seconds=round(seconds, 2))
        self._stage = ""

    def note(self, text: str, style: str = "") -> None:
        self.say("warning" if style == "yellow" else "note", text=text)

    def _say_state(self, state: dict[str, Any]) -> None:
        self.say("progress", **state)
