"""`llmaug trace`: where a synthetic event, or a published model, comes from.

Everything is read from what the stages left: the unit as it was planned, its answer, the verdict of
the filters, the events that were trained on, the card of a version and the history of CURRENT.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmaug.arms.arms import AUGMENTED, NGRAM, SHARDS
from llmaug.config.names import PUBLISHED, check_name, run_folder
from llmaug.core.contents import read_manifest, read_object
from llmaug.core.formats import OUTCOMES, UNITS
from llmaug.core.stage import on_track
from llmaug.core.storage import Storage, digest
from llmaug.core.stored import read_run
from llmaug.errors import UserError
from llmaug.ingest.split import TRAIN
from llmaug.items.vocabulary import ITEMS_PART
from llmaug.plan.parts import PlanPart, read_parts
from llmaug.publish import pointer

_MIN_PREFIX = 6
_HISTORY = 50  # last events of a history that are shown


def trace_unit(storage: Storage, run_id: str, asked: str) -> dict[str, Any]:
    """Where the unit `asked`, or its event `UNIT:POSITION`, comes from and what became of it.

    asked: the id, or as much of its beginning (6 digits or more) as no other unit of the run has.
    Raises UserError when the run has no such unit, or several.
    """
    folder, run = run_folder(run_id), read_run(storage, run_id)
    unit_id, _, position = asked.partition(":")
    if len(unit_id) < _MIN_PREFIX:
        raise UserError(f"{asked!r}: give at least {_MIN_PREFIX} digits of the unit's id")
    if position and not position.isdecimal():
        raise UserError(f"{asked!r}: an event is UNIT_ID:POSITION, its place among the generated")
    found = list(_units(storage, folder, unit_id))
    if len({unit["unit_id"] for _, _, unit in found}) != 1:
        listed = ", ".join(sorted({unit["unit_id"] for _, _, unit in found})[:5])
        what = f"several units: {listed}" if found else "no such unit in its plans"
        raise UserError(f"{storage.uri(folder)}: {asked}: {what}")
    track, part, unit = found[0]
    titles = _titles(storage, folder)
    plan = _manifest(storage, folder, on_track(track, "plan"))
    outcome = _row(storage, f"{folder}/{on_track(track, 'outcomes')}", part.name, unit["unit_id"])
    verdict = _row(storage, f"{folder}/{on_track(track, 'filtered')}", part.name, unit["unit_id"])
    events = [_named(event, titles) for event in (verdict or {}).get("events") or ()]
    if position:
        events = [event for event in events if event["position"] == int(position)]
        if not events:
            raise UserError(f"{asked}: the unit has no event at position {position}")
    return {
        "run": run_id,
        "unit_id": unit["unit_id"],
        "user_id": unit["user_id"],
        "strategy": unit["strategy"],
        "sample": unit["sample"],
        "seed": unit["seed"],
        "prompt_digest": digest(unit["prompt"]),
        "prompt_tokens": len(unit["prompt"]),
        "sampling": unit["sampling"],
        "generator": plan["counts"]["generator"],
        "model_digest": _model_digest(storage, folder, track),
        "history": _history(storage, folder, part, unit["user_id"], titles),
        "answer": _picked(outcome, "status", "reason", "detail", "num_generated_tokens",
                          "engine_seconds", "attempts"),
        "verdict": _picked(verdict, "status", "reason", "detail"),
        "events": events,
        "trained_on": _trained_on(storage, folder, track, part, unit["unit_id"]),
        "config_digest": digest(run.get("config")),
        "fingerprints": {
            stage: manifest["fingerprint"]
            for stage in ("ingest", *(on_track(track, s) for s in ("plan", "outcomes", "filtered")))
            if (manifest := read_manifest(storage, f"{folder}/{stage}"))
        },
    }  # fmt: skip


def _units(
    storage: Storage, folder: str, unit_id: str
) -> Iterator[tuple[str, PlanPart, dict[str, Any]]]:
    """(track, part of the plan, unit) of those whose id begins so."""
    for track in ("", NGRAM):
        plan = f"{folder}/{on_track(track, 'plan')}"
        for part in read_parts(storage, plan):
            ids = storage.read_part(plan, part.name, ["unit_id"], stored=UNITS)["unit_id"]
            mask = pc.starts_with(ids, unit_id)
            if pc.any(mask).as_py():
                rows = storage.read_part(plan, part.name, stored=UNITS)
                for unit in rows.filter(mask).to_pylist():
                    yield track, part, unit


def _manifest(storage: Storage, folder: str, stage: str) -> dict[str, Any]:
    manifest = read_manifest(storage, f"{folder}/{stage}")
    if manifest is None:
        raise UserError(f"{storage.uri(folder, stage)}: not finished; run the job on first")
    return manifest


def _row(storage: Storage, folder: str, part: str, unit_id: str) -> dict[str, Any] | None:
    if part not in storage.parts(folder):
        return None
    rows = storage.read_part(folder, part, stored=OUTCOMES)
    found = rows.filter(pc.equal(rows["unit_id"], unit_id)).to_pylist()
    return found[0] if found else None


def _titles(storage: Storage, folder: str) -> dict[str, str | None]:
    items = storage.read_part(f"{folder}/vocabulary", ITEMS_PART, ["item_id", "title"])
    return dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))


def _named(event: dict[str, Any], titles: dict[str, str | None]) -> dict[str, Any]:
    return {**event, "title": titles.get(event["item_id"])}


def _history(
    storage: Storage, folder: str, part: PlanPart, user: str | None, titles: dict[str, str | None]
) -> list[dict[str, Any]]:
    """The last training events of the source user, the oldest first; none of a new user's."""
    if user is None or part.train_part is None:
        return []
    columns = ["user_id", "item_id", "action", "timestamp"]
    rows = storage.read_part(f"{folder}/split/{TRAIN}", part.train_part, columns)
    own = rows.filter(pc.equal(rows["user_id"], user)).drop_columns(["user_id"])
    return [_named(event, titles) for event in own.to_pylist()[-_HISTORY:]]


