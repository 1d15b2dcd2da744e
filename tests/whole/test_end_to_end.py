"""The whole job on real logs with the real engine: read it to see what llmaug does.

Sixty MovieLens users, a behaviour model trained for a few steps, vLLM on this machine.
Numbers are too small to show a lift; what is shown is that nothing is lost, nothing leaks, that
a second run does only what changed, and that one that was killed ends as an undisturbed one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmaug import pipeline
from llmaug.commands.recommend_all import recommend_all
from llmaug.config import parse_config
from llmaug.core.storage import Storage
from llmaug.publish.recommend import for_user, score_pairs
from llmaug.report.stage import load_metrics
from tests.jobs import NUM_USERS, SMALL, changed, kill_when, llmaug, write_config, write_logs

RUN = "runs/small"
# Enough checkpoints to be killed between.
JOB = changed(SMALL, train={"num_steps": 60, "validate_every": 5, "patience": 100})
LONG = {"kind": "too_short", "min_events": 5}  # continuations have four
STRICTER = changed(JOB, filters={"rules": [{"kind": "repeated"}, LONG, {"kind": "copied"}]})


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Storage:
    """A finished run."""
    root = tmp_path_factory.mktemp("root")
    write_logs(str(root))
    storage = Storage(str(root))
    manifests = run(storage, JOB)
    assert not any(manifest["skipped"] for manifest in manifests.values())
    return storage


def run(storage: Storage, config: dict[str, Any]) -> dict[str, Any]:
    return pipeline.run(parse_config(config), storage, "small")


def events(storage: Storage, folder: str) -> list[dict[str, Any]]:
    folder = f"{RUN}/{folder}"
    return [
        row for part in storage.parts(folder) for row in storage.read_part(folder, part).to_pylist()
    ]


def test_every_unit_has_exactly_one_outcome(storage: Storage) -> None:
    metrics = load_metrics(storage, "small")
    assert metrics is not None
    ledger = metrics["ledger"]
    assert ledger["units"] == 40 + NUM_USERS  # new users, and one continuation of each real one
    assert ledger["units"] == ledger["accepted"] + ledger["rejected"] + ledger["failed"]
    assert ledger["failed"] == 0
    planned = [unit["unit_id"] for unit in events(storage, "plan")]
    answered = [outcome["unit_id"] for outcome in events(storage, "outcomes")]
    assert len(set(planned)) == len(planned)
    assert sorted(planned) == sorted(answered)


def test_what_came_out_of_the_engine_is_in_the_catalogue(storage: Storage) -> None:
    catalogue = {item["item_id"] for item in events(storage, "vocabulary")}
    outcomes = events(storage, "filtered")
    generated = [event["item_id"] for outcome in outcomes for event in outcome["events"]]
    assert len(generated) == 40 * 8 + NUM_USERS * 4
    assert set(generated) <= catalogue


def test_held_out_events_never_reach_training(storage: Storage) -> None:
    held_out = {(e["user_id"], e["item_id"]) for fold in ("validation", "test")
                for e in events(storage, f"split/{fold}")}  # fmt: skip
    real = {(e["user_id"], e["item_id"]) for e in events(storage, "merged/augmented")
            if e["origin"] == "real"}  # fmt: skip
    assert len(held_out) == 2 * NUM_USERS
    assert not held_out & real
    # A synthetic event may name a held-out item (that is what prediction is), but it says
    # where it came from and lies before the end of training.
    last = max(e["timestamp"] for e in events(storage, "split/train"))
    for event in events(storage, "merged/augmented"):
        if event["origin"] == "synthetic":
            assert (
                event["unit_id"] and event["strategy"] and event["generator"].startswith("causal@")
            )
            assert event["timestamp"] <= last


def test_the_gate_decides_what_is_published(storage: Storage) -> None:
    metrics = load_metrics(storage, "small")
    assert metrics is not None
    card = storage.read_json("published/recommender", "CURRENT")
    assert (
        card["arm"]
        == metrics["gate"]["arm"]
        == ("augmented" if metrics["gate"]["passed"] else "real")
    )
    assert metrics["gate"]["reasons"]
    assert metrics["privacy"]["synthetic"] == metrics["ledger"]["accepted"]
    page = storage.read(f"{RUN}/report", "report.html").decode()
    assert metrics["gate"]["reasons"][0].split(",")[0] in page


def test_the_published_model_recommends_unseen_items_with_titles(storage: Storage) -> None:
    user = events(storage, "ingest")[0]["user_id"]
    seen = {e["item_id"] for e in events(storage, "ingest") if e["user_id"] == user}
    answer = for_user(storage, "recommender", user, k=10)
    assert answer["known_user"] and len(answer["items"]) == 10
    assert all(item["title"] for item in answer["items"])
    assert not seen & {item["item_id"] for item in answer["items"]}
    assert not for_user(storage, "recommender", "nobody", k=3)["known_user"]
    [known, unknown] = score_pairs(storage, "recommender", [(user, "50"), (user, "no such item")])
    assert 0 < known["score"] < 1
    assert unknown["score"] is None and not unknown["known_item"]
    in_batch = [r for r in events(storage, "recommendations") if r["user_id"] == user]
    assert [r["item_id"] for r in in_batch] == [item["item_id"] for item in answer["items"]]
    # By hand, for everybody and with longer lists: the same model, the same order.
    done = recommend_all(storage, "recommender", k=20, to="tonight")
    assert (done["users"], done["rows"]) == (NUM_USERS, 20 * NUM_USERS)
    assert done["users_per_s"] > 0
    longer = [
        r["item_id"]
        for part in storage.parts("tonight")
        for r in storage.read_part("tonight", part).to_pylist()
        if r["user_id"] == user
    ]
    assert longer[:10] == [r["item_id"] for r in in_batch]


def test_a_second_run_skips_everything_and_a_change_runs_only_what_depends_on_it(
    storage: Storage,
) -> None:
    again = run(storage, JOB)
    assert all(manifest["skipped"] for manifest in again.values())

    stricter = run(storage, STRICTER)
    ran = [name for name, manifest in stricter.items() if not manifest["skipped"]]
    assert ran == ["filtered", "merged/augmented", "privacy", "model/augmented", "evaluation",
                   "gate", "publish", "recommendations", "report"]  # fmt: skip
    metrics = load_metrics(storage, "small")
    assert metrics is not None and metrics["stages"]["outcomes"]["skipped"]


@pytest.mark.soak
def test_a_killed_run_ends_as_an_undisturbed_one(
    storage: Storage, shared_ray: None, tmp_path: Path
) -> None:
    """kill -9 of the driver while it generates and while it trains, then the same command again:
    nothing is lost, nothing is there twice, and one seed gives one result."""
    write_logs(str(tmp_path))
    command = ("run", "-c", str(write_config(tmp_path, STRICTER)), "--root", str(tmp_path),
               "--until", "evaluate")  # fmt: skip
    kill_when((tmp_path / RUN / "outcomes/_attempts").exists, *command)
    assert not (tmp_path / RUN / "outcomes/_manifest.json").exists()
    checkpoints = tmp_path / RUN / "model/real/seed-1/_train"
    kill_when(lambda: any(checkpoints.glob("checkpoint_*/state.json")), *command)
    assert not (tmp_path / RUN / "model/real/_manifest.json").exists()
    done = llmaug(*command)
    assert done.returncode == 0, done.stderr
    assert "outcomes unchanged, skipped" in done.stderr

    twin = Storage(str(tmp_path))
    for stage in ("split", "plan", "outcomes", "model/real"):
        ours, theirs = (s.read_json(f"{RUN}/{stage}", "_manifest.json") for s in (storage, twin))
        assert content(ours) == content(theirs), stage
    ours, theirs = (s.read_json(f"{RUN}/evaluation", "_manifest.json") for s in (storage, twin))
    for arm in ("real", "augmented"):
        for metric, values in ours["counts"]["arms"][arm].items():
            assert values["mean"] == pytest.approx(
                theirs["counts"]["arms"][arm][metric]["mean"], abs=0.02
            )


def content(manifest: dict[str, Any]) -> Any:
    """What must not differ between two runs: rows of parts, weights; not seconds."""
    parts = [(part["folder"], part["part"], part["rows"]) for part in manifest["parts"]]
    digests = [
        part["digest"] for part in manifest["parts"] if manifest["stage"] in ("split", "plan")
    ]
    weights = [
        facts["model_digest"] for facts in manifest["counts"].values() if isinstance(facts, dict)
    ]
    return parts, digests, weights
