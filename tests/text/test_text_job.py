"""Text tasks in a job, from the items table to the catalogue: an endpoint is asked, some of its
answers are nonsense, and one item's question fails until the server is mended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmaug import pipeline
from llmaug.commands.retry import retry_failed
from llmaug.config import Config, parse_config
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.schema import ITEM, REAL
from tests.nights import CONFIG, NIGHT, without_ray, write_ingest
from tests.tables import histories, read_rows
from tests.text.chat import INJECTIONS, Endpoint, endpoint

LETTERS = "abcdefghijklmnop"
TITLES = [*INJECTIONS, "Good film", "Bad json", "Wrong words", "No answer"]
GOOD = {"description": "A film in which several people meet and talk.", "tags": ["talk"]}
TASKS = [
    {"kind": "describe_items", "max_field_tokens": 200},
    {
        "kind": "custom", "name": "mood", "template": "Mood of {{ title }}?", "max_rows": 14,
        "json_schema": {"type": "object", "properties": {"mood": {"enum": ["glad", "sad"]}}},
        "judge": {"template": "Is {{ answer.mood }} the mood of {{ title }}? Score 1 to 5."},
    },
]  # fmt: skip


class Server:
    """What the endpoint says."""

    mended = False

    def reply(self, request: dict[str, Any], attempt: int) -> tuple[int, Any]:
        asked = request["messages"][0]["content"]
        if asked.startswith("Is "):
            return 200, {"score": 2 if "sad" in asked else 5}
        if asked.startswith("Mood"):
            return 200, {"mood": "sad" if "Wrong" in asked or "Good" in asked else "glad"}
        if "No answer" in asked and not self.mended:
            return 400, "the server is not well"
        if "Bad json" in asked:
            return 200, '{"description": '
        if "Wrong words" in asked:
            return 200, {
                **GOOD,
                "description": "这是一部关于几个人相遇并交谈的电影。这是一部电影。",
            }
        return (200, GOOD) if attempt > 1 or "Good" not in asked else (503, "busy")


def config(url: str, home: Path) -> Config:
    return parse_config(
        {
            **CONFIG,
            "ingest": {
                **CONFIG["ingest"], "path": str(home / "events.csv"),
                "items": {"path": str(home / "items.csv")},
            },
            "text": {
                "engine": "openai", "tasks": TASKS, "units_per_part": 6,
                "endpoint": {"base_url": url, "model": "m", "first_wait_s": 0.01},
            },
        }
    )  # fmt: skip


Night = tuple[Config, Storage, Endpoint, Server, dict[str, Any]]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[Night]:
    """A run up to its vocabulary."""
    home, server = tmp_path_factory.mktemp("text"), Server()
    rows = histories(u1=LETTERS, u2=LETTERS[::-1], u3=LETTERS)
    (home / "events.csv").write_text("user_id,item_id,timestamp\nu1,a,1\n")
    (home / "items.csv").write_text("item_id,title\na,A\n")
    with endpoint(server.reply) as asked, pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        parsed, storage = config(asked.url, home), Storage(str(home / "root"))
        items = [
            {"item_id": i, "title": title, "tags": ["genre:Drama"], "origin": REAL}
            for i, title in zip(LETTERS, TITLES, strict=True)
        ]
        for part in range(2):
            table = pa.Table.from_pylist(items[part::2], schema=ITEM)
            storage.write_part(table, {}, f"runs/{NIGHT}/ingest/items", f"part-{part}")
        write_ingest(Context(storage, parsed, NIGHT), rows)
        done = pipeline.run(parsed, storage, NIGHT, until="vocabulary")
        yield parsed, storage, asked, server, done


def test_every_question_has_one_fate(night: Night) -> None:
    *_, done = night
    described = done["text/describe_items/rows"]["counts"]
    assert described == {
        "rows": 13, "units": 16, "accepted": 13, "rejected": 2, "failed": 1,
        "rejected.unparsable": 1, "rejected.wrong_language": 1, "failed.refused_by_endpoint": 1,
    }  # fmt: skip
    answered = done["text/describe_items/outcomes"]["counts"]
    assert (answered["units"], answered["generated"], answered["failed"]) == (16, 15, 1)
    assert (answered["output_tokens"], answered["cached_prompt_tokens"]) == (300, 960)
    planned = done["text/describe_items/plan"]["counts"]
    assert planned["units"] == 16 and planned["cut_fields"] == 1
    assert planned["control_tokens_broken"] == 5
    # Of 14 questions about the mood, the judge does not like what is sad.
    judged = done["text/mood/rows"]["counts"]
    assert judged == {"rows": 12, "units": 14, "accepted": 12, "rejected": 2, "failed": 0,
                      "rejected.low_score": 2}  # fmt: skip


def test_what_stands_in_a_title_changes_no_other_word_of_the_question(night: Night) -> None:
    _, _, asked, _, _ = night
    questions = [each["messages"][0]["content"] for each in asked.requests]
    described = {text for text in questions if text.startswith("You write entries")}
    assert len(described) == len(TITLES)
    assert len({text[: text.rindex("\n")] for text in described}) == 1
    assert not any(mark in text for text in questions for mark in ("<|", "```", "[INST]", "49"))


def test_the_catalogue_has_the_new_texts_and_its_own_titles(night: Night) -> None:
    _, storage, _, _, _ = night
    items = {row["item_id"]: row for row in read_rows(storage, f"runs/{NIGHT}/vocabulary")}
    assert [items[i]["title"] for i in LETTERS] == TITLES
    film, *others = (items[LETTERS[TITLES.index(title)]] for title in TITLES[-4:])
    assert film["description"] == GOOD["description"] and film["origin"] == "synthetic"
    assert film["tags"] == ["genre:Drama", "about:talk"]
    for item in others:
        assert (item["description"], item["tags"], item["origin"]) == (None, ["genre:Drama"], REAL)


def test_moods_are_a_column(night: Night) -> None:
    _, storage, _, _, _ = night
    moods = {
        row["item_id"]: row["mood"] for row in read_rows(storage, f"runs/{NIGHT}/text/mood/rows")
    }
    assert set(moods.values()) == {"glad"} and LETTERS[TITLES.index("Good film")] not in moods


def test_nothing_is_asked_twice(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the same run, nor by tomorrow's; what failed is asked again when somebody says so."""
    parsed, storage, asked, server, _ = night
    without_ray(monkeypatch)
    before = len(asked.requests)
    again = pipeline.run(parsed, storage, NIGHT, until="text")
    assert all(manifest["skipped"] for manifest in again.values())
    assert len(asked.requests) == before

    server.mended = True
    done = retry_failed(storage, NIGHT, text_task="describe_items")
    assert done == {"retried": 1, "by_reason": {"refused_by_endpoint": 1}, "still_failed": 0}
    assert len(asked.requests) == before + 1
    # The filters have not seen that answer yet, and still call it a failure.
    with pytest.raises(UserError, match="no unit failed"):
        retry_failed(storage, NIGHT, text_task="describe_items")
    assert len(asked.requests) == before + 1
    renewed = pipeline.run(parsed, storage, NIGHT, until="text")
    assert renewed["text/describe_items/rows"]["counts"]["accepted"] == 14
    assert renewed["text/mood/plan"]["skipped"]
    assert len(asked.requests) == before + 1
