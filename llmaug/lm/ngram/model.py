"""An n-gram model of behaviour: P(w_t | w_1..w_{t-1}) from at most the last three events.

Interpolated Kneser-Ney smoothing (Chen and Goodman 1999, one discount an order): the
highest order keeps its counts; a lower order counts in how many different places an n-gram
follows, not how often. Every order passes what its discount saves on to the next lower one,
and the lowest shares it among all items, so that an item which nobody has taken yet has a
probability, too. n-grams at the start of a history have nothing before them and keep their
counts (Heafield et al. 2013, section 3). `ngram_counts` counts; here counts become a model.

A model folder holds Parquet parts (order, context, token, count) and `llmaug.json`.

Shapes: B prompts, V items, K the order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.config import NgramConfig
from llmaug.core.formats import LANGUAGE_MODEL
from llmaug.core.stage import Context
from llmaug.core.storage import Storage, digest
from llmaug.core.stored import notes_of_parts
from llmaug.errors import UserError
from llmaug.items.sequences import Sequences
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary, load_vocabulary
from llmaug.lm import ByItself, Request, request_of
from llmaug.lm.folder import NOTES, REMEDY, check_digest, read_notes
from llmaug.lm.ngram.counts import Totals, adjusted, count_ngrams, count_train, packed
from llmaug.lm.ngram.sampling import draw, shaped

if TYPE_CHECKING:
    from llmaug.lm.generator import Generator

_CELLS = 4_000_000  # of (B, V) probabilities at once: 32 MB


@dataclass(frozen=True)
class _Order:
    """The n-grams of one order above 1, by context."""

    contexts: np.ndarray
    """(C,) int64, ascending."""
    starts: np.ndarray
    """(C + 1,) int64: rows of each context in `tokens`."""
    tokens: np.ndarray
    """(M,) int32, ascending within a context."""
    keys: np.ndarray
    """(M,) int64, index of the context times the number of tokens, plus the token: ascending."""
    alphas: np.ndarray
    """(M,) max(count - discount, 0) / total of the context."""
    gammas: np.ndarray
    """(C,) share of the context that goes to the next lower order."""

    def find(self, tails: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """(B, K - 1) last tokens to (rows of `tails`, their contexts' indices) where known."""
        complete = np.flatnonzero(tails[:, -length] >= 0)
        wanted = packed(tails[complete, -length:])
        index = np.searchsorted(self.contexts, wanted)
        index[index == len(self.contexts)] = 0
        known = self.contexts[index] == wanted
        return complete[known], index[known]


class NgramLm:
    """Probabilities over the catalogue; keeps the protocol of `llmaug.lm`."""

    def __init__(
        self, counts: pa.Table, order: int, num_items: int, discounts: Sequence[float]
    ) -> None:
        """counts: schema COUNTS; discounts: one for each order from 1, in [0, 1]."""
        self.order, self.num_items = order, num_items
        self._num_tokens = num_items + NUM_SPECIAL
        own = counts.filter(pc.equal(counts["order"], 1))
        seen = np.zeros(num_items)
        seen[own["token"].to_numpy() - NUM_SPECIAL] = own["count"].to_numpy()
        saved = discounts[0] * np.count_nonzero(seen) / seen.sum()
        kept = np.maximum(seen - discounts[0], 0) / seen.sum()
        self._unigram: np.ndarray = kept + saved / num_items
        higher = [counts.filter(pc.equal(counts["order"], k)) for k in range(2, order + 1)]
        self._orders = [
            _order_of(rows, discount, num_items)
            for rows, discount in zip(higher, discounts[1:], strict=True)
            if rows.num_rows  # no history may be as long as the order
        ]

    def probabilities(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """(B, V) of the next item after each prompt of tokens; rows add to 1.

        A prompt starts with BOS where the history does, as `Unit.prompt` has it.
        """
        return self._next(_tails(prompts, self.order))

    def log_prob(self, tokens: Sequence[int]) -> np.ndarray:
        """(T - 1,) natural logarithms of the probability of each of the (T,) tokens after
        the first, given those before it. Perplexity is exp(-mean)."""
        padded = np.r_[np.full(self.order - 1, -1), np.asarray(tokens, np.int64)]
        tails = padded[np.arange(1, len(tokens))[:, None] + np.arange(self.order - 1)]
        target = padded[self.order :]
        p = self._unigram[target - NUM_SPECIAL].copy()
        for length, order in enumerate(self._orders, start=1):
            rows, index = order.find(tails, length)
            wanted = index * self._num_tokens + target[rows]
            place = np.minimum(np.searchsorted(order.keys, wanted), len(order.keys) - 1)
            found = order.keys[place] == wanted
            p[rows] = order.gammas[index] * p[rows] + np.where(found, order.alphas[place], 0)
        return np.log(p)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        num_events: int,
        temperature: float = 1.0,
        top_k: int = -1,
        top_p: float = 1.0,
        forbid_repeats: bool = False,
        also_seen: Sequence[Sequence[int]] | None = None,
    ) -> list[list[int]]:
        """`num_events` item tokens after each of B prompts; each row depends on its own seed
        and prompt alone. A row ends early when `forbid_repeats` leaves it no item: none of
        its prompt, of its `also_seen`, and none twice."""
        size = max(1, _CELLS // self.num_items)
        out: list[list[int]] = []
        for start in range(0, len(prompts), size):
            chunk = prompts[start : start + size]
            uniforms = np.stack(
                [np.random.default_rng(s).random(num_events) for s in seeds[start : start + size]]
            )
            taken = np.zeros((len(chunk), self.num_items), bool)
            if forbid_repeats:
                for row, prompt in enumerate(chunk):
                    more = also_seen[start + row] if also_seen else ()
                    items = np.asarray([*prompt, *more], np.int64) - NUM_SPECIAL
                    taken[row, items[items >= 0]] = True
            tails = _tails(chunk, self.order)
            drawn = np.empty((len(chunk), num_events), np.int64)
            for step in range(num_events):
                p = np.where(taken, 0, self._next(tails))
                item = draw(shaped(p, temperature, top_k, top_p), uniforms[:, step])
                drawn[:, step] = item
                if forbid_repeats:
                    taken[np.flatnonzero(item >= 0), item[item >= 0]] = True
                tails = np.c_[tails, item + NUM_SPECIAL][:, 1:]
            out += [(row[row >= 0] + NUM_SPECIAL).tolist() for row in drawn]
        return out

    # -- the protocol of llmaug.lm -----------------------------------------------------------

    def requests(self, units: Sequence[dict[str, Any]]) -> list[Request]:
        """The unit's own prompt and sampling."""
        return [request_of(unit) for unit in units]

    def answer(self, requests: Sequence[Request]) -> list[list[int] | str]:
        """Item tokens for each request, or `reason: detail` where it failed."""
        answers: list[list[int] | str] = [""] * len(requests)
        alike: dict[tuple, list[int]] = defaultdict(list)
        for number, r in enumerate(requests):
            if all(0 <= token < self._num_tokens for token in r.prompt):
                key = (r.num_tokens, r.temperature, r.top_k, r.top_p, r.forbid_repeats)
                alike[key].append(number)
            else:
                answers[number] = (
                    f"refused_by_engine: prompt has token ids outside 0..{self._num_tokens - 1}"
                )
        for key, numbers in alike.items():
            asked = [requests[number] for number in numbers]
            prompts, seeds = [r.prompt for r in asked], [r.seed for r in asked]
            rows = self.sample(prompts, seeds, *key, [r.also_seen for r in asked])
            for number, row in zip(numbers, rows, strict=True):
                answers[number] = row
        return answers

    def _next(self, tails: np.ndarray) -> np.ndarray:
        """(B, V) after the (B, K - 1) last tokens, -1 where there are none."""
        p = np.tile(self._unigram, (len(tails), 1))
        for length, order in enumerate(self._orders, start=1):
            rows, index = order.find(tails, length)
            p[rows] *= order.gammas[index, None]
            first, size = order.starts[index], np.diff(order.starts)[index]
            # The rows of all contexts back to back: each context's first row, then the next.
            offset = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
            place = np.repeat(first, size) + offset
            p[np.repeat(rows, size), order.tokens[place] - NUM_SPECIAL] += order.alphas[place]
        return p


def of_sequences(
    sequences: Sequences, order: int, num_items: int, discounts: Sequence[float] | None = None
) -> NgramLm:
    """A model of sequences in memory; None: discounts estimated from the counts."""
    counts = adjusted(count_ngrams(sequences, order), order)
    found = Totals.of(counts, order)
    return NgramLm(counts, order, num_items, discounts or found.discounts())


def fit(context: Context) -> dict[str, Any]:
    """Count the training events of the run into `lm/<name>`; returns facts of the model."""
    storage, lm = context.storage, context.config.lm
    assert isinstance(lm, NgramConfig)
    folder = context.folder(f"lm/{lm.name}")
    vocabulary = load_vocabulary(storage, context.folder("vocabulary"))
    totals = count_train(context, folder, vocabulary, lm.order)
    parts = notes_of_parts(storage, folder, storage.parts(folder))
    notes = {
        "model": "ngram",
        "name": lm.name,
        "vocabulary_digest": vocabulary.digest,
        "order": lm.order,
        "num_items": vocabulary.num_items,
        "num_ngrams": totals.num_ngrams,
        "discounts": totals.discounts(),
        "parts": {part: note["digest"] for part, note in parts.items()},
    }
    storage.write_json({**LANGUAGE_MODEL.mark, **notes}, folder, NOTES)
    facts = {"name": lm.name, "model_digest": digest(notes)}
    return facts | {name: notes[name] for name in ("num_ngrams", "discounts")}


def load_ngram(storage: Storage, folder: str, vocabulary: Vocabulary | None = None) -> NgramLm:
    """The model in `folder`. Raises UserError when it is none, is not whole, or was counted
    over another vocabulary than `vocabulary`."""
    notes = read_notes(storage, folder, "ngram")
    if vocabulary is not None:
        check_digest(storage.uri(folder), notes, vocabulary)
    tables = []
    for part, expected in notes["parts"].items():
        if not storage.exists(folder, f"{part}.parquet"):
            raise UserError(f"{storage.uri(folder)}: {part}.parquet is missing; {REMEDY}")
        if digest(storage.read(folder, f"{part}.parquet")) != expected:
            raise UserError(f"{storage.uri(folder)}: {part}.parquet is damaged; {REMEDY}")
        tables.append(storage.read_part(folder, part))
    return NgramLm(pa.concat_tables(tables), notes["order"], notes["num_items"], notes["discounts"])


def served(storage: Storage, generator: Generator, vocabulary: Vocabulary) -> ByItself:
    """Counts answer by themselves. Raises UserError as `load_ngram` does."""
    load_ngram(storage, generator.folder, vocabulary)
    return ByItself(partial(load_ngram, storage, generator.folder, vocabulary))


def _order_of(counts: pa.Table, discount: float, num_items: int) -> _Order:
    columns = {name: counts[name].to_numpy() for name in counts.column_names}
    by_context = np.lexsort((columns["token"], columns["context"]))
    context, token, count = (columns[n][by_context] for n in ("context", "token", "count"))
    first = np.flatnonzero(np.diff(context, prepend=-1))
    starts = np.r_[first, len(context)]
    size = np.diff(starts)
    total = np.add.reduceat(count, first)
    return _Order(
        contexts=context[first],
        starts=starts,
        tokens=token,
        keys=np.repeat(np.arange(len(first)), size) * (num_items + NUM_SPECIAL) + token,
        alphas=np.maximum(count - discount, 0) / np.repeat(total, size),
        gammas=discount * size / total,
    )


def _tails(prompts: Sequence[Sequence[int]], order: int) -> np.ndarray:
    """(B, K - 1) int64 last tokens of each prompt, -1 on the left where it is shorter."""
    tails = np.full((len(prompts), order - 1), -1, np.int64)
    for row, prompt in enumerate(prompts):
        last = list(prompt)[-(order - 1) :] if order > 1 else []
        if last:
            tails[row, -len(last) :] = last
    return tails
