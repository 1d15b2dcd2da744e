"""Stage `lm` with `lm.from_run`: tonight's generator is the behaviour model of an earlier run.

Nothing is copied: the manifest points at that run's model and vocabulary. Their digests stand
in every unit's id, so what has not changed since is answered by the outcomes cache. Refused
when the earlier run trained on an event that is held out tonight.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa

from llmaug.config import Config
from llmaug.errors import UserError
from llmaug.lm.models import check_model
from llmaug.split import TEST, TRAIN, VALIDATION
from llmaug.stage import MANIFEST, Context, Stage, map_parts
from llmaug.storage import Storage
from llmaug.vocabulary import load

_KEYS = ["user_id", "item_id", "timestamp"]


def run(context: Context) -> dict[str, Any]:
    storage, name = context.storage, context.config.lm.name
    earlier = f"runs/{context.config.lm.from_run}"
    manifest = _manifest(context)
    assert manifest is not None
    vocabulary_folder, model_folder = f"{earlier}/vocabulary", f"{earlier}/lm/{name}"
    kind = context.config.lm.model
    check_model(storage, model_folder, kind, load(storage, vocabulary_folder))
    folder = f"{context.folder(f'lm/{name}')}/_leaks"
    split = context.folder("split")
    work = partial(_count_leaks, storage, f"{earlier}/split/{TRAIN}", split, folder)
    leaks = map_parts(context, folder, storage.parts(f"{split}/{TEST}"), work)["leaks"]
    if leaks:
        raise UserError(
            f"lm.from_run {context.config.lm.from_run}: that run trained on {leaks:,} events that "
            "are held out in this one; its model would have seen the answers. Train a new one "
            "(leave lm.from_run out)"
        )
    context.progress.note(f"generator of run {context.config.lm.from_run}: {model_folder}")
    return {
        "name": name,
        "model_digest": manifest["counts"]["model_digest"],
        "model_folder": manifest["counts"].get("model_folder", model_folder),
        "vocabulary_folder": manifest["counts"].get("vocabulary_folder", vocabulary_folder),
    }


def _count_leaks(
    storage: Storage, earlier_train: str, split: str, folder: str, part: str
) -> dict[str, int]:
    """Held-out events of one part that stand in the earlier training events."""
    held_out = pa.concat_tables(
        storage.read_part(f"{split}/{name}", part, columns=_KEYS) for name in (VALIDATION, TEST)
    )
    users = pa.table({"user_id": held_out["user_id"].unique()})
    leaks = 0
    for earlier in storage.parts(earlier_train):
        trained = storage.read_part(earlier_train, earlier, columns=_KEYS)
        trained = trained.join(users, "user_id", join_type="left semi")
        leaks += held_out.join(trained, _KEYS, join_type="left semi").num_rows
    storage.write_part(users.slice(0, 0), {"leaks": leaks}, folder, part)
    return {"leaks": leaks}


def _manifest(context: Context) -> dict[str, Any] | None:
    name, run_id = context.config.lm.name, context.config.lm.from_run
    return context.storage.read_json(f"runs/{run_id}/lm/{name}", MANIFEST)


def _identity(context: Context) -> str:
    manifest = _manifest(context)
    if manifest is None:
        name, run_id = context.config.lm.name, context.config.lm.from_run
        raise UserError(
            f"lm.from_run: there is no finished model at "
            f"{context.storage.uri('runs', str(run_id), 'lm', name)}; runs here: "
            f"{', '.join(context.storage.names('runs')) or 'none'}"
        )
    return str(manifest["counts"]["model_digest"])


def stage(config: Config) -> Stage:
    """The stage that stands in for the training of `lm/<name>`."""
    return Stage(
        name=f"lm/{config.lm.name}",
        run=run,
        inputs=("split", "vocabulary"),
        settings=lambda config: [config.lm.name, config.lm.from_run],
        outside=_identity,
    )
