"""`{date}` in a config: one file for all nights.

`{date}` is the day of a run (`--date`), `{date-30d}` and `{date+1d}` days before and after it, in
any text of a config: paths, `ingest.start` and `end`, `window`, `name`.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

from llmaug.config.paths import FIELDS as PATHS
from llmaug.errors import UserError

_PLACE = re.compile(r"\{date(?:([+-])(\d{1,4})d)?\}")
_BRACES = re.compile(r"\{[^{}]*\}")
_MEANT = re.compile(r"\{\s*date\b[^{}]*\}", re.IGNORECASE)


def day_of(text: str, today: date | None = None) -> date:
    """`2026-01-31`, `today` or `yesterday` (UTC). Raises UserError for anything else."""
    today = today or datetime.now(UTC).date()
    named = {"today": today, "yesterday": today - timedelta(days=1)}
    if text in named:
        return named[text]
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:
        raise UserError(f"--date {text}: a day such as 2026-01-31, today or yesterday is expected")
    return day


def run_id_of_night(name: str, day: date | None) -> str:
    """The config's `name`, with the day behind it where there is one that the name does not say:
    two jobs of a night never share a run."""
    said = day.isoformat() if day else ""
    return name if said in name else f"{name}-{said}"


def dated(raw: Any, day: date | None, where: str, field: str = "") -> Any:
    """`raw`, the sections of a config, with the days filled in.

    where: the config, for messages. Raises UserError that names the field where a day is asked for
    and there is none, or what stands in the braces is none; a path has no others than `{root}`.
    """
    if isinstance(raw, dict):
        bare = f"{{{next(iter(raw), '')}}}"
        if len(raw) == 1 and _PLACE.fullmatch(bare) and None in raw.values():
            raise UserError(
                f"{where}: {field[1:]}: braces begin a mapping in YAML; put the day in quotes: "
                f'"{bare}"'
            )
        return {key: dated(value, day, where, f"{field}.{key}") for key, value in raw.items()}
    if isinstance(raw, list):
        return [dated(value, day, where, f"{field}.{n}") for n, value in enumerate(raw)]
    if not isinstance(raw, str) or field.endswith(".pattern"):  # braces of a regular expression
        return raw
    if field[1:] in PATHS:
        for found in _BRACES.findall(raw):
            if found != "{root}" and not _MEANT.fullmatch(found):
                raise UserError(
                    f"{where}: {field[1:]}: nothing is filled in for {found}; there are {{root}}, "
                    "{date}, {date-30d} and {date+1d}"
                )
    for found in _MEANT.findall(raw):
        if not _PLACE.fullmatch(found):
            raise UserError(
                f"{where}: {field[1:]}: {found} is no day; there are {{date}}, {{date-30d}} and "
                "{date+1d}"
            )
        if day is None:
            raise UserError(
                f"{where}: {field[1:]} has {found}: give the day of the run with --date, such as "
                "--date yesterday (from Python: date='yesterday')"
            )
    return _PLACE.sub(lambda found: _shifted(day, found, where, field), raw)


def _shifted(day: date | None, found: re.Match[str], where: str, field: str) -> str:
    assert day is not None
    sign, num_days = found.groups()
    try:
        return (day + timedelta(days=int(f"{sign or '+'}{num_days or 0}"))).isoformat()
    except OverflowError as error:
        raise UserError(f"{where}: {field[1:]}: {found[0]} lies outside the calendar") from error
