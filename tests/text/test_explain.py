"""Why something fits a user: a reference is to an item that was offered, a title that was not is
refused, and nothing that is held out can be cited."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmaug import pipeline
from llmaug.config import Config, ExplainConfig, TextConfig, parse_config
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.publish import recommend
from llmaug.schema import CANDIDATES, EVENT, ITEM, REAL, SYNTHETIC
from llmaug.text import explain_pairs
from llmaug.text.explain import is_one_sentence
from llmaug.text.explain_pairs import candidates_stage, last_of_units
from llmaug.text.filters import verdict
from llmaug.text.rows import row_of
from llmaug.text.task import Row, Task, task_of
from llmaug.text.templates import render
from llmaug.text.titles import Titles, name_of
from tests.nights import CONFIG, NIGHT, without_ray, write_ingest
from tests.tables import histories, hour, map_parts_here, read_rows
from tests.text.chat import endpoint, items

GOLDEN = Path(__file__).parent / "golden"
TITLES = [
    "Shawshank Redemption, The (1994)", "Big (1988)", "Die Hard (1988)", "Die Hard 2 (1990)",
    "In the Name of the Father (1993)", "Mr. Holland's Opus (1995)", "That Thing You Do! (1996)",
    "英雄 (2002)", "Speed (1994)",
]  # fmt: skip
OFFERED, ITEM_IN_QUESTION = ["i00", "i02", "i05"], "i06"


def task(safety: str = "none", **config: Any) -> Task:
    return task_of(TextConfig(safety=safety), ExplainConfig(**config))


def asked(own: Task, history: list[str] = OFFERED) -> Row:
    listed = {"user_id": "u", "item_id": ITEM_IN_QUESTION, "history": history, "candidates": [],
              "held_out": []}  # fmt: skip
    [row] = own.rows(pa.Table.from_pylist([listed], schema=CANDIDATES), items(TITLES))
    return row


def fate(sentence: str, because: list[Any] | None = None, **config: Any) -> str | None:
    own, said = task(**config), {"because": because or [1], "sentence": sentence}
    _, refused = verdict(own, asked(own), json.dumps(said, ensure_ascii=False), 20)
    return refused[0] if refused else None


def test_a_reference_is_to_an_item_that_was_offered() -> None:
    good = "Both are about hope among people who have little of it."
    assert fate(good, [3, 1]) is None
    assert fate(good, [1, 4]) == "not_offered"  # a number of the schema, of a longer history
    for because in ([0], [9], [-1], ["1"], [True], [1.5], [1, 2, 3, 1], [[1]]):
        assert fate(good, because) == "unparsable", because
    own = task()
    for said in ('{"because": [], "sentence": "A good one, too."}', '{"because": [1]}',
                 '{"because": [1], "sentence": "A good one, too.", "more": 1}'):  # fmt: skip
        with pytest.raises(ValueError):
            own.parse(said)


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("Somebody who liked The Shawshank Redemption will like That Thing You Do!", None),
        ("Whoever had Mr. Holland's Opus (1995) likes a band that plays, too.", None),
        ("It is a big film in the name of music.", None),
        ("Big feelings are what this person likes about die hard, as in that thing you do.", None),
        ('Like "Shawshank Redemption", it is about people who hope.', None),
        ("This person also had Big, which is as cheerful as this one.", "names_other_item"),
        ("It is as tense as Die Hard 2 and has more music in it.", "names_other_item"),
        ("It moves people as in the name of the father did.", "names_other_item"),
        ('It is as fast as "speed" and has more music in it.', "names_other_item"),
        ('It goes well with "A Film That Nobody Made" and its music.', "names_other_item"),
        ("It has music. This person likes that.", "not_one_sentence"),
        ("It has music! and this person likes that", "not_one_sentence"),
        ("It has music that this person likes", "not_one_sentence"),
        ("See https://example.com for what this person likes.", "markup"),
        ("Ask jane.doe@example.com what this person likes.", "personal_data"),
        ("这个人喜欢音乐, 所以也会喜欢这部电影里的乐队。", "wrong_language"),
    ],
)
def test_a_sentence_names_nothing_else(sentence: str, reason: str | None) -> None:
    assert fate(sentence) == reason


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("他喜欢励志的故事, 这部影片也讲了一支乐队的成长。", None),
        ("他是大家的英雄, 也喜欢励志的故事。", None),  # a word like others
        ("他喜欢《英雄》这样的故事, 所以也会喜欢这部影片。", "names_other_item"),
        ("他喜欢《无人拍过》这样的故事, 所以也会喜欢这部影片。", "names_other_item"),
        ("他喜欢音乐。这部影片里有一支乐队。", "not_one_sentence"),
        ("This person likes music, and there is a band in it.", "wrong_language"),
    ],
)
def test_a_chinese_sentence_names_nothing_else(sentence: str, reason: str | None) -> None:
    assert fate(sentence, language="zh") == reason


def test_advice_on_health_is_refused_and_what_is_kept_is_marked() -> None:
    assert fate("Patients should take ibuprofen, as this one says.", safety="health") == (
        "unsafe_medication"
    )
    own = task(safety="health")
    answer = {"because": [1], "sentence": "Both tell of people who hope."}
    assert row_of(own, asked(own), answer)["sentence"].endswith("hope. [synthetic, not advice]")


def test_titles_are_told_by_their_words() -> None:
    assert name_of("Postino, Il (1994)") == ("postino",)
    assert name_of("Shanghai Triad (Yao a yao) (1995)") == ("shanghai", "triad")
    assert name_of("The") == ("the",) and name_of("(500)") == ("500",) and name_of("...") == ()
    titles = Titles(TITLES)
    assert [found.name for found in titles.named("A Die Hard 2 and a Die Hard")] == [
        ("die", "hard", "2"), ("die", "hard")
    ]  # fmt: skip
    lamps = Titles(["Blue lamp"])
    assert lamps.named("It goes with a Blue lamp.") and lamps.named("Blue Lamp goes with it.")
    assert not lamps.named("Blue lamp light is fine.") and not lamps.named("It is a blue lamp.")
    assert is_one_sentence("Both are by e.g. J. Demme.", set(), titles)


def test_numbers_become_items_and_the_sentence_on_an_event_is_marked() -> None:
    answer = {"because": [3, 1, 3], "sentence": "Both tell\nof hope."}
    own = task()
    assert own.to_row(asked(own), answer) == {
        "user_id": "u", "item_id": ITEM_IN_QUESTION, "because": ["i05", "i00"],
        "sentence": "Both tell of hope.", "origin": SYNTHETIC,
    }  # fmt: skip
    for language, mark in (("en", "[written by a model]"), ("zh", "[由模型撰写]")):
        own = task(what="synthetic_events", language=language)
        assert own.to_row(asked(own), answer)["sentence"] == f"Both tell of hope. {mark}"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_question_is_the_one_that_was_read(language: str) -> None:
    own = task(language=language)
    text = render(own.template, {**own.constants, **asked(own).fields}, "here")
    assert text + "\n" == (GOLDEN / f"explain.{language}.txt").read_text(encoding="utf-8")


def event(item: str, unit: str | None = None, place: int | None = None) -> dict[str, Any]:
    return {"user_id": "u", "item_id": item, "origin": SYNTHETIC if unit else REAL,
            "unit_id": unit, "place": place}  # fmt: skip


def test_what_came_before_a_synthetic_event_can_be_cited() -> None:
    real = [event(item) for item in "abc"]
    added = [event("x", "1", 3), event("y", "1", 3), event("z", "2", 1)]
    assert last_of_units([*real, *added]) == [("u", "y", ["a", "b", "c"]), ("u", "z", ["a"])]
    new = [event(item, "3") for item in "xyz"]
    assert last_of_units(new) == [("u", "z", ["x", "y"])] and last_of_units(real) == []


def test_synthetic_events_are_asked_about_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latest different items are offered, and never the item itself."""
    monkeypatch.setattr(explain_pairs, "map_parts", map_parts_here)
    context = Context(Storage(str(tmp_path)), parse_config({"ingest": {"path": "logs"}}), NIGHT)
    rows = [event(item) for item in "abcbx"] + [event("x", "1", 5), event("x", "2", 5)]
    rows += [{**event("y", "3"), "user_id": "w"}]  # nothing came before it
    full = [{**row, "timestamp": hour(n), "weight": 1.0} for n, row in enumerate(rows)]
    table = pa.Table.from_pylist(full, schema=EVENT)
    context.storage.write_part(table, {}, context.folder("merged/augmented"), "part-0")
    own = ExplainConfig(what="synthetic_events", max_history_len=2)
    candidates_stage(own).run(context)
    [row] = read_rows(context.storage, context.folder("text/explain/candidates"))
    assert (row["user_id"], row["item_id"], row["history"]) == ("u", "x", ["c", "b"])


