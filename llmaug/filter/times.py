"""When generated events happened: between those of the history that they go with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from llmaug.core.storage import Storage
from llmaug.items.arrays import group_bounds
from llmaug.items.vocabulary import Statistics, Vocabulary


def event_times(
    rng: np.random.Generator,
    num_events: int,
    after: datetime | None,
    before: datetime | None,
    statistics: Statistics,
) -> list[datetime]:
    """Increasing times for generated events, gaps drawn from the training gaps.

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
    return [datetime.fromtimestamp(start + offset, UTC) for offset in offsets]


@dataclass(frozen=True)
class History:
    """A user's training events: tokens (-1 for those the generator does not know), times."""

    tokens: list[int]
    times: list[datetime]

    def times_of(
        self,
        places: list[int] | list[None],
        replaces: bool,
        rng: np.random.Generator,
        statistics: Statistics,
    ) -> list[datetime]:
        """Times of the events that go to `places`; where one `replaces` another, that of it."""
        if not places:
            return []
        first = places[0]
        if first is None:
            return event_times(rng, len(places), None, None, statistics)
        if replaces:
            return [self.times[place] for place in places if place is not None]
        after = self.times[first - 1] if first > 0 else None
        before = self.times[first] if first < len(self.times) else None
        return event_times(rng, len(places), after, before, statistics)


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
