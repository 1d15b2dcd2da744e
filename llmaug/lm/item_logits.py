"""What may come out of a causal model in vLLM: a logits processor on its engine.

Only items, and EOS where a gap may end early; with repeats forbidden, no item of the history
and none twice. Forbidden in decoding, nothing has to be thrown away afterwards.

Shapes: B requests in the batch, V tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

from llmaug.lm.folder import NOTES
from llmaug.vocabulary import EOS, NUM_SPECIAL


class ItemLogits(LogitsProcessor):
    """Bans by row of the batch, kept up to date token by token."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        num_rows = vllm_config.scheduler_config.max_num_seqs
        model = vllm_config.model_config
        notes = json.loads(Path(model.model, NOTES).read_text(encoding="utf-8"))
        self._num_words = notes["language"]["num_words"]
        num_tokens = model.get_vocab_size()
        self._never = torch.zeros(num_tokens, dtype=torch.bool, device=device)
        self._never[:NUM_SPECIAL] = True
        self._never[self._num_words :] = True
        self._bans = self._never.repeat(num_rows, 1)  # a row for each request in flight
        self._free = list(range(num_rows))
        self._of_batch: dict[int, _Row] = {}
        self._numbers = torch.empty(0, dtype=torch.int64, device=device)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        if batch_update is None:
            return
        rows = self._of_batch
        for place in [*batch_update.removed, *(added[0] for added in batch_update.added)]:
            if place in rows:
                self._free.append(rows.pop(place).number)
        for place, params, prompt, output in batch_update.added:
            rows[place] = self._row_of(params, prompt, output)
        for here, there, direction in batch_update.moved:
            moved, other = rows.pop(here, None), rows.pop(there, None)
            if moved is not None:
                rows[there] = moved
            if other is not None and direction == MoveDirectionality.SWAP:
                rows[here] = other
            elif other is not None:
                self._free.append(other.number)
        numbers = [rows[place].number for place in sorted(rows)]
        self._numbers = torch.tensor(numbers, dtype=torch.int64, device=self._bans.device)

    def apply(self, logits: Tensor) -> Tensor:
        """(B, V) in place."""
        new = [
            (row.number, token)
            for row in self._of_batch.values()
            if row.output is not None
            for token in row.unseen()
        ]
        if new:
            number, token = torch.tensor(new, device=self._bans.device).T
            self._bans[number, token] = True
        return logits.masked_fill_(self._bans[self._numbers], -torch.inf)

    def _row_of(self, params: Any, prompt: list[int] | None, output: list[int]) -> _Row:
        asked = params.extra_args or {}
        number = self._free.pop()
        bans = self._bans[number]
        bans.copy_(self._never)
        if asked.get("may_end"):
            bans[EOS] = False
        if not asked.get("forbid_repeats"):
            return _Row(number, None)
        seen = [*(prompt or ()), *(asked.get("also_seen") or ())]
        bans[torch.tensor(seen, dtype=torch.int64, device=bans.device)] = True
        if self._room(bans) < params.max_tokens:
            # Nothing would be left to draw: such an answer the filter judges.
            bans.copy_(self._never)
            return _Row(number, None)
        return _Row(number, output)

    def _room(self, bans: Tensor) -> int:
        """Items that may still come."""
        return int((~bans[NUM_SPECIAL : self._num_words]).sum())


class _Row:
    """The row of bans of a request, and the output that it follows (None: it stays)."""

    def __init__(self, number: int, output: list[int] | None) -> None:
        self.number, self.output = number, output
        self._num_seen = 0

    def unseen(self) -> list[int]:
        assert self.output is not None
        new = self.output[self._num_seen :]
        self._num_seen += len(new)
        return new
