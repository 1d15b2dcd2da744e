"""Stage `text/<explain>/candidates`: which items are explained to whom, and by which history.

Recommendations are those that everybody gets; what may be cited comes from training events alone,
so that no sentence tells what is held out. Synthetic events are those of the arm `augmented`; what
came before one is the user's real training events up to its place, or of a synthetic user the
events that the same unit wrote before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import Any

import pyarrow as pa

from llmaug.config import ExplainConfig
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.ingest.split import TRAIN
from llmaug.items.arrays import group_bounds
from llmaug.schema import CANDIDATES as SCHEMA
from llmaug.schema import REAL, validate
from llmaug.text.choosing import CANDIDATES

Pair = tuple[str, str, list[str]]
"""User, item, and the items that came before it, oldest first."""
_RECOMMENDED, _MERGED = "recommendations", "merged/augmented"


def candidates_stage(own: ExplainConfig) -> Stage:
    recommended = own.what == "recommendations"
    return Stage(
        name=f"text/{own.name}/{CANDIDATES}",
        run=partial(candidates, own),
        inputs=(_RECOMMENDED, "split") if recommended else (_MERGED,),
        settings=lambda config: [own.what, own.top_n, own.max_history_len],
        asks=lambda config, on_gpus: TASKS,
    )


def candidates(own: ExplainConfig, context: Context) -> dict[str, Any]:
    """Rows of schema CANDIDATES, in parts as those that they come from."""
    storage, folder = context.storage, context.folder(f"text/{own.name}/{CANDIDATES}")
    if own.what == "recommendations":
        table, train = context.folder(_RECOMMENDED), f"{context.folder('split')}/{TRAIN}"
        work = partial(_of_recommendations, storage, table, train, folder, own)
    else:
        table = context.folder(_MERGED)
        work = partial(_of_synthetic, storage, table, folder, own)
    counts = dict(map_parts(context, folder, storage.parts(table), work))
    context.progress.note(f"{own.name}: {counts.get('rows', 0):,} {own.what} have a history")
    return counts


def _of_recommendations(
    storage: Storage, lists: str, train: str, folder: str, own: ExplainConfig, part: str
) -> dict[str, Any]:
    events = storage.read_part(train, part, columns=["user_id", "item_id"])
    had: dict[str, list[str]] = defaultdict(list)
    for event in events.to_pylist():
        had[event["user_id"]].append(event["item_id"])
    listed = storage.read_part(lists, part).sort_by(
        [("user_id", "ascending"), ("position", "ascending")]
    )
    pairs = [
        (row["user_id"], row["item_id"], had[row["user_id"]])
        for row in listed.to_pylist()
        if row["position"] <= own.top_n
    ]
    return _write(storage, folder, part, pairs, own.max_history_len)


def _of_synthetic(
    storage: Storage, merged: str, folder: str, own: ExplainConfig, part: str
) -> dict[str, Any]:
    columns = ["user_id", "item_id", "origin", "unit_id", "place"]
    events = storage.read_part(merged, part, columns=columns)
    rows = events.to_pylist()
    pairs = []
    for start, end in group_bounds(events["user_id"].to_numpy(zero_copy_only=False)):
        pairs += last_of_units(rows[start:end])
    return _write(storage, folder, part, pairs, own.max_history_len)


def last_of_units(events: list[dict[str, Any]]) -> list[Pair]:
    """The last synthetic event of each unit among the events of one user, real ones first, and what
    came before it."""
    real = [event["item_id"] for event in events if event["origin"] == REAL]
    units: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event["origin"] != REAL:
            units[event["unit_id"]].append(event)
    found = []
    for unit in units.values():
        *before, last = unit
        history = [event["item_id"] for event in before] if not real else real[: last["place"]]
        found.append((last["user_id"], last["item_id"], history))
    return found


def _write(
    storage: Storage, folder: str, part: str, pairs: Iterable[Pair], max_history_len: int
) -> dict[str, Any]:
    """Each pair of user and item once, where there is anything to cite."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for user, item, history in pairs:
        # An item that comes again counts where it came last.
        latest = [each for each in dict.fromkeys(reversed(history)) if each != item]
        if latest and (user, item) not in rows:
            rows[user, item] = {
                "user_id": user, "item_id": item, "history": latest[:max_history_len][::-1],
                "candidates": [], "held_out": [],
            }  # fmt: skip
    table = validate(pa.Table.from_pylist(list(rows.values()), schema=SCHEMA), SCHEMA, part)
    storage.write_part(table, {}, folder, part)
    return {}