# -- the whole job ------------------------------------------------------------------------

# c is the most popular, then d; everybody has others that few have.
TOOK = {f"u{n}": "ghijkl"[n:][:3] + ("cd" if n else "ca") for n in range(6)}


def job(home: Path, url: str, held_out: str, **sections: Any) -> tuple[Config, Storage]:
    """Everybody's two last events are held out: with these two items. Lists hold what is most
    popular in training, seen or not, so that they are the same whatever is held out."""
    (home / "events.csv").write_text("user_id,item_id,timestamp\nu1,a,1\n")
    (home / "items.csv").write_text("item_id,title\na,A\n")
    paths = {"path": str(home / "events.csv"), "items": {"path": str(home / "items.csv")}}
    config = parse_config(
        {
            **CONFIG,
            "ingest": {**CONFIG["ingest"], **paths},
            "text": {
                "engine": "openai", "endpoint": {"base_url": url, "model": "m"},
                "tasks": [{"kind": "explain", "top_n": 2, "max_history_len": 4}],
            },
            "recommend": {"k": 3, "include_seen": True},
            **sections,
        }
    )  # fmt: skip
    storage = Storage(str(home / held_out))
    films = [{"item_id": i, "title": f"Film {i * 3}", "origin": REAL} for i in "abcdefghijklxyz"]
    table = pa.Table.from_pylist(films, schema=ITEM)
    storage.write_part(table, {}, f"runs/{NIGHT}/ingest/items", "part-0")
    rows = histories(**{user: own + held_out for user, own in TOOK.items()})
    write_ingest(Context(storage, config, NIGHT), rows)
    return config, storage


