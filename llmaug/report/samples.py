"""What a person reads to believe the figures: some histories, refusals, recommendations and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from llmaug.config import ExplainConfig
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.ingest.split import TRAIN
from llmaug.items.arrays import group_bounds
from llmaug.items.vocabulary import ITEMS_PART
from llmaug.report.tables import Cell, Table, number, table, words
from llmaug.schema import ACCEPTED

SAMPLES = ("recommendations", "explanations", "histories", "refused")
_NUM_USERS, _NUM_HISTORIES, _NUM_EVENTS, _NUM_REFUSED, _OF_EACH = 3, 3, 12, 12, 3
_NUM_EXPLAINED = 5
_MAX_PARTS = 4  # are looked at: an example need not be rare


def samples(context: Context, published: bool, generated: bool) -> dict[str, list[Table]]:
    """Tables of each of SAMPLES, none where there is nothing to show."""
    storage = context.storage
    found: dict[str, list[Table]] = {name: [] for name in SAMPLES}
    found["explanations"] = _explanations(context, published)
    if published:
        found["recommendations"] = _recommendations(context)
    if generated:
        titles = _titles(storage.read_part(context.folder("vocabulary"), ITEMS_PART))
        outcomes = list(_outcomes(context))
        found["histories"] = _histories(context, outcomes, titles)
        found["refused"] = refused(outcomes, titles)
    return found


def _titles(items: pa.Table) -> dict[str, str]:
    pairs = zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True)
    return {item: title or item for item, title in pairs}


def _recommendations(context: Context) -> list[Table]:
    """Of the first few users."""
    storage, folder = context.storage, context.folder("recommendations")
    version = context.manifest("publish")["counts"]["version"]
    titles = _titles(storage.read_table(version, "items.parquet", columns=["item_id", "title"]))
    for part in storage.parts(folder):
        rows = storage.read_part(folder, part).to_pylist()
        users = list(dict.fromkeys(row["user_id"] for row in rows))[:_NUM_USERS]
        if users:
            return [recommended([row for row in rows if row["user_id"] in users], titles)]
    return []


def recommended(rows: list[dict[str, Any]], titles: dict[str, str]) -> Table:
    return table(
        "recommendations", "Recommendations of the published model, for example",
        ("user", "place", "item", "title", "score"),
        [(row["user_id"], row["position"], row["item_id"], titles.get(row["item_id"], ""),
          number(row["score"])) for row in rows],
    )  # fmt: skip


def _explanations(context: Context, published: bool) -> list[Table]:
    """The first few sentences of each text task `explain`."""
    storage, found = context.storage, []
    tasks = [own for own in context.config.text.tasks if isinstance(own, ExplainConfig)]
    if not tasks:
        return []
    titles = _titles(storage.read_part(context.folder("vocabulary"), ITEMS_PART))
    for own in tasks:
        if published or own.what != "recommendations":
            folder = context.folder(f"text/{own.name}/rows")
            parts = (storage.read_part(folder, part).to_pylist() for part in storage.parts(folder))
            rows = list(islice(chain.from_iterable(parts), _NUM_EXPLAINED))
            if rows:
                found.append(explained(own.name, words(own.what), rows, titles))
    return found


def explained(name: str, what: str, rows: list[dict[str, Any]], titles: dict[str, str]) -> Table:
    return table(
        f"explained-{name}", f"Why {what} are plausible, as a chat model says, for example",
        ("user", "item", "because of", "sentence"),
        [(row["user_id"], titles.get(row["item_id"], row["item_id"]),
          "; ".join(titles.get(item, item) for item in row["because"]), row["sentence"])
         for row in rows],
        "Written by a model: which items moved a recommendation, llmaug recommend --explain says.",
    )  # fmt: skip


def _outcomes(context: Context) -> Iterator[dict[str, Any]]:
    folder = context.folder("filtered")
    columns = ["unit_id", "user_id", "strategy", "status", "reason", "detail", "events"]
    for part in context.storage.parts(folder)[:_MAX_PARTS]:
        yield from context.storage.read_part(folder, part, columns=columns).to_pylist()


def refused(outcomes: list[dict[str, Any]], titles: dict[str, str]) -> list[Table]:
    """A few units of each reason for which one was rejected or failed."""
    rows: list[tuple[Any, ...]] = []
    seen = Counter[str]()
    for own in outcomes:
        reason = own["reason"] or ""
        if own["status"] == ACCEPTED or seen[reason] >= _OF_EACH or len(rows) >= _NUM_REFUSED:
            continue
        seen[reason] += 1
        rows.append(
            (own["unit_id"][:12], words(own["strategy"]), own["status"], words(reason),
             own["detail"], _told(own["events"], titles))
        )  # fmt: skip
    if not rows:
        return []
    columns = ("unit", "strategy", "fate", "reason", "detail", "events (and why each was dropped)")
    return [table("refused", "Refused units, for example", columns, rows)]


def _told(events: list[dict[str, Any]] | None, titles: dict[str, str]) -> str:
    shown = [
        titles.get(event["item_id"] or "", event["item_id"] or "nothing")
        + (f" ({words(event['reason'])})" if event["reason"] else "")
        for event in (events or [])[:_NUM_EVENTS]
    ]
    more = len(events or []) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def _histories(
    context: Context, outcomes: list[dict[str, Any]], titles: dict[str, str]
) -> list[Table]:
    """Accepted ones: of a new user beside a real one, what was added to a user beside what is
    there."""
    accepted = [own for own in outcomes if own["status"] == ACCEPTED and own["events"]]
    by_strategy: dict[str, list[dict[str, Any]]] = {}
    for own in accepted:
        by_strategy.setdefault(own["strategy"], []).append(own)
    taken = [own for several in by_strategy.values() for own in several[:_NUM_HISTORIES]]
    taken = taken[:_NUM_HISTORIES] if len(by_strategy) == 1 else taken[: 2 * _NUM_HISTORIES]
    wanted = {own["user_id"] for own in taken if own["user_id"]}
    real = _real(context.storage, f"{context.folder('split')}/{TRAIN}", wanted)
    others = iter([user for user in real if user not in wanted])
    found = []
    for place, own in enumerate(taken):
        user = own["user_id"] if own["user_id"] in real else next(others, None)
        if user is not None:
            found.append(beside(f"history-{place + 1}", own, user, real[user], titles))
    return found


def _real(storage: Storage, folder: str, wanted: set[str]) -> dict[str, list[dict[str, Any]]]:
    """{user: events} of those wanted that are found soon, and of a few others."""
    found: dict[str, list[dict[str, Any]]] = {}
    others = 0
    for part in storage.parts(folder)[:_MAX_PARTS]:
        events = storage.read_part(
            folder, part, columns=["user_id", "item_id", "action", "timestamp"]
        )
        users = events["user_id"].to_numpy(zero_copy_only=False)
        for start, end in group_bounds(users):
            if users[start] in wanted or others < _NUM_HISTORIES:
                others += users[start] not in wanted
                found[users[start]] = events.slice(start, end - start).to_pylist()
    return found


def beside(
    name: str, outcome: dict[str, Any], user: str, real: list[dict[str, Any]],
    titles: dict[str, str],
) -> Table:  # fmt: skip
    """Events of one outcome on the right, those of a real user on the left."""
    is_new = outcome["user_id"] is None
    kept = [event for event in outcome["events"] if event["keep"]][:_NUM_EVENTS]
    shown = (real[:_NUM_EVENTS] if is_new else real[-_NUM_EVENTS:]) if real else []
    strategy = words(outcome["strategy"])
    caption = f"A new user ({strategy}) beside the real user {user}" if is_new else (
        f"What was generated for the real user {user} ({strategy})"
    )  # fmt: skip
    rows = []
    for place in range(max(len(kept), len(shown))):
        pair = [own[place] if place < len(own) else None for own in (shown, kept)]
        rows.append(
            [
                Cell(str(place + 1), place + 1),
                *(text for own in pair for text in _event(own, titles)),
            ]
        )
    columns = ("", "real: item", "when (UTC)", "synthetic: item", "when (UTC)")
    return table(name, caption, columns, rows)


def _event(event: dict[str, Any] | None, titles: dict[str, str]) -> tuple[str, str]:
    if event is None:
        return "", ""
    title = titles.get(event["item_id"], event["item_id"])
    action = f"{event['action']}: " if event.get("action") else ""
    when: datetime | None = event["timestamp"]
    return f"{action}{title}", f"{when:%Y-%m-%d %H:%M}" if when else ""
