"""Whose training events a model of an earlier run has seen, however it came into that run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmaug.core.stage import Context
from llmaug.errors import UserError
from llmaug.lm import adopt
from llmaug.lm.earlier import find_earlier, refuse_leaks
from tests.nights import without_ray
from tests.tables import Row, catalogue, events, histories, hour, write_finished, write_vocabulary

MakeContext = Callable[..., Context]
HELD_OUT = [("u1", "c", 2.0)]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)
    monkeypatch.setattr("llmaug.lm.earlier.check_stage", lambda *_: None)


@pytest.fixture
def night(make_context: MakeContext) -> Callable[..., Context]:
    """A run of these training and held-out events, and a model that was trained in it."""

    def night(
        run_id: str, train: list[Row], held_out: list[Row] | None = None, **config: Any
    ) -> Context:
        context = make_context(run_id, **config)
        for fold, rows in (("train", train), ("validation", []), ("test", held_out or [])):
            folder = f"{context.folder('split')}/{fold}"
            context.storage.write_part(events(rows), {}, folder, "part-00000")
        last = max(at for _, _, at in train)
        write_vocabulary(context, catalogue("abcd"), {"window_end_s": hour(last).timestamp()})
        write_finished(context, "lm/causal", model_digest=run_id)
        return context

    return night


def refuse(context: Context, run_id: str) -> None:
    refuse_leaks(context, find_earlier(context, run_id, "lm.from_run"), "lm.from_run")


def test_what_that_run_trained_on_may_not_be_held_out(night: Callable[..., Context]) -> None:
    night("monday", histories(u1="abc", u2="cab"))
    with pytest.raises(UserError, match=r"lm\.from_run: run monday trained on 1 events"):
        refuse(night("tonight", histories(u1="ab"), HELD_OUT), "monday")
    refuse(night("later", histories(u1="abc"), [("u1", "d", 3.0)]), "monday")
    refuse(night("others", histories(u1="ab"), [("u3", "c", 2.0)]), "monday")


def test_where_ids_have_changed_nobody_can_see_what_was_learned(
    night: Callable[..., Context],
) -> None:
    monday = night("monday", histories(u1="abc"))
    tonight = night("tonight", histories(p1="ab"), [("p1", "c", 2.0)])
    for context, key in ((monday, "first"), (tonight, "second")):
        write_finished(context, "ingest")
        path = (context.folder("ingest"), "_manifest.json")
        manifest = context.storage.read_json(*path)
        context.storage.write_json({**manifest, "outside": {"pseudonym_key_id": key}}, *path)
    with pytest.raises(UserError, match="run monday knows its users by other pseudonyms"):
        refuse(tonight, "monday")


def test_a_model_that_was_taken_over_knows_what_its_own_run_saw(
    night: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tuesday has other logs, and Monday's model. Tonight takes Tuesday's."""
    monkeypatch.setattr(adopt, "imported", lambda *_: lambda *_: None)
    night("monday", histories(u1="abc"))
    tuesday = night("tuesday", histories(u9="ab"), lm={"from_run": "monday"})
    write_finished(tuesday, "lm/causal", **adopt.run(tuesday))
    tonight = night("tonight", histories(u1="ab"), HELD_OUT)
    with pytest.raises(UserError, match="run monday trained on 1 events"):
        refuse(tonight, "tuesday")


def test_a_model_that_started_from_another_knows_what_both_saw(
    night: Callable[..., Context],
) -> None:
    night("sunday", histories(u1="abc"))
    monday = night("monday", histories(u7="ab"))
    write_finished(monday, "lm/causal", model_digest="m", learned_from=["sunday", "long-ago"])
    tonight = night("tonight", histories(u1="ab"), HELD_OUT)
    with pytest.raises(UserError, match="run sunday trained on 1 events"):
        refuse(tonight, "monday")
    notes: list[str] = tonight.progress.notes  # type: ignore[attr-defined]
    assert ["long-ago, whose events are gone" in note for note in notes] == [True]
