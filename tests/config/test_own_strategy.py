"""Strategies and behaviour models by kind: one of one's own is planned, a field of another kind
is an error, and a variant of another kind keeps what both have."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmaug.config import NgramConfig, OfUsersConfig, load_config, parse_config
from llmaug.errors import UserError
from llmaug.items.vocabulary import BOS
from llmaug.lm.causal.asking import CausalPrompts
from llmaug.lm.language import Language
from llmaug.lm.masked.asking import MaskedPrompts

MODULE = '''
from typing import Literal

from llmaug.config import OfUsersConfig


class LastConfig(OfUsersConfig):
    """The last events of a history, replaced by others."""

    needs = "infill"
    replaces = True

    kind: Literal["shop_strategies:LastConfig"] = "shop_strategies:LastConfig"
    num_events: int = 2
    mood: str = "calm"

    @property
    def min_history_len(self):
        return self.num_events + 1

    def draw_places(self, history_len, rng):
        return list(range(history_len - self.num_events, history_len))
'''
LAST = {"kind": "shop_strategies:LastConfig", "mood": "wild"}
INFILLS = {"directions": {"forward": 1, "infill": 1}}


@pytest.fixture(autouse=True)
def shop_strategies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module, where Python finds it."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/shop_strategies.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield
    sys.modules.pop("shop_strategies", None)


def refusal(raw: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        parse_config(raw, "night.yaml")
    return caught.value.message


def test_a_strategy_of_ones_own_survives_the_dump_and_is_asked() -> None:
    config = parse_config({"lm": INFILLS, "plan": {"strategies": [LAST]}})
    dumped = config.model_dump(mode="json")
    assert dumped["plan"]["strategies"][0].items() >= LAST.items()
    assert parse_config(dumped) == config
    [last] = config.plan.strategies
    assert isinstance(last, OfUsersConfig) and last.replaces
    language, history = Language(13, has_directions=True), [3, 4, 5, 6]
    prompts, rng = CausalPrompts(language, 20), np.random.default_rng(0)
    places = prompts.draw_places(last, 4, rng)
    assert places == [2, 3]
    infill, suffix, middle = language.infill, language.suffix, language.middle
    assert prompts.question(last, history, places) == [infill, 3, 4, suffix, middle]
    masked = MaskedPrompts(Language(13), 20)  # draws no places of its own for it
    assert masked.draw_places(last, 4, rng) == places
    assert masked.question(last, history, places) == [BOS, 3, 4, 13, 13]


def test_it_is_refused_where_the_model_cannot_do_what_it_needs() -> None:
    plan = {"strategies": [LAST]}
    assert "needs a model that reads infill" in refusal({"plan": plan})
    message = refusal({"lm": {"model": "ngram"}, "plan": plan})
    assert "nothing that lm.model ngram can do; it can do continue, new_users" in message


@pytest.mark.parametrize("kind", ["substitutes", "replace", "shop_strategies:Nothing"])
def test_an_unknown_strategy_never_becomes_another(kind: str) -> None:
    message = refusal({"lm": INFILLS, "plan": {"strategies": [{"kind": kind}]}})
    assert message.startswith("night.yaml: plan.strategies.0") and kind in message


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"lm": {"model": "ngram", "num_steps": 5}},
         "lm.num_steps: a field of model causal or masked or instruct; model ngram has none"),
        ({"lm": {"order": 2}}, "lm.order: a field of model ngram; model causal has none"),
        ({"plan": {"strategies": [{"kind": "continue", "num_users": 5}]}},
         "num_users: a field of kind new_users; kind continue has none"),
        ({"lm": {"model": "bigram"}}, "there are causal, masked, ngram, instruct"),
    ],
)  # fmt: skip
def test_what_another_kind_has_is_told_with_its_name(raw: dict[str, Any], told: str) -> None:
    assert told in refusal(raw)


def test_a_variant_of_another_kind_keeps_what_both_have(tmp_path: Path) -> None:
    base = "name: base\nlm: {model: causal, hidden_size: 64, context_len: 32}\n"
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "ngram.yaml").write_text("base: base.yaml\nlm: {model: ngram, order: 2}\n")
    assert load_config(tmp_path / "ngram.yaml").lm == NgramConfig(context_len=32, order=2)
