"""Publishing by hand: a force leaves its traces everywhere, and is for one decision only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import typer

from llmaug import recommenders
from llmaug.cli.app import app
from llmaug.commands.force import publish_run
from llmaug.config import PopularityConfig
from llmaug.core.formats import RUN
from llmaug.core.stage import MANIFEST, Context
from llmaug.errors import UserError
from llmaug.items.vocabulary import ITEMS_PART
from llmaug.publish import pointer, recommend
from llmaug.publish import stage as publish
from llmaug.recommenders import DataFacts
from tests.report.test_report import FEW, manifests
from tests.tables import catalogue, events, histories, map_parts_here

MakeContext = Callable[..., Context]
REFUSAL = "lift of ndcg@10 over real: -2.0% (-9.0% to +5.0%)"
REFUSED = {"passed": False, "arm": "real", "reasons": [REFUSAL], "segments": []}
REASON = "agreed with the shop team"


@pytest.fixture
def night(make_context: MakeContext, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A run whose gate refused: the real arm likes a best, the augmented arm b."""
    config = {
        "plan": {"strategies": [{"kind": "new_users"}]},
        "generate": {"engine": "uniform"},
        "train": {"model": "popularity"},
        "recommend": {"include_seen": True, "k": 1},
    }
    context = make_context("monday", **config)
    storage = context.storage
    storage.write_json(
        {**RUN.stamp, "run_id": "monday", "config": context.config.model_dump(mode="json")},
        "runs/monday", "run.json",
    )  # fmt: skip
    finished = {name: manifest["counts"] for name, manifest in manifests(FEW).items()}
    for name, counts in {
        **finished,
        "vocabulary": {},
        "plan": {},
        "real_runs": {},
        "fidelity": {"found": None},
        "drift": {"found": None},
    }.items():
        if name != "publish":
            finish(context, name, counts)
    decide(context, REFUSED)
    storage.write_part(events(histories(u1="ab")), {}, context.folder("ingest"), "part-00000")
    words = catalogue("ab")
    storage.write_part(
        words.items, {"vocabulary_digest": words.digest}, context.folder("vocabulary"), ITEMS_PART
    )
    for arm, liked in (("real", "aab"), ("augmented", "abb")):
        model = recommenders.build(PopularityConfig(), DataFacts(words))
        model.fit(lambda liked=liked: [events(histories(u1=liked))])
        folder = context.folder(f"model/{arm}/seed-1")
        digest = recommenders.save_recommender(storage, folder, model, PopularityConfig(), words)
        storage.write_json({"model_digest": digest}, folder, "_trained.json")
    monkeypatch.setattr(recommend, "map_parts", map_parts_here)
    return context


def finish(
    context: Context, stage: str, counts: dict[str, Any], fingerprint: str = "first"
) -> None:
    manifest = {"fingerprint": fingerprint, "counts": counts, "parts": [], "seconds": 1.0,
                "peak_rss_mb": 1, "finished_utc": "2026-01-27T02:00:00Z"}  # fmt: skip
    context.storage.write_json(manifest, context.folder(stage), MANIFEST)


def decide(context: Context, decision: dict[str, Any], fingerprint: str = "first") -> None:
    finish(context, "gate", decision, fingerprint)


def recommended(context: Context) -> str:
    rows = context.storage.read_part(context.folder("recommendations"), "part-00000")
    return rows["item_id"][0].as_py()


def test_a_force_is_recorded_with_the_model_in_the_run_and_in_the_report(night: Context) -> None:
    storage = night.storage
    real = publish_run(storage, "monday")
    assert (real["arm"], real["outcome"]) == ("real", "published")
    assert recommended(night) == "a"
    served = storage.read(real["version"], "model.safetensors")

    card = publish_run(storage, "monday", REASON)

    assert (card["arm"], recommended(night)) == ("augmented", "b")
    version = card["version"]
    current = pointer.current(storage, "recommender")
    assert (current["version"], current["arm"]) == (version, "augmented")
    assert current["previous"] == real["version"] != version
    metrics = storage.read_json(night.folder("report"), "metrics.json")
    for recorded in (
        storage.read_json(version, "published.json"),
        storage.read_json(night.folder("publish"), MANIFEST)["counts"],
        metrics["published"],
    ):
        assert recorded["forced"]["reason"] == REASON
        assert recorded["forced"]["refused"] == [REFUSAL]
        assert recorded["forced"]["forced_utc"].endswith("Z")
        assert recorded["gate"]["passed"] is False
    page = storage.read(night.folder("report"), "report.html").decode()
    assert REASON in page and "by force" in page and REFUSAL in page.replace("&#43;", "+")
    # What the shop was served until now is still whole.
    assert storage.read(real["version"], "model.safetensors") == served


def test_publishing_again_without_force_goes_back_to_what_the_gate_chose(night: Context) -> None:
    publish_run(night.storage, "monday", REASON)
    assert publish_run(night.storage, "monday")["forced"] is None
    assert pointer.current(night.storage, "recommender")["arm"] == "real"
    assert recommended(night) == "a"


