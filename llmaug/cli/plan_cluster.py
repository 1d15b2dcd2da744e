"""`llmaug plan-cluster`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from llmaug.cli.options import (
    AS_JSON,
    CONFIG,
    DATE,
    ENDPOINT,
    ROOT,
    RUN_ID,
    load,
    open_storage,
    run_id_of,
)
from llmaug.core.terminal import Terminal, emit_json
from llmaug.errors import UserError


def plan_cluster(
    config: CONFIG,
    cluster: Annotated[
        Path | None,
        typer.Option(
            help="File for `ray up`, or with a RayCluster or RayJob. Default: the cluster that "
            "ray.address or RAY_ADDRESS names, or this machine.",
            show_default=False,
        ),
    ] = None,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    run_id: RUN_ID = None,
    date: DATE = None,
    as_json: AS_JSON = False,
) -> None:
    """What each stage will ask a cluster for, before one is started or paid.

    CPUs, GPUs and memory of each task, engine and training worker, how many at the same time, and
    on which machines. Exit code 1 where something can never be placed. What `llmaug forecast` or an
    earlier night of the same run id has found is shown beside it.

    Example: `llmaug plan-cluster --config configs/demo.yaml --cluster cluster.yaml`

    Example, on Kubernetes: `llmaug plan-cluster -c my.yaml --cluster infra/k8s/rayjob.yaml --json`

    Example, of a cluster that runs: `RAY_ADDRESS=10.0.0.1:6379 llmaug plan-cluster -c my.yaml`
    """
    from llmaug.commands.plan_cluster import plan_cluster as plan
    from llmaug.core.cluster import disconnect

    parsed = load(config, date)
    storage = open_storage(parsed, root, endpoint_url)
    try:
        found = plan(parsed, storage, run_id_of(parsed, date, run_id), cluster)
    finally:
        disconnect()
    if as_json:
        emit_json(found)
        if found["misfits"]:
            raise typer.Exit(1)
        return
    _print(Terminal(), found)
    if found["misfits"]:
        raise UserError("\n".join(found["misfits"]))


def _print(console: Terminal, found: dict[str, Any]) -> None:
    table = Table("stage", "asks for", "memory", "on", box=None)
    for row in found["stages"]:
        table.add_row(row["stage"], _asked(row), _memory(row), _machines(row))
    console.print(table)
    console.print("tasks: one a part of the data, as many at a time as there is room for")
    asks = "asked for" if found["asks_for_gpus"] else "not asked for"
    console.print(f"GPUs are {asks} (ray.gpus: {found['gpus']})")
    if found["unseen"]:
        console.print(f"more may be there than was seen: {found['unseen']}", soft_wrap=True)
    if forecast := found["forecast"]:
        engine, wall = forecast["engine_hours"], forecast["wall_hours"]
        console.print(
            f"forecast of generation: {engine['mean']:,.2f} engine hours, {wall['mean']:,.2f} on "
            f"the clock, cost {forecast['cost']['mean']:,.2f}"
        )


def _asked(row: dict[str, Any]) -> str:
    own = f"{row['cpus']:g} CPU" + (f", {row['gpus']:g} GPU" if row["gpus"] else "")
    if row["num"] is None:
        return f"{row['what']}s of {own}"
    return f"{row['num']} {row['what']}{'s' if row['num'] > 1 else ''} of {own}"


def _memory(row: dict[str, Any]) -> str:
    earlier = f"{row['peak_rss_mb']:,} MB last time" if row["peak_rss_mb"] else ""
    return ", ".join(text for text in (row["memory"], earlier) if text)


def _machines(row: dict[str, Any]) -> str:
    if not row["machines"]:
        return "no machine"
    if row["num"] is None:
        room = "any number" if row["room"] is None else f"up to {row['room']:,}"
        return f"{room}, {', '.join(row['machines'])} first"
    return ", ".join(f"{count} x {name}" for name, count in row["machines"].items())
