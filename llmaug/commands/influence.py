"""Which kinds of events would help: what a step on them does to the validation events.

TracIn (Pruthi et al. 2020) at one checkpoint, the model of the arm `real`: a small step of gradient
descent on the loss of some training events lowers the loss of the validation events by the product
of both gradients, to first order. For each strategy, and for the real training events, that product
is shown as a share of what a step on validation events themselves would bring (one half of them for
the other half): 0 for events that say nothing about them, below 0 for events that mislead.

It costs some passes over a sample instead of a training without each strategy, and says less: what
the first step does, from a model that knows the real events already, and each strategy by itself.
No test event is looked at.

Shapes: N events, each as the history before it and itself; P parameters.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.arms.arms import AUGMENTED, REAL
from llmaug.config import ByDescentConfig
from llmaug.core.stage import Context
from llmaug.errors import UserError
from llmaug.evaluate.comparison import segments
from llmaug.ingest.split import TRAIN, VALIDATION
from llmaug.items.sequences import Sequences, of_events
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary
from llmaug.recommenders import load_recommender
from llmaug.schema import REAL as REAL_ORIGIN
from llmaug.training.validation import load_validation

ALL = "all"
NUM_BLOCKS = 8
"""Independent estimates; the interval comes from leaving out one at a time (jackknife)."""
_T_95 = 2.365  # Student's t of 7 degrees of freedom
_BATCH = 64
_LEAST = 2 * NUM_BLOCKS  # events of a group or segment that can be measured


@dataclass(frozen=True)
class Targets:
    """Events to be predicted, each behind its history."""

    users: list[str]
    histories: list[list[int]]
    targets: list[int]

    def __len__(self) -> int:
        return len(self.targets)

    def at(self, rows: np.ndarray) -> Targets:
        return Targets(*([column[row] for row in rows] for column in vars(self).values()))


def influence(context: Context, max_events: int) -> dict[str, Any]:
    """{"seed", "validation_events", "groups": [{group, events, sampled, on: {segment: {share, low,
    high}}}]} of a run that has trained `real` and merged `augmented`, for the first seed; segment
    ALL holds everybody.

    max_events: of each group, and of validation users. Raises UserError where the model is not one
    that reads histories and is trained by steps, or stages are missing.
    """
    config, storage = context.config, context.storage
    seed = config.train.seeds[0]
    if not isinstance(config.train, ByDescentConfig) or config.train.batches != "sequences":
        raise UserError(
            f"train.model: {config.train.model} is not trained on histories; influence asks models "
            "such as sasrec and two_tower"
        )
    context.manifest(f"merged/{AUGMENTED}")
    model, vocabulary, _ = load_recommender(
        storage, context.folder(f"model/{REAL}/seed-{seed}"),
        context.manifest(f"model/{REAL}")["counts"][f"seed-{seed}"]["model_digest"],
    )  # fmt: skip
    split = context.folder("split")
    found = load_validation(
        storage, f"{split}/{TRAIN}", f"{split}/{VALIDATION}", vocabulary, seed, max_events
    )
    validation = Targets(found.user_ids, found.histories, found.targets)
    held_out = {
        name: rows for name, rows in _segments(validation, vocabulary) if len(rows) >= _LEAST
    }
    if ALL not in held_out:
        raise UserError(
            f"{storage.uri(split)}: {len(validation)} validation users with a history, and "
            f"{_LEAST} is the least that can be measured"
        )
    sampled = _sample(context, vocabulary, seed, max_events)
    measured = measure(
        model, {name: own for name, (own, _) in sampled.items()}, validation, held_out, seed
    )
    groups = [
        {"group": name, "events": total, "sampled": len(own), "on": measured.get(name, {})}
        for name, (own, total) in sampled.items()
    ]
    return {"seed": seed, "validation_events": len(validation), "groups": groups}


def measure(
    model: Any,
    groups: dict[str, Targets],
    validation: Targets,
    held_out: dict[str, np.ndarray],
    seed: int,
) -> dict[str, dict[str, dict[str, float]]]:
    """{group: {segment: {share, low, high}}}; held_out: rows of `validation` of each segment."""
    rng = np.random.default_rng(seed)
    dealt = {name: _dealt(rng.permutation(rows)) for name, rows in held_out.items()}
    shares = {
        name: _dealt(rng.permutation(len(own)))
        for name, own in groups.items()
        if len(own) >= _LEAST
    }
    product = np.zeros((len(shares), len(dealt), NUM_BLOCKS))
    most = np.zeros((len(dealt), NUM_BLOCKS))
    for block in range(NUM_BLOCKS):
        towards = []
        for number, blocks in enumerate(dealt.values()):
            halves = [gradient(model, validation.at(blocks[block][half::2])) for half in (0, 1)]
            most[number, block] = halves[0] @ halves[1]
            towards.append((halves[0] + halves[1]) / 2)
        for row, (name, blocks) in enumerate(shares.items()):
            step = gradient(model, groups[name].at(blocks[block]))
            product[row, :, block] = [float(step @ one) for one in towards]
    return {
        group: {
            segment: _jackknife(product[row, column], most[column])
            for column, segment in enumerate(dealt)
        }
        for row, group in enumerate(shares)
    }


def gradient(model: Any, events: Targets) -> Any:
    """(P,) of the mean cross-entropy of the (N,) events over the catalogue."""
    import torch
    from torch.nn import functional as F

    model.zero_grad()
    for start in range(0, len(events), _BATCH):
        rows = slice(start, start + _BATCH)
        scores = model.score(events.users[rows], events.histories[rows])[:, NUM_SPECIAL:]
        targets = torch.tensor(events.targets[rows], device=scores.device) - NUM_SPECIAL
        (F.cross_entropy(scores.float(), targets, reduction="sum") / len(events)).backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    return torch.cat([grad.flatten() for grad in grads if grad is not None])


def _dealt(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[block::NUM_BLOCKS] for block in range(NUM_BLOCKS)]


def _jackknife(product: np.ndarray, most: np.ndarray) -> dict[str, float]:
    """The ratio of the means of two (K,) rows of blocks, with its 95% interval."""
    without = [np.delete(product, b).mean() / np.delete(most, b).mean() for b in range(len(most))]
    share = float(product.mean() / most.mean())
    spread = _T_95 * float(np.sqrt((len(most) - 1) * np.var(without)))
    return {"share": share, "low": share - spread, "high": share + spread}


def _segments(validation: Targets, vocabulary: Vocabulary) -> Iterator[tuple[str, np.ndarray]]:
    """The segments of the report, and which of the validation events are in each."""
    events = vocabulary.items["train_events"].to_numpy()
    columns = {
        "history_len": np.array([len(history) for history in validation.histories], np.int64),
        "item_train_events": events[np.array(validation.targets, np.int64) - NUM_SPECIAL],
    }
    for segment in segments(events):
        yield segment.name or ALL, segment.rows(columns[segment.column])


def _sample(
    context: Context, vocabulary: Vocabulary, seed: int, max_events: int
) -> dict[str, tuple[Targets, int]]:
    """{group: (some of its events, drawn from all alike, and how many there are)}; REAL first.

    One part of the shards is in memory at a time.
    """
    storage, folder = context.storage, context.folder(f"merged/{AUGMENTED}")
    rng = np.random.default_rng([seed, 1])
    kept: dict[str, list[tuple[float, str, list[int], int]]] = {REAL: []}
    totals: Counter[str] = Counter()
    for part in storage.parts(folder):
        events = storage.read_part(folder, part)
        for group in (REAL, *sorted(pc.unique(events["strategy"].drop_null()).to_pylist())):
            sequences, place, of = _places(events, group, vocabulary)
            totals[group] += len(place)
            keys = rng.random(len(place))
            rows = np.argsort(keys)[:max_events]
            found = [
                (float(keys[row]), sequences.user_ids[of[row]],
                 sequences.tokens[sequences.offsets[of[row]] + 1 : place[row]].tolist(),
                 int(sequences.tokens[place[row]]))
                for row in rows
            ]  # fmt: skip
            # The smallest keys of all that were seen: each event is as likely to stay.
            kept[group] = heapq.nsmallest(max_events, [*kept.get(group, ()), *found])
    return {
        group: (
            Targets([row[1] for row in rows], [row[2] for row in rows], [row[3] for row in rows]),
            totals[group],
        )
        for group, rows in kept.items()
    }


def _places(
    events: pa.Table, group: str, vocabulary: Vocabulary
) -> tuple[Sequences, np.ndarray, np.ndarray]:
    """The sequences of one part with what a strategy wrote, or the real ones; and the (N,) places
    of its events with a loss in their tokens, and the (N,) sequences these are in."""
    own = pc.fill_null(pc.equal(events["strategy"], group), False)
    real = pc.equal(events["origin"].cast(pa.string()), REAL_ORIGIN)
    sequences = of_events(events.filter(pc.or_(own, real)), vocabulary)
    place = np.flatnonzero(sequences.weights > 0)
    of = np.searchsorted(sequences.offsets, place, side="right") - 1
    wanted = sequences.is_real[of] == (group == REAL)
    return sequences, place[wanted], of[wanted]
