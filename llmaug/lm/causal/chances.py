"""Which items could have come at each event of a history, and how likely: the whole of a forward
pass, where a sampler keeps its last position.

By transformers, in batches of histories of about the same length: on a CPU vLLM takes two to five
times as long for it (benchmarks/soft_events.py). Where repeats are forbidden, what stands before an
event has no chance at it. Of several models (`lm.members`) the mean of their chances counts.

Shapes: B prompts, T positions, D width, V tokens, N positions of several prompts, K items of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmaug.core.model_files import fetch_model
from llmaug.core.storage import Storage
from llmaug.items.arrays import padded_prompts
from llmaug.items.vocabulary import BOS, NUM_SPECIAL, Vocabulary
from llmaug.lm import NextChances
from llmaug.lm.generator import Generator
from llmaug.lm.language import load_language

_TOKENS_AT_ONCE = 4096
"""Of a batch, padding included."""
_POSITIONS_AT_ONCE = 256
"""Their logits stay in a core's cache."""
_GROUP = 8


def load(
    storage: Storage, generator: Generator, vocabulary: Vocabulary
) -> Callable[[int, bool], CausalChances]:
    """Reads no weights. Raises UserError as `load_language` does."""
    language = load_language(storage, generator.folder, vocabulary)
    assert language.ids is None, "stage plan refuses events of several tokens"
    return partial(_load, storage, generator, language.num_words)


def _load(
    storage: Storage, generator: Generator, num_words: int, num_threads: int, on_gpu: bool
) -> CausalChances:
    from transformers import LlamaForCausalLM

    torch.set_num_threads(num_threads)
    llamas: list[Any] = []
    for own in generator.models:
        folder = fetch_model(storage, own.folder, own.model_digest)
        llama: Any = LlamaForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        llamas.append(llama.to("cuda" if on_gpu else "cpu"))
    return CausalChances(llamas, num_words)


