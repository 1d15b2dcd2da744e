"""The shape of what generation counts: the counts of its manifest."""

from __future__ import annotations

from llmaug.core.contract import Contract, Tally


class Moment(Contract):
    """A point of the utilisation curve."""

    second: float
    engines: int
    busy: int
    running: int
    """Units in the engines."""
    tokens_per_s: float


class OutcomesCounts(Tally):
    """Counts of stage `outcomes`: planned = units + left_out + not_needed. Beside the fields there
    is a count of each reason for which units failed (`failed.REASON`)."""

    prefixes = ("failed.",)

    planned: int
    units: int
    """With an outcome: generated + failed."""
    generated: int
    failed: int
    left_out: int
    """Not asked: a limit was reached first."""
    not_needed: int
    """Not asked: their users had enough accepted outcomes."""
    cache_hits: int
    """Answered on an earlier night."""
    repeated: int = 0
    """Attempts at a part beyond the first one."""
    stopped: str
    """The limit that ended generation; else empty."""
    output_tokens: int
    prompt_tokens: int
    cached_prompt_tokens: int
    """Of the prompt tokens: found in the engine's prefix cache."""
    engine_seconds: float
    """Of all answers, cached ones as they were when generated."""
    output_tokens_per_s: float
    """Of one engine."""
    span_s: float = 0.0
    """From the first unit in an engine to the last one written. This and what follows is not
    there where no engine ran."""
    span_tokens_per_s: float = 0.0
    """Of all engines."""
    idle_share: float | None = None
    """Of the engines' time."""
    engine_hours: float = 0.0
    """Paid for, those of killed attempts too."""
    deaths: int = 0
    """Of engines, each of which was started again."""
    utilisation: list[Moment] = []
