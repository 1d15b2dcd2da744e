"""Stage `text/<task>/plan`: one unit for each row that is asked about.

A unit's id is the digest of all that decides its answer: the prompt, the schema, the sampling, the
seed and the generator. The seed goes by the row, so rows of one text are asked once each. Where an
image goes with the question, its bytes count: they are read here for their digest, and again by
who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmaug.core.stage import Context, map_parts
from llmaug.core.storage import Storage, digest
from llmaug.plan.counts import PlanCounts
from llmaug.plan.parts import SOURCES, Source, read_parts, write_source
from llmaug.text.answers import rows_of, table_rows
from llmaug.text.images import Images, images_of
from llmaug.text.model import ChatModel, chat_model
from llmaug.text.prompts import Asking, Question
from llmaug.text.task import Row, Task


def run(task: Task, context: Context) -> dict[str, Any]:
    context = replace(context, track=task.track)
    storage, folder = context.storage, context.folder("plan")
    model = chat_model(context, bool(task.images))
    table = context.folder(task.table)
    parts = storage.parts(table)
    own = _OfPart(
        storage, task, model, folder, f"runs/{context.run_id}",
        context.config.text.context_len, context.config.text.units_per_part, context.config.seed,
        len(parts), _shares(storage, task, f"runs/{context.run_id}", parts),
        images_of(task.images, context),
    )  # fmt: skip
    asked = {f"0-{part}": part for part in parts}
    done = map_parts(context, f"{folder}/{SOURCES}", list(asked), own)
    planned = read_parts(storage, folder)
    units = sum(part.num_units for part in planned)
    notes = {name: done[name] for name in ("cut_fields", "control_tokens_broken")}
    context.progress.note(
        f"{task.name}: {units:,} questions; {notes['cut_fields']:,} fields cut, control tokens "
        f"broken in {notes['control_tokens_broken']:,}"
    )
    if task.images:
        notes["images_unread"] = done["images_unread"]
        context.progress.note(f"{task.name}: {notes['images_unread']:,} images cannot be read")
    return PlanCounts.keeps({
        "units": units,
        "generator": model.name,
        "max_output_tokens": sum(part.max_tokens for part in planned),
        "left_out_by_budget": 0,
        **notes,
    })  # fmt: skip


def _shares(
    storage: Storage, task: Task, run_folder: str, parts: Sequence[str]
) -> dict[str, int] | None:
    """Rows of each part that are asked about, the first ones; None: all."""
    if task.max_rows is None:
        return None
    left, shares = task.max_rows, {}
    for part in parts:
        there = len(table_rows(storage, task, run_folder, part)) if left else 0
        shares[part] = min(left, there)
        left -= shares[part]
    return shares


@dataclass(frozen=True)
class _OfPart:
    """Units about one part of the table; picklable, called for a source."""

    storage: Storage
    task: Task
    model: ChatModel
    folder: str
    run_folder: str
    context_len: int
    units_per_part: int
    seed: int
    num_parts: int
    shares: dict[str, int] | None
    images: Images | None

    def __call__(self, source: str) -> dict[str, Any]:
        part = source.split("-", 1)[1]
        rows = rows_of(self.storage, self.task, self.run_folder, part)
        if self.shares is not None:
            rows = rows[: self.shares[part]]
        asking = Asking(self.storage, self.model, self.task, self.context_len)
        units, counts = [], {"cut_fields": 0, "control_tokens_broken": 0}
        digests: list[str | None] = [None] * len(rows)
        if self.images:
            digests = self.images.digests([row.image or "" for row in rows])
            counts["images_unread"] = digests.count(None)
        for row, image in zip(rows, digests, strict=True):
            question = asking.question(row)
            counts["cut_fields"] += question.num_cut
            counts["control_tokens_broken"] += question.num_controls
            units.append(self._unit(row, question, image))
        cache = f"text-{self.task.name.replace('/', '-')}.{part}.of-{self.num_parts}"
        described = Source(source, cache, 0, part, self.units_per_part)
        number = write_source(self.storage, self.folder, described, units, counts)
        return {"units": number, **counts}

    def _unit(self, row: Row, question: Question, image: str | None) -> dict[str, Any]:
        task, own = self.task, self.task.sampling
        seed = int(digest([self.seed, task.name, *row.key])[:16], 16) >> 1
        sampling = {
            "temperature": own.temperature, "top_p": own.top_p, "top_k": own.top_k,
            "max_tokens": task.max_new_tokens, "forbid_repeats": False,
        }  # fmt: skip
        asked = question.tokens or question.text
        identity: list[Any] = [asked, task.schema, sampling, seed, self.model.name]
        if task.images:
            # Another night may find what this one cannot read: that is no answer of the cache.
            identity += [image or [self.run_folder, row.image], task.images.side]
        return {
            "unit_id": digest(identity),
            "user_id": row.user_id,
            "item_id": row.item_id,
            "strategy": task.name,
            "sample": 0,
            "prompt": question.tokens,
            "text": None if question.tokens else question.text,
            "sampling": sampling,
            "seed": seed,
            "image": {"uri": row.image, "digest": image} if task.images else None,
        }
