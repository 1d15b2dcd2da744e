"""A shop's night under pseudonyms: no user id of its logs is below the root, but in the mapping.

Thirty customers with telling ids, an n-gram generator, a popularity model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmaug import pipeline
from llmaug.api import load_published
from llmaug.commands.forget import forget
from llmaug.commands.trace import trace_model, trace_unit
from llmaug.config import parse_config
from llmaug.core.pseudonyms import is_pseudonym
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.publish.recommend import for_user, score_pairs
from tests.nights import fit_here, without_ray

KEY_ENV = "SHOP_KEY"
USERS = [f"anna.{number:02d}@shop.example" for number in range(30)]
ITEMS = [f"sku-{number}" for number in range(12)]
NIGHT = {
    "name": "shop",
    "privacy": {"pseudonyms": {"key_env": KEY_ENV}},
    "split": {"kind": "leave_one_out"},
    "lm": {"model": "ngram"},
    "plan": {
        "strategies": [
            {"kind": "new_users", "num_users": 20, "num_events": 4},
            {"kind": "continue", "num_events": 3},
        ]
    },
    "filters": {"rules": [{"kind": "repeated"}]},
    "train": {"model": "popularity"},
    "evaluate": {"num_bootstrap": 100},
}


def write_shop(home: Path) -> dict[str, Any]:
    """The logs, with a line that names a user and is no event; returns the section `ingest`."""
    lines = [
        {"user_id": user, "item_id": ITEMS[(place + number) % 12], "timestamp": 1e9 + 3600 * number}
        for place, user in enumerate(USERS)
        for number in range(7)
    ]
    text = [json.dumps(line) for line in lines] + [f'{{"user_id": "{USERS[3]}", "item']
    (home / "events.jsonl").write_text("\n".join(text), encoding="utf-8")
    (home / "items.csv").write_text(
        "\n".join(["item_id,title", *(f"{item},Title of {item}" for item in ITEMS)])
    )
    (home / "users.csv").write_text(
        "\n".join(["user_id,mail,city", *(f"{user},{user},Bern" for user in USERS)])
    )
    return {
        "path": str(home / "events.jsonl"),
        "format": "jsonl",
        "timestamp_unit": "s",
        "num_parts": 2,
        "items": {"path": str(home / "items.csv"), "format": "csv"},
        "users": {"path": str(home / "users.csv"), "format": "csv"},
    }


def naming(root: Path, text: str) -> list[str]:
    """Files below `root` that hold `text`, as bytes or in any column of a table."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_dir():
            continue
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += json.dumps(
                pq.read_table(pa.BufferReader(data)).to_pylist(), default=str
            ).encode()
        if text.encode() in data or text in str(path):
            found.append(str(path.relative_to(root)))
    return found


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[Path]:
    """The root after a night."""
    home = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        fit_here(patch)
        without_ray(patch)
        patch.setenv(KEY_ENV, "a key of thirty-two characters..")
        config = parse_config({**NIGHT, "ingest": write_shop(home)})
        pipeline.run(config, Storage(str(home / "root")), "shop")
        yield home / "root"


def test_a_night_without_the_key_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config({**NIGHT, "ingest": {"path": str(tmp_path / "no such logs")}})
    for key, why in ((None, "has no SHOP_KEY"), ("short", "5 bytes, which can be guessed")):
        monkeypatch.delenv(KEY_ENV, raising=False)
        if key:
            monkeypatch.setenv(KEY_ENV, key)
        with pytest.raises(UserError, match=why):
            pipeline.run(config, Storage(str(tmp_path / "root")), "shop")
    assert not (tmp_path / "root").exists()


def test_ids_of_the_logs_are_in_the_mapping_and_nowhere_else(shop: Path) -> None:
    for user in (USERS[0], USERS[3], USERS[29]):
        (place, *others) = naming(shop, user)
        assert place.startswith("runs/shop/ingest/pseudonyms/part-") and not others
    assert naming(shop, "a key of thirty-two") == []
    storage = Storage(str(shop))
    events = storage.read_part("runs/shop/ingest", "part-00000")["user_id"].to_pylist()
    assert events and all(map(is_pseudonym, events))
    (row,) = [
        row for part in storage.parts("runs/shop/ingest/quarantine")
        for row in storage.read_part("runs/shop/ingest/quarantine", part).to_pylist()
    ]  # fmt: skip
    assert (row["row"], row["reason"], row["detail"]) == (211, "bad_json", None)
    users = storage.read_part("runs/shop/ingest/users", "part-00000").to_pylist()
    assert [row["attributes"] for row in users] == [[("city", "Bern")]] * 30


