"""Texts about health: what is refused, what is marked, and which questions are not asked at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmaug.config import TextConfig, load_config
from llmaug.errors import UserError
from llmaug.text.filters import verdict
from llmaug.text.rows import row_of
from llmaug.text.safety import unsafe
from llmaug.text.task import Task, task_of
from tests.text.chat import items
from tests.text.test_custom import MOOD, config

CORPUS = yaml.safe_load((Path(__file__).parent / "safety_corpus.yaml").read_text(encoding="utf-8"))
SENTENCES = [(text, kind) for kind, texts in CORPUS.items() for text in texts]


@pytest.mark.parametrize(("sentence", "kind"), SENTENCES)
def test_each_sentence_of_the_corpus_is_judged(sentence: str, kind: str) -> None:
    assert unsafe(sentence) == (None if kind == "allowed" else kind)
    assert unsafe(f"A piece about health. {sentence} It is short.") == unsafe(sentence)


def described(**text: Any) -> Task:
    tasks = [{"kind": "describe_items"}]
    section = TextConfig.model_validate({"folder": "chat", "tasks": tasks, **text})
    return task_of(section, section.tasks[0])


def test_the_reason_is_that_of_the_answer() -> None:
    said = json.dumps({"description": CORPUS["unsafe_dosage"][0], "tags": ["pain"]})
    for safety, reason in (("health", "unsafe_dosage"), ("none", None)):
        task = described(safety=safety)
        [row] = task.rows(items(["Headaches"]))
        refused = verdict(task, row, said, 30)[1]
        assert (refused and refused[0]) == reason


@pytest.mark.parametrize(
    ("language", "mark"), [("en", "[synthetic, not advice]"), ("zh", "[合成内容, 非医疗建议]")]
)
def test_what_is_kept_says_what_it_is(language: str, mark: str) -> None:
    task = described(safety="health", tasks=[{"kind": "describe_items", "language": language}])
    [row] = task.rows(items(["Headaches"]))
    made = row_of(task, row, {"description": "About headaches.", "tags": ["pain"]})
    assert made["description"] == f"About headaches. {mark}" and made["tags"][1:] == ["about:pain"]
    custom = config({**MOOD, "language": language}, safety="health").text
    own = task_of(custom, custom.tasks[0])
    answer = {"mood": "sad", "why": "it rains", "age": 3, "for": []}
    assert row_of(own, own.rows(items(["A"]))[0], answer)["why"] == f"it rains {mark}"


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "array", "items": {"type": "string"}}, ["Drink water.", "HERE"]),
        ({"type": "object"}, {"first": {"then": ["HERE"]}}),
        ({"type": "string", "pattern": "[.]$"}, "HERE"),
    ],
)
def test_advice_and_addresses_hide_in_no_list_and_no_object(schema: Any, said: Any) -> None:
    properties = {"type": "object", "properties": {"tips": schema}}
    section = config({**MOOD, "json_schema": properties}, safety="health").text
    own, answer = task_of(section, section.tasks[0]), json.dumps({"tips": said})
    [row] = own.rows(items(["Headaches"]))
    dose, address = CORPUS["unsafe_dosage"][0], "Mail bob.smith@example.com about it."
    for text, reason in ((dose, "unsafe_dosage"), (address, "personal_data")):
        assert verdict(own, row, answer.replace("HERE", text), 30)[1] == (reason, text)
    kept, refused = verdict(own, row, answer.replace("HERE", "Rest in the shade."), 30)
    assert kept is not None and refused is None
    assert "Rest in the shade. [synthetic, not advice]" in row_of(own, row, kept)["tips"]


@pytest.mark.parametrize(
    "template",
    ["Which dose of {{ title }} shall one take?", "Diagnose the reader of {{ title }}.",
     "Give medication advice on {{ title }}.", "{{ title }}: 应该吃什么药?",
     "{{ title }}的剂量是多少?"],
)  # fmt: skip
def test_questions_about_medicines_are_refused_before_anything_runs(template: str) -> None:
    config({**MOOD, "template": template})
    with pytest.raises(UserError, match=r"mood asks for advice on medicines or illness \("):
        config({**MOOD, "template": template}, safety="health")
    with pytest.raises(UserError, match=r"text\.safety: health refuses"):
        config({**MOOD, "judge": {"template": template}}, safety="health")


def test_the_health_preset_is_safe_by_default() -> None:
    assert load_config("configs/health.yaml").text.safety == "health"
