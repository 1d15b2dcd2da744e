"""Recommendations reordered by a chat model: both orders are measured on what is held out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmaug import pipeline
from llmaug.commands.retry import retry_failed
from llmaug.config import RerankConfig, TextConfig, parse_config
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.evaluate.rerank import ndcg
from llmaug.schema import CANDIDATES, ITEM, REAL
from llmaug.text.task import task_of
from llmaug.text.templates import render
from tests.nights import CONFIG, NIGHT, without_ray, write_ingest
from tests.tables import histories, read_rows
from tests.text.chat import endpoint, items

GOLDEN = Path(__file__).parents[1] / "text" / "golden"
LETTERS = "abcdefghijkl"
USERS = {f"u{n}": LETTERS[n:] [:6] for n in range(6)}  # fmt: skip
TASKS: list[dict[str, Any]] = [
    {"kind": "rerank", "top_n": 4, "num_best": 4},
    {"kind": "rerank", "name": "everybody", "of": "recommendations", "top_n": 3},
]


def config(home: Path, url: str = "http://localhost", **sections: Any) -> Any:
    paths = {"path": str(home / "events.csv"), "items": {"path": str(home / "items.csv")}}
    text = {"engine": "openai", "tasks": TASKS, "endpoint": {"base_url": url, "model": "m"}}
    return parse_config(
        {**CONFIG, "ingest": {**CONFIG["ingest"], **paths}, "text": text, "recommend": {"k": 3}}
        | sections
    )


def test_numbers_become_items_and_the_others_follow() -> None:
    task = task_of(TextConfig(), RerankConfig(top_n=3, max_history_len=2))
    row = {"user_id": "u", "history": ["i00", "i01", "x"], "held_out": [],
           "candidates": ["i00", "i01", "i02", "i03"]}  # fmt: skip
    [asked] = task.rows(pa.Table.from_pylist([row], schema=CANDIDATES), items(["A", "B", "C"]))
    assert asked.fields == {"history": ["B", "x"], "candidates": ["A", "B", "C"]}
    made = task.to_row(asked, task.parse('{"best": [3, 1, 3]}'))
    assert made == {"user_id": "u", "item_ids": ["i02", "i00", "i01", "i03"]}
    for said in ('{"best": [4]}', '{"best": []}', '{"best": ["1"]}', '{"best": [1], "more": 2}'):
        with pytest.raises(ValueError):
            task.parse(said)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_question_is_the_one_that_was_read(language: str) -> None:
    task = task_of(TextConfig(), RerankConfig(top_n=2, num_best=2, language=language))
    fields = {"history": ["A"], "candidates": ["B", "C"]}
    text = render(task.template, {**task.constants, **fields}, "here")
    assert text + "\n" == (GOLDEN / f"rerank.{language}.txt").read_text(encoding="utf-8")


def test_ndcg_counts_the_place_among_ten() -> None:
    assert ndcg(["a", "b"], ["a"]) == 1 and ndcg(["b", "a"], ["a"]) == pytest.approx(
        0.6309, abs=1e-4
    )
    assert ndcg(list("bcdefghijka"), ["a"]) == 0 and ndcg(["a"], ["a", "z"]) == 0.5


def test_lists_must_be_long_enough(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"everybody reorders the first 3 .* raise recommend\.k"):
        config(tmp_path, recommend={"k": 2})
    with pytest.raises(UserError, match=r"raise evaluate\.cutoffs"):
        config(tmp_path, evaluate={"cutoffs": [2]})


@pytest.mark.usefixtures("ray_session")
def test_both_orders_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model turns each list round; of one user's it says nothing, and that list stays."""
    without_ray(monkeypatch)
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\nu1,a,1\n")
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    rows = histories(**USERS)

    def reply(request: dict[str, Any], attempt: int) -> tuple[int, Any]:
        asked = request["messages"][0]["content"]
        if '"Film c"' in asked.split("Candidates")[0] and '"Film b"' not in asked:
            return 200, "nothing"
        numbers = [int(number) for number in re.findall(r"^(\d+)\. ", asked, re.MULTILINE)]
        return 200, {"best": numbers[::-1]}

    with endpoint(reply) as server:
        parsed, storage = config(tmp_path, server.url), Storage(str(tmp_path / "root"))
        films = [{"item_id": i, "title": f"Film {i}", "origin": REAL} for i in LETTERS]
        table = pa.Table.from_pylist(films, schema=ITEM)
        storage.write_part(table, {}, f"runs/{NIGHT}/ingest/items", "part-0")
        write_ingest(Context(storage, parsed, NIGHT), rows)
        done = pipeline.run(parsed, storage, NIGHT)

    last = {user: own[-1] for user, own in USERS.items()}
    lists = {
        row["user_id"]: row for row in read_rows(storage, f"runs/{NIGHT}/text/rerank/candidates")
    }
    assert {user: row["held_out"] for user, row in lists.items()} == {
        user: [item] for user, item in last.items()
    }
    assert not any(last[user] in row["history"] for user, row in lists.items())
    new = {
        row["user_id"]: row["item_ids"]
        for row in read_rows(storage, f"runs/{NIGHT}/text/rerank/rows")
    }
    assert new and all(lists[user]["candidates"] == own[::-1] for user, own in new.items())

    found = done["text/rerank/measured"]["counts"]
    before = [ndcg(row["candidates"], row["held_out"]) for row in lists.values()]
    after = [ndcg(new.get(user, row["candidates"]), row["held_out"]) for user, row in lists.items()]
    assert (found["users"], found["reordered"]) == (len(USERS), len(new))
    assert found["ndcg_at_10"]["before"]["mean"] == pytest.approx(sum(before) / len(before))
    assert found["ndcg_at_10"]["after"]["mean"] == pytest.approx(sum(after) / len(after))
    metrics = storage.read_json(f"runs/{NIGHT}/report", "metrics.json")
    assert metrics["reranked"] == {"rerank": found}
    ledger = done["text/rerank/rows"]["counts"]
    assert ledger["units"] == ledger["accepted"] + ledger["rejected"] == len(USERS)

    with pytest.raises(UserError, match="no unit failed"):
        retry_failed(storage, NIGHT, text_task="rerank")

    served: dict[str, list[str]] = {}
    for row in read_rows(storage, f"runs/{NIGHT}/recommendations"):
        served.setdefault(row["user_id"], []).append(row["item_id"])
    for row in read_rows(storage, f"runs/{NIGHT}/text/everybody/rows"):
        assert row["item_ids"] == served[row["user_id"]][::-1]
