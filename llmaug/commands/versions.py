"""`llmaug publish --list`: what was published, by which run, and what is current."""

from __future__ import annotations

from typing import Any

from llmaug.commands.forget import MARK
from llmaug.config.names import RUNS
from llmaug.core.contents import read_object
from llmaug.core.storage import Storage
from llmaug.publish import pointer


def list_versions(storage: Storage, name: str) -> list[dict[str, Any]]:
    """All whole versions of a model, those of the newest night first: {version, run_id, arm,
    published_utc, place, held, forced, lift, retrain}.

    place: 0 is current, 1 was current before it, and so on; None was never, or long ago. held: why
    and since when CURRENT stays at it. lift: of the run's report, by metric; None where that is
    gone. retrain: it was trained on somebody who is forgotten. Raises UserError where nothing is
    published, or CURRENT is damaged.
    """
    now = pointer.current(storage, name)
    places = {version: place for place, version in enumerate(pointer.pointed_to(now))}
    found = sorted(pointer.cards(storage, name), key=lambda card: card["night"], reverse=True)
    return [
        {
            "version": card["version"].rpartition("/")[2],
            "run_id": card["run_id"],
            "arm": card["arm"],
            "published_utc": card.get("published_utc"),
            "place": places.get(card["version"]),
            "held": now.get("held") if card["version"] == now["version"] else None,
            "forced": (card.get("forced") or {}).get("reason"),
            "lift": _lift(storage, card["run_id"]),
            "retrain": storage.exists(*card["version"].split("/"), MARK),
        }
        for card in found
    ]


def _lift(storage: Storage, run_id: str) -> dict[str, Any] | None:
    lift = read_object(storage, RUNS, run_id, "report", "metrics.json").get("lift")
    return lift if isinstance(lift, dict) else None
