"""A message when a job ends, against a real HTTP server that fails now and then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmaug.commands.notify import message, notify
from llmaug.config.notify import NotifyConfig
from tests.servers import PostServer

CONFIG = NotifyConfig(webhook_env="HOOK")
GATE = {"passed": True, "candidate": "augmented", "reasons": []}
PUBLISHED = {
    "outcome": "published",
    "arm": "augmented",
    "uri": "s3://b/v1",
    "why": "",
    "forced": None,
}
LIFT = {"ndcg@10": {"relative": 0.05, "low": 0.01, "high": 0.09, "against": "real"}}


def night(gate: dict[str, Any] = GATE, **published: Any) -> dict[str, Any]:
    manifests = {"gate": {"counts": gate}, "publish": {"counts": {**PUBLISHED, **published}}}
    return message("2026-01-31", manifests, {"lift": LIFT, "ledger": {"accepted": 9}})


def test_it_says_what_became_of_the_night() -> None:
    told = night()
    assert told["status"] == "published" and told["ledger"] == {"accepted": 9}
    assert told["text"] == (
        "llmaug 2026-01-31: published; arm augmented is current; ndcg@10 +5.0% (+1.0% to +9.0%) "
        "over real"
    )
    refused = night({**GATE, "passed": False, "reasons": ["the lift is too small"]}, arm="real")
    assert refused["status"] == "refused" and "the lift is too small" in refused["text"]
    assert night(outcome="left", why="a newer night is current")["status"] == "left"
    assert night({**GATE, "passed": False}, forced={"reason": "r"})["status"] == "published"
    assert message("r", {"ingest": {}}, None)["status"] == "finished"
    failed = message("r", {}, None, "logs are missing")
    assert failed["status"] == "failed" and "logs are missing" in failed["text"]


def test_it_says_what_drifted_once() -> None:
    alarm = (
        "drift: users_ratio is 0.500 against run r; gate.drift.max_users_ratio allows 0.667 to 1.5"
    )
    for published in ({}, {"outcome": "left", "why": alarm}):
        manifests = {"gate": {"counts": GATE}, "publish": {"counts": {**PUBLISHED, **published}}}
        told = message("2026-01-31", manifests, {"lift": LIFT, "drift": {"alarms": [alarm]}})
        assert told["alarms"] == [alarm] and told["text"].count(alarm) == 1
    assert night()["alarms"] == []


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    said: list[str] = []
    yield said
    assert not any("secret-token" in text for text in said)


def post(server: PostServer, said: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setenv("HOOK", server.url)
    try:
        return notify(CONFIG, night(), said.append)
    finally:
        server.close()


def test_it_arrives_though_the_server_is_busy_at_first(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = PostServer(503, 200)
    assert post(server, said, monkeypatch)
    assert server.got == [night(), night()] and said == []


@pytest.mark.parametrize("status", [403, 302])
def test_what_it_refuses_is_said_and_fails_nothing(
    status: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = PostServer(status)
    assert not post(server, said, monkeypatch)
    assert len(server.got) == 1 and str(status) in said[0] and "HOOK" in said[0]


def test_a_server_that_is_not_there_is_said(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = PostServer()
    server.close()
    monkeypatch.setenv("HOOK", server.url)
    monkeypatch.setattr("llmaug.commands.notify._TRIES", 1)
    assert not notify(CONFIG, night(), said.append)
    assert "nobody was told: the webhook of HOOK" in said[0]


def test_who_did_not_ask_is_not_told(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not notify(NotifyConfig(), night(), said.append)
    only = NotifyConfig(webhook_env="HOOK", when=["failed"])
    assert not notify(only, night(), said.append) and said == []
    monkeypatch.delenv("HOOK", raising=False)
    assert not notify(CONFIG, night(), said.append)
    assert "HOOK of the environment holds no http(s) URL" in said[0]
