"""The whole job on real logs with the real engine: read it to see what llmaug does.

Sixty MovieLens users, a behaviour model trained for a few steps, vLLM on this machine, all files
on a real S3 server. The job is run by the command, and killed on its way.
Numbers are too small to show a lift; what is shown is that nothing is lost, nothing leaks, that
a second run does only what changed, and that one that was killed ends as an undisturbed one.
"""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from openlineage.client.event_v2 import RunState

from llmaug import pipeline
from llmaug.commands import lineage
from llmaug.commands.recommend_all import recommend_all
from llmaug.config import parse_config
from llmaug.config.names import LOGS, WRITTEN
from llmaug.core.storage import Storage
from llmaug.publish.recommend import for_user, score_pairs
from llmaug.report.stage import load_metrics
from tests.jobs import NUM_USERS, SMALL, changed, kill_when, llmaug, write_config, write_logs
from tests.servers import BUCKET, SECRET_KEY

pytestmark = pytest.mark.s3

ROOT = f"s3://{BUCKET}/team/llmaug"
RUN = "runs/small"
# Enough checkpoints to be killed between.
JOB = changed(SMALL, train={"num_steps": 60, "validate_every": 5, "patience": 100})
LONG = {"kind": "too_short", "min_events": 5}  # continuations have four
STRICTER = changed(JOB, filters={"rules": [{"kind": "repeated"}, LONG, {"kind": "copied"}]})


@pytest.fixture(scope="module")
def done(
    endpoint: str, shared_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> CompletedProcess[str]:
    """The command that ended the job; the one before was killed while it trained a model."""
    write_logs(ROOT, endpoint)
    config = write_config(tmp_path_factory.mktemp("config"), JOB)
    command = ("run", "-c", str(config), "--root", ROOT, "--endpoint-url", endpoint)
    storage = Storage(ROOT, endpoint)

    def has_checkpoint() -> bool:
        files = storage.sizes(f"{RUN}/model/real/seed-1/_train")
        return any(name.endswith("/state.json") for name in files)

    kill_when(has_checkpoint, *command, every_s=0.1)
    assert not storage.exists(f"{RUN}/model/real", "_manifest.json")
    done = llmaug(*command)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def storage(endpoint: str, done: CompletedProcess[str]) -> Storage:
    """A finished run."""
    return Storage(ROOT, endpoint)


def run(storage: Storage, config: dict[str, Any], until: str = "report") -> dict[str, Any]:
    return pipeline.run(parse_config(config), storage, "small", until)


def events(storage: Storage, folder: str) -> list[dict[str, Any]]:
    folder = f"{RUN}/{folder}"
    return [
        row for part in storage.parts(folder) for row in storage.read_part(folder, part).to_pylist()
    ]


def test_a_killed_job_goes_on_from_s3_and_leaks_no_secret(
    storage: Storage, endpoint: str, done: CompletedProcess[str]
) -> None:
    skipped = [line for line in done.stderr.splitlines() if "unchanged, skipped" in line]
    assert [line.split()[-3] for line in skipped] == [
        "ingest", "split", "vocabulary", "drift", "lm/causal", "real_runs", "plan", "outcomes",
        "filtered", "merged/real", "merged/augmented", "privacy", "fidelity",
    ]  # fmt: skip
    assert storage.read_json(RUN, "lease.json") is None, "the lease was not released"

    answer = llmaug("recommend", "--user", "1", "--k", "3", "--root", ROOT,
                    "--endpoint-url", endpoint)  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "model published/recommender/versions/small-" in answer.stdout

    names = [name for name in storage.fs.find(storage.path("runs")) if name.endswith(".json")]
    texts = [done.stdout, done.stderr, *(storage.fs.cat_file(name).decode() for name in names)]
    assert len(texts) > 20
    assert not any(SECRET_KEY in text for text in texts)

    # infra/s3-policy.json gives rights on these, and on no others.
    assert {name.split("/")[0] for name in storage.sizes()} <= {*WRITTEN, LOGS}


def test_every_unit_has_exactly_one_outcome(storage: Storage) -> None:
    metrics = load_metrics(storage, "small")
    assert metrics is not None
    ledger = metrics["ledger"]
    assert ledger["units"] == 40 + NUM_USERS  # new users, and one continuation of each real one
    assert ledger["units"] == ledger["accepted"] + ledger["rejected"] + ledger["failed"]
    assert ledger["accepted"] > 0  # else what is said of synthetic events is said of none
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


def test_lineage_leads_from_the_published_model_back_to_the_logs(storage: Storage) -> None:
    made: dict[str, set[str]] = {}
    for event in lineage.events(parse_config(JOB), storage, "small"):
        assert event.eventType != RunState.FAIL
        for output in event.outputs or ():
            assert output.namespace == f"s3://{BUCKET}"
            made[output.name] = {read.name for read in event.inputs or ()}
    reached, todo = set(), {name for name in made if "/versions/" in name}
    assert todo, "nothing was published"
    while todo:
        name = todo.pop()
        reached.add(name)
        todo |= made.get(name, set()) - reached
    base = ROOT.removeprefix(f"s3://{BUCKET}/")
    assert f"{base}/{RUN}/filtered" in reached
    assert f"{base}/{LOGS}/events" in reached


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
    assert card["run_id"] == "small"
    assert metrics["gate"]["reasons"]
    assert metrics["privacy"]["synthetic"] == metrics["ledger"]["accepted"]
    page = storage.read(f"{RUN}/report", "report.html").decode()
    assert metrics["gate"]["reasons"][0].split(",")[0] in page


def test_the_published_model_recommends_unseen_items_with_titles(
    storage: Storage, stages_here: None
) -> None:
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
    storage: Storage, stages_here: None
) -> None:
    again = run(storage, JOB)
    assert all(manifest["skipped"] for manifest in again.values())

    stricter = run(storage, STRICTER)
    ran = [name for name, manifest in stricter.items() if not manifest["skipped"]]
    assert ran == ["filtered", "merged/augmented", "privacy", "fidelity", "model/augmented",
                   "evaluation", "gate", "publish", "recommendations", "report"]  # fmt: skip
    metrics = load_metrics(storage, "small")
    assert metrics is not None and metrics["stages"]["outcomes"]["skipped"]


