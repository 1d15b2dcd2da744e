"""Can it be told from the synthetic events who was trained on?

A membership inference attack by the nearest neighbour: whoever's history is nearer to a synthetic
one is taken for a member (Hilprecht et al. 2019; DCR). Members are users with training events.
Others are those held-out users who have none, as `split.kind: temporal` leaves them, and for each
one a member with as many of its first events, since longer histories have nearer neighbours.
Compared are events of items with training events: others, which nobody could generate, would tell
who was held out, whatever the generator learnt. The events of the others are the later ones: where
tastes move on they are farther away for that alone, so the figure is rather too high than too low.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.core.stage import Context, map_parts
from llmaug.core.storage import Storage
from llmaug.ingest.cleaning import id_hash
from llmaug.ingest.split import TEST, TRAIN, VALIDATION
from llmaug.items.arrays import group_bounds
from llmaug.items.vocabulary import ITEMS_PART
from llmaug.schema import SYNTHETIC

MAX_PAIRS, MIN_PAIRS = 2000, 20
_MIN_EVENTS = 5
_FALSE_ALARMS = 0.01
_PEOPLE = pa.schema([("member", pa.bool_()), ("items", pa.list_(pa.string()))])


def membership(context: Context, merged: str) -> dict[str, Any] | None:
    """What `attack` says of pairs of real users against the synthetic histories of `merged`; None
    where fewer than `MIN_PAIRS` can be made of the held-out users."""
    if context.config.split.kind != "temporal":
        return None
    storage, split = context.storage, context.folder("split")
    folder = f"{context.folder('privacy')}/membership"
    parts = storage.parts(f"{split}/{TRAIN}")
    pairs, nearest, people = f"{folder}/pairs", f"{folder}/nearest", f"{folder}/people"
    at_most = -(-MAX_PAIRS // max(1, len(parts)))
    vocabulary = context.folder("vocabulary")
    work = partial(_pair_part, storage, split, vocabulary, pairs, at_most)
    map_parts(context, pairs, parts, work)
    known = pa.concat_tables([storage.read_part(pairs, part) for part in parts])
    found = None
    if known.num_rows >= 2 * MIN_PAIRS:
        storage.write_part(known, {}, people, "people")
        nearest_part = partial(_nearest_part, storage, people, merged, nearest)
        map_parts(context, nearest, storage.parts(merged), nearest_part)
        columns = [storage.read_part(nearest, part)["likeness"] for part in storage.parts(nearest)]
        likeness = np.max([column.to_numpy() for column in columns], axis=0)
        member = known["member"].to_numpy(zero_copy_only=False)
        found = attack(likeness[member], likeness[~member])
    storage.delete(folder)
    return found


def attack(members: np.ndarray, others: np.ndarray) -> dict[str, Any]:
    """(M,) scores of members and (N,) of others to {pairs, auc, low, high, tpr, tpr_low, tpr_high}:
    the AUC with its 95% interval (DeLong et al. 1988), and how many members are found where one
    other in a hundred is taken for one, with that of Wilson (1927) at this threshold. Chance is 0.5
    and 0.01."""
    from scipy.stats import binomtest

    above = _share_below(members, others)  # (M,) of the others, for each member
    below = 1 - _share_below(others, members)
    auc = float(above.mean())
    error = np.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))
    # Others that may lie above the threshold.
    allowed = int(_FALSE_ALARMS * len(others))
    threshold = np.sort(others)[::-1][allowed]
    found = int((members > threshold).sum())
    interval = binomtest(found, len(members)).proportion_ci(method="wilson")
    return {
        "pairs": len(others),
        "auc": auc,
        "low": float(max(0.0, auc - 1.96 * error)),
        "high": float(min(1.0, auc + 1.96 * error)),
        "tpr": found / len(members),
        "tpr_low": float(interval.low),
        "tpr_high": float(interval.high),
    }


def _share_below(scores: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(M,) scores to the share of the (N,) `other` ones that is lower; equal ones count half."""
    ordered = np.sort(other)
    left, right = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    return (left + right) / (2 * len(ordered))


