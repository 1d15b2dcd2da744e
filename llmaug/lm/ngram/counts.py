"""n-gram counts of the training events, spread by Ray Data.

Parts become raw counts; one shuffle brings n-grams that end in the same item together. Such
a group holds an n-gram and all its longer ones with a token more in front, so it finds its
own Kneser-Ney counts and writes its own part. The driver sees one row of totals a group.

A context of k - 1 tokens is packed into one int64, 21 bits each, the newest lowest.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.split import TRAIN
from llmaug.items.sequences import Sequences, of_events
from llmaug.items.vocabulary import BOS, Vocabulary

MAX_ORDER = 4
_BITS = 21  # three tokens of a context fill 63 bits

COUNTS = pa.schema(
    [
        pa.field("order", pa.int32()),
        pa.field("context", pa.int64()),
        pa.field("token", pa.int32()),
        pa.field("count", pa.int64()),
    ]
)
_KEYS = ["order", "context", "token"]


@dataclass(frozen=True)
class Totals:
    """How many n-grams there are, and how many of each order have count 1 and 2."""

    num_ngrams: int
    ones: list[int]
    twos: list[int]

    @staticmethod
    def of(counts: pa.Table, order: int) -> Totals:
        """Totals of adjusted counts (schema COUNTS)."""
        k, count = counts["order"].to_numpy(), counts["count"].to_numpy()
        ones, twos = (
            np.bincount(k[count == times], minlength=order + 1)[1:].tolist() for times in (1, 2)
        )
        return Totals(counts.num_rows, ones, twos)

    def discounts(self) -> list[float]:
        """One for each order: n1 / (n1 + 2 n2) (Ney, Essen and Kneser 1994). Where one of
        them is 0 the estimate says nothing, and it is 1/2, as KenLM's fall-back has it."""
        pairs = zip(self.ones, self.twos, strict=True)
        return [n1 / (n1 + 2 * n2) if n1 and n2 else 0.5 for n1, n2 in pairs]


def packed(context: np.ndarray) -> np.ndarray:
    """(N, k - 1) tokens to (N,) int64."""
    out = np.zeros(len(context), np.int64)
    for column in context.T:
        out = out << _BITS | column
    return out


def count_ngrams(sequences: Sequences, order: int) -> pa.Table:
    """Raw counts (schema COUNTS) of all n-grams up to `order` that end in an item."""
    tokens = sequences.tokens.astype(np.int64)
    start = np.repeat(sequences.offsets[:-1], np.diff(sequences.offsets))
    place = np.arange(len(tokens)) - start
    tables = []
    for k in range(1, order + 1):
        ends = np.flatnonzero(place >= max(1, k - 1))
        window = ends[:, None] + np.arange(1 - k, 0)
        rows = {
            "order": np.full(len(ends), k),
            "context": packed(tokens[window]),
            "token": tokens[ends],
            "count": np.ones(len(ends)),
        }
        tables.append(pa.table({name: pa.array(column) for name, column in rows.items()}))
    return _summed(pa.concat_tables(tables).cast(COUNTS))


def adjusted(raw: pa.Table, order: int) -> pa.Table:
    """Kneser-Ney counts of the raw counts of all n-grams that end in some set of items."""
    raw = _summed(raw)
    tables = []
    for k in range(1, order + 1):
        own = raw.filter(pc.equal(raw["order"], k))
        if k < order:
            # Nothing stands before BOS: these n-grams keep their counts.
            oldest = own["context"].to_numpy() >> (_BITS * max(0, k - 2))
            own = own.filter(pa.array((k > 1) & (oldest == BOS)))
            longer = raw.filter(pc.equal(raw["order"], k + 1))
            shorter = longer["context"].to_numpy() & ((1 << (_BITS * (k - 1))) - 1)
            follows = {
                "order": pa.repeat(pa.scalar(k, pa.int32()), len(longer)),
                "context": pa.array(shorter),
                "token": longer["token"],
                "count": pa.repeat(pa.scalar(1, pa.int64()), len(longer)),
            }
            own = _summed(pa.concat_tables([own, pa.table(follows, schema=COUNTS)]))
        tables.append(own)
    return pa.concat_tables(tables).sort_by([(key, "ascending") for key in _KEYS])


def count_train(context: Context, folder: str, vocabulary: Vocabulary, order: int) -> Totals:
    """Write the adjusted counts of the run's training events as parts of `folder`."""
    import ray.data

    from llmaug.core.cluster import connect

    if vocabulary.num_tokens >= 1 << _BITS:
        raise UserError(
            f"lm.model ngram takes at most {(1 << _BITS) - 1:,} tokens, the catalogue has "
            f"{vocabulary.num_tokens:,}: raise ingest.k_core or set vocabulary.cold_items: false"
        )
    connect(context.config.ray)
    storage, train = context.storage, f"{context.folder('split')}/{TRAIN}"
    parts = storage.parts(train)
    count = partial(_count_part, storage=storage, train=train, vocabulary=vocabulary, order=order)
    write = partial(_write_group, storage=storage, folder=folder, order=order)
    written = (
        ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
        .map_batches(partial(count, num_groups=len(parts)), batch_size=1, batch_format="pyarrow")
        .groupby("group", num_partitions=len(parts))
        .map_groups(write, batch_format="pyarrow")
    )
    num_ngrams, ones, twos = 0, Counter[int](), Counter[int]()
    with context.progress.track(len(parts), "n-gram parts") as advance:
        for row in written.iter_rows():
            if context.lease:
                context.lease.check()
            found = json.loads(row["totals"])
            num_ngrams += found["num_ngrams"]
            ones.update(dict(enumerate(found["ones"])))
            twos.update(dict(enumerate(found["twos"])))
            advance(1, {"ngrams": found["num_ngrams"]})
    return Totals(num_ngrams, *([each[k] for k in range(order)] for each in (ones, twos)))


def _count_part(
    batch: pa.Table,
    *,
    storage: Storage,
    train: str,
    vocabulary: Vocabulary,
    order: int,
    num_groups: int,
) -> pa.Table:
    """Raw counts of one part, with the group that each n-gram goes to."""
    events = storage.read_part(train, batch["part"][0].as_py())
    counts = count_ngrams(of_events(events, vocabulary), order)
    group = counts["token"].to_numpy() % num_groups
    return counts.append_column("group", pa.array(group.astype(np.int32)))


def _write_group(rows: pa.Table, *, storage: Storage, folder: str, order: int) -> pa.Table:
    part = f"part-{rows['group'][0].as_py():05d}"
    counts = adjusted(rows.select(COUNTS.names).cast(COUNTS), order)
    totals = Totals.of(counts, order)
    storage.write_part(counts, {"ngrams": totals.num_ngrams}, folder, part)
    return pa.table({"totals": [json.dumps(vars(totals))]})


def _summed(counts: pa.Table) -> pa.Table:
    total = counts.group_by(_KEYS).aggregate([("count", "sum")])
    return total.select([*_KEYS, "count_sum"]).rename_columns(COUNTS.names).cast(COUNTS)