def test_a_new_decision_of_the_gate_is_not_forced_by_an_old_record(night: Context) -> None:
    publish_run(night.storage, "monday", REASON)
    assert publish.forced(night) is not None
    decide(night, REFUSED, fingerprint="second")
    assert publish.forced(night) is None
    assert publish.run(night)["arm"] == "real"


def test_there_must_be_something_to_force_and_a_reason(night: Context) -> None:
    storage = night.storage
    with pytest.raises(UserError, match="say why"):
        publish_run(storage, "monday", "  ")
    with pytest.raises(UserError, match="no such run; runs here: monday"):
        publish_run(storage, "tuesday", REASON)
    storage.delete(night.folder("model/augmented"), MANIFEST)
    with pytest.raises(UserError, match="no model of arm augmented"):
        publish_run(storage, "monday", REASON)
    decide(night, {**REFUSED, "passed": True, "arm": "augmented"})
    with pytest.raises(UserError, match="the gate passed and no newer night is current"):
        publish_run(storage, "monday", REASON)
    storage.delete(night.folder("gate"), MANIFEST)
    with pytest.raises(UserError, match="has not come to the gate"):
        publish_run(storage, "monday", REASON)
    assert not storage.exists("runs/monday", publish.FORCED)
    assert not storage.exists("published/recommender", "CURRENT")


def newer_night(night: Context) -> str:
    """Another run was published after Monday's; returns its version."""
    storage, version = night.storage, "published/recommender/versions/tuesday-0"
    read = "2026-01-28T02:00:00Z"
    card = {"run_id": "tuesday", "version": version, "arm": "real", "model_digest": "0",
            "night": [read, read]}  # fmt: skip
    storage.write_json(card, version, pointer.CARD)
    assert pointer.advance(storage, "recommender", card)["outcome"] == "published"
    return version


def test_publishing_an_old_night_leaves_the_newer_one_and_says_so(night: Context) -> None:
    storage = night.storage
    publish_run(storage, "monday")
    newer = newer_night(night)
    done = publish_run(storage, "monday")  # its stage is unchanged and skipped: it says so again
    assert (done["outcome"], done["current"]) == ("left", newer)
    assert "tuesday-0 is newer" in publish.said(done)
    assert pointer.current(storage, "recommender")["version"] == newer
    report = storage.read_json(night.folder("report"), "metrics.json")
    assert report["published"]["outcome"] == "published"  # what became of it that night


def test_a_night_that_was_left_says_so_in_its_report(night: Context) -> None:
    newer_night(night)
    publish_run(night.storage, "monday")
    page = night.storage.read(night.folder("report"), "report.html").decode()
    assert "Nothing was published: tuesday-0 is newer" in page
    metrics = night.storage.read_json(night.folder("report"), "metrics.json")
    assert metrics["published"]["outcome"] == "left"


def test_a_force_puts_an_old_night_before_a_newer_one_for_this_once(night: Context) -> None:
    storage = night.storage
    decide(night, {**REFUSED, "passed": True, "arm": "augmented"})
    publish_run(storage, "monday")
    newer = newer_night(night)
    done = publish_run(storage, "monday", REASON)
    assert (done["outcome"], done["forced"]) == ("published", None)  # the gate was not overruled
    current = pointer.current(storage, "recommender")
    assert (current["run_id"], current["held"]["reason"]) == ("monday", REASON)
    pointer.roll_back(storage, "recommender", to=newer.rpartition("/")[2])
    assert publish_run(storage, "monday")["outcome"] == "left"


def test_a_forced_night_that_is_resumed_late_has_no_right_to_step_back(night: Context) -> None:
    publish_run(night.storage, "monday", REASON)
    newer = newer_night(night)
    assert publish.run(night)["outcome"] == "left"
    assert pointer.current(night.storage, "recommender")["version"] == newer


def test_the_command_says_what_it_did(
    night: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ("--root", night.storage.root)
    said = [publish_by_command(capsys, "monday", *root)]
    said.append(publish_by_command(capsys, "monday", *root))
    newer_night(night)
    said.append(publish_by_command(capsys, "monday", *root))
    said.append(publish_by_command(capsys, "--rollback", *root))
    said.append(publish_by_command(capsys, "--rollback", "--to", "tuesday-0", *root))
    expected = ["published: arm real", "already current: arm real",
                "not published, CURRENT is left as it was: tuesday-0 is newer",
                "rolled back: ", "rolled back: "]  # fmt: skip
    for text, begin in zip(said, expected, strict=True):
        # Ray may have had a word of its own before.
        assert any(line.startswith(begin) for line in text.splitlines()), text
    assert "versions/monday-" in said[3] and "versions/tuesday-0" in said[4]


def publish_by_command(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    app(["publish", *options], standalone_mode=False)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["monday", "--force"], "go together"),
        (["monday", "--reason", REASON], "go together"),
        ([], "give a run to publish, or --rollback"),
        (["monday", "--rollback"], "give a run to publish, or --rollback"),
        (["--rollback", "--force", "--reason", REASON], "without --force"),
        (["monday", "--to", "x"], "goes with --rollback"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], said: str) -> None:
    with pytest.raises(typer.BadParameter, match=said):
        app(["publish", *options], standalone_mode=False)
