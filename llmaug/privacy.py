"""Stage `privacy`: how much of single real people stands in the synthetic events.

A run of `filters.copied_ngram` events that fewer than `gate.min_run_users` real users have in
their training histories identifies them, to whoever knows a part of such a history
(k-anonymity of runs; Sweeney 2002). The audit counts the synthetic histories that hold one, in
the merged shards, whatever the filters did before. The gate refuses a model that was trained on
too many of them. It is a check for copies, and no guarantee: nothing here is differentially
private.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.arms import AUGMENTED
from llmaug.filters import is_among, run_hashes
from llmaug.schema import SYNTHETIC
from llmaug.sequences import group_bounds
from llmaug.split import TRAIN
from llmaug.stage import Context, Stage, map_parts
from llmaug.storage import Storage, digest
from llmaug.vocabulary import load


def run(context: Context) -> dict[str, Any]:
    """{synthetic: histories, identifying: those with such a run, identifying_share, ...}."""
    storage, config, folder = context.storage, context.config, context.folder("privacy")
    length, enough = config.filters.copied_ngram, config.gate.min_run_users
    train, merged = f"{context.folder('split')}/{TRAIN}", context.folder(f"merged/{AUGMENTED}")
    vocabulary = context.folder("vocabulary")
    # Workers keep the counts: the name must change with what they were made from.
    basis = [context.manifest("split")["fingerprint"], vocabulary, length]
    runs = f"{folder}/runs-{digest(basis)[:12]}"
    map_parts(
        context, runs, storage.parts(train),
        partial(_count_runs, storage, train, runs, vocabulary, length),
    )  # fmt: skip
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
    return {
        "synthetic": synthetic, "identifying": identifying, "identifying_share": share,
        "run_len": length, "min_run_users": enough,
    }  # fmt: skip


def _count_runs(
    storage: Storage, train: str, folder: str, vocabulary: str, length: int, part: str
) -> dict[str, int]:
    """Hashes of the runs in the part's histories, and how many users have each."""
    events = storage.read_part(train, part, columns=["user_id", "item_id"])
    tokens = load(storage, vocabulary).encode(events["item_id"])
    users = events["user_id"].to_numpy(zero_copy_only=False)
    own = [np.unique(run_hashes(tokens[a:b], length)) for a, b in group_bounds(users)]
    hashes, num_users = np.unique(
        np.concatenate([np.empty(0, np.uint64), *own]), return_counts=True
    )
    table = pa.table({"hash": hashes, "users": num_users})
    storage.write_part(table, {}, folder, part)
    return {}


@lru_cache(maxsize=1)
def _rare_runs(storage: Storage, folder: str, enough: int) -> np.ndarray:
    """Sorted hashes of the runs that fewer than `enough` users have."""
    tables = [storage.read_part(folder, part) for part in storage.parts(folder)]
    hashes = np.concatenate([table["hash"].to_numpy() for table in tables])
    num_users = np.concatenate([table["users"].to_numpy() for table in tables])
    found, place = np.unique(hashes, return_inverse=True)
    return found[np.bincount(place, num_users, minlength=len(found)) < enough]


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
    tokens = load(storage, vocabulary).encode(events["item_id"])
    rare = _rare_runs(storage, runs, enough)
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
    inputs=(f"merged/{AUGMENTED}", "split", "vocabulary"),
    code=("llmaug.filters",),
    settings=lambda config: [config.filters.copied_ngram, config.gate.min_run_users],
)
