"""The contract of a behaviour model: `llmaug.lm` says what each part of it is for.

It is trained on six users of two tastes, through the stages' own functions, in a folder of its own.
"""

from __future__ import annotations

import pickle
import tempfile
from typing import Any, get_args

from llmaug.config import (
    BEHAVIOUR_MODELS,
    STRATEGIES,
    Ability,
    Config,
    LmConfig,
    NewUsersConfig,
    StorageConfig,
    Strategy,
    imported,
)
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary
from llmaug.lm import Answers, ByItself, InVllm
from llmaug.lm.generator import Generator, generator_of, prompts_of, repeatable, vocabulary_of
from llmaug.lm.prompts import Prompts
from llmaug.plan.unit_maker import UnitMaker
from llmaug.testing.configs import check_config
from llmaug.testing.tables import catalogue, events, histories, write_finished, write_vocabulary

TAGS = {"a": ["x"], "b": ["x"], "c": ["x"], "d": ["y"], "e": ["y"], "f": ["y"], "g": ["y"]}
_HISTORIES = {"u1": "abc", "u2": "bca", "u3": "cab", "u4": "def", "u5": "efd", "u6": "fdeg"}
_HELD_OUT = {"u1": "d", "u4": "g"}


def check_behaviour_model(config: LmConfig) -> None:
    """Raises AssertionError that says what is wrong with the behaviour model of `config`.

    config: of a small one that trains for few steps. One that vLLM serves is trained and asked,
    and not answered: whole runs are for that. Ray is started where training needs it.
    """
    check_config(BEHAVIOUR_MODELS, config, "training", "asking", "answering")
    abilities, known = config.abilities, get_args(Ability)
    assert abilities and set(abilities) <= set(known), (
        f"{type(config).__name__}.abilities must be some of {', '.join(known)}, and is {abilities}"
    )
    with tempfile.TemporaryDirectory() as root:
        context = _context(config, root)
        generator = _trained(config, context)
        vocabulary = vocabulary_of(context.storage, generator)
        prompts = prompts_of(context.storage, generator)
        assert isinstance(prompts, Prompts), (
            f"asking {config.asking} must return llmaug.lm.prompts.Prompts, not {prompts!r}"
        )
        served = imported(config.answering)(context.storage, generator, vocabulary)
        assert isinstance(served, ByItself | InVllm), (
            f"answering {config.answering} must return ByItself or InVllm of llmaug.lm, not "
            f"{served!r}"
        )
        model: Answers | None = None
        if isinstance(served, ByItself):
            model = pickle.loads(pickle.dumps(served)).load()
        else:
            _check_folder(context.storage, served, vocabulary)
        for strategy in _strategies(config):
            units = _units(context, generator, strategy)
            for unit in units:
                _check_prompt(config, strategy, unit)
            if model:
                _check_answers(model, prompts, strategy, units, vocabulary)


def _context(config: LmConfig, root: str) -> Context:
    """Of a run in which the stages before training have happened."""
    whole = Config(lm=config, storage=StorageConfig(root=root), seed=7)
    context = Context(Storage(root), whole, "test")
    rows = histories(**_HISTORIES)
    held_out = [(user, item, 9.0) for user, item in _HELD_OUT.items()]
    for fold, table in (("train", events(rows)), ("validation", events(held_out))):
        context.storage.write_part(table, {}, context.folder(f"split/{fold}"), "part-00000")
    counts = {letter: sum(item == letter for _, item, _ in rows) for letter in TAGS}
    write_vocabulary(context, catalogue(list(TAGS), TAGS, counts), {})
    write_finished(context, "split", train=len(rows))
    return context


def _trained(config: LmConfig, context: Context) -> Generator:
    facts: Any = imported(config.training)(context)
    assert isinstance(facts, dict) and isinstance(facts.get("model_digest"), str), (
        f"training {config.training} must return facts with `model_digest`, a digest of what it "
        f"wrote, and returned {facts!r}"
    )
    write_finished(context, f"lm/{config.name}", **facts)
    return generator_of(context)


