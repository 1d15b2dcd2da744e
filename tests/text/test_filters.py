"""What is refused of a small model's answers, and why."""

from __future__ import annotations

import json

import pytest

from llmaug.config import DescribeItemsConfig, ExplainConfig, RerankConfig, TextConfig
from llmaug.text.filters import is_in_language, repeats_itself, verdict
from llmaug.text.task import Task, task_of
from tests.text.chat import items

GOOD = "A funny film about toys that come alive when nobody looks."


def judged(description: str, language: str = "en", title: str = "Toy Story (1995)") -> str | None:
    task: Task = task_of(TextConfig(), DescribeItemsConfig(language=language))
    [row] = task.rows(items([title]))
    said = json.dumps({"description": description, "tags": ["toys"]}, ensure_ascii=False)
    _, refused = verdict(task, row, said, 50)
    return refused and refused[0]


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (GOOD, None),
        ("1995 . . . 1995 . . . 1995", "empty_text"),
        ("Toy Story (1995), Toy Story (1995)", "copied_from_prompt"),
        ("One or two plain sentences that say what the item is about", "copied_from_prompt"),
        ("the toys are the best of the best of the best of the best of the best", "repetitive"),
        ("这是一部关于玩具的动画电影, 讲述友谊与冒险。", "wrong_language"),
        ("Read more about this film at https://films.example", "markup"),
        ("<|im_start|>system You are a pirate who says this", "markup"),
        ("A film whose title is {{ title }} and nothing else", "markup"),
        ("Because of its hero, {name}, it is a film like no other", "markup"),
        ("A story about [insert subject here] and their friends", "markup"),
        ("A film about sets {1, 2} and [two] friends who count them", None),
    ],
)
def test_a_reason_for_each_kind_of_nonsense(description: str, reason: str | None) -> None:
    assert judged(description) == reason


def test_chinese_answers_are_chinese() -> None:
    good = "一部讲述玩具们在无人时苏醒并展开冒险的动画片, 适合全家观看。"
    assert judged(good, "zh", "玩具总动员") is None
    assert judged(GOOD, "zh", "玩具总动员") == "wrong_language"
    copied = "用自己的话写一两句中文, 说明它的内容。"
    assert judged(copied, "zh", "玩具总动员") == "copied_from_prompt"


def test_names_of_other_scripts_are_no_other_language() -> None:
    assert is_in_language("A Russian film, also known as Сталкер, of 1979", "en")
    assert is_in_language("2001", "en") and is_in_language("R2-D2", "zh")
    assert is_in_language("由 Pixar 制作的动画片 Toy Story", "zh")


@pytest.mark.parametrize(
    ("said", "num_tokens", "reason"),
    [
        ('{"description": "A film about', 320, "too_long"),
        ('{"description": "A film about', 20, "unparsable"),
        ("[]", 2, "unparsable"),
        ("NaN", 2, "unparsable"),
        ("", 0, "unparsable"),
        (json.dumps({"description": GOOD, "tags": ["x"] * 9}), 60, "unparsable"),
        (json.dumps({"description": GOOD, "tags": ["x"], "more": 1}), 60, "unparsable"),
        ("[" * 100_000, 20, "unparsable"),
    ],
)
def test_what_is_no_answer_by_the_schema(said: str, num_tokens: int, reason: str) -> None:
    task = task_of(TextConfig(), DescribeItemsConfig())
    [row] = task.rows(items(["A film"]))
    answer, refused = verdict(task, row, said, num_tokens)
    assert answer is None and refused[0] == reason and len(refused[1]) <= 300


def test_raw_control_characters_are_read_and_taken_out() -> None:
    """Decoding by a schema lets them through."""
    task = task_of(TextConfig(), DescribeItemsConfig())
    [row] = task.rows(items(["A film"]))
    said = f'{{"description": "{GOOD[:-1]}\n\t or \x07so.", "tags": ["x"]}}'
    answer, refused = verdict(task, row, said, 20)
    assert answer is not None and refused is None
    assert task.to_row(row, answer)["description"] == f"{GOOD[:-1]} or so."


def test_numbers_in_an_answer_are_whole_however_they_are_written() -> None:
    """1.0 is an integer to a JSON schema, and to Python none that names an item of a list."""
    best = task_of(TextConfig(), RerankConfig()).parse('{"best": [2.0, 1e0]}')["best"]
    why = '{"because": [1.0], "sentence": "You saw it."}'
    [because] = task_of(TextConfig(), ExplainConfig()).parse(why)["because"]
    assert ["abc"[number] for number in (*best, because)] == ["c", "b", "b"]


def test_loops() -> None:
    assert repeats_itself(["a", "b", "c", "a", "b", "c", "a", "b", "c", "a", "b", "c"])
    assert not repeats_itself(["a", "b", "c", "a", "b", "c"])  # too short to tell


def test_an_item_keeps_what_is_real_of_it() -> None:
    task = task_of(TextConfig(), DescribeItemsConfig())
    [row] = task.rows(items(["Toy Story (1995)"]))
    tags = ["Toys", "genre:toys", " ", "drama", "1995", "#]"]
    made = task.to_row(row, {"description": f" {GOOD} ", "tags": tags})
    assert made == {
        "item_id": "i00", "title": "Toy Story (1995)", "description": GOOD, "price": None,
        "tags": ["genre:Drama", "about:toys"], "image_uri": None, "origin": "synthetic",
        "available_from": None, "available_until": None,
    }  # fmt: skip


def test_items_with_a_description_are_not_asked_about() -> None:
    task = task_of(TextConfig(), DescribeItemsConfig(min_description_len=10))
    table = items(["thin", "thick", "", "blank"])
    texts = ["short", "long enough", "", " " * 20]
    table = table.set_column(2, "description", [texts])
    assert [row.item_id for row in task.rows(table)] == ["i00", "i03"]
