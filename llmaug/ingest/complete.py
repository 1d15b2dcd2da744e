"""Whether the logs of the last days are all there, before a night is begun on half of them.

A day is a folder (`dt=2026-01-31`). It is short when it is missing, or holds less than a share of
the bytes of the same weekday a week before (a Sunday is no Monday).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta

from llmaug.config import IngestConfig
from llmaug.core.sources import list_sources, resolve_uri
from llmaug.core.storage import Storage
from llmaug.errors import UserError

POLL_S = 60.0


def wait_for_logs(
    storage: Storage,
    config: IngestConfig,
    wait_s: float = 0.0,
    tell: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once the last `complete_days` days up to `end` are there, looking once a minute for at
    most `wait_s` seconds.

    tell: called with what is short, each time that it is something else. clock, sleep: for tests.
    Raises UserError that names the folders and their sizes when the time is over.
    """
    if not config.complete_days:
        return
    begin, told = clock(), ""
    while short := short_days(storage, config):
        left = begin + wait_s - clock()
        if left <= 0:
            raise UserError(
                f"{config.path}: the logs are not complete: {'; '.join(short)}. Run it again when "
                "they are, wait for them with --wait 2h, or set ingest.complete_days and "
                "complete_share to what is normal here"
            )
        if (text := "; ".join(short)) != told:
            tell(f"waiting for logs up to {left / 60:.0f} minutes: {text}")
            told = text
        sleep(min(POLL_S, left))


def short_days(storage: Storage, config: IngestConfig) -> list[str]:
    """What is short, in words; the first day first."""
    assert config.end is not None  # the config says so
    sizes = _bytes_by_day(storage, config)
    found = []
    for back in reversed(range(config.complete_days)):
        day = config.end - timedelta(days=back)
        own, before = sizes[day.isoformat()], sizes[(day - timedelta(days=7)).isoformat()]
        folder = f"{config.date_partition}={day}"
        if not own:
            found.append(f"{folder} is missing")
        elif own < config.complete_share * before:
            week = f"the same weekday a week before has {before:,}"
            found.append(f"{folder} has {own:,} bytes, {week}")
    return found


def _bytes_by_day(storage: Storage, config: IngestConfig) -> Counter[str]:
    """{2026-01-31: bytes} of the folders of days; what is no day is left to ingest to refuse."""
    place = resolve_uri(config.path, storage, "ingest.path")
    try:
        sources = list_sources(place, "ingest.path")
    except UserError:
        if place.exists():
            raise
        return Counter()  # nothing has arrived yet
    sizes: Counter[str] = Counter()
    for source in sources:
        day = source.partition.get(config.date_partition or "")
        if day and _is_day(day):
            sizes[day] += source.size
    return sizes


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
