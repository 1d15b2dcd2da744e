"""What may come out of a causal model in vLLM: a logits processor on its engine.

Only items, and EOS where a gap may end early; with repeats forbidden, no item of the history
and none twice; where items live for a time, none that was gone before another one came. Forbidden
in decoding, nothing has to be thrown away afterwards. Where events
are paths of words (semantic_ids.py, actions.py), only words that lead to one are allowed; what
is said here of items then holds for these.

Shapes: B requests in the batch, V tokens.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

from llmaug.core.formats import LANGUAGE_MODEL
from llmaug.core.storage import Storage
from llmaug.items.lives import Lives, read_lives
from llmaug.items.semantic_ids import SemanticIds, Trie, read_ids
from llmaug.items.vocabulary import EOS, NUM_SPECIAL
from llmaug.lm.actions import ActionIds
from llmaug.lm.folder import NOTES
from llmaug.lm.language import language_of


class ItemLogits(LogitsProcessor):
    """Knows the requests of the batch; `_Items` or `_Paths` know what each may draw."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        model = vllm_config.model_config
        path = Path(model.model, NOTES)
        notes = LANGUAGE_MODEL.upgraded(json.loads(path.read_text(encoding="utf-8")), str(path))
        language = language_of(notes["language"], read_ids(Storage(model.model)))
        if language.ids is None:
            num_rows, num_tokens = vllm_config.scheduler_config.max_num_seqs, model.get_vocab_size()
            lives = read_lives(Storage(model.model))
            self._rules: Any = _Items(num_rows, language.num_words, num_tokens, device, lives)
        else:
            self._rules = _Paths(language.ids)
        self._requests: dict[int, Any] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        if batch_update is None:
            return
        requests, rules = self._requests, self._rules
        for place in [*batch_update.removed, *(added[0] for added in batch_update.added)]:
            if place in requests:
                rules.end(requests.pop(place))
        for place, params, prompt, output in batch_update.added:
            asked = {"max_tokens": params.max_tokens, **(params.extra_args or {})}
            requests[place] = rules.begin(asked, prompt or [], output)
        for here, there, direction in batch_update.moved:
            moved, other = requests.pop(here, None), requests.pop(there, None)
            if moved is not None:
                requests[there] = moved
            if other is not None and direction == MoveDirectionality.SWAP:
                requests[here] = other
            elif other is not None:
                rules.end(other)

    def apply(self, logits: Tensor) -> Tensor:
        """(B, V) in place."""
        return self._rules.apply(logits, [self._requests[row] for row in sorted(self._requests)])


class _Items:
    """An item is one token: bans by request, kept up to date token by token."""

    def __init__(
        self,
        num_rows: int,
        num_words: int,
        num_tokens: int,
        device: torch.device,
        lives: Lives | None = None,
    ) -> None:
        self._num_words, self._lives = num_words, lives
        self._ends = torch.tensor(lives.end, device=device) if lives else None
        self._never = torch.zeros(num_tokens, dtype=torch.bool, device=device)
        self._never[:NUM_SPECIAL] = True
        self._never[num_words:] = True
        self._bans = self._never.repeat(num_rows, 1)
        self._free = list(range(num_rows))

    def begin(self, asked: dict[str, Any], prompt: list[int], output: list[int]) -> _Request:
        number = self._free.pop()
        bans = self._bans[number]
        bans.copy_(self._never)
        if asked.get("may_end"):
            bans[EOS] = False
        lives = bool(self._lives and asked.get("in_order"))
        request = _Request(number, output if lives else None, lives=lives)
        if lives:
            for token in prompt:
                self._follow(request, token)
        if not asked.get("forbid_repeats"):
            return request
        seen = [*prompt, *(asked.get("also_seen") or ())]
        before = bans.clone()
        bans[torch.tensor(seen, dtype=torch.int64, device=bans.device)] = True
        if int((~bans[NUM_SPECIAL : self._num_words]).sum()) < asked["max_tokens"]:
            bans.copy_(before)  # not enough items are left: the filter judges such an answer
            return request
        request.output, request.forbids_repeats = output, True
        return request

    def end(self, request: _Request) -> None:
        self._free.append(request.number)

    def apply(self, logits: Tensor, requests: list[_Request]) -> Tensor:
        new = []
        for request in requests:
            for token in request.unseen():
                if request.forbids_repeats:
                    new.append((request.number, token))
                if request.lives:
                    self._follow(request, token)
        device = self._bans.device
        if new:
            number, token = torch.tensor(new, device=device).T
            self._bans[number, token] = True
        rows = torch.tensor([request.number for request in requests], device=device)
        if self._lives:  # where nothing is left, anything: the filter judges it
            for row in rows[self._bans[rows].all(1)]:
                self._bans[row] = self._never
        return logits.masked_fill_(self._bans[rows], -torch.inf)

    def _follow(self, request: _Request, token: int) -> None:
        """A token of the prompt or of the answer: what was gone before it came cannot follow."""
        assert self._lives is not None and self._ends is not None
        begin, _ = self._lives.span(token)
        if begin > request.now:
            request.now = begin
            self._bans[request.number, : self._num_words] |= self._ends < begin


