"""Reviews of what users took and did not rate: who is asked about, and a job that learns from them.
Nobody's held-out rating is in a question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmaug import pipeline
from llmaug.config import TextConfig, WriteReviewsConfig, parse_config
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.schema import EVENT, ITEM, REAL
from llmaug.text.filters import verdict
from llmaug.text.task import Row, task_of
from llmaug.text.templates import render
from tests.nights import CONFIG, NIGHT, without_ray, write_ingest
from tests.tables import events, histories, read_rows
from tests.text.chat import endpoint, items

GOOD = "I liked how the story ends, and would see it again."
LETTERS = "abcdefgh"
GOLDEN = Path(__file__).parent / "golden"


def rated(rows: pa.Table, values: list[float | None]) -> pa.Table:
    place = EVENT.get_field_index("value")
    return rows.set_column(place, EVENT.field("value"), pa.array(values, pa.float32()))


def asked(values: list[float | None], **config: Any) -> list[Row]:
    """About a user who took i00 to i03, with these ratings."""
    took = events([("u1", f"i{n:02d}", n) for n in range(4)])
    task = task_of(TextConfig(), WriteReviewsConfig(**config))
    return task.rows(rated(took, values), items(["A", "B", "C", "D"]))


def test_pairs_without_a_rating_are_asked_about_with_the_ratings_before() -> None:
    rows = asked([5, None, 2.5, None])
    assert [(row.user_id, row.item_id) for row in rows] == [("u1", "i01"), ("u1", "i03")]
    history = [{"title": "A", "rating": 5}, {"title": "C", "rating": 2.5}]
    assert [row.fields["history"] for row in rows] == [history] * 2
    assert rows[0].fields["item"] == {"title": "B", "tags": ["genre:Drama"]}
    assert [row.fields["history"] for row in asked([5, None, 2, 3], max_history_len=1)] == [
        [{"title": "D", "rating": 3}]
    ]


def test_who_rated_nothing_is_known_by_what_they_took() -> None:
    first, *_ = asked([None] * 4)
    assert first.fields["history"] == [{"title": title} for title in "BCD"]


def test_a_share_of_the_pairs_is_the_same_one_every_time() -> None:
    few = [row.key for row in asked([None] * 4, share=0.5)]
    assert 0 < len(few) < 4 and few == [row.key for row in asked([None] * 4, share=0.5)]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_question_is_the_one_that_was_read(language: str) -> None:
    first, *_ = asked([5, None, 2, 3], language=language)
    task = task_of(TextConfig(), WriteReviewsConfig(language=language))
    text = render(task.template, {**task.constants, **first.fields}, "here")
    assert text + "\n" == (GOLDEN / f"write_reviews.{language}.txt").read_text(encoding="utf-8")


def test_a_value_that_is_no_rating_is_told() -> None:
    with pytest.raises(UserError, match="user u1 has the value 90 on item i00, and ratings go "):
        asked([90, None, None, None])


@pytest.mark.parametrize(
    ("rating", "review", "reason"),
    [
        (4, GOOD, None),
        (7, GOOD, "rating_out_of_range"),
        (4.5, GOOD, "unparsable"),
        (4, "Good.", "unparsable"),
        (4, "Write to me at jane.doe@mail.example, I liked it a lot.", "personal_data"),
        (4, "这部电影的故事讲得很好, 我非常喜欢, 会再看一遍。", "wrong_language"),
        (4, "one or two plain sentences in the first person that say what", "copied_from_prompt"),
    ],
)
def test_a_reason_for_each_review_that_is_refused(
    rating: float, review: str, reason: str | None
) -> None:
    task = task_of(TextConfig(), WriteReviewsConfig())
    said = json.dumps({"rating": rating, "review": review}, ensure_ascii=False)
    _, refused = verdict(task, asked([None] * 4)[0], said, 40)
    assert (refused and refused[0]) == reason


@pytest.mark.usefixtures("ray_session", "fits_here")
def test_a_job_learns_from_reviews_and_no_question_knows_what_is_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users rate with 1 what is held out, and with 5 half of what is not."""
    without_ray(monkeypatch)
    rows = histories(**{f"u{n}": LETTERS[n % 3 :] + LETTERS[: n % 3] for n in range(8)})
    last = {user: item for user, item, _ in rows}
    before = {user: item for user, item, _ in rows if item != last[user]}
    value = [1 if i in (last[u], before[u]) else 5 if n % 2 else None
             for n, (u, i, _) in enumerate(rows)]  # fmt: skip
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\nu1,a,1\n")
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    paths = {"path": str(tmp_path / "events.csv"), "items": {"path": str(tmp_path / "items.csv")}}
    good = {"rating": 4, "review": GOOD}
    with endpoint(lambda request, attempt: (200, good)) as server:
        config = parse_config(
            {
                **CONFIG,
                "ingest": {**CONFIG["ingest"], **paths},
                "text": {
                    "engine": "openai", "tasks": [{"kind": "write_reviews"}],
                    "endpoint": {"base_url": server.url, "model": "m"},
                },
                "train": {"model": "linear_rating", "arms": ["real", "reviewed"], "num_steps": 20,
                          "validate_every": 10},
                "gate": {"arm": "reviewed"},
            }
        )  # fmt: skip
        storage = Storage(str(tmp_path / "root"))
        catalogue = [{"item_id": i, "title": f"Film {i}", "origin": REAL} for i in LETTERS]
        table = pa.Table.from_pylist(catalogue, schema=ITEM)
        storage.write_part(table, {}, f"runs/{NIGHT}/ingest/items", "part-0")
        write_ingest(Context(storage, config, NIGHT), rows, values=value)
        done = pipeline.run(config, storage, NIGHT, until="evaluate")
    unrated = sum(v is None for v in value)
    ledger = done["text/write_reviews/rows"]["counts"]
    assert (ledger["units"], ledger["accepted"]) == (unrated, unrated)

    # The two last events of each user are held out: neither they nor their ratings are asked with.
    questions = [request["messages"][0]["content"] for request in server.requests]
    assert len(questions) == unrated and not any('"rating": 1' in text for text in questions)
    reviews = read_rows(storage, f"runs/{NIGHT}/text/write_reviews/rows")
    assert not any(row["item_id"] in (last[row["user_id"]], before[row["user_id"]])
                   for row in reviews)  # fmt: skip
    assert {(row["run_id"], row["origin"], row["value"]) for row in reviews} == {
        (NIGHT, "synthetic", 4)
    }

    merged = read_rows(storage, f"runs/{NIGHT}/merged/reviewed")
    synthetic = {row["unit_id"]: row for row in merged if row["origin"] == "synthetic"}
    assert set(synthetic) == {row["unit_id"] for row in reviews}
    assert {row["strategy"] for row in synthetic.values()} == {"write_reviews"}
    targets = {arm: done[f"model/{arm}"]["counts"]["seed-1"]["num_targets"]
               for arm in ("real", "reviewed")}  # fmt: skip
    assert targets["reviewed"] == targets["real"] + unrated
    found = done["evaluation"]["counts"]["ratings"]
    assert {arm: own["num_ratings"] for arm, own in found.items()} == {"real": 8, "reviewed": 8}
    assert found["real"]["difference"] is None and found["reviewed"]["difference"]["mean"] != 0