def test_the_mapping_may_be_deleted(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next command of the run finds nothing amiss."""
    storage = Storage(str(shop))
    mapping = shop / "runs/shop/ingest/pseudonyms"
    aside = mapping.rename(shop.parent / "mapping")
    try:
        assert for_user(storage, "recommender", USERS[0], 3)["known_user"]
    finally:
        aside.rename(mapping)


def test_a_published_model_is_asked_by_id_or_by_pseudonym(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(shop))
    by_id = for_user(storage, "recommender", USERS[0], 3)
    assert by_id["known_user"] and by_id["history_len"] == 7 and by_id["user_id"] == USERS[0]
    (pseudonym,) = [
        row["pseudonym"] for part in storage.parts("runs/shop/ingest/pseudonyms")
        for row in storage.read_part("runs/shop/ingest/pseudonyms", part).to_pylist()
        if row["user_id"] == USERS[0]
    ]  # fmt: skip
    (scored,) = score_pairs(storage, "recommender", [(USERS[0], ITEMS[1])])
    assert scored["known_user"] and scored["user_id"] == USERS[0]
    stranger = for_user(storage, "recommender", "nobody@shop.example", 3)
    assert not stranger["known_user"]

    monkeypatch.delenv(KEY_ENV)
    assert for_user(storage, "recommender", pseudonym, 3)["items"] == by_id["items"]
    with pytest.raises(UserError, match="has no SHOP_KEY"):
        load_published(str(shop)).recommend([USERS[0]])
    monkeypatch.setenv(KEY_ENV, "another key of more than 16 bytes")
    with pytest.raises(UserError, match="another key"):
        load_published(str(shop)).recommend([USERS[0]])


def test_a_synthetic_event_is_traced_to_its_user_and_its_question(shop: Path) -> None:
    storage = Storage(str(shop))
    unit = next(
        row for part in storage.parts("runs/shop/plan")
        for row in storage.read_part("runs/shop/plan", part).to_pylist()
        if row["strategy"] == "continue"
    )  # fmt: skip
    found = trace_unit(storage, "shop", unit["unit_id"][:12])
    assert (found["unit_id"], found["seed"]) == (unit["unit_id"], unit["seed"])
    assert found["user_id"] == unit["user_id"] and is_pseudonym(found["user_id"])
    assert len(found["history"]) == 5  # of seven, two are held out
    assert {event["title"] for event in found["history"]} <= {f"Title of {item}" for item in ITEMS}
    assert found["generator"] == f"ngram@{found['model_digest'][:16]}"
    assert found["answer"]["status"] == "generated"
    accepted = found["verdict"]["status"] == "accepted"
    assert found["trained_on"] == (sum(event["keep"] for event in found["events"]) * accepted)
    one = trace_unit(storage, "shop", f"{unit['unit_id']}:1")
    assert one["events"] == [found["events"][1]]

    with pytest.raises(UserError, match="no such unit"):
        trace_unit(storage, "shop", "0" * 32)
    with pytest.raises(UserError, match="at least 6 digits"):
        trace_unit(storage, "shop", "0")


def test_a_published_model_says_what_it_was_trained_on_and_why_it_went_out(shop: Path) -> None:
    found = trace_model(Storage(str(shop)), "current")
    assert found["is_current"] and found["replaced"] is None and found["run"] == "shop"
    assert found["data"]["users"] == 30 and found["data"]["real_events"] == 150
    assert found["gate"]["reasons"] and found["retrain"] is None


def test_a_forgotten_user_is_nowhere_below_the_root_and_stays_away(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is gone: the mapping says who is behind which pseudonym."""
    root = tmp_path / "root"
    shutil.copytree(shop, root)
    storage, user = Storage(str(root)), USERS[3]
    pseudonym = storage.read_part("runs/shop/ingest/pseudonyms", "part-00000").to_pylist()
    pseudonym += storage.read_part("runs/shop/ingest/pseudonyms", "part-00001").to_pylist()
    (name,) = [row["pseudonym"] for row in pseudonym if row["user_id"] == user]
    assert len(naming(root, name)) > 8

    with monkeypatch.context() as patch:
        patch.delenv(KEY_ENV)
        found = forget(storage, [user], delete=True, models=True)
    assert list(found["runs"]) == ["shop"] and found["runs"]["shop"]["rows"] > 20
    assert len(found["versions"]) == 1 and not found["unsearched"]
    assert naming(root, user) == naming(root, name) == []
    (receipt,) = storage.names("forgotten", "receipts")
    written = storage.read_json("forgotten/receipts", receipt)
    assert written["removed"]["runs"]["shop"]["files"] > 50 and written["finished_utc"]
    assert f"{written['users'][0]}.json" in storage.names("forgotten", "users")
    assert not storage.exists("published", "recommender", "CURRENT")

    config = parse_config({**NIGHT, "ingest": write_shop(tmp_path)})
    counts = pipeline.run(config, storage, "shop", until="ingest")["ingest"]["counts"]
    assert counts["dropped.forgotten"] == 7 and counts["users"] == 29
    assert counts["users_table.dropped.forgotten"] == 1
    assert naming(root, user) == naming(root, name) == []
