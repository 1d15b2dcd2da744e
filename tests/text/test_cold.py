"""Events for items and users that have few: a choice counts where both orders of the candidates get
it, and nothing that is held out decides who is asked about what."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix

from llmaug import pipeline
from llmaug.config import (
    ColdItemsConfig,
    ColdUsersConfig,
    Config,
    TextConfig,
    imported,
    parse_config,
)
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.schema import CANDIDATES, ITEM, REAL, USER
from llmaug.text import cold_items
from llmaug.text.cold_users import attributes_of, tastes, without_events
from llmaug.text.filters import verdict
from llmaug.text.task import Row, Task, task_of
from llmaug.text.templates import render
from tests.nights import CONFIG, NIGHT, without_ray, write_ingest
from tests.tables import histories, hour, read_rows, share_here
from tests.text.chat import endpoint, items

GOLDEN = Path(__file__).parent / "golden"
CONFIGS = {"cold_items": ColdItemsConfig, "cold_users": ColdUsersConfig}


def task(kind: str = "cold_items", **config: Any) -> Task:
    return task_of(TextConfig(), CONFIGS[kind](**config))


def asked(own: Task, offered: str = "012") -> Row:
    candidates = pa.Table.from_pylist(
        [
            {
                "user_id": "u1", "item_id": "i00", "history": ["i03"], "held_out": [],
                "candidates": [f"i0{n}" for n in offered], "timestamp": hour(3),
                "attributes": [("age", "25-34")] if own.name == "cold_users" else None,
            }
        ],
        schema=CANDIDATES,
    )  # fmt: skip
    [row] = own.rows(candidates, items(["A", "B", "C", "D"]))
    return row


def both(own: Task, offered: str, first: list[int], again: list[int]) -> Any:
    """Why the answers are refused, or what becomes of them."""
    row, answer = asked(own, offered), {"best": first}
    assert own.judge is not None
    turned = asked(own.judge, offered)
    assert turned.fields["candidates"] == row.fields["candidates"][::-1]
    shown = Row({**turned.fields, "answer": answer}, *turned.key, source=turned.source)
    said, refused = verdict(own.judge, shown, json.dumps({"best": again}), 5)
    return refused[0] if refused else own.to_row(row, own.judged(row, answer, said))["item_ids"]


def test_what_is_named_in_both_orders_is_kept() -> None:
    pair, history = task(), task("cold_users", num_candidates=3, num_events=2)
    assert both(pair, "01", [1], [2]) == ["i00"]
    assert both(pair, "01", [2], [1]) == ["i01"]
    assert both(pair, "01", [1], [1]) == both(pair, "01", [2], [2]) == "by_position"
    assert both(history, "012", [3, 1], [1, 2]) == ["i02"]
    assert both(history, "012", [3, 1], [3, 1]) == ["i02", "i00"]
    assert both(history, "012", [1], [1]) == "by_position"
    assert both(history, "01", [3, 2], [3, 1]) == ["i01"]  # the third was not offered


@pytest.mark.parametrize("kind", ["cold_items", "cold_users"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_question_is_the_one_that_was_read(kind: str, language: str) -> None:
    own = task(kind, language=language)
    text = render(own.template, {**own.constants, **asked(own, "01").fields}, "here")
    assert text + "\n" == (GOLDEN / f"{kind}.{language}.txt").read_text(encoding="utf-8")


def test_the_arm_needs_a_task_and_names_of_people_may_be_forbidden() -> None:
    base = {**CONFIG, "ingest": {"path": "logs", "items": {"path": "i"}, "users": {"path": "u"}}}
    text = {"folder": "{root}/chat", "tasks": [{"kind": "cold_users"}]}
    private = {"new_users_only": True}
    parse_config({**base, "text": text, "privacy": private})
    with pytest.raises(UserError, match="warmed learns what the text tasks cold_items and cold_u"):
        parse_config({**base, "train": {"model": "popularity", "arms": ["real", "warmed"]}})
    with pytest.raises(UserError, match="cold_items writes in the name of real people"):
        named = {**text, "tasks": [{"kind": "cold_items"}]}
        parse_config({**base, "text": named, "privacy": private})
    with pytest.raises(UserError, match="learns ratings, and events of the arm warmed have none"):
        rated = {"model": "linear_rating", "arms": ["real", "warmed"]}
        parse_config({**base, "text": text, "train": rated})
    with pytest.raises(UserError, match=r"cold_users asks about users, .* set ingest.users"):
        parse_config({**base, "ingest": {**base["ingest"], "users": None}, "text": text})


def test_an_attribute_counts_that_enough_users_have() -> None:
    """Of six with age 30 four took the first item; two are old, which nobody shall know them by."""
    people = [[("age", "30"), ("town", "X")]] * 6 + [[("age", "80")]] * 2 + [None, []]
    having = attributes_of(
        pa.chunked_array([pa.array(people, USER.field("attributes").type)]), None
    )
    assert having.sum(0).tolist() == [[6, 6, 2, 8]]  # the last one: whoever has any
    taken = csr_matrix([[1, 0]] * 4 + [[0, 0]] * 2 + [[0, 1]] * 4)
    # Of the six with an age and a town two have no events; with those of all others, they are few.
    assert without_events(having, taken).tolist() == [4, 5]
    assert tastes(having, taken).toarray().tolist() == [[0, 0]] * 3 + [[4 / 6, 2 / 6]]
    taken[4, 1] = 1
    assert tastes(having, taken).toarray()[0].tolist() == [4 / 5, 1 / 5]
    only = attributes_of(
        pa.chunked_array([pa.array(people, USER.field("attributes").type)]), ["age"]
    )
    assert only.sum(0).tolist() == [[6, 2, 8]]


# -- the whole job ------------------------------------------------------------------------

# In training everybody has all letters of one case but some; x, y and z have no training event.
TOOK = {**{f"u{n}": "abcdefg"[n % 3 :] for n in range(6)},
        **{f"v{n}": "ABCDEFG"[n % 3 :] for n in range(6)}}  # fmt: skip
COLD = {"x": "small", "y": "small", "z": "great"}


def job(home: Path, url: str, held_out: str) -> tuple[Config, Storage]:
    """Everybody's two last events are held out: with these two items."""
    (home / "events.csv").write_text("user_id,item_id,timestamp\nu1,a,1\n")
    (home / "items.csv").write_text("item_id,title\na,A\n")
    (home / "users.csv").write_text("user_id,age\nu1,30\n")
    paths = {"path": str(home / "events.csv"), "items": {"path": str(home / "items.csv")},
             "users": {"path": str(home / "users.csv")}}  # fmt: skip
    tasks = [{"kind": "cold_items", "max_train_events": 0, "users_per_item": 3},
             {"kind": "cold_users", "num_candidates": 4, "num_events": 2}]  # fmt: skip
    config = parse_config(
        {
            **CONFIG,
            "ingest": {**CONFIG["ingest"], **paths},
            "text": {"engine": "openai", "tasks": tasks, "endpoint": {"base_url": url,
                                                                      "model": "m"}},
            "merge": {"synthetic_weight": 0.25},
            "train": {"model": "ease", "arms": ["real", "warmed"]},
            "gate": {"arm": "warmed"},
        }
    )  # fmt: skip
    storage = Storage(str(home / held_out))
    rows = histories(**{user: own + held_out for user, own in TOOK.items()})
    kinds = {**COLD, **dict.fromkeys("abcdefg", "small"), **dict.fromkeys("ABCDEFG", "great")}
    films = [{"item_id": i, "title": f"Film {i}", "tags": [kind], "origin": REAL}
             for i, kind in kinds.items()]  # fmt: skip
    people = [{"user_id": user, "attributes": [("age", "old" if user[0] == "u" else "young")]}
              for user in (*TOOK, "new", "unknown")]  # fmt: skip
    folder = f"runs/{NIGHT}/ingest"
    storage.write_part(pa.Table.from_pylist(films, schema=ITEM), {}, f"{folder}/items", "part-0")
    storage.write_part(pa.Table.from_pylist(people, schema=USER), {}, f"{folder}/users", "part-0")
    write_ingest(Context(storage, config, NIGHT), rows)
    return config, storage