def _model_digest(storage: Storage, folder: str, track: str) -> str | None:
    """Of the behaviour model that was asked; None where items were drawn at random."""
    root = f"{folder}/{on_track(track, 'lm')}"
    for name in storage.names(root):
        if manifest := read_manifest(storage, f"{root}/{name}"):
            return str(manifest["counts"]["model_digest"])
    return None


def _picked(row: dict[str, Any] | None, *names: str) -> dict[str, Any] | None:
    return {name: row[name] for name in names} if row else None


def _trained_on(
    storage: Storage, folder: str, track: str, part: PlanPart, unit_id: str
) -> int | None:
    """How many of its events stand in the training shards; None before they are merged."""
    merged = f"{folder}/merged/{track or AUGMENTED}"
    name = part.train_part or part.name
    if name not in storage.parts(merged):
        return None
    ids = storage.read_part(merged, name, ["unit_id"])["unit_id"]
    return int(pc.sum(pc.equal(ids, pa.scalar(unit_id))).as_py() or 0)


def trace_model(storage: Storage, version: str, name: str = "recommender") -> dict[str, Any]:
    """What a published version was trained on, what it replaced, and why it went out.

    version: a name below `published/<name>/versions`, or `current`. Raises UserError when there is
    none.
    """
    name = check_name(name, "--name")
    if version == "current":
        version = pointer.current(storage, name)["version"].rpartition("/")[2]
    card = pointer.read_version(storage, name, check_name(version, "--model"))
    folder = run_folder(card["run_id"])
    current = read_object(storage, PUBLISHED, name, "CURRENT")
    past = [current.get("version"), current.get("previous"), *current.get("earlier", [])]
    place = past.index(card["version"]) if card["version"] in past else None
    merged = f"merged/{SHARDS.get(card['arm'], card['arm'])}"
    stages = {
        stage: manifest["counts"]
        for stage in ("ingest", "split", "plan", "outcomes", "filtered", merged)
        if (manifest := read_manifest(storage, f"{folder}/{stage}"))
    }
    trained = read_object(storage, folder, "model", card["arm"], f"seed-{card['seed']}",
                          "_trained.json")  # fmt: skip
    return {
        "version": card["version"],
        "is_current": place == 0,
        "published_utc": card["published_utc"],
        "run": card["run_id"],
        "run_is_there": storage.exists(folder, "run.json"),
        "arm": card["arm"],
        "seed": card["seed"],
        "model_digest": card["model_digest"],
        "replaced": next(iter(past[place + 1 :]), None) if place is not None else None,
        "gate": card["gate"],
        "forced": card["forced"],
        "data": {
            "users": stages.get("ingest", {}).get("users"),
            "real_events": stages.get("split", {}).get("train"),
            "synthetic_events": stages.get(merged, {}).get("synthetic"),
            "generator": stages.get("plan", {}).get("generator"),
            "units": {s: stages.get("filtered", {}).get(s) for s in ("accepted", "rejected",
                                                                     "failed")},
            "logs": read_object(storage, folder, "run.json").get("config", {})
            .get("ingest", {}).get("path"),
        },
        "training": {n: v for n, v in trained.items() if n != "model_digest"},
        "retrain": read_object(storage, card["version"], "_retrain.json") or None,
    }  # fmt: skip
