"""`llmaug retry-failed`: ask again for units that failed, and for no others.

The parts that hold them are opened again with all their other answers put aside, and the
generate stage is run: it asks for what is open, as after any interruption. What the stage holds
is then something else, so the next `llmaug run` renews what follows from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmaug.core.contents import read_manifest
from llmaug.core.formats import OUTCOMES
from llmaug.core.progress import Progress
from llmaug.core.stage import (
    MANIFEST,
    REVISION,
    Context,
    Stage,
    content_of,
    fingerprint,
    map_parts,
    run_stage,
)
from llmaug.core.storage import Storage
from llmaug.core.stored import notes_of_parts, read_note
from llmaug.errors import UserError
from llmaug.generate import stage as generate
from llmaug.generate.part_answer import OutcomeFolders, keep
from llmaug.generate.watch import Spent
from llmaug.pipeline import reopened
from llmaug.plan.parts import read_parts
from llmaug.schema import FAILED
from llmaug.text.stages import task_stages


def retry_failed(
    storage: Storage,
    run_id: str,
    reason: str | None = None,
    progress: Callable[[Callable[[dict], None]], Progress] | None = None,
    text_task: str | None = None,
) -> dict[str, Any]:
    """Run the failed units of a finished generation again, all or those of one `reason`: of the
    behaviour model, or of the text task of that name (its judge is `NAME/judge`).

    Returns {retried, by_reason: {reason: units}, still_failed}. Raises UserError when there is
    no such run, generation is not finished, or the run was made with other code.
    """
    with reopened(storage, run_id, progress) as whole:
        stage, context = _asked(whole, text_task)
        outcomes = context.folder("outcomes")
        manifest = read_manifest(storage, outcomes)
        if manifest is None:
            raise UserError(
                f"{storage.uri(outcomes)}: generation is not finished; give the command of the "
                "run again first"
            )
        if manifest["fingerprint"] != fingerprint(stage, whole)["fingerprint"]:
            raise UserError(
                f"{storage.uri(outcomes)}: made by another version of llmaug, or its inputs have "
                "changed since: run the job again, the outcomes cache answers what is known"
            )
        verdicts = _verdicts(context, stage.name, manifest)
        failures = _failures(storage, verdicts)
        wanted = {name: n for name, n in failures.items() if reason in (None, name)}
        if not wanted:
            there = ", ".join(f"{name} ({n:,})" for name, n in failures.items()) or "none"
            raise UserError(f"run {run_id}: no unit failed with reason '{reason}'; failed: {there}"
                            if reason else f"run {run_id}: no unit failed")  # fmt: skip
        _check_budget(context)
        revision = manifest.get("revision", 0) + 1
        storage.write_json({"revision": revision}, outcomes, REVISION)
        storage.delete(outcomes, MANIFEST)
        _open_again(context, verdicts, set(wanted), revision)
        counts = run_stage(stage, whole)["counts"]
        return {
            "retried": sum(wanted.values()), "by_reason": wanted, "still_failed": counts[FAILED]
        }  # fmt: skip


def _check_budget(context: Context) -> None:
    """Raises UserError where the run's budget lets no engine answer: units would be left out."""
    spent = Spent(context.storage, context.folder("outcomes"))
    now = datetime.now(UTC)
    limits = generate.limits_of(context.config.budget, spent.before, now)
    if limits.deadline is not None and limits.deadline <= now.timestamp():
        raise UserError(
            f"budget.deadline of the run, {context.config.budget.deadline}, is past: no unit would "
            "be asked again. Run the job with a later one; the outcomes cache answers what is known"
        )
    if limits.engine_seconds == 0:
        raise UserError(
            "budget.max_gpu_hours of the run is spent: no unit would be asked again. Run the job "
            "with more; the outcomes cache answers what is known"
        )


def _asked(whole: Context, text_task: str | None) -> tuple[Stage, Context]:
    """The stage that generates, and the context of its track."""
    if text_task is None:
        return generate.STAGE, whole
    config = whole.config
    there = {each.name: each for own in config.text.tasks for each in task_stages(config, own)}
    track = f"text/{text_task}"
    if f"{track}/outcomes" not in there:
        known = [n.removeprefix("text/")[:-9] for n in there if n.endswith("/outcomes")]
        raise UserError(f"run {whole.run_id} has no text task '{text_task}'; it has "
                        f"{', '.join(known) or 'none'}")  # fmt: skip
    return there[f"{track}/outcomes"], replace(whole, track=track)


def _verdicts(context: Context, outcomes: str, manifest: dict[str, Any]) -> str:
    """Where the statuses stand: after the filters if they ran on these outcomes (stage of that
    name, with its manifest), else as generated. Filters that ran before a retry know no answer
    of it."""
    filtered = context.folder("filtered")
    made = read_manifest(context.storage, filtered) or {}
    fits = made.get("inputs", {}).get(outcomes) == content_of(manifest)
    return filtered if fits else context.folder("outcomes")


def _failures(storage: Storage, folder: str) -> Counter[str]:
    """{reason: failed units} from the notes of the parts."""
    found: Counter[str] = Counter()
    for note in notes_of_parts(storage, folder, storage.parts(folder)).values():
        for name, number in note["counts"].items():
            if name.startswith(f"{FAILED}."):
                found[name.removeprefix(f"{FAILED}.")] += number
    return found


def _open_again(context: Context, verdicts: str, reasons: set[str], revision: int) -> None:
    storage = context.storage
    parts = {part.name for part in read_parts(storage, context.folder("plan"))}
    folders = OutcomeFolders(
        storage, context.folder("plan"), context.folder("outcomes"), context.run_id,
        context.manifest("plan")["counts"]["generator"],
    )  # fmt: skip
    folder = f"{folders.outcomes}/_retry-{revision}"
    work = partial(_open_part, folders, verdicts, folder, reasons)
    map_parts(context, folder, [p for p in storage.parts(verdicts) if p in parts], work)


def _open_part(
    folders: OutcomeFolders,
    verdicts: str,
    folder: str,
    reasons: set[str],
    part: str,
) -> dict[str, int]:
    """Put aside what is not to be asked again, and take the part's note away."""
    storage = folders.storage
    rows = storage.read_part(verdicts, part, columns=["unit_id", "status", "reason"])
    failed = pc.and_(
        pc.equal(rows["status"], FAILED),
        pc.is_in(rows["reason"], value_set=pa.array(sorted(reasons), pa.string())),
    )
    again = rows.filter(failed)["unit_id"].to_pylist()
    if again:
        outcomes = storage.read_part(folders.outcomes, part, stored=OUTCOMES)
        others = outcomes.filter(
            pc.invert(pc.is_in(outcomes["unit_id"], value_set=pa.array(again, pa.string())))
        )
        counts = read_note(storage, folders.outcomes, part)["counts"]
        kept = {n: counts[n] for n in ("cache_hits", "left_out", "not_needed") if n in counts}
        keep(folders, part, others, kept, only=again)
        storage.delete(folders.outcomes, f"{part}.json")
    storage.write_part(pa.table({"part": [part]}), {"retried": len(again)}, folder, part)
    return {"retried": len(again)}
