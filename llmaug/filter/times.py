"""When generated events happened: between those of the history that they go with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from llmaug.core.storage import Storage
from llmaug.items.arrays import group_bounds
from llmaug.items.lives import Lives
from llmaug.items.vocabulary import Statistics, Vocabulary


def event_times(
    rng: np.random.Generator,
    num_events: int,
    after: datetime | None,
    before: datetime | None,
    statistics: Statistics,
) -> list[datetime]:
    """Times for generated events, none before another, gaps drawn from the training gaps.

    They start after the event `after` them, and end by the one `before` which they stand or,
    without one, by the last training event of all; squeezed where they would not. Without an
    `after` they end at `before`, and begin no earlier than any training user; new users, with
    neither, start at a training user's start.
    """

    def draw(quantiles: list[float], size: int) -> np.ndarray:
        place = rng.random(size) * (len(quantiles) - 1)
        return np.interp(place, np.arange(len(quantiles)), quantiles)

    offsets = np.cumsum(draw(statistics.gap_s, num_events))
    end = before.timestamp() if before else statistics.window_end_s
    if after is not None:
        start = after.timestamp()
    elif before is None:
        start = float(draw(statistics.start_s, 1)[0])
    else:
        start = max(end - float(offsets[-1]), min(end, statistics.start_s[0]))
    room = max(end - start, 0.0)
    if offsets[-1] > room:
        offsets *= room / offsets[-1]
    times = (_rounded(start + offset, statistics) for offset in offsets.tolist())
    return [datetime.fromtimestamp(at, UTC) for at in times]


def _rounded(time_s: float, statistics: Statistics) -> float:
    """Seconds since 1970, down to where a training event could be."""
    step = statistics.time_step_s
    return time_s // step * step if step else time_s


def within(statistics: Statistics, start_s: float, end_s: float) -> Statistics:
    """As if all had come and gone between these two, in seconds since 1970: for users of a span
    that has still to come."""
    return replace(statistics, start_s=[start_s, end_s], window_end_s=end_s)


def times_alive(
    rng: np.random.Generator,
    tokens: Sequence[int],
    after: datetime | None,
    before: datetime | None,
    statistics: Statistics,
    lives: Lives,
) -> list[datetime | None]:
    """Times as `event_times` has them, each while its item is there; None for an event that can
    be at no such time, which takes none from those that follow.

    New users, and events before a history, start at any time in the life of the first item.
    """
    gaps = np.interp(
        rng.random(len(tokens)), np.linspace(0, 1, len(statistics.gap_s)), statistics.gap_s
    )
    end = before.timestamp() if before else statistics.window_end_s
    now = after.timestamp() if after else None
    times: list[datetime | None] = []
    for token, gap in zip(tokens, gaps, strict=True):
        since = statistics.start_s[0] if now is None else now
        begins, ends = lives.span(token)
        first, last = max(since, begins), min(end, ends)
        if first > last:
            times.append(None)
            continue
        now = rng.uniform(first, last) if now is None else min(max(now + gap, first), last)
        now = max(_rounded(now, statistics), first)
        times.append(datetime.fromtimestamp(now, UTC))
    return times


@dataclass(frozen=True)
class History:
    """A user's training events: tokens (-1 for those the generator does not know), times."""

    tokens: list[int]
    times: list[datetime]

    def times_of(
        self,
        tokens: list[int],
        places: list[int] | list[None],
        replaces: bool,
        rng: np.random.Generator,
        statistics: Statistics,
        lives: Lives | None,
    ) -> Sequence[datetime | None]:
        """Times of the events `tokens` that go to `places`; where one `replaces` another, that of
        it. None: its item is not there at any time that it could have."""
        if not places:
            return []
        first = places[0]
        if replaces and first is not None:
            times = [self.times[place] for place in places if place is not None]
            known = zip(tokens, times, strict=True)
            return [
                at if lives is None or _spans(lives, token, at) else None for token, at in known
            ]
        after = self.times[first - 1] if first else None
        before = self.times[first] if first is not None and first < len(self.times) else None
        if lives is None:
            return event_times(rng, len(places), after, before, statistics)
        return times_alive(rng, tokens, after, before, statistics, lives)


def _spans(lives: Lives, token: int, at: datetime) -> bool:
    begins, ends = lives.span(token)
    return begins <= at.timestamp() <= ends


NOBODY = History([], [])


def histories_of(
    storage: Storage, train: str, part: str, vocabulary: Vocabulary
) -> dict[str | None, History]:
    columns = ["user_id", "timestamp", *vocabulary.event_columns]
    events = storage.read_part(train, part, columns=columns)
    tokens = vocabulary.encode_events(events)
    times = events["timestamp"]
    users = events["user_id"].to_numpy(zero_copy_only=False)
    return {
        users[start]: History(tokens[start:end].tolist(), times[start:end].to_pylist())
        for start, end in group_bounds(users)
    }