def _pair_part(
    storage: Storage, split: str, vocabulary: str, folder: str, at_most: int, part: str
) -> dict[str, Any]:
    """Of users in the order of a hash: each without training events, and a member for it."""
    items = storage.read_part(vocabulary, ITEMS_PART, columns=["item_id", "train_events"])
    known = items.filter(pc.greater(items["train_events"], 0))["item_id"].combine_chunks()
    members = _histories(storage, split, [TRAIN], part, known)
    others = _histories(storage, split, [VALIDATION, TEST], part, known)
    rows: list[dict[str, Any]] = []
    free = list(members)
    for user, items in others.items():
        if len(rows) == 2 * at_most:
            break
        if user in members or len(items) < _MIN_EVENTS:
            continue
        fit = next((name for name in free if len(members[name]) >= len(items)), None)
        if fit is not None:
            free.remove(fit)
            rows.append({"member": False, "items": items})
            rows.append({"member": True, "items": members[fit][: len(items)]})
    storage.write_part(pa.Table.from_pylist(rows, schema=_PEOPLE), {}, folder, part)
    return {}


def _histories(
    storage: Storage, split: str, folds: list[str], part: str, known: pa.Array
) -> dict[str, list[str]]:
    """{user: those of its items that are `known`, in their order}, users in the order of a hash."""
    found: dict[str, list[str]] = {}
    for fold in folds:
        events = storage.read_part(f"{split}/{fold}", part, columns=["user_id", "item_id"])
        events = events.filter(pc.is_in(events["item_id"].cast(pa.string()), known))
        users, items = events["user_id"].to_pylist(), events["item_id"].to_pylist()
        for start, end in group_bounds(np.array(users, object)):
            found.setdefault(users[start], []).extend(items[start:end])
    names = list(found)
    order = np.argsort(id_hash(pa.array(names, pa.string())), kind="stable")
    return {names[place]: found[names[place]] for place in order}


def _nearest_part(
    storage: Storage, people: str, merged: str, folder: str, part: str
) -> dict[str, Any]:
    asked = storage.read_part(people, "people")["items"].combine_chunks()
    events = storage.read_part(merged, part, columns=["item_id", "origin", "unit_id"])
    events = events.filter(pc.equal(events["origin"].cast(pa.string()), SYNTHETIC))
    bounds = group_bounds(events["unit_id"].to_numpy(zero_copy_only=False))
    sizes = np.array([end - start for start, end in bounds], np.int64)
    likeness = likeness_to_nearest(
        asked.flatten(), np.diff(asked.offsets.to_numpy()),
        events["item_id"].combine_chunks().cast(pa.string()), sizes,
    )  # fmt: skip
    storage.write_part(pa.table({"likeness": likeness}), {}, folder, part)
    return {}


def likeness_to_nearest(
    items: pa.Array, sizes: np.ndarray, others: pa.Array, other_sizes: np.ndarray
) -> np.ndarray:
    """Histories one after the other, of (N,) `sizes`, to (N,) float: the Jaccard likeness of their
    sets of items to the nearest of `others`; 0 where there are none."""
    from scipy.sparse import csr_matrix

    codes = pa.concat_arrays([items, others]).dictionary_encode()
    width = max(1, len(codes.dictionary))
    split = np.split(codes.indices.to_numpy().copy(), [len(items)])  # Arrow's are read-only
    sets = []
    for own, lengths in zip(split, (sizes, other_sizes), strict=True):
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        matrix = csr_matrix((np.ones(len(own)), own, offsets), shape=(len(lengths), width))
        matrix.sum_duplicates()
        matrix.data[:] = 1
        sets.append(matrix)
    if not len(other_sizes):
        return np.zeros(len(sizes))
    common = (sets[0] @ sets[1].T).tocsr()
    own_len, other_len = (np.diff(matrix.indptr) for matrix in sets)
    rows = np.repeat(np.arange(len(sizes)), np.diff(common.indptr))
    common.data /= own_len[rows] + other_len[common.indices] - common.data
    return np.asarray(common.max(axis=1).todense()).ravel()
