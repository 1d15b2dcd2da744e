#!/usr/bin/env python3
"""How many hours of cores and GPUs a night takes, from rates that were measured (docs/sizing.md).

    python scripts/sizing.py --events 1e9 --users 1e7 --items 1e6
    python scripts/sizing.py --events 5e6 --users 1e5 --items 1e4 --gpu-tokens-per-s 40000

One line a stage with its arithmetic. `measured` is a rate of benchmarks/notes at about this size;
`extrapolated` takes it to a size, a model or a machine that nobody has measured. What depends on
your machines can be given; without a GPU everything is on cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

MEASURED, EXTRAPOLATED = "measured", "extrapolated"

INGEST_ROWS_PER_S = 60_000
"""A core, ingest to vocabulary (benchmarks/notes/sizing.md)."""
INGEST_SEEN = 5e6
CORE_FLOPS = 42e9
"""What a step of SASRec gets of a core: 45,400 targets/s of 943,000 operations (notes/train.md)."""
BLOCKS_FLOP = 424_000
"""Of a target in two layers of width 64: 2.3 GFLOP of 5,428 targets (notes/train.md)."""
LM_FLOPS = 31e9
"""The causal model, packed: 32,978 targets/s of as many operations (notes/lm.md)."""
WIDTH, SEEN_ITEMS = 64, 1_352
SAMPLED_TARGETS_PER_S, SAMPLED_SEEN_ITEMS = 26_900, 17_000
"""SASRec with sampled_softmax: 3,143 targets in 117 ms of a core (notes/train.md)."""
CODE_WORDS, WORDS_AN_ITEM = 1_754, 4
"""Of a catalogue of a million items (notes/lm.md)."""
MAX_ATOMIC_ITEMS, MAX_SOFTMAX_ITEMS = 100_000, 10_000
"""Above them: semantic ids, and `train.loss: sampled_softmax`."""
CORE_TOKENS_PER_S = 5_100
"""An engine on one core (notes/generate.md)."""
RANKED = {1_400: 5_077.0, 20_000: 2_461.0, 100_000: 642.0}
"""{items: users a second and core} of full ranking with the best 20 (notes/sizing.md)."""


@dataclass(frozen=True)
class Night:
    events: float
    users: float
    items: float
    passes: int = 3
    """Over the training events, of each training by steps."""
    max_targets: float = 500e6
    """Of one training: more events are sampled by its steps."""
    synthetic: float = 0.2
    """Synthetic events, as a share of the real ones."""
    models: int = 4
    """Recommenders: arms x seeds."""
    max_users: float = 100_000
    """evaluate.max_users"""
    gpu_tokens_per_s: float = 0
    """Of one engine with a GPU of its own; 0: engines on cores."""
    core_price: float = 0.05
    gpu_price: float = 1.0
    """Of an hour."""


@dataclass(frozen=True)
class Line:
    stage: str
    arithmetic: str
    core_hours: float
    gpu_hours: float
    kind: str


def lines(night: Night) -> list[Line]:
    targets = min(night.passes * night.events, night.max_targets)
    return [
        _ingest(night),
        _language_model(night, targets),
        _generation(night),
        _recommenders(night, targets),
        _ranking(night, "evaluation", min(night.max_users, night.users), night.models),
        _ranking(night, "recommendations", night.users, 1),
    ]


def _ingest(night: Night) -> Line:
    hours = night.events / INGEST_ROWS_PER_S / 3600
    kind = MEASURED if night.events <= INGEST_SEEN else EXTRAPOLATED
    how = f"{_n(night.events)} rows / {_n(INGEST_ROWS_PER_S)} a second and core"
    return Line("ingest, split, vocabulary", how, hours, 0, kind)


def _language_model(night: Night, targets: float) -> Line:
    """An event costs each of its words the way through the blocks and a softmax."""
    atomic = night.items <= MAX_ATOMIC_ITEMS
    words, tokens = (1, night.items) if atomic else (WORDS_AN_ITEM, CODE_WORDS)
    each = words * _operations(tokens)
    how = f"{_n(targets)} targets x {_n(each)} operations / {_n(LM_FLOPS)} a second and core"
    kind = MEASURED if atomic and tokens <= 2 * SEEN_ITEMS else EXTRAPOLATED
    return Line("language model", how, targets * each / LM_FLOPS / 3600, 0, kind)


def _recommenders(night: Night, targets: float) -> Line:
    what, many = f"{night.models} recommenders", f"{night.models} x {_n(targets)} targets"
    if night.items > MAX_SOFTMAX_ITEMS:
        hours = night.models * targets / SAMPLED_TARGETS_PER_S / 3600
        how = f"{many} / {_n(SAMPLED_TARGETS_PER_S)} a second and core"
        kind = MEASURED if night.items <= 2 * SAMPLED_SEEN_ITEMS else EXTRAPOLATED
        return Line(what, how, hours, 0, kind)
    each = _operations(night.items)
    how = f"{many} x {_n(each)} operations / {_n(CORE_FLOPS)} a second and core"
    kind = MEASURED if night.items <= 2 * SEEN_ITEMS else EXTRAPOLATED
    return Line(what, how, night.models * targets * each / CORE_FLOPS / 3600, 0, kind)


def _operations(tokens: float) -> float:
    """Of one target, forward and backward: blocks, and three products with the table."""
    return BLOCKS_FLOP + 6 * tokens * WIDTH


def _generation(night: Night) -> Line:
    words = WORDS_AN_ITEM if night.items > MAX_ATOMIC_ITEMS else 1
    tokens = night.events * night.synthetic * words
    rate = night.gpu_tokens_per_s or CORE_TOKENS_PER_S
    hours = tokens / rate / 3600
    place = "engine with a GPU" if night.gpu_tokens_per_s else "core"
    how = f"{_n(tokens)} tokens / {_n(rate)} a second and {place}"
    if night.gpu_tokens_per_s:
        return Line("generation", how, 0, hours, EXTRAPOLATED)
    return Line("generation", how, hours, 0, MEASURED if words == 1 else EXTRAPOLATED)


def _ranking(night: Night, what: str, users: float, models: int) -> Line:
    rate = ranked_per_s(night.items)
    hours = models * users / rate / 3600
    how = f"{models} x {_n(users)} users / {_n(rate)} a second and core"
    return Line(what, how, hours, 0, MEASURED if night.items <= max(RANKED) else EXTRAPOLATED)


def ranked_per_s(items: float) -> float:
    """Between two sizes that were measured the time of a user is a line; beyond the last one it
    grows with the items."""
    sizes = sorted(RANKED)
    if items >= sizes[-1]:
        return RANKED[sizes[-1]] * sizes[-1] / items
    for low, high in pairwise(sizes):
        if items <= high:
            share = max(0.0, (items - low) / (high - low))
            return 1 / ((1 - share) / RANKED[low] + share / RANKED[high])
    raise AssertionError


def table(night: Night) -> str:
    rows = lines(night)
    cores, gpus = sum(row.core_hours for row in rows), sum(row.gpu_hours for row in rows)
    cost = cores * night.core_price + gpus * night.gpu_price
    out = ["| stage | arithmetic | core hours | GPU hours | |", "|---|---|---|---|---|"]
    for row in rows:
        hours = f"{_h(row.core_hours)} | {_h(row.gpu_hours)}"
        out.append(f"| {row.stage} | {row.arithmetic} | {hours} | {row.kind} |")
    prices = f"{night.core_price:g} a core hour, {night.gpu_price:g} a GPU hour"
    out.append(f"| **all** | {prices}: **{cost:,.2f}** | **{_h(cores)}** | **{_h(gpus)}** | |")
    return "\n".join(out)


def _n(value: float) -> str:
    """Three digits and a unit: 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _h(hours: float) -> str:
    return f"{hours:,.2f}" if hours else "-"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name, field in Night.__dataclass_fields__.items():
        option = f"--{name.replace('_', '-')}"
        required = name in ("events", "users", "items")
        kind = int if name in ("passes", "models") else float
        parser.add_argument(
            option, type=kind, required=required, default=None if required else field.default
        )
    print(table(Night(**vars(parser.parse_args(arguments)))))


if __name__ == "__main__":
    main()
