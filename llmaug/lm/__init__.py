"""Behaviour language models: what generates synthetic events.

One small protocol for all of them, so that the stages around them need not know which one
it is:

    train.run(context)         fit on the run's training events and save: a folder of plain
                               files, whose `llmaug.json` says what it is and for which
                               vocabulary; returns facts with `model_digest`
    models.check_model         a UserError that says why a folder holds no such model
    models.load_answers        the finished model of a folder, ready to answer
    model.requests(units)      what is asked for each unit (a Request)
    model.answer(requests)     tokens for each request, or `reason: detail` where it failed;
                               a causal model is answered by vLLM instead
    model.events(outcome)      the answered tokens as item tokens in time order

    kind      trained in   at work in     what else is its own
    ngram     ngram        ngram          ngram_counts
    causal    causal       vLLM           language (directions, prompts), documents (batches)
    masked    masked       completion     masking (batches, prompts)

All share `train` (the stage), `prompts` (what is asked about a history), `folder` (what is
checked before a model is loaded), `features` (item tags and texts) and `sampling` (how numpy models
draw).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


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


class Requests(Protocol):
    """The half of the protocol that needs no weights: a driver can do it."""

    def requests(self, units: Sequence[dict[str, Any]]) -> list[Request]:
        """What is asked for each row of UNIT."""

    def events(self, outcome: dict[str, Any]) -> list[int]:
        """Item tokens of a row of OUTCOME in time order."""


class Answers(Requests, Protocol):
    """A model that answers by itself (n-gram, masked)."""

    def answer(self, requests: Sequence[Request]) -> list[list[int] | str]:
        """Tokens for each request, or `reason: detail` where it failed."""


def package_of(model: str) -> str:
    """The package with what only models of kind `lm.model` need."""
    return f"llmaug.lm.{'chat' if model == 'instruct' else model}"


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