def _check_folder(storage: Storage, served: InVllm, vocabulary: Vocabulary) -> None:
    there = storage.names(served.folder)
    assert "config.json" in there and any(name.endswith(".safetensors") for name in there), (
        f"what vLLM serves is a Hugging Face folder with config.json and safetensors; "
        f"{served.folder} has {sorted(there)}"
    )
    assert served.num_tokens >= vocabulary.num_tokens or served.letters, (
        f"num_tokens must be those of the model, the {vocabulary.num_tokens} of the vocabulary "
        f"among them, and is {served.num_tokens}"
    )


def _strategies(config: LmConfig) -> list[Any]:
    """Those that come with llmaug and that the model says it can answer."""
    able = [
        STRATEGIES.make({"kind": kind.model_fields["kind"].default, "num_events": 2})
        for kind in STRATEGIES
        if kind.needs in config.abilities and kind.needs not in ("choice", "next_chances")
    ]
    return [strategy for strategy in able if not config.lacks(strategy.needs)]


def _units(context: Context, generator: Generator, strategy: Strategy) -> list[dict[str, Any]]:
    maker = UnitMaker(context.storage, generator, 7, repeatable(context, generator), None)
    if isinstance(strategy, NewUsersConfig):
        return [maker.new_user(strategy, sample) for sample in range(4)]
    vocabulary = vocabulary_of(context.storage, generator)
    tokens = {user: [3 + ord(item) - ord("a") for item in own] for user, own in _HISTORIES.items()}
    assert max(max(own) for own in tokens.values()) < vocabulary.num_tokens
    return [maker.of_user(strategy, user, own, 0, None) for user, own in tokens.items()]


def _check_prompt(config: LmConfig, strategy: Strategy, unit: dict[str, Any]) -> None:
    prompt, room = unit["prompt"], config.context_len
    assert prompt and all(type(token) is int and token >= 0 for token in prompt), (
        f"a prompt must be a list of token ids, one at least; {strategy.kind} is asked {prompt!r}"
    )
    assert len(prompt) <= room, (
        f"{strategy.kind} is asked in {len(prompt)} tokens, and lm.context_len is {room}"
    )


def _check_answers(
    model: Answers,
    prompts: Prompts,
    strategy: Strategy,
    units: list[dict[str, Any]],
    vocabulary: Vocabulary,
) -> None:
    kind = strategy.kind
    answers = model.answer(model.requests(units))
    assert len(answers) == len(units), (
        f"answer must give one for each of {len(units)} requests, and gave {len(answers)}"
    )
    alone = [model.answer(model.requests([unit]))[0] for unit in units]
    assert answers == alone, (
        f"{kind}: an answer depends on its own request and seed, not on its company: beside others "
        f"{answers}, alone {alone}"
    )
    for unit, answer in zip(units, answers, strict=True):
        assert isinstance(answer, list), (
            f"{kind}: asked {unit['prompt']} it fails: {answer!r}"
            if isinstance(answer, str)
            else f"{kind}: an answer is a list of tokens or `reason: detail`, not {answer!r}"
        )
        found = prompts.events(strategy, answer, unit["candidates"])
        assert 0 < len(found) <= strategy.num_events, (
            f"{kind}: {strategy.num_events} events were asked for, and the answer {answer} has "
            f"{len(found)}"
        )
        end = NUM_SPECIAL + vocabulary.num_items * max(1, len(vocabulary.actions))
        assert all(NUM_SPECIAL <= token < end for token in found), (
            f"{kind}: events must be tokens from {NUM_SPECIAL} to {end - 1}, and are {found}"
        )
        seen = set(unit["prompt"]) | set(unit["also_seen"] or ())
        assert len(set(found)) == len(found) and not seen & set(found), (
            f"{kind}: with forbid_repeats no event of the prompt {unit['prompt']} may come again, "
            f"and none twice: {found}"
        )