class _Request:
    """The row of bans of a request, and the output that it follows (None: it stays)."""

    def __init__(self, number: int, output: list[int] | None, lives: bool = False) -> None:
        self.number, self.output, self.lives = number, output, lives
        self.forbids_repeats = False
        self.now = -math.inf
        """When the newest of its items came, in seconds since 1970."""
        self._num_seen = 0

    def unseen(self) -> list[int]:
        if self.output is None:
            return []
        new = self.output[self._num_seen :]
        self._num_seen += len(new)
        return new


class _Paths:
    """An item is a path of words: each request stands at some node of the trie of all items."""

    def __init__(self, ids: SemanticIds | ActionIds) -> None:
        self._trie, self._ids = Trie(ids), ids

    def begin(self, asked: dict[str, Any], prompt: list[int], output: list[int]) -> _Walk:
        walk = _Walk(
            output, bool(asked.get("may_end")), bool(asked.get("forbid_repeats")),
            frozenset(asked.get("may_repeat") or ()),
        )  # fmt: skip
        for item in asked.get("also_seen") or () if walk.forbids_repeats else ():
            self._close(walk, item - NUM_SPECIAL)
        return walk

    def end(self, request: _Walk) -> None:
        pass

    def apply(self, logits: Tensor, requests: list[_Walk]) -> Tensor:
        self._follow(requests)
        nodes = np.array([walk.node for walk in requests])
        rows, words = self._trie.allowed(nodes)
        bans = np.ones(logits.shape, bool)
        bans[rows, words] = False
        for row, walk in enumerate(requests):
            closed = walk.closed.get(walk.node)
            # With everything taken, the filter judges what comes.
            if closed and len(closed) < self._trie.num_words(walk.node):
                bans[row, closed] = True
            if walk.may_end and walk.node == 0 and walk.num_items:
                bans[row, EOS] = False
        return logits.masked_fill_(torch.from_numpy(bans).to(logits.device), -torch.inf)

    def _follow(self, requests: list[_Walk]) -> None:
        """One new word of each request at a time; more come when a request was resumed."""
        waiting = [walk for walk in requests if walk.num_seen < len(walk.output)]
        while waiting:
            words = np.array([walk.output[walk.num_seen] for walk in waiting])
            nodes = self._trie.after(np.array([walk.node for walk in waiting]), words)
            for walk, node in zip(waiting, nodes.tolist(), strict=True):
                walk.num_seen += 1
                walk.node = node
                if node >= self._trie.num_nodes:
                    walk.node = 0
                    walk.num_items += 1
                    if walk.forbids_repeats:
                        self._close(walk, node - self._trie.num_nodes)
            waiting = [walk for walk in waiting if walk.num_seen < len(walk.output)]

    def _close(self, walk: _Walk, item: int) -> None:
        """Ban an item: its last word, and further up where that was the last way on."""
        path, words = self._trie.path[item].tolist(), self._ids.words[item].tolist()
        if words[0] in walk.may_repeat:
            return
        for node, word in zip(reversed(path), reversed(words), strict=True):
            closed = walk.closed.setdefault(node, [])
            if word not in closed:
                closed.append(word)
            if len(closed) < self._trie.num_words(node):
                return


@dataclass
class _Walk:
    """How far a request is."""

    output: list[int]
    may_end: bool
    forbids_repeats: bool
    may_repeat: frozenset[int]
    """First words whose items may come again."""
    closed: dict[int, list[int]] = field(default_factory=dict)
    """{node: words that lead to taken items only}"""
    node: int = 0
    num_seen: int = 0
    num_items: int = 0
