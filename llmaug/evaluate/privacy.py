"""Stage `privacy`: how much of single real people stands in the synthetic events.

A run of `filters.copied_ngram` events that fewer than `gate.min_run_users` real users have in
their training histories identifies them, to whoever knows a part of such a history
(k-anonymity of runs; Sweeney 2002). The audit counts the synthetic histories that hold one, in
the merged shards, whatever the filters did before. The gate refuses a model that was trained on
too many of them. It is a check for copies, and no guarantee: nothing here is differentially
private.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmaug.arms.arms import AUGMENTED
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.evaluate.figures import Audit
from llmaug.filter.copied import count_real_runs, is_among, real_runs, run_hashes
from llmaug.items.arrays import group_bounds
from llmaug.items.vocabulary import load_vocabulary
from llmaug.schema import SYNTHETIC


def run(context: Context) -> dict[str, Any]:
    """{synthetic: histories, identifying: those with such a run, identifying_share, ...}."""
    storage, config, folder = context.storage, context.config, context.folder("privacy")
    length, enough = config.filters.copied_ngram, config.gate.min_run_users
    merged, vocabulary = context.folder(f"merged/{AUGMENTED}"), context.folder("vocabulary")
    runs = count_real_runs(context, folder, vocabulary, length)
    counts = map_parts(
        context, folder, storage.parts(merged),
        partial(_audit_part, storage, merged, folder, runs, vocabulary, length, enough),
    )  # fmt: skip
    storage.delete(runs)
    synthetic, identifying = counts["synthetic"], counts["identifying"]
    share = identifying / synthetic if synthetic else 0.0
    context.progress.note(
        f"{identifying:,} of {synthetic:,} synthetic histories ({share:.2%}) hold a run of "
        f"{length} events that fewer than {enough} real users have"
    )
    audit = {
        "synthetic": synthetic, "identifying": identifying, "identifying_share": share,
        "run_len": length, "min_run_users": enough,
    }  # fmt: skip
    return Audit.keeps(audit)


def _audit_part(
    storage: Storage,
    merged: str,
    folder: str,
    runs: str,
    vocabulary: str,
    length: int,
    enough: int,
    part: str,
) -> dict[str, int]:
    events = storage.read_part(merged, part, columns=["item_id", "origin", "unit_id"])
    events = events.filter(pc.equal(events["origin"].cast(pa.string()), SYNTHETIC))
    tokens = load_vocabulary(storage, vocabulary).encode(events["item_id"])
    rare = real_runs(storage, runs, enough)
    units = events["unit_id"].to_numpy(zero_copy_only=False)
    bounds = group_bounds(units)
    held = [bool(is_among(run_hashes(tokens[a:b], length), rare).any()) for a, b in bounds]
    rows = [units[a] for (a, _), found in zip(bounds, held, strict=True) if found]
    counts = {"synthetic": len(bounds), "identifying": len(rows)}
    storage.write_part(pa.table({"unit_id": pa.array(rows, pa.string())}), counts, folder, part)
    return counts


STAGE = Stage(
    name="privacy",
    run=run,
    asks=lambda config, on_gpus: TASKS,
    inputs=(f"merged/{AUGMENTED}", "split", "vocabulary"),
    settings=lambda config: [config.filters.copied_ngram, config.gate.min_run_users],
)
