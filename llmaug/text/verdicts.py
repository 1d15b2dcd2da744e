"""Stage `text/<task>/filtered`: which answers are kept, and why the others are not.

One row for each outcome: accepted, rejected with its reason, or failed as generation says.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from llmaug.core.formats import OUTCOMES, UNITS
from llmaug.core.stage import Context, map_parts
from llmaug.core.storage import Storage
from llmaug.plan.parts import PlanPart, read_parts
from llmaug.schema import ACCEPTED, FAILED, GENERATED, REJECTED, VERDICT, validate
from llmaug.text.answers import rows_of
from llmaug.text.filters import TOO_LONG, UNPARSABLE, verdict
from llmaug.text.task import Row, Task


def run(task: Task, context: Context) -> dict[str, Any]:
    context = replace(context, track=task.track)
    storage, folder = context.storage, context.folder("filtered")
    plan, outcomes = context.folder("plan"), context.folder("outcomes")
    there = set(storage.parts(outcomes))
    groups: dict[str, list[PlanPart]] = {}
    for part in read_parts(storage, plan):
        if part.name in there:
            groups.setdefault(part.train_part or "", []).append(part)
    work = _OfGroup(storage, task, f"runs/{context.run_id}", plan, outcomes, folder, groups)
    written = {group: [part.name for part in parts] for group, parts in groups.items()}
    counts = dict(map_parts(context, folder, list(groups), work, outputs=written))
    counts["units"] = counts.pop("rows", 0)
    for status in (ACCEPTED, REJECTED, FAILED):
        counts.setdefault(status, 0)
    assert counts["units"] == counts[ACCEPTED] + counts[REJECTED] + counts[FAILED], counts
    assert counts["units"] == context.manifest("outcomes")["counts"]["units"], counts
    context.progress.note(
        f"{task.name}: {counts['units']:,} units = {counts[ACCEPTED]:,} accepted + "
        f"{counts[REJECTED]:,} rejected + {counts[FAILED]:,} failed; {parsed_share(counts):.2%} of "
        "the answers parse"
    )
    return counts


def parsed_share(counts: dict[str, int]) -> float:
    """Of all answers, those that are by the schema."""
    said = counts[ACCEPTED] + counts[REJECTED]
    unread = sum(counts.get(f"{REJECTED}.{reason}", 0) for reason in (UNPARSABLE, TOO_LONG))
    return 1 - unread / said if said else 0.0


@dataclass(frozen=True)
class _OfGroup:
    """The verdicts on the parts about one part of the table; picklable, called for its name."""

    storage: Storage
    task: Task
    run_folder: str
    plan: str
    outcomes: str
    folder: str
    groups: dict[str, list[PlanPart]]

    def __call__(self, group: str) -> dict[str, Any]:
        rows = {row.key: row for row in rows_of(self.storage, self.task, self.run_folder, group)}
        total: Counter[str] = Counter()
        for part in self.groups[group]:
            if not self.storage.exists(self.folder, f"{part.name}.json"):
                total.update(self._of_part(part.name, rows))
        return dict(total)

    def _of_part(self, part: str, rows: dict[Any, Row]) -> Counter[str]:
        storage = self.storage
        units = storage.read_part(self.plan, part, ["unit_id", "item_id", "user_id"], UNITS)
        about = {unit["unit_id"]: (unit["item_id"], unit["user_id"]) for unit in units.to_pylist()}
        counts: Counter[str] = Counter()
        made = []
        for outcome in storage.read_part(self.outcomes, part, stored=OUTCOMES).to_pylist():
            key = about[outcome["unit_id"]]
            made.append(self._of_outcome(outcome, rows[key]))
            counts[made[-1]["status"]] += 1
            if made[-1]["reason"]:
                counts[f"{made[-1]['status']}.{made[-1]['reason']}"] += 1
        table = validate(pa.Table.from_pylist(made, schema=VERDICT), VERDICT, part)
        storage.write_part(table, dict(counts), self.folder, part)
        return counts

    def _of_outcome(self, outcome: dict[str, Any], row: Row) -> dict[str, Any]:
        made = {"unit_id": outcome["unit_id"], "item_id": row.item_id, "user_id": row.user_id}
        if outcome["status"] != GENERATED:
            return made | {name: outcome[name] for name in ("status", "reason", "detail")}
        said = outcome["text"] or ""
        answer, refused = verdict(self.task, row, said, outcome["num_generated_tokens"])
        reason, detail = refused or (None, None)
        return made | {
            "status": REJECTED if refused else ACCEPTED,
            "reason": reason,
            "detail": detail,
            "answer": None if answer is None else json.dumps(answer, ensure_ascii=False),
        }
