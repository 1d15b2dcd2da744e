"""Stage `text/<task>/rows`: the answers that are kept, as rows of the task's sink.

Its counts are the ledger of the task, of the judge too: units = accepted + rejected + failed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa

from llmaug.core.stage import Context, map_parts
from llmaug.core.storage import Storage
from llmaug.schema import ACCEPTED, FAILED, REJECTED, validate
from llmaug.text.answers import Said, answers_of, table_rows
from llmaug.text.model import chat_model
from llmaug.text.safety import with_notice
from llmaug.text.task import Answer, Row, Task

NOT_JUDGED = "not_judged"


def run(task: Task, context: Context) -> dict[str, Any]:
    storage, folder = context.storage, context.folder(f"{task.track}/rows")
    run_folder = f"runs/{context.run_id}"
    origin = {"run_id": context.run_id, "generator": chat_model(context, bool(task.images)).name}
    work = _OfPart(storage, task, run_folder, folder, origin if task.traced else None)
    counts = dict(map_parts(context, folder, storage.parts(f"{run_folder}/{task.table}"), work))
    for name in ("units", ACCEPTED, REJECTED, FAILED):
        counts.setdefault(name, 0)
    assert counts["units"] == counts[ACCEPTED] + counts[REJECTED] + counts[FAILED], counts
    assert counts["rows"] == counts[ACCEPTED], counts
    if task.judge:
        context.progress.note(
            f"{task.name}: {counts['units']:,} units = {counts[ACCEPTED]:,} kept by the judge + "
            f"{counts[REJECTED]:,} rejected + {counts[FAILED]:,} failed"
        )
    return counts


@dataclass(frozen=True)
class _OfPart:
    """Writes what came of one part of the table; picklable, called for its name."""

    storage: Storage
    task: Task
    run_folder: str
    folder: str
    origin: dict[str, str] | None
    """What rows say of where they come from, besides their unit."""

    def __call__(self, part: str) -> dict[str, Any]:
        task, storage = self.task, self.storage
        said = answers_of(storage, f"{self.run_folder}/{task.track}", part)
        judged: dict[Any, Said] = {}
        if task.judge:
            judged = answers_of(storage, f"{self.run_folder}/{task.judge.track}", part)
        counts: Counter[str] = Counter(units=len(said))
        made = []
        for row in table_rows(storage, task, self.run_folder, part):
            if row.key not in said:
                continue
            own, answer = said[row.key], said[row.key].answer or {}
            if own.status == ACCEPTED and task.judge:
                own = judged.get(row.key, Said(REJECTED, NOT_JUDGED, None, own.unit_id))
                if own.status == ACCEPTED:
                    answer = task.judged(row, answer, own.answer or {})
            counts[own.status] += 1
            if own.reason:
                counts[f"{own.status}.{own.reason}"] += 1
            if own.status == ACCEPTED:
                made.append(row_of(task, row, answer))
                if self.origin:
                    made[-1] |= {**self.origin, "unit_id": said[row.key].unit_id}
        table = validate(pa.Table.from_pylist(made, schema=task.sink), task.sink, task.name)
        storage.write_part(table, dict(counts), self.folder, part)
        return dict(counts)


def row_of(task: Task, row: Row, answer: Answer) -> dict[str, Any]:
    """What an accepted answer becomes; where texts are marked, with the mark."""
    if task.safety == "health":
        answer = cast(Answer, with_notice(answer, task.texts(answer), task.language))
    return task.to_row(row, answer)
