"""`llmaug recommend` without a user: everybody's list, by the model that is published now.

The lists are made in the run, then copied into the folder under names of their own. Its note,
`_llmaug.json`, names the parts that count and moves from the old ones to the new ones at once, by
compare-and-swap: who reads what it names sees one model's lists, whole. It also names what may lie
there besides (the old parts, those of a writer that was killed), and nothing else is ever deleted.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from llmaug.config.names import check_folder
from llmaug.core.formats import utc_now
from llmaug.core.progress import Progress
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.pipeline import reopened
from llmaug.publish import pointer
from llmaug.publish.recommend import score_all

NOTE = "_llmaug.json"
_MADE_BY = "llmaug recommend"


def recommend_all(
    storage: Storage,
    name: str,
    k: int,
    to: str,
    progress: Callable[[Callable[[dict], None]], Progress] | None = None,
    verify: bool = False,
) -> dict[str, Any]:
    """Top k of every user in the logs of the run that published model `name`, written anew to
    folder `to` below the root (schema RECOMMENDATION).

    Returns {users, rows, users_per_s: of one actor, model, folder}. Raises UserError when there
    is no published model, its run is gone, damaged (`verify`: by digest too) or held by another
    process, or `to` holds anything that this command did not write.
    """
    folder = check_folder(to, "--to")
    card = pointer.current(storage, name)
    with reopened(storage, card["run_id"], progress, verify=verify) as context:
        _claim(storage, folder)
        made = context.folder("recommend_all")
        storage.delete(made)
        config = context.config.recommend.model_copy(update={"k": k})
        context.progress.start("recommendations")
        counts = score_all(context, card, made, config)
        _replace(context, made, folder, {"model": card["version"], "k": k, **counts})
        storage.delete(made)
    return {**counts, "model": card["version"], "folder": storage.uri(folder)}


def _claim(storage: Storage, folder: str) -> tuple[dict[str, Any], str]:
    """(note, its version) of a folder of ours; an empty one becomes ours. Raises UserError for
    any other."""
    if not storage.names(folder):
        storage.create({"made_by": _MADE_BY, "parts": [], "unused": []}, folder, NOTE)
    note, version = storage.read_any(folder, NOTE)
    if version is None or not isinstance(note, dict) or note.get("made_by") != _MADE_BY:
        raise UserError(
            f"--to {folder}: {storage.uri(folder)} holds what this command did not write (no "
            f"{NOTE} of its own in it); choose another folder, or empty this one yourself"
        )
    return note, version


def _replace(context: Context, made: str, folder: str, facts: dict[str, Any]) -> None:
    """Put the parts of `made` into `folder`, in the place of those that are there."""
    storage, own = context.storage, uuid.uuid4().hex[:8]
    parts = {part: f"{part}-{own}" for part in storage.parts(made)}
    old, version = _claim(storage, folder)
    before = [note["part"] for note in old["parts"]]
    begun = {**old, "unused": [*old["unused"], *parts.values()]}
    version = _move(context, begun, version, folder)
    _remove(storage, folder, old["unused"])
    notes = []
    for part, name in parts.items():
        storage.write(storage.read(made, f"{part}.parquet"), folder, f"{name}.parquet")
        notes.append({**storage.read_json(made, f"{part}.json"), "part": name})
        storage.write_json(notes[-1], folder, f"{name}.json")
    whole = {"made_by": _MADE_BY, **facts, "written_utc": utc_now(), "parts": notes}
    _move(context, {**whole, "unused": before}, version, folder)
    _remove(storage, folder, before)


def _move(context: Context, note: dict[str, Any], version: str, folder: str) -> str:
    """Swap the note; returns its new version. Raises UserError when another has moved it."""
    context.confirm_lease()
    storage = context.storage
    moved = storage.swap(note, version, folder, NOTE)
    now, version_now = storage.read_version(folder, NOTE)
    if not moved or now != note or version_now is None:
        raise UserError(
            f"{storage.uri(folder)}: another `llmaug recommend` writes here at the same time; "
            "what it writes stays"
        )
    return version_now


def _remove(storage: Storage, folder: str, parts: list[str]) -> None:
    for part in parts:
        storage.delete(folder, f"{part}.json")
        storage.delete(folder, f"{part}.parquet")
