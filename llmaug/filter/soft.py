"""Verdicts on soft targets: which chances of items are kept, and of which events they are.

The rules of `filters.rules` judge events, and these are none. Dropped is what is no item of the
run's catalogue, what was not there at the time of the event, and what has no chance; the rest of a
unit is accepted. What is dropped counts with all that is not among the likeliest: chances are not
made to add up to 1.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.filter.times import NOBODY, History
from llmaug.items.lives import Lives
from llmaug.items.vocabulary import NUM_SPECIAL
from llmaug.schema import ACCEPTED, FAILED, GENERATED, OUTCOME, REJECTED, SOFT

_JUDGED = ("status", "reason", "detail", "events", *SOFT.names)


def on_soft_targets(
    outcomes: pa.Table,
    histories: dict[str | None, History],
    known: np.ndarray,
    lives: Lives | None = None,
) -> tuple[pa.Table, Counter[str]]:
    """(N,) outcomes of soft_events with their final status, and counts of them. Soft targets of
    accepted ones are those of all training events of the user, -1 where there is none.

    known: (I,) for each item of the generator its token here, or -1. lives: of the tokens here.
    """
    counts: Counter[str] = Counter()
    rows = []
    for row in outcomes.select([*_JUDGED, "user_id", "tokens"]).to_batches(max_chunksize=1):
        judged = {name: row[name][0].as_py() for name in ("status", "reason", "detail")}
        if judged["status"] == GENERATED:
            history = histories.get(row["user_id"][0].as_py(), NOBODY)
            try:
                judged = _verdict(row, history, known, lives, counts)
            except ValueError as error:  # one row that cannot be read is one failed outcome
                judged = {"status": FAILED, "reason": "unparsable", "detail": str(error)[:500]}
        counts[judged["status"]] += 1
        if judged["reason"]:
            counts[f"{judged['status']}.{judged['reason']}"] += 1
        rows.append(judged)
    columns = {name: outcomes[name] for name in OUTCOME.names}
    for name in _JUDGED:
        columns[name] = pa.array([row.get(name) for row in rows], OUTCOME.field(name).type)
    return pa.table(columns, schema=OUTCOME), counts


def _verdict(
    row: pa.RecordBatch,
    history: History,
    known: np.ndarray,
    lives: Lives | None,
    counts: Counter[str],
) -> dict[str, Any]:
    k = row["soft_k"][0].as_py()
    events, tokens, chances = (
        row[name][0].values.to_numpy() for name in ("tokens", "soft_tokens", "soft_chances")
    )
    tokens, chances = tokens.reshape(len(events), k), chances.reshape(len(events), k)
    own = np.array(history.tokens, np.int64)
    places = np.flatnonzero(own >= 0)
    places = places[len(places) - len(events) :] if len(events) else places[:0]
    if not np.array_equal(own[places], events):
        raise ValueError(f"its {len(events)} events are not the newest of the user's history")
    counts["soft_events"] += len(events)
    there = (tokens >= 0) & (chances > 0)
    is_item = (tokens >= NUM_SPECIAL) & (tokens < NUM_SPECIAL + len(known))
    item = known[np.where(is_item, tokens - NUM_SPECIAL, 0)]
    keep = there & is_item & (item >= 0)
    counts["soft_targets"] += int(keep.sum())
    if outside := int((there & ~keep).sum()):
        counts["soft_targets_dropped.outside_catalogue"] += outside
    if lives is not None and len(places):
        at = np.array([history.times[place].timestamp() for place in places])
        gone = keep & np.take_along_axis(lives.gone(at), np.where(keep, item, 0), axis=1)
        counts["soft_targets"] -= int(gone.sum())
        counts["soft_targets_dropped.not_there"] += int(gone.sum())
        keep &= ~gone
    if not keep.any():
        detail = f"no chance of {len(events)} events is left"
        return {"status": REJECTED, "reason": "no_chances", "detail": detail, "events": []}
    counts["soft_events_kept"] += int(keep.any(1).sum())
    all_tokens = np.full((len(own), k), -1, np.int32)
    all_chances = np.zeros((len(own), k), np.float32)
    all_tokens[places], all_chances[places] = np.where(keep, item, -1), np.where(keep, chances, 0)
    return {
        "status": ACCEPTED, "reason": None, "detail": None, "events": [], "soft_k": k,
        "soft_tokens": all_tokens.ravel(), "soft_chances": all_chances.ravel(),
    }  # fmt: skip
