"""`llmaug publish`: publish a finished run by hand, against the gate if it must be.

A force is for one decision of one run. It is recorded in `runs/<run_id>/forced.json`, which is
an input of the stage `publish`: whatever follows from what is published (recommendations, the
report) is renewed with it, and a later decision of the gate makes it void.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from llmaug.arms import AUGMENTED
from llmaug.errors import UserError
from llmaug.pipeline import reopened, stages
from llmaug.progress import Progress
from llmaug.publish import FORCED
from llmaug.stage import MANIFEST, Context, run_stage
from llmaug.storage import Storage

RENEWED = ("publish", "recommendations", "report")  # stages


def publish_run(
    storage: Storage,
    run_id: str,
    reason: str | None = None,
    progress: Callable[[Callable[[dict], None]], Progress] | None = None,
    verify: bool = False,
) -> dict[str, Any]:
    """Publish what the gate of a run chose; with a `reason`, the augmented model although the
    gate refused it.

    Returns the card of the published model. Raises UserError when there is no such run, it has
    not come to the gate, files of it are missing or damaged, or there is nothing to force.
    verify: digests of all files are checked too.
    """
    with reopened(storage, run_id, progress, RENEWED, verify) as context:
        if not storage.exists(context.folder("gate"), MANIFEST):
            raise UserError(
                f"run {run_id} has not come to the gate: run the job first "
                "(`llmaug run`, or `llmaug run --until gate`)"
            )
        if reason is None:
            storage.delete(f"runs/{run_id}", FORCED)
        else:
            storage.write_json(_record(context, reason), f"runs/{run_id}", FORCED)
        path = [stage for _, stage in stages(context.config) if stage.name in RENEWED]
        context.progress.plan([stage.name for stage in path])
        manifests = {stage.name: run_stage(stage, context) for stage in path}
        return manifests["publish"]["counts"]


def _record(context: Context, reason: str) -> dict[str, Any]:
    gate = context.manifest("gate")
    decision = gate["counts"]
    if decision["passed"]:
        raise UserError(
            f"run {context.run_id}: the gate passed, there is nothing to force; leave out --force"
        )
    if not context.storage.exists(context.folder(f"model/{AUGMENTED}"), MANIFEST):
        raise UserError(f"run {context.run_id} trained no augmented model that could be forced")
    if not reason.strip():
        raise UserError("--reason is empty: say why this model may go out all the same")
    return {
        "reason": reason.strip(),
        "refused": decision["reasons"],
        "forced_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "gate": gate["fingerprint"],
    }
