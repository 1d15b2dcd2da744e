"""A chat model as a judge of what comes next: strategy `choose`.

For users with few events (cold start) an LLM knows what no count knows: what the items are. It
is asked in prose, and only to choose: among candidates that people took together with what
the user had (cosine of co-occurrence in the training events), filled up with popular items.
The answer is one letter, one token that decoding is limited to, so nothing has to be parsed
and nothing outside the catalogue can come out.

The chat model is copied to `models/<digest>` below the root once, for all nights; `lm/<name>`
holds the neighbours of the items, and the chat model again where it is fine-tuned
(`llmaug.lm.chat.finetune`).
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.config import ChooseConfig, OfUsersConfig, StrategyConfig
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.semantic_ids import FIT_EVENTS, taken_items
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary
from llmaug.lm.chat.tokenizer import load_tokenizer
from llmaug.lm.folder import read_notes
from llmaug.lm.generator import Generator
from llmaug.lm.language import Language
from llmaug.lm.prompts import Prompts

NEIGHBOURS = "neighbours.parquet"
LETTERS = "ABCDEFGHIJKLMNOPQRST"
_NUM_NEIGHBOURS = 20
_ITEMS_AT_ONCE = 1_000  # whose neighbours are in memory together
_TEXTS = {
    "en": (
        "Somebody chose these, one after the other:\n{history}\n\n"
        "Which of these will they choose next?\n{candidates}\n\n"
        "Answer with one letter."
    ),
    "zh": (
        "一位用户先后选择了:\n{history}\n\n"
        "接下来这位用户最可能选择哪一个?\n{candidates}\n\n"
        "请只回答一个字母。"
    ),
}


def neighbours(storage: Storage, train: str, vocabulary: Vocabulary) -> pa.Table:
    """For each item the items that most of its users took, too: {items, scores} by cosine, in
    item order; of popularity for those without neighbours."""
    from scipy.sparse import diags

    taken, _ = taken_items(storage, train, vocabulary, FIT_EVENTS)
    taken.data[:] = 1
    count = np.asarray(taken.sum(0)).ravel()
    taken = taken @ diags(1 / np.sqrt(np.maximum(count, 1)))  # of an item with itself: 1
    by_item = taken.T.tocsr()
    items, scores = [], []
    for start in range(0, vocabulary.num_items, _ITEMS_AT_ONCE):
        shared = (by_item[start : start + _ITEMS_AT_ONCE] @ taken).tocsr()
        shared.sort_indices()
        for row, (begin, end) in enumerate(itertools.pairwise(shared.indptr.tolist())):
            others, score = shared.indices[begin:end], shared.data[begin:end]
            score = np.where(others == start + row, 0, score)
            best = np.argsort(-score, kind="stable")[:_NUM_NEIGHBOURS]
            best = best[score[best] > 0]
            items.append((others[best] + NUM_SPECIAL).tolist())
            scores.append(score[best].tolist())
    popular = np.argsort(-count, kind="stable")
    return pa.table(
        {"items": pa.array(items, pa.list_(pa.int32())),
         "scores": pa.array(scores, pa.list_(pa.float32())),
         "popular": pa.array((popular + NUM_SPECIAL).tolist(), pa.int32())}
    )  # fmt: skip


def letter_tokens(tokenizer: Any) -> list[int]:
    """The token of each letter. Raises UserError when one has no token of its own."""
    tokens = [tokenizer.encode(letter, add_special_tokens=False) for letter in LETTERS]
    if any(len(found) != 1 for found in tokens) or len({t[0] for t in tokens}) < len(LETTERS):
        raise UserError("lm.folder: the tokenizer has no token for each of the letters A to T")
    return [found[0] for found in tokens]


@dataclass(frozen=True)
class Choices(Prompts):
    """How a chat model is asked to choose, and its letters read back."""

    vocabulary: Vocabulary
    tokenizer: Any
    letters: list[int]
    frame: tuple[str, str]
    """What stands before and behind the question, by the model's chat template."""
    text: str
    table: pa.Table
    """As `neighbours` gives it."""

    def candidates(
        self,
        history: Sequence[int],
        num_candidates: int,
        rng: np.random.Generator,
        left_out: Collection[int] = (),
    ) -> list[int]:
        """Item tokens in the order in which they are shown, which is drawn: models like some
        letters better. Nothing of the history or of `left_out` is among them."""
        score: dict[int, float] = {}
        for token in history:
            if token >= 0:
                near, how = self._neighbours[token - NUM_SPECIAL]
                for other, value in zip(near, how, strict=True):
                    score[other] = score.get(other, 0.0) + value
        seen = {*history, *left_out}
        best = sorted((t for t in score if t not in seen), key=lambda t: (-score[t], t))
        chosen = best[:num_candidates]
        for token in self._popular:
            if len(chosen) >= num_candidates:
                break
            if token not in seen and token not in chosen:
                chosen.append(token)
        return [chosen[place] for place in rng.permutation(len(chosen))]

    def offered(
        self, strategy: OfUsersConfig, history: Sequence[int], rng: np.random.Generator
    ) -> list[int]:
        assert isinstance(strategy, ChooseConfig)
        return self.candidates(history, strategy.num_candidates, rng)

    def question(
        self,
        strategy: OfUsersConfig,
        history: Sequence[int],
        places: Sequence[int],
        user: Sequence[int] = (),
        candidates: Sequence[int] | None = None,
    ) -> list[int]:
        assert candidates is not None
        return self.choice(history, candidates)

    def choice(self, history: Sequence[int], candidates: Sequence[int]) -> list[int]:
        """The question as tokens; the oldest events are left out where it is too long."""
        known = [token for token in history if token >= 0]
        # The first that fits; a long history would be tokenised hundreds of times one by one.

        def fits(left_out: int) -> bool:
            return len(self._asked(known[left_out:], candidates)) < self.context_len

        left_out = 0 if fits(0) else bisect_left(range(len(known)), True, key=fits)
        return self._asked(known[left_out:], candidates)

    def _asked(self, known: Sequence[int], candidates: Sequence[int]) -> list[int]:
        content = _TEXTS[self.text].format(
            history="\n".join(f"- {self._name(token)}" for token in known),
            candidates="\n".join(
                f"{letter}. {self._name(token)}"
                for letter, token in zip(LETTERS, candidates, strict=False)
            ),
        )
        before, behind = self.frame
        return list(self.tokenizer.encode(before + content + behind, add_special_tokens=False))

    def events(
        self,
        strategy: StrategyConfig,
        tokens: Sequence[int],
        candidates: Sequence[int] | None = None,
    ) -> list[int]:
        """The item behind the letter; -1 for a letter that was not offered."""
        assert candidates is not None
        places = [self.letters.index(token) if token in self.letters else -1 for token in tokens]
        return [candidates[p] if 0 <= p < len(candidates) else -1 for p in places]

    def _name(self, token: int) -> str:
        row = token - NUM_SPECIAL
        tags = self._tags[row]
        title = self._titles[row] or self.vocabulary.item_ids[row]
        return f"{title} ({', '.join(tags[:4])})" if tags else title

    @cached_property
    def _titles(self) -> list[str | None]:
        return self.vocabulary.items["title"].to_pylist()

    @cached_property
    def _tags(self) -> list[list[str] | None]:
        return self.vocabulary.items["tags"].to_pylist()

    @cached_property
    def _neighbours(self) -> list[tuple[list[int], list[float]]]:
        columns = (self.table["items"].to_pylist(), self.table["scores"].to_pylist())
        return list(zip(*columns, strict=True))

    @cached_property
    def _popular(self) -> list[int]:
        return self.table["popular"].to_pylist()


def load_choices(storage: Storage, generator: Generator, vocabulary: Vocabulary) -> Choices:
    """How the chat model of a run is asked."""
    assert generator.side is not None
    return choices_in(storage, generator.side, vocabulary, generator.context_len)


def choices_in(storage: Storage, folder: str, vocabulary: Vocabulary, context_len: int) -> Choices:
    """How the chat model of `lm/<name>` (`folder`) is asked."""
    notes = read_notes(storage, folder, "instruct")
    if "frame" not in notes:
        raise UserError(
            f"{storage.uri(folder)}: made by an earlier version of llmaug; run stage lm anew there"
        )
    return Choices(
        language=Language(vocabulary.num_tokens),
        context_len=context_len,
        vocabulary=vocabulary,
        tokenizer=load_tokenizer(storage, notes["model_folder"], notes["model_digest"]),
        letters=notes["letters"],
        frame=tuple(notes["frame"]),
        text=notes["text"],
        table=storage.read_table(folder, NEIGHBOURS),
    )
