"""`llmaug forget` on a night made in a second: what goes, what is marked, and what stays."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from llmaug.commands.forget import MARK, forget
from llmaug.commands.recommend_all import recommend_all
from llmaug.core.formats import MANIFEST as STAGE
from llmaug.core.lease import Lease
from llmaug.core.storage import Storage
from llmaug.core.stored import MANIFEST
from llmaug.errors import UserError
from llmaug.generate.outcome_cache import remember
from llmaug.publish import pointer
from llmaug.schema import OUTCOME
from tests.nights import make_night, without_ray
from tests.tables import histories, read_rows


def answer(unit: str, user: str | None) -> dict:
    return {"unit_id": unit, "user_id": user, "strategy": "continue", "sample": 0, "attempts": 1,
            "status": "generated", "num_prompt_tokens": 3, "num_generated_tokens": 2,
            "engine_seconds": 0.1}  # fmt: skip


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A night of u1 to u4, lists for everybody, and two answers of a chat model in the cache."""
    without_ray(monkeypatch)
    make_night(tmp_path / "root", tmp_path, histories(u1="abc", u2="bcd", u3="cda", u4="dab"))
    storage = Storage(str(tmp_path / "root"))
    recommend_all(storage, "recommender", 2, "tonight")
    rows = pa.Table.from_pylist([answer("a", "u1"), answer("b", "u2")], schema=OUTCOME)
    remember(storage, "chat@1", "0.part", "other", "p", rows)
    return storage


def users_in(storage: Storage, folder: str) -> set[str | None]:
    return {row["user_id"] for row in read_rows(storage, folder)}


def test_without_delete_nothing_is_changed(storage: Storage) -> None:
    before = storage.sizes()
    found = forget(storage, ["u1"])
    assert list(found["runs"]) == ["night"] and len(found["versions"]) == 1
    assert len(found["cache_files"]) == len(found["lists"]) == 1
    assert not found["deleted"] and found["receipt"] is None
    assert storage.sizes() == before


def test_of_somebody_unknown_there_is_nothing(storage: Storage) -> None:
    found = forget(storage, ["nobody"])
    kinds = ("runs", "cache_folders", "cache_files", "lists", "versions", "others", "unsearched")
    assert not any(found[kind] for kind in kinds)


def test_runs_go_whole_and_others_keep_their_lists_and_answers(storage: Storage) -> None:
    forget(storage, ["u1"], delete=True)
    assert storage.names("runs") == []
    assert users_in(storage, "tonight") == {"u2", "u3", "u4"}
    (part, *_) = storage.read_json("tonight", "_llmaug.json")["parts"]
    assert part["rows"] == storage.read_part("tonight", part["part"]).num_rows
    (file,) = storage.names("outcomes_cache/chat@1/0.part")
    kept = storage.read_table("outcomes_cache/chat@1/0.part", file)
    assert kept["unit_id"].to_pylist() == ["b"]


def test_rows_of_logs_go_whoever_is_in_them(storage: Storage) -> None:
    """None would serve another night: the list of who is forgotten decides how logs are read."""
    for file, user in (("a", "u1"), ("b", "u2")):
        storage.write_table(pa.table({"user_id": [user]}), "clean_logs/how", f"{file}.parquet")
    found = forget(storage, ["u1"], delete=True)
    assert found["clean_logs"] == ["clean_logs/how/a.parquet"] and not found["others"]
    assert storage.sizes("clean_logs") == {}


def test_what_is_published_stays_and_is_marked(storage: Storage) -> None:
    version = pointer.current(storage, "recommender")["version"]
    forget(storage, ["u1"], delete=True)
    assert pointer.current(storage, "recommender")["version"] == version
    mark = storage.read_json(version, MARK)
    assert mark["why"] == "it was trained in run night" and "u1" not in str(mark)
    # Of a version whose run went with somebody else nobody can tell.
    (why,) = forget(storage, ["u2"])["versions"].values()
    assert "nobody can tell" in why


def test_a_run_that_is_held_is_not_deleted_under_its_holder(storage: Storage) -> None:
    with Lease(storage, "runs/night"), pytest.raises(UserError, match="held by"):
        forget(storage, ["u1"], delete=True)
    assert forget(storage, ["u1"], delete=True)["runs"] and storage.names("runs") == []


def test_answers_of_several_models_together_go_too(storage: Storage) -> None:
    """Their cache has a name of its own."""
    for stage, counts in {
        "lm/causal": {"model_digest": "a" * 32}, "lm/causal-2": {"model_digest": "b" * 32},
        "plan": {"generator": "causal@together"},
    }.items():  # fmt: skip
        manifest = {"fingerprint": "f", "parts": [], "counts": counts}
        storage.write_json(manifest, f"runs/night/{stage}", MANIFEST)
    for name in ("causal@together", "uniform@apart"):
        storage.write_json({}, f"outcomes_cache/{name}/new_users", "note.json")
    found = forget(storage, ["u1"], delete=True)
    assert found["cache_folders"] == ["outcomes_cache/causal@together"]
    assert "uniform@apart" in storage.names("outcomes_cache")


