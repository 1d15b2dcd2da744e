"""`llmaug plan-cluster`: what each stage will ask a cluster for, and whether it has room for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from llmaug.config import Config
from llmaug.config.names import check_name, run_folder
from llmaug.core.contents import read_object
from llmaug.core.gpus import none_can_come, wanted
from llmaug.core.node_types import Machines, machines, read_cluster_file
from llmaug.core.placing import Ask, misfits, places, room
from llmaug.core.stage import MANIFEST, Stage
from llmaug.core.storage import Storage
from llmaug.generate.engine_maker import engines
from llmaug.pipeline import stages
from llmaug.report.stage import FORECAST


def plan_cluster(
    config: Config, storage: Storage, run_id: str, cluster_file: Path | None = None
) -> dict[str, Any]:
    """Each stage's tasks, actors and workers (`stages`), the machines that they may be on
    (`machines`), why some can never be placed (`misfits`), and what a forecast of the run says.

    cluster_file: of Ray's launcher or of KubeRay; None: the cluster that the config or RAY_ADDRESS
    names, which is joined. Raises UserError when the file is none, or `ray.gpus` requires a GPU
    that can never come.
    """
    folder = run_folder(check_name(run_id, "run id"))
    found = read_cluster_file(cluster_file) if cluster_file else machines(config.ray)
    on_gpus = wanted(config.ray, found)
    path = [stage for _, stage in stages(config)]
    asked = [(stage.name, ask) for stage in path for ask in stage.asks(config, on_gpus)]
    return {
        "gpus": config.ray.gpus,
        "asks_for_gpus": any(ask.gpus for _, ask in asked),
        "machines": [
            {"name": each.name, "most": _count(each.max_nodes), **dict(each.resources)}
            for each in found.types
        ],
        "unseen": none_can_come(found) if found.unseen else "",
        "stages": list(_rows(path, config, on_gpus, found, storage, folder)),
        "misfits": misfits(asked, found),
        "forecast": _forecast(storage, folder, engines(config, on_gpus)),
    }


def _rows(
    path: list[Stage], config: Config, on_gpus: bool, found: Machines, storage: Storage, folder: str
) -> Iterator[dict[str, Any]]:
    for stage in path:
        earlier = read_object(storage, folder, stage.name, MANIFEST).get("peak_rss_mb")
        peak = earlier if isinstance(earlier, int) else None
        for ask in stage.asks(config, on_gpus):
            yield {
                "stage": stage.name, "what": ask.what, "num": ask.num, "cpus": ask.cpus,
                "gpus": ask.gpus, "memory": ask.memory, "peak_rss_mb": peak, "fields": ask.fields,
                "room": _count(room(ask, found)), "machines": places(ask, found),
            }  # fmt: skip


def _count(number: float) -> int | None:
    """None: without limit."""
    return None if math.isinf(number) else int(number)


def _forecast(storage: Storage, folder: str, pool: Ask) -> dict[str, Any] | None:
    """Of `llmaug forecast` for this run, on the engines that are configured now."""
    known = read_object(storage, folder, FORECAST)
    hours, cost = known.get("engine_hours"), known.get("cost")
    if not (_is_interval(hours) and _is_interval(cost)):  # there is none, or it is damaged
        return None
    wall = {bound: value / (pool.num or 1) for bound, value in hours.items()}
    return {"engine_hours": hours, "wall_hours": wall, "cost": cost}


def _is_interval(value: Any) -> TypeGuard[dict[str, float]]:
    return (
        isinstance(value, dict)
        and "mean" in value
        and all(isinstance(bound, int | float) for bound in value.values())
    )
