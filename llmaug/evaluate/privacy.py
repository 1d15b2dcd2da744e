"""Stage `privacy`: how much of single real people stands in the synthetic events.

A run of events that hardly any real user has in its training history (section `privacy`) tells
whose it is, to whoever knows a part of such a history (k-anonymity of runs; Sweeney 2002). The
audit counts the synthetic histories that hold one, in the merged shards, whatever the filters did
before: where the filter `identifying` is applied, it finds none. The gate refuses a model that was
trained on too many of them. Beside it stands how well members are told from others
(`llmaug/evaluate/membership.py`), which decides where `gate.max_membership_auc` is set. These are
checks, and no guarantee: that is `lm.private`, of the generator.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmaug.arms.arms import AUGMENTED
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.evaluate.figures import Audit, identifying_text, membership_text
from llmaug.evaluate.membership import membership
from llmaug.filter.real_runs import REAL_RUNS, RealRuns, item_keys, shared_runs
from llmaug.items.arrays import group_bounds
from llmaug.schema import SYNTHETIC


def run(context: Context) -> dict[str, Any]:
    """{synthetic: histories, identifying: those with such a run, identifying_share, ...}."""
    storage, config, folder = context.storage, context.config.privacy, context.folder("privacy")
    merged = context.folder(f"merged/{AUGMENTED}")
    counts = map_parts(
        context, folder, storage.parts(merged),
        partial(_audit_part, storage, merged, folder, shared_runs(context)),
    )  # fmt: skip
    synthetic, identifying = counts["synthetic"], counts["identifying"]
    share = identifying / synthetic if synthetic else 0.0
    audit: dict[str, Any] = {
        "synthetic": synthetic, "identifying": identifying, "identifying_share": share,
        "run_len": config.run_len, "min_run_users": config.min_run_users,
        "max_skips": config.max_skips,
        "membership": membership(context, merged) if synthetic else None,
    }  # fmt: skip
    context.progress.note(identifying_text(audit))
    if audit["membership"]:
        context.progress.note(membership_text(audit["membership"]))
    return Audit.keeps(audit)


def _audit_part(
    storage: Storage, merged: str, folder: str, real_runs: Callable[[], RealRuns], part: str
) -> dict[str, int]:
    events = storage.read_part(merged, part, columns=["item_id", "origin", "unit_id"])
    events = events.filter(pc.equal(events["origin"].cast(pa.string()), SYNTHETIC))
    keys, runs = item_keys(events["item_id"]), real_runs()
    units = events["unit_id"].to_numpy(zero_copy_only=False)
    bounds = group_bounds(units)
    rows = [units[a] for a, b in bounds if runs.identifying(keys[a:b]).any()]
    counts = {"synthetic": len(bounds), "identifying": len(rows)}
    storage.write_part(pa.table({"unit_id": pa.array(rows, pa.string())}), counts, folder, part)
    return counts


STAGE = Stage(
    name="privacy",
    run=run,
    asks=lambda config, on_gpus: TASKS,
    inputs=(f"merged/{AUGMENTED}", REAL_RUNS, "split", "vocabulary"),
    settings=lambda config: [config.privacy, config.split.kind],
)
