"""How many engines one driver feeds, and what gives way first.

Stand-in engines take a GPU's time (20,000 tokens a second each) without its work, so what is
measured is everything around them: reading units, the actors, Ray Data, outcomes to storage,
the board, the driver. Histories of 30 events, 20 generated: 1,000 units a second and engine.
`fed` is the rate against what the engines could do.

On one machine all engines' own side (reading, writing) runs on its few cores; in a cluster it
runs on the engines' machines. So the processor time of driver and of engines is shown apart:
the driver's says what one driver can feed, the total says what this machine can.

    python benchmarks/scale.py --engines 1,4,16,64 --seconds 20
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from inputs import fake_run

from llmaug.config import parse_config
from llmaug.core.cluster import disconnect
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.generate import stage as generate

RATE, NUM_TOKENS = 20_000.0, 20
_ENGINE_MAKER = generate.engine_maker


def main(
    engines: Annotated[str, typer.Option(help="Numbers of engines to try.")] = "1,4,16,64",
    seconds: Annotated[float, typer.Option(help="Length of each run at full rate.")] = 20.0,
    units_per_part: Annotated[int, typer.Option(help="Units in one part.")] = 4000,
) -> None:
    curve = [measure(int(number), seconds, units_per_part) for number in engines.split(",")]
    print("engines  tokens/s     fed    driver cores  engine cores  Ray cores  driver MB")
    for point in curve:
        print(
            f"{point['engines']:>7}  {point['tokens_per_s']:>9,.0f}  {point['fed']:>5.1%}  "
            f"{point['driver_cores']:>12.2f}  {point['engine_cores']:>12.2f}  "
            f"{point['ray_cores']:>9.2f}  {point['driver_mb']:>9,}"
        )
    last = curve[-1]
    cores = psutil.cpu_count() or 1
    used = last["driver_cores"] + last["engine_cores"] + last["ray_cores"]
    first = max(("driver", last["driver_cores"]), ("engines' side", last["engine_cores"]),
                ("Ray's own processes", last["ray_cores"]), key=lambda pair: pair[1])  # fmt: skip
    driver_limit = last["tokens_per_s"] / max(last["driver_cores"], 1e-9)
    print(
        f"At {last['engines']} engines {used:.2f} of {cores} cores are used; most by {first[0]}. "
        f"A driver on a core of its own would feed {driver_limit / RATE:,.0f} engines."
    )
    print(json.dumps({"benchmark": "scale", "curve": curve, "saturates_first": first[0],
                      "engines_a_driver_core": round(driver_limit / RATE)}))  # fmt: skip


def measure(engines: int, seconds: float, units_per_part: int) -> dict[str, Any]:
    per_engine = int(RATE / NUM_TOKENS * seconds)
    section = {
        "engine": "uniform", "simulated_tokens_per_s": RATE, "num_actors": engines,
        "num_cpus": 0.05, "use_cache": False,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as root:
        context = Context(Storage(root), parse_config({"generate": section}), "scale")
        fake_run(context, engines * per_engine, NUM_TOKENS, min(units_per_part, per_engine // 4))
        _start_together(engines, root)
        with _Watch() as watch:
            counts = generate.run(context)
        disconnect()
    # The middle of the run, without its last parts.
    curve = [point for point in counts["utilisation"] if point["engines"] >= engines]
    busy = [point["tokens_per_s"] for point in curve if point["busy"] >= engines]
    span = (curve[0]["second"], curve[-1]["second"]) if curve else (0.0, 0.0)
    rate = sorted(busy)[len(busy) // 2] if busy else counts["span_tokens_per_s"]
    return {
        "engines": engines,
        "tokens_per_s": rate,
        "fed": round(rate / (engines * RATE), 3),
        "idle_share": counts["idle_share"],
        "all_engines_up_s": round(span[1] - span[0], 1),
        **watch.cores(counts["span_s"]),
    }


def _start_together(engines: int, folder: str) -> None:
    """No engine begins before all are up: on few cores their processes start one after the
    other, and that is start-up, not feeding."""
    usual = _ENGINE_MAKER

    def waiting(*arguments: Any) -> Any:
        make = usual(*arguments)

        def start() -> Any:
            up = Path(folder, "up")
            up.mkdir(exist_ok=True)
            (up / str(os.getpid())).touch()
            while len(list(up.iterdir())) < engines:
                time.sleep(0.2)
            return make()

        return start

    generate.engine_maker = waiting


class _Watch:
    """Processor time of the driver, of the engines' actors, and of Ray's own processes."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._samples: list[tuple[float, dict[str, float]]] = []
        self._driver_mb = 0

    def __enter__(self) -> _Watch:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        me = psutil.Process()
        last: dict[int, float] = {}
        total = {"driver": 0.0, "engine": 0.0, "ray": 0.0}
        while not self._over.wait(1.0):
            for process in [me, *me.children(recursive=True)]:
                try:
                    name, seconds = " ".join(process.cmdline()), sum(process.cpu_times()[:2])
                except psutil.Error:
                    continue
                kind = "driver" if process == me else "engine" if "PartWorker" in name else "ray"
                total[kind] += seconds - last.get(process.pid, seconds)
                last[process.pid] = seconds
            self._samples.append((time.monotonic(), dict(total)))
            self._driver_mb = max(self._driver_mb, me.memory_info().rss // 2**20)

    def cores(self, span_s: float) -> dict[str, float]:
        """Cores in use over the middle half of the last `span_s` seconds."""
        end = self._samples[-1][0]
        middle = [s for s in self._samples if end - 0.75 * span_s <= s[0] <= end - 0.25 * span_s]
        (begin, before), (finish, after) = middle[0], middle[-1]
        seconds = max(finish - begin, 1e-9)
        cores = {f"{k}_cores": round((after[k] - before[k]) / seconds, 3) for k in before}
        return {**cores, "driver_mb": self._driver_mb}


if __name__ == "__main__":
    typer.run(main)
