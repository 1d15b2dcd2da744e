"""k-core of the clean user parts: users and items with at least k events among each other.

Each round counts, for every surviving item, its events by users who have at least k events
with surviving items; items below k fall out. Both sets only shrink, so the fixed point is the
k-core. Parts stream through Ray; the driver holds one count for each item.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmaug.core.stage import Context
from llmaug.core.storage import Storage

SURVIVORS = "_items.parquet"  # beside the clean parts, where each worker finds it


def core_items(context: Context, clean: str, parts: list[str]) -> int:
    """Number of the items in the k-core (with k 1: of all); `survivors` has their ids."""
    k, storage = context.config.ingest.k_core, context.storage
    while True:
        total = _round(context, clean, parts)
        kept = total.filter(pc.greater_equal(total["n"], k)).select(["item_id"])
        storage.write_table(kept, clean, SURVIVORS)
        if kept.num_rows == total.num_rows:
            return int(kept.num_rows)


def survivors(storage: Storage, clean: str) -> pa.Array | None:
    """Item ids that the last round left, or None before the first."""
    if not storage.exists(clean, SURVIVORS):
        return None
    return storage.read_table(clean, SURVIVORS)["item_id"].combine_chunks()


def finish_part(part: str, *, storage: Storage, clean: str, folder: str, k: int) -> dict[str, int]:
    """Write the events of `part` that lie in the k-core to `folder`; returns the counts."""
    if k == 1:  # all of them, as they are: packing them again is a tenth of ingest's work
        data = storage.read(clean, f"{part}.parquet")
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        users = file.read(columns=["user_id"], use_threads=False)["user_id"]
        counts = {"accepted": len(users), "users": len(pc.unique(users))}
        storage.write_part_data(data, len(users), counts, folder, part)
        return counts
    events = storage.read_part(clean, part)
    _, in_core = core_masks(events, survivors(storage, clean), k)
    kept = events.filter(pa.array(in_core))
    counts = {"accepted": kept.num_rows, "users": len(pc.unique(kept["user_id"]))}
    if kept.num_rows < events.num_rows:
        counts["dropped.k_core"] = events.num_rows - kept.num_rows
    storage.write_part(kept, counts, folder, part)
    return counts


def core_masks(events: pa.Table, items: pa.Array | None, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the events with surviving `items` (None: any), and of those among them whose
    user has at least `k`. All events of a user must be in `events`."""
    alive = np.ones(events.num_rows, bool)
    if items is not None:
        alive = pc.is_in(events["item_id"], items).to_numpy()
    users = events["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    num_alive = np.bincount(users, weights=alive)
    return alive, alive & (num_alive >= k)[users] if len(users) else alive


def _round(context: Context, clean: str, parts: list[str]) -> pa.Table:
    """(item_id, n) of all surviving items."""
    import ray.data

    k, storage = context.config.ingest.k_core, context.storage
    count = partial(_count_items, storage=storage, clean=clean, k=k)
    rows = ray.data.from_items([{"part": p} for p in parts], override_num_blocks=len(parts))
    counted = rows.map_batches(count, batch_size=1, batch_format="pyarrow")
    total = pa.table({"item_id": pa.array([], pa.string()), "n": pa.array([], pa.int64())})
    for batch in counted.iter_batches(batch_format="pyarrow", batch_size=None):
        if context.lease:
            context.lease.check()
        assert isinstance(batch, pa.Table)
        total = _sum_by_item(pa.concat_tables([total, batch.select(["item_id", "n"])]))
    return total


def _count_items(batch: pa.Table, *, storage: Storage, clean: str, k: int) -> pa.Table:
    """(item_id, n) of the surviving items in one part: events by users with at least `k`."""
    events = storage.read_part(clean, batch["part"][0].as_py(), ["user_id", "item_id"])
    alive, in_core = core_masks(events, survivors(storage, clean), k)
    items = events["item_id"].filter(pa.array(alive))
    return _sum_by_item(
        pa.table({"item_id": items, "n": pa.array(in_core[alive].astype(np.int64))})
    )


def _sum_by_item(table: pa.Table) -> pa.Table:
    total = table.group_by("item_id").aggregate([("n", "sum")])
    return total.select(["item_id", "n_sum"]).rename_columns(["item_id", "n"])