class CausalChances:
    """Plain Llamas whose tokens are special ones, items and then controls."""

    def __init__(self, llamas: Sequence[Any], num_words: int) -> None:
        """num_words: special tokens and items."""
        self._llamas, self._num_words = [llama.eval() for llama in llamas], num_words
        self._tables = [_padded_table(llama, num_words) for llama in llamas]
        self._device = self._tables[0].device

    @torch.inference_mode()
    def chances(self, units: Sequence[dict[str, Any]]) -> list[NextChances]:
        """For each row of UNIT: the events behind BOS or another event, and what could have come.

        A history that was cut begins with an event of which nothing before is known.
        """
        prompts = [np.array(unit["prompt"], np.int32) for unit in units]
        found: list[NextChances] = [NextChances(*[np.empty(0)] * 3)] * len(units)
        for rows in _batches([len(prompt) for prompt in prompts]):
            states = self._states([prompts[row] for row in rows])
            events = [prompts[row][1:][self._asked(prompts[row])[:-1]] for row in rows]
            ends = np.cumsum([len(each) for each in events])
            seen = [_seen(prompts[row], own, units[row])
                    for row, own in zip(rows, events, strict=True)]  # fmt: skip
            for pairs, end in zip(seen[1:], ends, strict=False):
                pairs[:, 0] += end
            k = units[rows[0]]["sampling"]["top_k"]  # that of the strategy
            tokens, chances = self._likeliest(states, np.concatenate(seen), k)
            pieces = zip(np.split(tokens, ends[:-1]), np.split(chances, ends[:-1]), strict=True)
            for row, own, (own_tokens, own_chances) in zip(rows, events, pieces, strict=True):
                found[row] = NextChances(own, own_tokens, own_chances)
        return found

    def _asked(self, tokens: np.ndarray) -> np.ndarray:
        """(..., T) bool: positions behind which an event stands, and BOS or an event at them."""
        is_item = (tokens >= NUM_SPECIAL) & (tokens < self._num_words)
        asked = is_item | (tokens == BOS)
        asked[..., :-1] &= is_item[..., 1:]
        asked[..., -1] = False
        return asked

    def _states(self, prompts: list[np.ndarray]) -> list[Tensor]:
        """Of each model the (N, D) hidden states at the positions that are asked about, prompt by
        prompt."""
        tokens, _ = padded_prompts([prompt.tolist() for prompt in prompts])
        place = torch.from_numpy(tokens).to(self._device)
        asked = torch.from_numpy(self._asked(tokens)).to(self._device)
        return [
            llama.model(input_ids=place, use_cache=False).last_hidden_state[asked]
            for llama in self._llamas
        ]

    def _likeliest(
        self, states: list[Tensor], seen: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(N, K) tokens and chances; seen: (S, 2) pairs, in order, of a position and a token that
        has no chance there."""
        tokens = np.full((len(states[0]), k), -1, np.int32)
        chances = np.zeros(tokens.shape, np.float32)
        for start in range(0, len(tokens), _POSITIONS_AT_ONCE):
            some = slice(start, start + _POSITIONS_AT_ONCE)
            first, last = np.searchsorted(seen[:, 0], (some.start, some.stop))
            pairs = torch.from_numpy(seen[first:last]).to(self._device)
            row, column = pairs[:, 0] - start, pairs[:, 1]
            logs = self._logs(states[0][some], self._tables[0], row, column)
            for own, table in zip(states[1:], self._tables[1:], strict=True):
                logs = torch.logaddexp(logs, self._logs(own[some], table, row, column))
            columns, values = _top_k(logs, min(k, logs.shape[1]))
            width = columns.shape[1]
            tokens[some, :width] = np.where(np.isfinite(values), columns, -1)
            chances[some, :width] = np.exp(values) / len(states)
        return tokens, chances

    def _logs(self, states: Tensor, table: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """(N, V) logarithms of the chances; those at `row` and `column` have none."""
        logits = states @ table.T
        logits[:, :NUM_SPECIAL] = logits[:, self._num_words :] = -torch.inf
        logits[row, column] = -torch.inf
        # One pass over them, where logsumexp takes several; nan where nothing is possible.
        return logits.log_softmax(1).nan_to_num_(nan=-torch.inf, neginf=-torch.inf)


def _padded_table(llama: Any, num_words: int) -> Tensor:
    """(V, D) vectors of the words, and of a few more, which have no chance: as `top_k` wants it."""
    rows = llama.get_input_embeddings().weight.detach()[:num_words]
    return torch.nn.functional.pad(rows, (0, 0, 0, -num_words % _GROUP))


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Rows of about the same length that go through the model together."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > _TOKENS_AT_ONCE:
            yield order[start:end]
            start = end


def _seen(prompt: np.ndarray, events: np.ndarray, unit: dict[str, Any]) -> np.ndarray:
    """(S, 2) of each of the T events that are asked about, and an item that stood before it."""
    if not unit["sampling"]["forbid_repeats"]:
        return np.empty((0, 2), np.int64)
    num_before = int(BOS not in prompt) if len(events) else 0  # a first event of a history cut
    shown = prompt[len(prompt) - len(events) - num_before :]
    earlier = np.r_[np.array(unit["also_seen"] or (), np.int32), shown]
    num_seen = len(earlier) - len(events) + np.arange(len(events))
    event = np.repeat(np.arange(len(events)), num_seen)
    place = np.arange(len(event)) - np.repeat(np.cumsum(num_seen) - num_seen, num_seen)
    return np.c_[event, earlier[place]].astype(np.int64)


def _top_k(logits: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, k) columns and logits of the highest of (N, V), in order."""
    if logits.device.type == "cpu" and logits.shape[1] >= k * _GROUP:
        return top_k(logits.numpy(), k)
    values, columns = logits.topk(k, 1)
    return columns.cpu().numpy(), values.cpu().numpy()


def top_k(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The same as torch's `topk`, (N, V) to (N, k) columns and logits, in less than half of its
    time at 2,000 columns: the k-th highest of the highest of groups is no more than the k-th
    highest of all, and few groups reach it. V is a multiple of 8, and k x 8 at least.
    """
    num_rows, num_columns = logits.shape
    num_groups = num_columns // _GROUP
    highest = logits.reshape(num_rows, _GROUP, num_groups).max(1)
    least = np.partition(highest, num_groups - k, 1)[:, num_groups - k]
    row, group = np.divmod(np.flatnonzero(highest >= least[:, None]), num_groups)
    of_group = group[:, None] + num_groups * np.arange(_GROUP)
    members = logits[row[:, None], of_group]
    high = members >= least[row, None]
    row, column, value = np.repeat(row, high.sum(1)), of_group[high], members[high]
    num_found = np.bincount(row, minlength=num_rows)
    place = np.arange(len(row)) - (np.cumsum(num_found) - num_found)[row]
    values = np.full((num_rows, num_found.max()), -np.inf, np.float32)
    columns = np.zeros(values.shape, np.int32)
    values[row, place], columns[row, place] = value, column
    order = np.argsort(-values, 1)[:, :k]
    return np.take_along_axis(columns, order, 1), np.take_along_axis(values, order, 1)
