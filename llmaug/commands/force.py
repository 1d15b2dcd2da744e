"""`llmaug publish`: publish a finished run by hand, against the gate if it must be, and behind
a newer night that is current.

A force against the gate is for one decision of one run. It is recorded in
`runs/<run_id>/forced.json`, which is an input of the stage `publish`: whatever follows from what
is published (recommendations, the report) is renewed with it, and a later decision of the gate
makes it void. That CURRENT may step back behind a newer night is for this one time, and recorded
in CURRENT: the same run resumed later has no such right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from llmaug.core.formats import utc_now
from llmaug.core.progress import Progress
from llmaug.core.stage import MANIFEST, Context, Stage, run_stage
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.evaluate.figures import candidate_of
from llmaug.pipeline import reopened, stages
from llmaug.publish import drift
from llmaug.publish import stage as publish
from llmaug.publish.pointer import in_the_way
from llmaug.report import stage as report

RENEWED = ("publish", "recommendations", "report")  # stages


def publish_run(
    storage: Storage,
    run_id: str,
    reason: str | None = None,
    progress: Callable[[Callable[[dict], None]], Progress] | None = None,
    verify: bool = False,
) -> dict[str, Any]:
    """Publish what the gate of a run chose, unless a newer night is current; with a `reason`, all
    the same, and the augmented model although the gate refused it.

    Returns the card of the model and what became of it (`publish.publish`). Raises UserError when
    there is no such run, it has not come to the gate, files of it are missing or damaged, or there
    is nothing to force. verify: digests of all files are checked too.
    """
    with reopened(storage, run_id, progress, RENEWED, verify) as context:
        if not storage.exists(context.folder("gate"), MANIFEST):
            raise UserError(
                f"run {run_id} has not come to the gate: run the job first "
                "(`llmaug run`, or `llmaug run --until gate`)"
            )
        folder = f"runs/{context.run_id}"
        if reason is None:
            storage.delete(folder, publish.FORCED)
        elif _refused(context, reason):
            storage.write_json(_record(context, reason), folder, publish.FORCED)
        path = _renewed(context)
        path[0] = replace(path[0], run=partial(publish.run, by_force=reason))
        context.progress.plan([stage.name for stage in path])
        published, *_ = [run_stage(stage, context) for stage in path]
        if published["skipped"]:  # that night's stage stands; CURRENT may have moved since
            return publish.publish(context, reason)
        return dict(published["counts"])


def _renewed(context: Context) -> list[Stage]:
    """Those of RENEWED, the report about what the run has: one of an earlier version may lack a
    stage."""
    every = [stage for _, stage in stages(context.config)]
    there = [
        stage.name
        for stage in every
        if stage.name in RENEWED or context.storage.exists(context.folder(stage.name), MANIFEST)
    ]
    about_them = report.stage(tuple(name for name in there if name != "report"))
    return [stage for stage in every if stage.name in RENEWED[:-1]] + [about_them]


def _refused(context: Context, reason: str) -> bool:
    """Did the gate refuse what `reason` forces? Raises UserError when nothing is to be forced."""
    if not reason.strip():
        raise UserError("--reason is empty: say why this model may go out all the same")
    gate = context.manifest("gate")["counts"]
    if not gate["passed"] and not (_only_real(context, gate) and drift.objection(context)):
        return True
    name, card = context.config.publish.name, publish.card_of(context)
    if not (in_the_way(context.storage, name, card) or drift.objection(context)):
        raise UserError(
            f"run {context.run_id}: the gate passed and no newer night is current (nor does drift "
            "stop it), there is nothing to force; leave out --force"
        )
    return False


def _only_real(context: Context, gate: dict[str, Any]) -> bool:
    """Was there nothing that the gate could choose from?"""
    return not context.storage.exists(context.folder(f"model/{candidate_of(gate)}"), MANIFEST)


def _record(context: Context, reason: str) -> dict[str, Any]:
    gate = context.manifest("gate")
    if _only_real(context, gate["counts"]):
        arm = candidate_of(gate["counts"])
        raise UserError(f"run {context.run_id} trained no model of arm {arm} that could be forced")
    return {
        "reason": reason.strip(),
        "refused": gate["counts"]["reasons"],
        "forced_utc": utc_now(),
        "gate": gate["fingerprint"],
    }
