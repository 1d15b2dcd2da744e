"""The behaviour model of an earlier run, for `lm.from_run` and `lm.warm_start`.

Refused when that model learned from an event that is held out now, in that run or in one whose
model it had started from: what is made from it would have seen the answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from llmaug.config.names import run_folder
from llmaug.core.contents import check_stage, pseudonym_key_of, read_manifest
from llmaug.core.stage import Context, map_parts
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.by_user import number_of, parts_with_the_same_users
from llmaug.ingest.split import TEST, TRAIN, VALIDATION
from llmaug.items.vocabulary import load_statistics

WARM_START = "lm.warm_start"
_KEYS = ["user_id", "item_id", "timestamp"]


@dataclass(frozen=True)
class EarlierModel:
    """A finished model and the vocabulary that it speaks."""

    folder: str
    vocabulary: str
    digest: str
    learned_from: tuple[str, ...]
    """Runs whose training events it has seen, as far as these were there: the latest first."""
    private: dict[str, Any] | None = None
    """What its training spent of privacy, where it was by DP-SGD."""


def find_earlier(context: Context, run_id: str, setting: str) -> EarlierModel:
    """The model of run `run_id` that is named like this run's. Raises UserError, naming
    `setting`, when there is none, or files of it are missing or damaged."""
    storage, name = context.storage, context.config.lm.name
    folder = f"{run_folder(run_id)}/lm/{name}"
    manifest = read_manifest(storage, folder)
    if manifest is None:
        raise UserError(
            f"{setting}: there is no finished model at {storage.uri(folder)}; runs here: "
            f"{', '.join(storage.names('runs')) or 'none'}"
        )
    check_stage(storage, run_id, f"lm/{name}", context.verify)
    check_stage(storage, run_id, "vocabulary", context.verify)
    counts = manifest["counts"]
    model = counts.get("model_folder", folder)
    return EarlierModel(
        folder=model,
        vocabulary=counts.get("vocabulary_folder", f"runs/{run_id}/vocabulary"),
        digest=counts["model_digest"],
        learned_from=(_run_of(model), *counts.get("learned_from", [])),
        private=counts.get("private"),
    )


def refuse_leaks(context: Context, model: EarlierModel, setting: str) -> None:
    """Raises UserError when it learned from events that are held out in this run."""
    storage = context.storage
    folder = f"{context.folder(f'lm/{context.config.lm.name}')}/_leaks"
    split = context.folder("split")
    parts = storage.parts(f"{split}/{TEST}")
    there = still_there(storage, model)
    if gone := sorted(set(model.learned_from) - set(there)):
        context.progress.note(
            f"{setting}: its model goes back to {', '.join(gone)}, whose events are gone: whether "
            "any of them is held out now cannot be seen"
        )
    own_key = _key_of(storage, context.run_id)
    for run_id in there:
        run = run_folder(run_id)
        if _key_of(storage, run_id) != own_key:
            raise UserError(
                f"{setting}: run {run_id} knows its users by other pseudonyms (or by none) than "
                "this one (privacy.pseudonyms): whether it trained on what is held out here "
                f"cannot be seen. Train a new one (leave {setting} out)"
            )
        trained = f"{run}/split/{TRAIN}"
        end_s = load_statistics(storage, f"{run}/vocabulary").window_end_s
        earlier = {number_of(part): part for part in storage.parts(trained)}
        same_users = {
            part: [earlier[n] for n in parts_with_the_same_users(part, len(parts), len(earlier))]
            for part in parts
        }
        work = partial(_count_leaks, storage, trained, end_s, same_users, split, folder)
        leaks = map_parts(context, folder, parts, work)["leaks"]
        storage.delete(folder)
        if leaks:
            raise UserError(
                f"{setting}: run {run_id} trained on {leaks:,} events that are held out in this "
                "one; its model would have seen the answers. Train a new one "
                f"(leave {setting} out)"
            )


def still_there(storage: Storage, model: EarlierModel) -> list[str]:
    """Runs that it learned from and whose training events have not been removed."""
    found = ((run_id, f"{run_folder(run_id)}/split/{TRAIN}") for run_id in model.learned_from)
    return [run_id for run_id, folder in found if storage.parts(folder)]


def _key_of(storage: Storage, run_id: str) -> str | None:
    return pseudonym_key_of(read_manifest(storage, f"{run_folder(run_id)}/ingest"))


def _run_of(folder: str) -> str:
    """The run that a folder lies in."""
    return folder.split("/")[1]


def _count_leaks(
    storage: Storage,
    earlier_train: str,
    end_s: float,
    same_users: dict[str, list[str]],
    split: str,
    folder: str,
    part: str,
) -> dict[str, int]:
    """Held-out events of one part that stand in the earlier training events, of which the last
    was at `end_s`."""
    held_out = pa.concat_tables(
        storage.read_part(f"{split}/{name}", part, columns=_KEYS) for name in (VALIDATION, TEST)
    )
    time_s = held_out["timestamp"].cast(pa.int64()).to_numpy() / 1e6
    held_out = held_out.filter(pa.array(time_s <= end_s))
    users = pa.table({"user_id": held_out["user_id"].unique()})
    leaks = 0
    for earlier in same_users[part] if held_out.num_rows else []:
        trained = storage.read_part(earlier_train, earlier, columns=_KEYS)
        trained = trained.join(users, "user_id", join_type="left semi")
        leaks += held_out.join(trained, _KEYS, join_type="left semi").num_rows
    storage.write_part(users.slice(0, 0), {"leaks": leaks}, folder, part)
    return {"leaks": leaks}
