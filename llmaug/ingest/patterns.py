"""Regular expressions that a config brings, with a limit on the time that a line may take.

`re` backtracks without end: `(a|aa)+$` on sixty letters holds a worker for years, and lines of
logs are written by strangers. The module `regex` reads the same syntax and can be stopped.
"""

from __future__ import annotations

from collections.abc import Mapping

import regex

from llmaug.errors import UserError

SECONDS_PER_LINE = 1.0  # of CPU; an honest pattern takes some microseconds
MAX_SLOW_LINES = 10
MAX_PATTERN_LEN = 10_000


class Pattern:
    """A compiled pattern of a config; `search` is that of `re`, and ends."""

    def __init__(self, compiled: regex.Pattern[str], setting: str) -> None:
        self._compiled = compiled
        self._setting = setting
        self._num_slow = 0

    @property
    def groups(self) -> int:
        return int(self._compiled.groups)

    @property
    def groupindex(self) -> Mapping[str, int]:
        """{name of a group: its number}."""
        return dict(self._compiled.groupindex)

    def search(self, text: str) -> regex.Match[str] | None:
        """The first match in a line, or None.

        Raises TimeoutError for a line that takes too long, which its caller refuses as a row
        (`pattern_timeout`), and UserError when that happens again and again: then the pattern
        is at fault, and the lines that are still to come would take hours.
        """
        try:
            return self._compiled.search(text, timeout=SECONDS_PER_LINE)
        except TimeoutError as error:
            self._num_slow += 1
            if self._num_slow < MAX_SLOW_LINES:
                raise TimeoutError(
                    f"{self._setting}: {SECONDS_PER_LINE:g} s on {len(text)} characters"
                ) from error
            raise UserError(
                f"{self._setting}: {MAX_SLOW_LINES} lines took longer than "
                f"{SECONDS_PER_LINE:g} s each; the pattern tries too many ways to read them: "
                r"replace repeats inside repeats, such as (\w+ ?)+, and .* by what may stand "
                r"there, such as [^ ]+, and begin with ^"
            ) from error


def compile_pattern(text: str, setting: str) -> Pattern:
    """The pattern of the config's field `setting`, or a UserError that says what is wrong."""
    if len(text) > MAX_PATTERN_LEN:
        raise UserError(f"{setting}: {len(text)} characters; at most {MAX_PATTERN_LEN}")
    try:
        return Pattern(regex.compile(text), setting)
    except (regex.error, RecursionError, OverflowError, ValueError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{setting}: not a regular expression: {why}") from error