@pytest.mark.soak
def test_a_killed_run_ends_as_an_undisturbed_one(shared_ray: None, tmp_path: Path) -> None:
    """kill -9 of the driver while it generates and while it trains, then the same command again:
    nothing is lost, nothing is there twice, and one seed gives one result."""
    undisturbed, killed = (Storage(str(tmp_path / name)) for name in ("undisturbed", "killed"))
    for storage in (undisturbed, killed):
        write_logs(storage.root)
    run(undisturbed, JOB, until="evaluate")

    command = ("run", "-c", str(write_config(tmp_path, JOB)), "--root", killed.root,
               "--until", "evaluate")  # fmt: skip
    here = tmp_path / "killed" / RUN
    kill_when((here / "outcomes/_attempts").exists, *command)
    assert not (here / "outcomes/_manifest.json").exists()
    checkpoints = here / "model/real/seed-1/_train"
    kill_when(lambda: any(checkpoints.glob("checkpoint_*/state.json")), *command)
    assert not (here / "model/real/_manifest.json").exists()
    done = llmaug(*command)
    assert done.returncode == 0, done.stderr
    assert "outcomes unchanged, skipped" in done.stderr

    for stage in ("split", "plan", "outcomes", "model/real"):
        one, other = manifests(undisturbed, killed, stage)
        assert content(one) == content(other), stage
    one, other = manifests(undisturbed, killed, "evaluation")
    for arm in ("real", "augmented"):
        for metric, values in one["counts"]["arms"][arm].items():
            assert values["mean"] == pytest.approx(
                other["counts"]["arms"][arm][metric]["mean"], abs=0.02
            )


def manifests(one: Storage, other: Storage, stage: str) -> list[dict[str, Any]]:
    return [storage.read_json(f"{RUN}/{stage}", "_manifest.json") for storage in (one, other)]


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
