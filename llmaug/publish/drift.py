"""Stage `drift`: how unlike those of an earlier night tonight's training events are.

The earlier night is the one whose model is current (`gate.drift.against` names another). What is
compared are clean training events, before anything is generated or trained: an alarm comes early,
and says something of the logs, not of a model. Popularity is that of the vocabularies of both
nights. For what follows, each night keeps a summary of its own: counts, and nothing of a user.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.config import DriftLimits
from llmaug.config.names import run_folder
from llmaug.core.cluster import is_connected
from llmaug.core.contents import read_manifest
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage, content_of, map_parts
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.evaluate.fidelity_measures import jensen_shannon, kolmogorov_smirnov
from llmaug.ingest.split import TRAIN
from llmaug.items.arrays import group_bounds
from llmaug.items.vocabulary import ITEMS_PART
from llmaug.publish import pointer
from llmaug.publish.drift_figures import DriftCounts

DRIFT = "drift"
GAUGES = {"drift_alarms": "Figures of the training events beyond the limits of gate.drift"}
_DRAWS = 5  # of what chance alone would do
_LENGTH_BINS = 40  # powers of two
_RATIOS = ("events_ratio", "users_ratio", "events_per_user_ratio")


def run(context: Context) -> dict[str, Any]:
    storage, folder = context.storage, context.folder(DRIFT)
    train = f"{context.folder('split')}/{TRAIN}"
    parts = storage.parts(train)
    map_parts(context, folder, parts, partial(_count_part, storage, train, folder))
    summary = summed([storage.read_part(folder, part) for part in parts])
    against = earlier_run(context)
    found, unknown = None, "no earlier night has published a model"
    if against is not None:
        earlier = _summary_of(storage, against)
        unknown = "" if earlier else f"run {against} has left no summary of its training events"
        if earlier:
            found = compared(context, against, summary, earlier)
    if found:
        _export(context.run_id, len(found["alarms"]))
        for alarm in found["alarms"]:
            context.progress.warn(alarm)
    else:
        context.progress.note(f"drift is not measured: {unknown}")
    return DriftCounts.keeps({"summary": summary, "found": found, "unknown": unknown})


def earlier_run(context: Context) -> str | None:
    """The night to compare with; None where there is none yet. Raises UserError where the config
    names one that is not there."""
    named = context.config.gate.drift.against
    if named is None:
        return pointer.run_before(context.storage, context.config.publish.name, context.run_id)
    if _summary_of(context.storage, named) is None:
        raise UserError(
            f"gate.drift.against is {named}: no run of this name has a stage `{DRIFT}` at "
            f"{context.storage.uri('runs')}; name another, or leave it out"
        )
    return named


def compared(
    context: Context, against: str, tonight: dict[str, Any], earlier: dict[str, Any]
) -> dict[str, Any]:
    """A `Drift` of two `Summary`s, with the popularity of both runs' items."""
    own = _popularity(context.storage, context.folder("vocabulary"))
    other = _popularity(context.storage, f"{run_folder(against)}/vocabulary")
    items: dict[str, float | None] = {"popularity_js": None, "popularity_js_expected": None}
    if own is not None and other is not None:
        items = popularity_drift(own, other, context.config.seed)
    figures = {"against": against, **items, **drift_of(tonight, earlier)}
    limits = context.config.gate.drift
    told = alarms(figures, limits)
    return {**figures, "alarms": told, "stops": bool(told) and limits.stops_publish}


def drift_of(tonight: dict[str, Any], earlier: dict[str, Any]) -> dict[str, float | None]:
    """The figures of `Drift` that two `Summary`s tell."""
    names = sorted({*tonight["actions"], *earlier["actions"]})
    actions = [
        np.array([own["actions"].get(name, 0) for name in names]) for own in (tonight, earlier)
    ]
    lengths = [np.array(own["lengths"], np.int64) for own in (tonight, earlier)]
    events, users = (_ratio(tonight[name], earlier[name]) for name in ("events", "users"))
    return {
        "action_js": jensen_shannon(*actions),
        "length_ks": kolmogorov_smirnov(*lengths),
        "events_ratio": events,
        "users_ratio": users,
        "events_per_user_ratio": _ratio(events, users),
    }


def popularity_drift(own: pa.Table, other: pa.Table, seed: int) -> dict[str, float | None]:
    """item_id and train_events of two catalogues: how far apart, and how far by chance alone."""
    known = pa.concat_arrays(
        [each["item_id"].cast(pa.string()).combine_chunks() for each in (own, other)]
    ).dictionary_encode()
    counts = np.zeros((2, len(known.dictionary)), np.int64)
    sides = np.split(known.indices.to_numpy(), [own.num_rows])
    for side, (codes, table) in enumerate(zip(sides, (own, other), strict=True)):
        counts[side, codes] = table["train_events"].to_numpy()
    value = jensen_shannon(counts[0], counts[1])
    if value is None:
        return {"popularity_js": None, "popularity_js_expected": None}
    # Events of both nights, dealt out anew.
    rng, both = np.random.default_rng(seed), counts.sum(0)
    dealt = [rng.binomial(both, counts[0].sum() / both.sum()) for _ in range(_DRAWS)]
    chance = [jensen_shannon(own, both - own) or 0.0 for own in dealt]
    return {"popularity_js": value, "popularity_js_expected": float(np.mean(chance))}


