"""Logs with several actions: an event is the word of its action and then that of its item."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmaug.config import (
    ContinueConfig,
    FiltersConfig,
    NewUsersConfig,
    PrivacyConfig,
    StrategyConfig,
    parse_config,
)
from llmaug.core.stage import Context
from llmaug.filter.real_runs import item_keys, runs_of
from llmaug.filter.rules import Candidate, judge
from llmaug.items.semantic_ids import SemanticIds, Trie
from llmaug.items.vocabulary import BOS, EOS, NUM_SPECIAL
from llmaug.lm.language import Language, language_of
from tests.tables import VllmConfig, catalogue, events, histories, write_vocabulary

MakeContext = Callable[..., Context]
ACTIONS = ("view", "buy")
WORDS = replace(catalogue("abcd"), actions=ACTIONS)
VIEW_A, VIEW_B, VIEW_C, VIEW_D, BUY_A, BUY_B, BUY_C, BUY_D = range(3, 11)
# Items are 3 to 6, then come the controls, an attribute with two values, and the actions.
LANGUAGE = Language(7, True, (("age", ("old",)),), None, ACTIONS)
VIEW, BUY = 13, 14
ALL_PURCHASES = [BUY_A, BUY_B, BUY_C, BUY_D]


def test_an_event_is_an_action_with_an_item() -> None:
    logs = pa.concat_tables(
        [events(histories(u1="ab"), "view"), events(histories(u1="b?"), "buy"),
         events(histories(u1="a"), "return")]
    )  # fmt: skip
    assert WORDS.encode_events(logs).tolist() == [VIEW_A, VIEW_B, BUY_B, -1, -1]
    assert catalogue("abcd").encode_events(logs).tolist() == [3, 4, 4, -1, 3]  # items alone
    assert WORDS.decode_event(BUY_B) == ("b", "buy")
    assert catalogue("abcd").decode_event(VIEW_B) == ("b", None)
    for token in (BOS, -1, WORDS.num_event_tokens):
        assert WORDS.decode_event(token) == (None, None)


def test_events_are_spelled_and_read_back() -> None:
    assert LANGUAGE.num_tokens == 15 and LANGUAGE.word_len == 2
    assert LANGUAGE.action_words(["buy", "unheard of"]) == [BUY]
    assert [LANGUAGE.action_of(event) for event in (VIEW_D, BUY_A)] == [0, 1]
    assert Language(7).action_of(VIEW_D) == 0
    assert LANGUAGE.spell([VIEW_A, BUY_B]) == [VIEW, 3, BUY, 4]
    prompt = LANGUAGE.forward_prompt([VIEW_A, BUY_B], 12, LANGUAGE.user_tokens({"age": "old"}))
    assert prompt == [12, BOS, VIEW, 3, BUY, 4]
    answer = [VIEW, 3, BUY, 4]
    assert LANGUAGE.events("forward", answer) == [VIEW_A, BUY_B]
    assert LANGUAGE.events("reverse", answer) == [BUY_B, VIEW_A]  # newest first
    assert LANGUAGE.ids is not None
    # Two items, an attribute instead of an action, and a word without its other half.
    assert LANGUAGE.ids.read([3, 4, 12, 3, BUY, 6, VIEW]) == [-1, -1, BUY_D]
    assert language_of(json.loads(json.dumps(LANGUAGE.as_json())), None) == LANGUAGE


def test_in_large_catalogues_the_items_words_follow_the_action() -> None:
    items = SemanticIds(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]))
    language = Language(items.num_words, False, (), items, ACTIONS)
    assert language.word_len == 3 and language.num_tokens == items.num_words + 2
    view, buy = language.action_words(ACTIONS)
    assert language.spell([VIEW_A, BUY_D]) == [view, 3, 5, buy, 4, 6]
    assert language.ids is not None
    assert language.ids.read([view, 3, 5, buy, 4, 6, buy, 4, 4]) == [VIEW_A, BUY_D, -1]
    trie = Trie(language.ids)
    assert sorted(trie.allowed(np.array([0]))[1].tolist()) == [view, buy]
    assert language.ids.words[BUY_D - NUM_SPECIAL].tolist() == [buy, 4, 6]


def candidate(
    strategy: StrategyConfig,
    tokens: list[int],
    may_repeat: tuple[bool, ...],
    history: Sequence[int] = (),
) -> Candidate:
    return Candidate(
        unit_id="0",
        strategy=strategy,
        tokens=tokens,
        history=frozenset(history),
        num_items=4,
        may_repeat=may_repeat,
    )


def test_each_action_repeats_or_not() -> None:
    config = FiltersConfig(repeats={"view": "allow"})
    assert [config.may_repeat(action) for action in (*ACTIONS, "save")] == [True, False, False]
    tokens = [VIEW_A, VIEW_A, BUY_A, BUY_B, BUY_B, VIEW_B]
    found = candidate(ContinueConfig(), tokens, (True, False), history=[VIEW_A, BUY_A])
    assert judge(found, config.rules)[0] == [None, None, "repeated", None, "repeated", None]


def test_a_copy_is_a_copy_whatever_was_done_with_the_items() -> None:
    keys = item_keys(pa.array(["a", "b", "c", "d"]))
    real = runs_of([keys[:3]], PrivacyConfig(run_len=3))
    found = candidate(NewUsersConfig(), [BUY_A, BUY_B, BUY_C], (False, False))
    verdict = judge(replace(found, real_runs=real, item_keys=keys), FiltersConfig().rules)[1]
    assert verdict and verdict[0] == "copied"


def test_decoding_writes_events_and_repeats_what_may_repeat(tmp_path: Path) -> None:
    """The processor against random logits, asked as vLLM asks it."""
    import torch
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

    from llmaug.lm.causal.item_logits import ItemLogits
    from llmaug.lm.folder import NOTES

    (tmp_path / NOTES).write_text(json.dumps({"language": LANGUAGE.as_json()}))
    config: Any = VllmConfig(str(tmp_path), LANGUAGE.num_tokens)
    processor = ItemLogits(config, torch.device("cpu"), False)
    extra: dict[str, Any] = {"forbid_repeats": True, "also_seen": [BUY_A], "may_repeat": [VIEW]}
    output: list[int] = []
    asked = SamplingParams(max_tokens=80, extra_args=extra)
    update = BatchUpdate(1, removed=[], added=[(0, asked, [BOS], output)], moved=[])
    processor.update_state(update)
    torch.manual_seed(0)
    for _ in range(80):
        logits = processor.apply(torch.randn(1, LANGUAGE.num_tokens))
        assert logits[0, EOS] == -torch.inf
        output.append(int(torch.multinomial(logits.softmax(-1), 1)))
    assert LANGUAGE.ids is not None
    written = LANGUAGE.ids.read(output)
    assert len(written) == 40 and -1 not in written
    bought = [event for event in written if event >= BUY_A]
    assert sorted(bought) == [BUY_B, BUY_C, BUY_D]  # each once: then buying is closed
    assert len(written) - len(bought) > 4  # views come again


def test_a_model_learns_what_follows_which_action(
    make_context: MakeContext,
) -> None:
    """A view is followed by a purchase, and that by a view of another item."""
    import torch

    from llmaug.lm.causal.training import CausalTask
    from llmaug.training.loop import make_optimiser, train_step

    lm = {"hidden_size": 32, "num_heads": 1, "num_layers": 1, "context_len": 16, "dropout": 0,
          "warmup_steps": 0, "learning_rate": 1e-2, "weight_decay": 0,
          "batch_size": 16}  # fmt: skip
    context = make_context(lm=lm)
    write_vocabulary(
        context, catalogue("abcd", train_events=dict.fromkeys("abcd", 8)), {"actions": [*ACTIONS]}
    )
    rng = np.random.default_rng(0)
    rows = []
    for user in range(16):
        for number, item in enumerate(rng.permutation(list("abcd"))):
            for place, action in enumerate(ACTIONS):
                [row] = events([(f"u{user:02}", item, 2 * number + place)], action).to_pylist()
                rows.append(row)
    split = context.folder("split")
    table = pa.Table.from_pylist(rows, schema=events([]).schema)
    context.storage.write_part(table, {}, f"{split}/train", "p0")
    held_out = events([("u00", "a", 9), ("u01", "b", 9)], "view")
    context.storage.write_part(held_out, {}, f"{split}/validation", "p0")
    folders = {"model": "lm", "split": split, "vocabulary": context.folder("vocabulary")}
    folders["ingest/users"] = context.folder("ingest/users")
    torch.manual_seed(0)
    task = CausalTask(context.storage, folders, context.config)
    language = task.model.language
    assert language.actions == ACTIONS and task.metric == "log_likelihood"
    assert task.validate() < 0
    optimiser = make_optimiser(task.model, context.config.lm)
    for step in range(60):
        train_step(task, task.model, optimiser, context.config.lm, 7, step)
    task.model.eval()
    prompts = [language.forward_prompt(history, 16) for history in ([VIEW_A], [VIEW_A, BUY_A])]
    for prompt, likely in zip(prompts, (ALL_PURCHASES, [VIEW_B, VIEW_C, VIEW_D]), strict=True):
        with torch.no_grad():
            found = task.model.log_likelihood(
                [prompt] * len(likely), [language.spell([event]) for event in likely]
            )
        assert found.exp().sum() > 0.6


def test_without_action_tokens_an_event_is_its_item(make_context: MakeContext) -> None:
    from llmaug.lm.causal.training import CausalTask

    context = make_context(lm={"action_tokens": False})
    words = catalogue("abcd", train_events=dict.fromkeys("abcd", 1))
    write_vocabulary(context, words, {"actions": [*ACTIONS]})
    for fold in ("train", "validation"):
        table = pa.concat_tables(
            [events(histories(u1="ab"), "view"), events(histories(u2="cd"), "buy")]
        )
        context.storage.write_part(table, {}, f"{context.folder('split')}/{fold}", "p0")
    names = ("split", "vocabulary", "ingest/users")
    folders = {"model": "lm"} | {name: context.folder(name) for name in names}
    task = CausalTask(context.storage, folders, context.config)
    assert task.model.language == Language(words.num_tokens)


def test_a_rule_for_repeats_that_is_none_is_refused() -> None:
    with pytest.raises(Exception, match="repeats"):
        parse_config({"filters": {"repeats": {"view": "sometimes"}}})
