"""Stage `lm` with `lm.from_run`: tonight's generator is the behaviour model of an earlier run.

Nothing is copied: the manifest points at that run's model and vocabulary. Their digests stand
in every unit's id, so what has not changed since is answered by the outcomes cache.
"""

from __future__ import annotations

from typing import Any

from llmaug.config import Config, imported, modules_of
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage
from llmaug.items.vocabulary import load_vocabulary
from llmaug.lm.earlier import EarlierModel, find_earlier, refuse_leaks
from llmaug.lm.generator import Generator

_SETTING = "lm.from_run"


def run(context: Context) -> dict[str, Any]:
    storage, lm = context.storage, context.config.lm
    found = _find(context)
    generator = Generator(
        lm.name, lm.model, found.vocabulary, found.folder, found.digest, lm.context_len
    )
    # For its errors: nothing is paid yet.
    imported(lm.answering)(storage, generator, load_vocabulary(storage, found.vocabulary))
    refuse_leaks(context, found, _SETTING)
    context.progress.note(f"generator of run {lm.from_run}: {found.folder}")
    return {
        "name": lm.name,
        "model_digest": found.digest,
        "model_folder": found.folder,
        "vocabulary_folder": found.vocabulary,
        "learned_from": list(found.learned_from[1:]),  # the first one is seen from model_folder
        **({"private": found.private} if found.private else {}),
    }


def _find(context: Context) -> EarlierModel:
    return find_earlier(context, str(context.config.lm.from_run), _SETTING)


def stage(config: Config) -> Stage:
    """The stage that stands in for the training of `lm/<name>`."""
    return Stage(
        name=f"lm/{config.lm.name}",
        run=run,
        asks=lambda config, on_gpus: TASKS,
        inputs=("split", "vocabulary"),
        roots=lambda config: modules_of(config.lm, named=["answering"]),
        settings=lambda config: [config.lm.name, config.lm.from_run],
        outside=lambda context: _find(context).digest,
    )