def make_family(storage: Storage) -> None:
    """`parent` was trained on u1, and so was `tonight`. `follower` and `last` know other users
    alone, and took their generators from `parent` and from one another. All have answers in the
    cache, and a published version."""
    family = {"parent": ("u1", None), "tonight": ("u1", None),
              "follower": ("x1", "parent"), "a-last": ("x1", "follower")}  # fmt: skip
    for run_id, (user, of) in family.items():
        folder, model = f"runs/{run_id}", run_id.ljust(16, "0")
        lm = {"model": "causal", "name": "m", **({"warm_start": of} if of else {})}
        storage.write_json({"config": {"lm": lm}}, folder, "run.json")
        storage.write_table(pa.table({"user_id": [user]}), folder, "split", "p.parquet")
        storage.write_table(pa.table({"weight": [1.0]}), folder, "training", "p.parquet")
        made = {"fingerprint": "f", "counts": {"model_digest": model}, "parts": [], "seconds": 1.0}
        storage.write_json({**STAGE.stamp, **made}, f"{folder}/lm/m", MANIFEST)
        rows = pa.Table.from_pylist([answer(run_id, None)], schema=OUTCOME)
        remember(storage, f"m@{model}", "0.part", run_id, "p", rows)
        storage.write_json({"run_id": run_id}, f"published/shop/versions/{run_id}-1", pointer.CARD)


def left_of(storage: Storage) -> set[str]:
    """All files but the list of those who are forgotten, with the receipts."""
    return {path for path in storage.sizes() if not path.startswith("forgotten/")}


def test_while_a_run_is_held_nothing_is_lost_track_of(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    make_family(storage)
    before = left_of(storage)
    with Lease(storage, "runs/tonight"):
        with pytest.raises(UserError, match="held by"):
            forget(storage, ["u1"], delete=True, models=True)
        assert left_of(storage) == before | {"runs/tonight/lease.json"}
    forget(storage, ["u1"], delete=True, models=True)
    assert not left_of(storage) and not storage.names("runs")


def stopped_after(num: int) -> Callable[..., None]:
    """`Storage.delete` of a process that is stopped when it has deleted so often."""
    real, left = Storage.delete, [num]

    def delete(storage: Storage, *names: str) -> None:
        if names[-1] != "lease.json":
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        real(storage, *names)

    return delete


def test_wherever_it_is_stopped_the_next_one_does_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for num in itertools.count():
        storage = Storage(str(tmp_path / str(num)))
        make_family(storage)
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(Storage, "delete", stopped_after(num))
            forget(storage, ["u1"], delete=True, models=True)
            break
        forget(storage, ["u1"], delete=True, models=True)
        # That there was a run, and how it was configured, may be left of one.
        assert {path.split("/")[-1] for path in left_of(storage)} <= {"run.json"}
    assert num > 20 and not left_of(storage)


def test_a_version_that_gc_removed_is_not_made_current(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    make_family(storage)
    place = "published/shop/versions"
    current = {"version": f"{place}/parent-1", "previous": f"{place}/old-1", "earlier": []}
    storage.write_json(current, "published/shop", "CURRENT")
    forget(storage, ["u1"], delete=True, models=True)
    assert not storage.exists("published/shop", "CURRENT")


def test_the_receipt_is_whole_where_the_lease_beats_while_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Storage.delete

    def slow(storage: Storage, *names: str) -> None:
        real(storage, *names)
        time.sleep(0.05)

    monkeypatch.setattr("llmaug.core.lease.HEARTBEAT_S", 0.02)
    monkeypatch.setattr(Storage, "delete", slow)
    storage = Storage(str(tmp_path))
    make_family(storage)
    receipt = Path(forget(storage, ["u1"], delete=True, models=True)["receipt"])
    assert "finished_utc" in receipt.read_text() and not storage.names("runs")


def test_a_pseudonym_is_not_what_the_logs_are_searched_for(storage: Storage) -> None:
    with pytest.raises(UserError, match="give the id of the logs"):
        forget(storage, ["p_" + "0" * 32], delete=True)


def test_runs_whose_generator_comes_from_a_deleted_one_go_too(storage: Storage) -> None:
    for run_id, lm in (("second", {"from_run": "night"}), ("third", {"warm_start": "second"})):
        storage.write_json({"config": {"lm": lm}}, f"runs/{run_id}", "run.json")
    storage.write_json({"config": {"lm": {}}}, "runs/apart", "run.json")
    assert set(forget(storage, ["u1"], delete=True)["runs"]) == {"night", "second", "third"}
    assert storage.names("runs") == ["apart"]