def alarms(figures: dict[str, Any], limits: DriftLimits) -> list[str]:
    """In words, the figures beyond their limits. Popularity must be beyond chance, too; what was
    not measured rings nobody."""
    found = []
    for field, limit in limits.model_dump(exclude_none=True).items():
        name = field.removeprefix("max_")
        value = figures.get(name) if name != field else None
        if value is None:
            continue
        if name in _RATIOS:
            beyond = value <= 0 or abs(math.log(value)) > math.log(limit)
            allowed = f"{1 / limit:.3g} to {limit:g}"
        else:
            beyond = value > max(limit, figures.get(f"{name}_expected") or 0.0)
            allowed = f"at most {limit:g}"
        if beyond:
            found.append(
                f"drift: {name} is {value:.3f} against run {figures['against']}; "
                f"gate.drift.{field} allows {allowed}"
            )
    return found


def objection(context: Context) -> str:
    """Why CURRENT may not move to what was made of tonight's events; empty when it may."""
    manifest = read_manifest(context.storage, context.folder(DRIFT))
    found = manifest["counts"]["found"] if manifest else None
    return "; ".join(found["alarms"]) if found and found["stops"] else ""


def _ratio(first: float | None, second: float | None) -> float | None:
    return first / second if first is not None and second else None


# -- what a night keeps ----------------------------------------------------------------------


def _count_part(storage: Storage, train: str, folder: str, part: str) -> dict[str, Any]:
    events = storage.read_part(train, part, columns=["user_id", "action"])
    bounds = np.array(group_bounds(events["user_id"].to_numpy(zero_copy_only=False))).reshape(-1, 2)
    bins = np.log2(np.diff(bounds).ravel()).astype(np.int64)
    lengths = np.bincount(np.minimum(bins, _LENGTH_BINS - 1), minlength=_LENGTH_BINS)
    actions = pc.fill_null(events["action"].cast(pa.string()), "").value_counts().to_pylist()
    rows = [("length", str(number), count) for number, count in enumerate(lengths.tolist())]
    rows += [("action", own["values"], own["counts"]) for own in actions]
    columns = ("of", "name", "count")
    table = pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows])
    storage.write_part(table, {}, folder, part)
    return {}


def summed(tables: list[pa.Table]) -> dict[str, Any]:
    """A `Summary` of what was counted of all parts."""
    lengths, actions = [0] * _LENGTH_BINS, dict[str, int]()
    for row in (row for table in tables for row in table.to_pylist()):
        if row["of"] == "length":
            lengths[int(row["name"])] += row["count"]
        else:
            actions[row["name"]] = actions.get(row["name"], 0) + row["count"]
    return {
        "events": sum(actions.values()),
        "users": sum(lengths),
        "actions": dict(sorted(actions.items())),
        "lengths": lengths,
    }


def _summary_of(storage: Storage, run_id: str) -> dict[str, Any] | None:
    manifest = read_manifest(storage, f"{run_folder(run_id)}/{DRIFT}")
    return manifest["counts"]["summary"] if manifest else None


def _popularity(storage: Storage, vocabulary: str) -> pa.Table | None:
    if read_manifest(storage, vocabulary) is None:
        return None
    return storage.read_part(vocabulary, ITEMS_PART, columns=["item_id", "train_events"])


def _export(run_id: str, num_alarms: int) -> None:
    """For Prometheus; without a Ray in this process nobody could look."""
    if is_connected():
        from ray.util.metrics import Gauge

        [(name, text)] = GAUGES.items()
        gauge = Gauge(f"llmaug_{name}", description=text, tag_keys=("run_id",))
        gauge.set(num_alarms, tags={"run_id": run_id})


def _outside(context: Context) -> dict[str, Any]:
    """The night that is compared with, and what is known of it."""
    against = earlier_run(context)
    manifest = read_manifest(context.storage, f"{run_folder(against)}/{DRIFT}") if against else None
    return {"against": against, "content": content_of(manifest) if manifest else None}


STAGE = Stage(
    name=DRIFT,
    run=run,
    asks=lambda config, on_gpus: TASKS,
    inputs=("split", "vocabulary"),
    settings=lambda config: [config.gate.drift, config.publish.name],
    outside=_outside,
)
