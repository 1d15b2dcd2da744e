"""Stage `lm/<name>`: the behaviour model, from training events alone.

What is done is up to the kind of model: its config names the function.
"""

from __future__ import annotations

from typing import Any

from llmaug.config import Config, imported, modules_of
from llmaug.core.placing import TASKS, Ask, workers
from llmaug.core.stage import Context, Stage
from llmaug.errors import UserError
from llmaug.ingest.users import attributes_digest
from llmaug.items.vocabulary import Vocabulary, load_vocabulary
from llmaug.lm.earlier import WARM_START, find_earlier
from llmaug.lm.members import member_config


def run(context: Context) -> dict[str, Any]:
    config = context.config
    check_learnable(load_vocabulary(context.storage, context.folder("vocabulary")), config)
    facts: dict[str, Any] = imported(config.lm.training)(context)
    return facts


def check_learnable(vocabulary: Vocabulary, config: Config) -> None:
    """Raises UserError when no model could learn anything from such a catalogue."""
    most = max(vocabulary.items["train_events"].to_pylist())
    if most == 0:
        raise UserError("there is no training event: check ingest.start, ingest.end and the split")
    min_tag_items = config.vocabulary.min_tag_items
    reads_features = config.lm.reads_item_features
    if most == 1 and not (reads_features and vocabulary.has_features(min_tag_items).any()):
        raise UserError(
            "every item has a single training event, and there are neither tags that items share "
            "nor text vectors: nothing can be learnt. Read more days (ingest.start, ingest.end), "
            "or give a table of items with tags (ingest.items) or vocabulary.text_encoder, and "
            "set lm.item_features"
        )


def _outside(context: Context) -> list[Any]:
    earlier = context.config.lm.starts_from
    return [
        find_earlier(context, earlier, WARM_START).digest if earlier else None,
        attributes_digest(context),
    ]


def _asks(config: Config, on_gpus: bool) -> tuple[Ask, ...]:
    return (workers("lm", config.lm.optimiser),) if config.lm.optimiser else TASKS


def stage(name: str) -> Stage:
    """The stage that trains `lm/<name>`."""
    return Stage(
        name=f"lm/{name}",
        run=run,
        asks=_asks,
        inputs=("split", "vocabulary"),
        roots=lambda config: modules_of(config.lm, named=["training"]),
        settings=lambda config: [
            member_config(config, 1).lm,
            config.vocabulary,
            config.evaluate.exclude_seen,
            config.lm.learns_from(config.plan),
        ],
        outside=_outside,
    )
