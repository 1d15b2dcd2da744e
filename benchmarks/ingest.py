"""Ingest, split and vocabulary on made-up logs, beside one Polars process that does the same.

The logs are Parquet files of a million rows: 50 events a user, items by a power law, one row in 100
twice, one in 1,000 without an item, and a bot for every million. Both sides check rows, drop
duplicates and bots, sort each user's events by time, cut users into parts by a hash, cut train,
validation and test at quantiles of time, count the training events of the items, and write all of
that as Parquet; both must keep the same events, users and items. Each run has a process of its own
on the given number of cores; seconds begin when its imports are done. Ray's start is among them,
and shown apart. Seconds of work (CPU, of all processes) are what to compare on a busy machine,
where seconds of the clock are mostly waiting.

    pip install polars
    python benchmarks/ingest.py --events 1000000,5000000 --cores 1,2
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import typer

FILE_ROWS = 1_000_000
SIDES = ("llmaug", "polars")
DAY_US = 86_400_000_000
START_US = 1_750_000_000_000_000
NUM_DAYS = 90
BOT_ROWS = 3000  # in one day; ingest.max_events_per_day is 2,000
CUTS = (0.8, 0.9)  # where validation and test begin, as split.kind: temporal has them


def main(
    events: Annotated[str, typer.Option(help="Numbers of rows to try.")] = "1000000,5000000",
    cores: Annotated[str, typer.Option(help="Numbers of cores to try.")] = "1",
    sides: Annotated[str, typer.Option(help="Who runs.")] = ",".join(SIDES),
) -> None:
    runs = []
    for rows in map(int, events.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            write_logs(Path(folder, "logs"), rows)
            for number in map(int, cores.split(",")):
                for side in sides.split(","):
                    runs.append(_apart(folder, side, rows, number))
                    print(_line(runs[-1]), flush=True)
    _check_alike(runs)
    ratios = {"ratio": _ratios(runs, "seconds"), "work_ratio": _ratios(runs, "cpu_seconds")}
    print(json.dumps({"benchmark": "ingest", "runs": runs, **ratios}))


def _line(run: dict[str, Any]) -> str:
    worker = f", largest worker {run['worker_mb']:,}" if run["worker_mb"] else ""
    return (
        f"{run['side']:7} {run['rows']:>11,} rows on {run['cores']} core(s): "
        f"{run['seconds']:7.1f} s, {run['rows'] / run['seconds']:>9,.0f} rows/s, "
        f"{run['cpu_seconds']:7.1f} s of work; "
        f"MB: driver {run['driver_mb']:,}{worker}, all {run['all_mb']:,}"
    )


def _check_alike(runs: list[dict[str, Any]]) -> None:
    for rows in {run["rows"] for run in runs}:
        kept = {json.dumps(run["kept"], sort_keys=True) for run in runs if run["rows"] == rows}
        assert len(kept) == 1, f"the sides do not agree on {rows:,} rows: {kept}"


def _ratios(runs: list[dict[str, Any]], what: str) -> dict[str, float]:
    seconds = {(run["side"], run["rows"], run["cores"]): run[what] for run in runs}
    return {
        f"{rows} rows, {cores} cores": round(took / seconds["polars", rows, cores], 2)
        for (side, rows, cores), took in seconds.items()
        if side == "llmaug" and ("polars", rows, cores) in seconds
    }


# -- the logs ---------------------------------------------------------------------------------


def write_logs(folder: Path, num_rows: int) -> None:
    folder.mkdir()
    num_users, num_items = max(1, num_rows // 50), max(1, num_rows // 250)
    for number, start in enumerate(range(0, num_rows, FILE_ROWS)):
        size = min(FILE_ROWS, num_rows - start)
        rng = np.random.default_rng([7, number])
        user = rng.integers(num_users, size=size)
        item = (num_items * rng.random(size) ** 3).astype(int)  # a third of all: the first 4%
        when = START_US + rng.integers(NUM_DAYS * DAY_US, size=size)
        if size > BOT_ROWS:
            user[:BOT_ROWS] = num_users + number
            when[:BOT_ROWS] = START_US + rng.integers(DAY_US, size=BOT_ROWS)
        again = rng.integers(BOT_ROWS, size, size // 100) if size > BOT_ROWS else np.empty(0, int)
        rows = np.r_[: size - len(again), again]
        missing = rng.random(size) < 0.001
        table = pa.table(
            {
                "user_id": pa.array([f"user-{each:09d}" for each in user[rows]]),
                "item_id": pa.array([f"item-{each:07d}" for each in item[rows]], mask=missing),
                "action": pa.array(["view"] * size),
                "timestamp": pa.array(when[rows], pa.timestamp("us", "UTC")),
            }
        )
        pq.write_table(table, folder / f"{number:05d}.parquet", compression="zstd")


# -- one side, in a process of its own ----------------------------------------------------------


def _apart(folder: str, side: str, rows: int, cores: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", folder, side, str(cores)],
        text=True, stdout=subprocess.PIPE,
        env={**os.environ, "POLARS_MAX_THREADS": str(cores), "RAY_worker_niceness": "0"},
    )  # fmt: skip
    assert done.returncode == 0, f"{side} failed on {rows:,} rows"
    found = json.loads(done.stdout.splitlines()[-1])
    return {"side": side, "rows": rows, "cores": cores, **found}


def _child(folder: str, side: str, cores: int) -> dict[str, Any]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    work = {"llmaug": _llmaug, "polars": _polars}[side]
    logs, out = Path(folder, "logs"), Path(folder, f"{side}-{cores}")
    __import__(side)
    with _Meter() as meter:
        begin = time.monotonic()
        found = work(logs, out)
        seconds = time.monotonic() - begin
    return {"seconds": round(seconds, 2), **meter.found(), **found}


class _Meter:
    """Peaks of this process, of the largest of Ray's workers, and of all together (MB, private);
    and the seconds that all of them worked."""

    def __init__(self) -> None:
        self.driver, self.worker, self.all = 0, 0, 0
        self.cpu: dict[int, float] = {}
        self.before = _cpu_seconds(psutil.Process())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    def found(self) -> dict[str, float]:
        cpu = round(sum(self.cpu.values()) - self.before, 2)
        return {"cpu_seconds": cpu, "driver_mb": self.driver, "worker_mb": self.worker,
                "all_mb": self.all}  # fmt: skip

    def _watch(self) -> None:
        me = psutil.Process()
        stopped = False
        while not stopped:
            stopped = self._stop.wait(0.2)  # and once more at the end
            own = _private_mb(me)
            others = {each.pid: each for each in me.children(recursive=True)}
            sizes = {pid: _private_mb(each) for pid, each in others.items()}
            for process in (me, *others.values()):
                self.cpu[process.pid] = max(self.cpu.get(process.pid, 0), _cpu_seconds(process))
            workers = [sizes[pid] for pid, each in others.items() if _is_worker(each)]
            self.driver, self.worker = max(self.driver, own), max([self.worker, *workers])
            self.all = max(self.all, own + sum(sizes.values()))


def _private_mb(process: psutil.Process) -> int:
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0
    return (memory.rss - getattr(memory, "shared", 0)) // 2**20


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _is_worker(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[0].startswith("ray::")
    except (psutil.Error, IndexError):
        return False


def _llmaug(logs: Path, out: Path) -> dict[str, Any]:
    from llmaug import pipeline
    from llmaug.config import parse_config
    from llmaug.core.cluster import connect, disconnect
    from llmaug.core.storage import Storage

    config = parse_config({"ingest": {"path": str(logs)}, "split": {"kind": "temporal"}})
    begin = time.monotonic()
    connect(config.ray)
    start_s = time.monotonic() - begin
    manifests = pipeline.run(config, Storage(str(out)), "bench", until="vocabulary")
    disconnect()
    counts = {name: manifests[name]["counts"] for name in ("ingest", "split", "vocabulary")}
    return {
        "kept": {
            "events": counts["ingest"]["accepted"],
            "users": counts["ingest"]["users"],
            "items": counts["ingest"]["items"],
            "folds": [counts["split"][name] for name in ("train", "validation", "test")],
        },
        "ray_start_s": round(start_s, 2),
        "stages": {name: round(manifests[name]["seconds"], 2) for name in counts},
    }


def _polars(logs: Path, out: Path) -> dict[str, Any]:
    import polars as pl

    from llmaug.ingest.stage import PART_BYTES

    keys = ["user_id", "item_id", "action", "timestamp"]
    files = sorted(logs.iterdir())
    num_parts = max(4, -(-sum(file.stat().st_size for file in files) // PART_BYTES))
    events = (
        pl.scan_parquet(files)
        .filter(pl.col("user_id").is_not_null() & pl.col("item_id").is_not_null())
        .unique(keys, keep="first", maintain_order=True)
        .with_columns(part=pl.col("user_id").hash() % num_parts)
        .sort("part", "user_id", "timestamp", maintain_order=True)
        .collect()
    )
    days = events.group_by("user_id", pl.col("timestamp").dt.truncate("1d")).len()
    bots = days.filter(pl.col("len") > 2000)["user_id"].unique()
    events = events.filter(~pl.col("user_id").is_in(bots.implode()))
    cuts = [_hour(events["timestamp"], share) for share in CUTS]
    folds = {
        "train": pl.col("timestamp") < cuts[0],
        "validation": (pl.col("timestamp") >= cuts[0]) & (pl.col("timestamp") < cuts[1]),
        "test": pl.col("timestamp") >= cuts[1],
    }
    sizes = dict.fromkeys(folds, 0)
    for (part,), own in _parts(events):
        _write(own, out / "ingest" / f"part-{part:05d}.parquet")
        for name, chosen in folds.items():
            fold = own.filter(chosen)
            sizes[name] += len(fold)
            _write(fold, out / name / f"part-{part:05d}.parquet")
    counts = events.filter(folds["train"]).group_by("item_id").len("train_events").sort("item_id")
    _write(counts, out / "vocabulary" / "items.parquet")
    return {
        "kept": {
            "events": len(events),
            "users": events["user_id"].n_unique(),
            "items": events["item_id"].n_unique(),
            "folds": list(sizes.values()),
        }
    }


def _parts(events: Any) -> Iterator[Any]:
    yield from events.partition_by("part", maintain_order=True, as_dict=True).items()


def _hour(times: Any, share: float) -> Any:
    """The end of the hour by which this share of the events has come."""
    last = times.sort()[math.ceil(share * len(times)) - 1]
    return last.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


def _write(table: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write_parquet(path, compression="zstd")


if __name__ == "__main__":
    if "--child" in sys.argv:
        folder, side, cores = sys.argv[2:]
        print(json.dumps(_child(folder, side, int(cores))))
    else:
        typer.run(main)