def reply(request: dict[str, Any], attempt: int) -> tuple[int, Any]:
    """Likes y best; without it, and of the old, it says what stands first."""
    question = request["messages"][0]["content"]
    names = re.findall(r"^\d+\. .*?Film (\w)", question, re.MULTILINE)
    if "Person" in question:
        return 200, {"best": [1, 2]} if '"old"' in question else {"best": [2, 3]}
    return 200, {"best": [names.index("y") + 1 if "y" in names else 1]}


@pytest.mark.usefixtures("ray_session", "fits_here")
def test_a_job_learns_from_choices_and_what_is_held_out_moves_no_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    monkeypatch.setattr(cold_items, "share", share_here)
    with endpoint(reply) as server:
        config, storage = job(tmp_path, server.url, "zx")
        done = pipeline.run(config, storage, NIGHT, until="evaluate")
    pairs, personas = lists = [
        read_rows(storage, f"runs/{NIGHT}/text/{name}/candidates") for name in CONFIGS
    ]
    for held_out in ("yz", "gG"):  # who is asked about what does not depend on it
        config, other = job(tmp_path, server.url, held_out)
        pipeline.run(config, other, NIGHT, until="vocabulary")
        for own, before in zip(config.text.tasks, lists, strict=True):
            stage = imported(own.candidates)(own)
            stage.run(Context(other, config, NIGHT))
            assert read_rows(other, f"runs/{NIGHT}/{stage.name}") == before

    # Those are asked who took the like; x and y are each other's rivals, which is one question.
    assert {(row["user_id"][0], *sorted(row["candidates"])) for row in pairs} == {
        ("u", "x", "y"), ("v", "x", "z")
    }  # fmt: skip
    assert len(pairs) == 6
    assert all(row["history"] == list(TOOK[row["user_id"]]) for row in pairs)
    assert {row["user_id"]: dict(row["attributes"])["age"] for row in personas} == {
        "new": "young", "unknown": "old"
    }  # fmt: skip
    assert set(personas[0]["candidates"]) <= set("ABCDEFG")
    assert set(personas[1]["candidates"]) <= set("abcdefg")

    # What was said of x and z, and of the old, went by the position: it is counted, and dropped.
    ledgers = {name: done[f"text/{name}/rows"]["counts"] for name in CONFIGS}
    for name, kept, dropped in (("cold_items", 3, 3), ("cold_users", 1, 1)):
        counts = ledgers[name]
        assert (counts["units"], counts["accepted"]) == (kept + dropped, kept)
        assert counts["rejected.by_position"] == counts["rejected"] == dropped

    merged = read_rows(storage, f"runs/{NIGHT}/merged/warmed")
    new = [row for row in merged if row["origin"] == "synthetic"]
    assert len(merged) - len(new) == sum(map(len, TOOK.values()))
    assert {(row["action"], row["weight"], row["run_id"]) for row in new} == {("view", 0.25, NIGHT)}
    last = {row["user_id"]: row["timestamp"] for row in merged if row["origin"] == "real"}
    chosen = {row["user_id"]: row for row in new if row["strategy"] == "cold_items"}
    assert {row["item_id"] for row in chosen.values()} == {"y"} and len(chosen) == 3
    assert all(row["timestamp"] == last[user] for user, row in chosen.items())
    history = [row for row in new if row["strategy"] == "cold_users"]
    assert [row["item_id"] for row in history] == personas[0]["candidates"][1:3]
    assert {row["user_id"] for row in history} == {f"synthetic:{history[0]['unit_id']}"}
    assert {row["timestamp"] for row in history} == {max(last.values())}
    trained = {arm: done[f"model/{arm}"]["counts"] for arm in ("real", "warmed")}
    assert trained["real"] != trained["warmed"]