def reply(request: dict[str, Any], attempt: int) -> tuple[int, Any]:
    """Cites what was had last; of one item it names a film that was not offered."""
    question = request["messages"][0]["content"]
    history, item = question.split("Item: ")
    had = re.findall(r'^\d+\. "Film (\w)', history, re.MULTILINE)
    if item.startswith('"Film ddd'):
        return 200, {"because": [1], "sentence": "It is like Film xxx, which was great."}
    said = f"It has much (<) of what was in Film {had[-1] * 3}."
    return 200, {"because": [len(had), 1], "sentence": said}


def test_what_cannot_be_explained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"explains the first 2 \(top_n\), .* raise recommend.k"):
        job(tmp_path, "http://localhost", "xy", recommend={"k": 1})
    text = {"folder": "{root}/chat", "tasks": [{"kind": "explain", "what": "synthetic_events"}]}
    with pytest.raises(UserError, match="explains synthetic events, and none are made"):
        job(tmp_path, "", "xy", text=text)
    config, _ = job(tmp_path, "", "xy", text=text, lm={"model": "ngram"},
                    plan={"strategies": [{"kind": "continue"}]},
                    train={"model": "popularity", "arms": ["real", "augmented"]})  # fmt: skip
    names = [stage.name for _, stage in pipeline.stages(config, publishing=False)]
    assert names.index("merged/augmented") < names.index("text/explain/candidates")


@pytest.mark.usefixtures("ray_session")
def test_a_job_explains_its_lists_and_nothing_that_is_held_out_can_be_cited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    with endpoint(reply) as server:
        config, storage = job(tmp_path, server.url, "xy")
        done = pipeline.run(config, storage, NIGHT)
    pairs = read_rows(storage, f"runs/{NIGHT}/text/explain/candidates")
    for held_out in ("yz", "ab"):
        config, other = job(tmp_path, server.url, held_out)
        pipeline.run(config, other, NIGHT, until="publish")
        [own] = config.text.tasks
        for stage in (recommend.STAGE, candidates_stage(own)):
            stage.run(Context(other, config, NIGHT))
        assert read_rows(other, f"runs/{NIGHT}/text/explain/candidates") == pairs

    assert len({(row["user_id"], row["item_id"]) for row in pairs}) == 2 * len(TOOK)
    for row in pairs:
        had = [item for item in TOOK[row["user_id"]] if item != row["item_id"]]
        assert row["history"] == had[-4:]

    ledger, refused = done["text/explain/rows"]["counts"], sum(r["item_id"] == "d" for r in pairs)
    assert refused and ledger["rejected.names_other_item"] == ledger["rejected"] == refused
    assert ledger["units"] == len(pairs) == ledger["accepted"] + refused
    verdicts = read_rows(storage, f"runs/{NIGHT}/text/explain/filtered")
    assert all("Film xxx" in row["detail"] for row in verdicts if row["reason"])
    offered = {(row["user_id"], row["item_id"]): row["history"] for row in pairs}
    rows = read_rows(storage, f"runs/{NIGHT}/text/explain/rows")
    for row in rows:
        history = offered[row["user_id"], row["item_id"]]
        assert row["because"] == [history[-1], history[0]]
        assert (row["origin"], row["run_id"]) == (SYNTHETIC, NIGHT)
    page = storage.read(f"runs/{NIGHT}/report", "report.html").decode()
    shown = rows[0]["sentence"]
    assert shown.replace("<", "&lt;") in page and shown not in page
