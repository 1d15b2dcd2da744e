"""Behaviour language models: what generates synthetic events.

The config class of a kind names the three things that are its own, so that the stages around them
need not know which one it is:

    training(context)     fit on the run's training events and save: a folder of plain files, whose
                          `llmaug.json` says what it is and for which vocabulary; returns facts with
                          `model_digest`
    asking(storage, generator, vocabulary)
                          `Prompts`: how it is asked about a history, how its answers are read
    answering(storage, generator, vocabulary)
                          what answers: a model of its own (`ByItself`) or vLLM (`InVllm`); a
                          UserError that says why a folder holds no such model
    chances(storage, generator, vocabulary)
                          of one that can do `next_chances`: what a worker calls with its number of
                          threads and whether it has a GPU, to load a `SaysChances`

    kind      trained in     asked in       answers in      what else is its own
    ngram     ngram.model    prompts        ngram.model     ngram.counts
    causal    causal.model   causal.asking  vLLM            causal.documents (batches)
    masked    masked.model   masked.asking  masked.completion  masked.masking (batches, prompts)
    instruct  chat.finetune  chat.choices   vLLM            chat.template

All share `train` (the stage), `task` (what the trainer asks of neural ones), `prompts`, `language`
(tokens and directions), `folder` (what is checked before a model is loaded) and `features` (item
tags and texts).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Request:
    """One question to a model, in tokens."""

    prompt: list[int]
    num_tokens: int
    """Length of the answer; an answer may be shorter only when no item is left."""
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    forbid_repeats: bool = False
    """No item of the prompt or of `also_seen`, and none twice."""
    also_seen: tuple[int, ...] = ()


class Answers(Protocol):
    """A model that answers by itself (n-gram, masked)."""

    def requests(self, units: Sequence[dict[str, Any]]) -> list[Request]:
        """What is asked for each row of UNIT."""

    def answer(self, requests: Sequence[Request]) -> list[list[int] | str]:
        """Tokens for each request, or `reason: detail` where it failed."""


class NextChances(NamedTuple):
    """Of T events of a history."""

    events: np.ndarray
    """(T,) int32, the events that came."""
    tokens: np.ndarray
    """(T, K) int32, the likeliest items in their stead, those first; -1 where there are fewer."""
    chances: np.ndarray
    """(T, K) float32, their probabilities among all items that may come."""


class SaysChances(Protocol):
    """A model that says which items could come, and how likely each is."""

    def chances(self, units: Sequence[dict[str, Any]]) -> list[NextChances]:
        """For each row of UNIT, the `top_k` likeliest items at the events of its prompt."""


@dataclass(frozen=True)
class ByItself:
    """A model that needs no vLLM."""

    load: Callable[[], Answers]
    """Called by each worker; picklable."""


@dataclass(frozen=True)
class InVllm:
    """A Hugging Face folder that vLLM serves."""

    folder: str
    version: str
    """Digest of the model."""
    num_tokens: int
    """Of the model, control tokens included."""
    letters: list[int] | None = None
    """Of a chat model: the tokens of the letters by which it chooses."""


def request_of(unit: dict[str, Any]) -> Request:
    """The request that a unit's own fields make."""
    sampling = unit["sampling"]
    return Request(
        prompt=list(unit["prompt"]),
        num_tokens=sampling["max_tokens"],
        seed=unit["seed"],
        temperature=sampling["temperature"],
        top_p=sampling["top_p"],
        top_k=sampling["top_k"],
        forbid_repeats=sampling["forbid_repeats"],
        also_seen=tuple(unit["also_seen"] or ()),
    )
