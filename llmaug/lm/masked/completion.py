"""A masked model at work: events of a history are hidden and drawn anew, in several passes.

All at once first, then again those that the model found unlikeliest, fewer each time
(mask-predict, Ghazvininejad et al. 2019, here drawn rather than taken at their peak).

Shapes: B histories, T positions, V items, N gaps of the history with most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import BertForMaskedLM

from llmaug.core.model_files import fetch_model
from llmaug.core.storage import Storage
from llmaug.items.arrays import padded_prompts
from llmaug.items.vocabulary import NUM_SPECIAL, PAD, Vocabulary
from llmaug.lm import Request, request_of
from llmaug.lm.masked.masking import masked_prompt
from llmaug.lm.masked.notes import check
from llmaug.lm.ngram.sampling import draw, shaped

_CELLS = 8_000_000  # of (B, T, V) logits at once: 32 MB


class Completer:
    """A finished masked model at work; keeps the protocol of `llmaug.lm`."""

    def __init__(self, bert: BertForMaskedLM, num_passes: int) -> None:
        self._bert: Any = bert.eval()
        if torch.cuda.is_available():
            self._bert = self._bert.cuda()
        self._mask = bert.config.vocab_size - 1
        self._max_len, self._num_passes = bert.config.max_position_embeddings, num_passes

    def complete(
        self,
        histories: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        seeds: Sequence[int],
        num_passes: int,
        temperature: float = 1.0,
        top_k: int = -1,
        top_p: float = 1.0,
        forbid_repeats: bool = False,
    ) -> list[list[int]]:
        """(B,) histories of item tokens with the events at `positions` drawn anew, each by its
        own seed. Where `forbid_repeats` leaves no item, an event stays as it was.

        Raises UserError when positions lie farther apart than the model sees.
        """
        prompts = [
            masked_prompt(history, places, self._mask, self._max_len)
            for history, places in zip(histories, positions, strict=True)
        ]
        others = [
            [token for place, token in enumerate(history) if place not in set(places)]
            for history, places in zip(histories, positions, strict=True)
        ]
        drawn = self._fill(
            prompts, others, seeds, num_passes, temperature, top_k, top_p, forbid_repeats
        )
        out = [list(history) for history in histories]
        for history, places, tokens in zip(out, positions, drawn, strict=True):
            for place, token in zip(sorted(places), tokens, strict=True):
                history[place] = token if token >= 0 else history[place]
        return out

    def score(self, users: list[str], histories: list[list[int]]) -> Any:
        """(B, num_tokens) logits of the vocabulary in the place after each history (a tensor)."""
        prompts = [masked_prompt([*h, PAD], [len(h)], self._mask, self._max_len) for h in histories]
        with torch.inference_mode():
            tokens, last = (
                torch.from_numpy(x).to(self._bert.device) for x in padded_prompts(prompts)
            )
            out = self._bert.bert(tokens, attention_mask=(tokens != PAD).long())
            rows = torch.arange(len(last), device=last.device)
            return self._bert.cls(out.last_hidden_state[rows, last])[:, : self._mask]

    # -- the protocol of llmaug.lm -----------------------------------------------------------

    def requests(self, units: Sequence[dict[str, Any]]) -> list[Request]:
        """The unit's own prompt, with masks where events are asked for, and sampling."""
        return [request_of(unit) for unit in units]

    def answer(self, requests: Sequence[Request]) -> list[list[int] | str]:
        """Item tokens for the masks of each request, or `reason: detail` where it failed."""
        answers: list[list[int] | str] = [self._refusal(request) for request in requests]
        alike: dict[tuple, list[int]] = defaultdict(list)
        for number, r in enumerate(requests):
            if not answers[number]:
                alike[(r.temperature, r.top_k, r.top_p, r.forbid_repeats)].append(number)
        for key, numbers in alike.items():
            prompts = [requests[number].prompt for number in numbers]
            seeds = [requests[number].seed for number in numbers]
            seen = [[*requests[n].prompt, *requests[n].also_seen] for n in numbers]
            rows = self._fill(prompts, seen, seeds, self._num_passes, *key)
            for number, row in zip(numbers, rows, strict=True):
                answers[number] = (
                    row if -1 not in row else "no_item_left: repeats are forbidden, all are taken"
                )
        return answers

    def _refusal(self, request: Request) -> str:
        num_masks = request.prompt.count(self._mask)
        told = ""
        if not all(0 <= token <= self._mask for token in request.prompt):
            told = f"prompt has token ids outside 0..{self._mask}"
        elif not num_masks or num_masks != request.num_tokens:
            told = f"prompt has {num_masks} masks, {request.num_tokens} events are asked for"
        elif len(request.prompt) > self._max_len:
            told = f"{len(request.prompt)} tokens are more than the context of {self._max_len}"
        return told and f"refused_by_engine: {told}"

    def _fill(
        self,
        prompts: Sequence[list[int]],
        others: Sequence[Sequence[int]],
        seeds: Sequence[int],
        num_passes: int,
        temperature: float,
        top_k: int,
        top_p: float,
        forbid_repeats: bool,
    ) -> list[list[int]]:
        """Item tokens for the masks of each prompt, -1 where none is left. others: tokens of
        each history that stay. Batched by length: no padding, and a row's numbers are its own.
        """
        by_length: dict[int, list[int]] = defaultdict(list)
        for number, prompt in enumerate(prompts):
            by_length[len(prompt)].append(number)
        out: list[list[int]] = [[] for _ in prompts]
        for length, numbers in by_length.items():
            size = max(1, _CELLS // (length * self._mask))
            for start in range(0, len(numbers), size):
                chunk = numbers[start : start + size]
                gaps = _Gaps(
                    np.array([prompts[n] for n in chunk]), self._mask, [seeds[n] for n in chunk],
                    num_passes, [others[n] for n in chunk] if forbid_repeats else None,
                )  # fmt: skip
                for number in range(num_passes):
                    if gaps.open(number):
                        gaps.draw(number, self._probabilities(gaps), temperature, top_k, top_p)
                for number, row in zip(chunk, gaps.answers(), strict=True):
                    out[number] = row
        return out

    def _probabilities(self, gaps: _Gaps) -> np.ndarray:
        """(M, V) over the items in the M open places of `gaps`, row by row."""
        with torch.inference_mode():
            tokens = torch.from_numpy(gaps.tokens).to(self._bert.device)
            rows, places = (torch.from_numpy(x).to(tokens.device) for x in gaps.open_places())
            states = self._bert.bert(tokens).last_hidden_state[rows, places]
            logits = self._bert.cls(states)[:, NUM_SPECIAL : self._mask]
            return logits.double().softmax(-1).cpu().numpy()


class _Gaps:
    """Rows of equal length whose masks are being filled. N: masks of the row with most."""

    def __init__(
        self,
        tokens: np.ndarray,
        mask: int,
        seeds: Sequence[int],
        num_passes: int,
        others: Sequence[Sequence[int]] | None,
    ) -> None:
        self.tokens, self._mask, self._num_passes = tokens, mask, num_passes
        is_gap = tokens == mask
        self._count = is_gap.sum(1)
        widest = int(self._count.max())
        # Masks first, in order of place; `_real` tells how many of the columns they are.
        self._place = np.argsort(~is_gap, axis=1, kind="stable")[:, :widest]
        self._real = np.arange(widest) < self._count[:, None]
        self._uniforms = np.zeros((num_passes, *self._real.shape))
        for row, (seed, count) in enumerate(zip(seeds, self._count, strict=True)):
            drawn = np.random.default_rng(seed).random((num_passes, count))
            self._uniforms[:, row, :count] = drawn
        self._drawn = np.full(self._real.shape, -1)
        self._confidence = np.full(self._real.shape, np.inf)
        self._taken = None
        if others is not None:
            self._taken = np.zeros((len(tokens), mask - NUM_SPECIAL), bool)
            for row, stay in enumerate(others):
                items = [t - NUM_SPECIAL for t in stay if NUM_SPECIAL <= t < mask]
                self._taken[row, items] = True

    def open(self, number: int) -> bool:
        """Mask what pass `number` draws: all at first, then the share (passes - number) /
        passes that is least likely. False when that is nothing."""
        share = (self._num_passes - number) / self._num_passes
        num_open = (self._count * share).astype(int)
        rank = np.argsort(np.argsort(self._confidence, axis=1, kind="stable"), axis=1)
        self._open = self._real & ((rank < num_open[:, None]) | (number == 0))
        rows, places = self.open_places()
        self.tokens[rows, places] = self._mask
        if self._taken is not None:
            again = self._drawn[self._open]
            self._taken[rows[again >= 0], again[again >= 0]] = False
        return bool(len(rows))

    def open_places(self) -> tuple[np.ndarray, np.ndarray]:
        """(M,) rows and (M,) places of the masks to draw, row by row from the left."""
        rows, columns = np.nonzero(self._open)
        return rows, self._place[rows, columns]

    def draw(
        self, number: int, p: np.ndarray, temperature: float, top_k: int, top_p: float
    ) -> None:
        """Fill the open places from (M, V) probabilities, from the left, so that of two equal
        items one can be forbidden."""
        index = np.cumsum(self._open).reshape(self._open.shape) - 1  # row of `p`
        for column in range(self._open.shape[1]):
            rows = np.flatnonzero(self._open[:, column])
            own = p[index[rows, column]]
            allowed = own if self._taken is None else np.where(self._taken[rows], 0, own)
            weights = shaped(allowed, temperature, top_k, top_p)
            item = draw(weights, self._uniforms[number, rows, column])
            self._drawn[rows, column] = item
            found = item >= 0
            rows, item, own = rows[found], item[found], own[found]
            self._confidence[rows, column] = own[np.arange(len(rows)), item]
            self.tokens[rows, self._place[rows, column]] = item + NUM_SPECIAL
            if self._taken is not None:
                self._taken[rows, item] = True

    def answers(self) -> list[list[int]]:
        """Item tokens of each row's masks in order of place, -1 where no item was left."""
        tokens = np.where(self._drawn >= 0, self._drawn + NUM_SPECIAL, -1)
        return [row[real].tolist() for row, real in zip(tokens, self._real, strict=True)]


def load_completer(
    storage: Storage, folder: str, vocabulary: Vocabulary, model_digest: str
) -> Completer:
    """The model in `folder`, fetched once a digest and machine. Raises UserError as `check`."""
    notes = check(storage, folder, vocabulary)
    local = fetch_model(storage, folder, model_digest)
    plain = BertForMaskedLM.from_pretrained(local, trust_remote_code=False, use_safetensors=True)
    return Completer(plain, notes["num_passes"])
