"""What a night read and wrote, told to a catalogue: a server takes it, and without one no night
fails. The way from a published model back to its logs is in tests/whole/test_end_to_end.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmaug.commands.lineage import events, send_lineage
from llmaug.config import Config, parse_config
from llmaug.core.formats import MANIFEST, RUN
from llmaug.core.storage import Storage
from tests.servers import PostServer


def config_of(**tracking: Any) -> Config:
    ingest = {"path": "{root}/logs", "items": {"path": "s3://shop/items"}}
    return parse_config({"name": "shop", "ingest": ingest, "tracking": tracking})


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A run whose stages `ingest` and `split` are done; it was to go on."""
    storage = Storage(str(tmp_path))
    stages = ["ingest", "split", "vocabulary"]
    storage.write_json({**RUN.stamp, "run_id": "night", "stages": stages}, "runs/night", "run.json")
    for name, inputs, rows in (("ingest", {}, 90), ("split", {"ingest": "c"}, 80)):
        storage.write_json(
            {**MANIFEST.stamp, "stage": name, "fingerprint": f"of-{name}", "inputs": inputs,
             "counts": {}, "parts": [{"rows": rows}], "files": {"a": {"bytes": 10}},
             "seconds": 5.0, "finished_utc": "2026-01-31T02:10:44Z"},
            f"runs/night/{name}", "_manifest.json",
        )  # fmt: skip
    return storage


def test_each_stage_says_what_it_read_and_wrote(storage: Storage) -> None:
    found = list(events(config_of(), storage, "night"))
    assert [(each.job.name, each.eventType.value) for each in found if each.eventType] == [
        ("shop.ingest", "START"), ("shop.ingest", "COMPLETE"),
        ("shop.split", "START"), ("shop.split", "COMPLETE"),
        ("shop", "START"), ("shop", "COMPLETE"),
    ]  # fmt: skip
    ingest, split = found[1], found[3]
    root = storage.root
    assert [(each.namespace, each.name) for each in ingest.inputs or ()] == [
        ("file", f"{root}/logs"), ("s3://shop", "items"),
    ]  # fmt: skip
    [written] = ingest.outputs or []
    assert written.outputFacets and vars_of(written.outputFacets["outputStatistics"]) == (90, 10)
    [read] = split.inputs or []
    assert read.name == written.name == f"{root}/runs/night/ingest"
    assert (found[0].eventTime, ingest.eventTime) == (
        "2026-01-31T02:10:39+00:00", "2026-01-31T02:10:44+00:00",
    )  # fmt: skip


def vars_of(statistics: Any) -> tuple[int, int]:
    return statistics.rowCount, statistics.size


def test_a_failed_night_fails_there_too_and_its_finished_stages_do_not(storage: Storage) -> None:
    *stages, last = events(config_of(), storage, "night", error="logs are missing")
    assert {each.eventType.value for each in stages if each.eventType} == {"START", "COMPLETE"}
    assert last.eventType and last.eventType.value == "FAIL"
    assert "message='logs are missing'" in str(last.run.facets)


def send(storage: Storage, url: str) -> list[str]:
    said: list[str] = []
    send_lineage(config_of(openlineage_url=url), storage, "night", None, said.append)
    return said


def test_a_server_gets_all_of_it_with_the_same_ids_each_time(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "a-key")
    server = PostServer(200)
    assert send(storage, server.url) == [] == send(storage, server.url)
    server.close()
    first, again = server.got[:6], server.got[6:]
    assert [each["run"]["runId"] for each in first] == [each["run"]["runId"] for each in again]
    assert len({each["run"]["runId"] for each in first}) == 3
    parents = [each["run"]["facets"]["parent"]["run"]["runId"] for each in first[:4]]
    assert set(parents) == {first[-1]["run"]["runId"]}
    assert "a-key" not in str(server.got)


def test_a_server_that_refuses_or_is_gone_is_said_and_fails_nothing(storage: Storage) -> None:
    server = PostServer(403)
    (said,) = send(storage, server.url)
    assert "did not take the lineage" in said and len(server.got) == 1
    server.close()
    (said,) = send(storage, server.url)
    assert "did not take the lineage" in said


def test_nothing_is_sent_unless_one_asks_for_it(storage: Storage) -> None:
    assert not send_lineage(config_of(), storage, "night", None, pytest.fail)
