"""Everybody's lists: what others put somewhere stays, and readers never see half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmaug.commands import recommend_all as module
from llmaug.commands.force import publish_run
from llmaug.commands.recommend_all import NOTE, recommend_all
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from tests.commands.test_force import REASON, night  # noqa: F401 (a fixture)


@pytest.fixture
def published(night: Context) -> Storage:  # noqa: F811
    """Monday's real arm is published: it likes a."""
    publish_run(night.storage, "monday")
    return night.storage


def read(storage: Storage, folder: str = "tonight") -> list[str]:
    """What a reader of the note sees."""
    parts = storage.read_json(folder, NOTE)["parts"]
    return [
        i for part in parts for i in storage.read_part(folder, part["part"])["item_id"].to_pylist()
    ]


def files(storage: Storage) -> dict[str, bytes]:
    """All files below the root and beside it, but for what a lease leaves in a run."""
    return {
        str(path): path.read_bytes()
        for top in (storage.root, f"{storage.root}-victim")
        for path in Path(top).rglob("*")
        if path.is_file() and "/lease.json" not in str(path)
    }


def test_nothing_is_deleted_wherever_the_lists_were_to_go(published: Storage) -> None:
    for name in ("logs/events/x", "outcomes_cache/x", "mine/deeper/x"):
        published.write(b"theirs", name)
    victim = Path(f"{published.root}-victim")
    victim.mkdir()
    (victim / "x").write_text("theirs")
    before = files(published)
    for to in ("", ".", "..", f"../{victim.name}", "/", "/tmp", "logs", "logs/events", "published",
               "runs", "Runs", "runs/monday", "outcomes_cache", "models", "mine", "mine/deeper",
               "tonight/../mine"):  # fmt: skip
        with pytest.raises(UserError, match="^--to "):
            recommend_all(published, "recommender", 1, to)
        assert files(published) == before, to


def test_the_lists_are_written_anew_and_what_others_put_beside_them_stays(
    published: Storage,
) -> None:
    done = recommend_all(published, "recommender", 1, "tonight")
    assert (read(published), done["folder"]) == (["a"], published.uri("tonight"))
    first = published.parts("tonight")
    published.write(b"theirs", "tonight", "README.md")
    published.write(b"theirs", "tonight", "part-00000-theirs.parquet")

    publish_run(published, "monday", REASON)
    done = recommend_all(published, "recommender", 1, "tonight")

    assert read(published) == ["b"]
    [part] = published.parts("tonight")  # those of a plain listing are the same
    assert part.startswith("part-00000-") and [part] != first
    assert published.names("tonight") == sorted(
        ["README.md", "part-00000-theirs.parquet", NOTE, f"{NOTE}.lock", f"{part}.json",
         f"{part}.parquet"]
    )  # fmt: skip
    note = published.read_json("tonight", NOTE)
    assert (note["model"], note["k"], note["users"]) == (done["model"], 1, 1)
    assert not published.names("runs/monday/recommend_all")


class Stop(Exception):
    pass


def test_a_kill_at_any_moment_leaves_whole_lists_and_the_next_run_cleans_up(
    published: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommend_all(published, "recommender", 1, "tonight")
    moments = iter(range(1, 99))
    killed = True
    while killed:
        killed = is_killed(published, monkeypatch, at=next(moments))
        assert read(published) in (["a"], ["a", "b"])
        recommend_all(published, "recommender", 1, "tonight")
        assert read(published) == ["a"]
        [part] = published.parts("tonight")
        there = [name for name in published.names("tonight") if name.startswith("part-")]
        assert there == [f"{part}.json", f"{part}.parquet"]
    assert next(moments) > 8


def is_killed(storage: Storage, monkeypatch: pytest.MonkeyPatch, at: int) -> bool:
    """Write lists of two, killed before the `at`-th change of the folder, if there are so many."""
    left = [at]

    def stopping(name: str) -> Any:
        plain = getattr(Storage, name)

        def act(self: Storage, *arguments: Any) -> Any:
            if any(isinstance(a, str) and a.startswith("tonight") for a in arguments):
                left[0] -= 1
                if not left[0]:
                    raise Stop
                assert read(storage) in (["a"], ["a", "b"]), "a reader saw half"
            return plain(self, *arguments)

        return act

    with monkeypatch.context() as patch:
        for name in ("write", "swap", "delete"):
            patch.setattr(Storage, name, stopping(name))
        try:
            recommend_all(storage, "recommender", 2, "tonight")
        except Stop:
            return True
    return False


def test_of_two_writers_one_gives_way(published: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a run of its own, so no lease keeps them apart."""
    plain, others = module._replace, []

    def overtaken(context: Context, made: str, folder: str, facts: dict[str, Any]) -> None:
        move = module._move

        def late(context: Context, note: dict, version: str, folder: str) -> str:
            if not others:
                others.append(True)
                plain(context, made, folder, {"model": "the other's"})
            return move(context, note, version, folder)

        monkeypatch.setattr(module, "_move", late)
        plain(context, made, folder, facts)

    monkeypatch.setattr(module, "_replace", overtaken)
    with pytest.raises(UserError, match="another `llmaug recommend` writes here"):
        recommend_all(published, "recommender", 1, "tonight")
    assert published.read_json("tonight", NOTE)["model"] == "the other's"
    assert read(published) == ["a"]


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"made_by": "somebody"}'])
def test_a_folder_whose_note_is_not_ours_is_left(published: Storage, note: bytes) -> None:
    published.write(note, "tonight", NOTE)
    published.write(b"theirs", "tonight", "part-00000.parquet")
    with pytest.raises(UserError, match="did not write .no _llmaug.json of its own"):
        recommend_all(published, "recommender", 1, "tonight")
    assert published.read("tonight", NOTE) == note


def test_lists_may_lie_in_folders_of_folders(published: Storage) -> None:
    recommend_all(published, "recommender", 1, "lists/2026-01-31")
    assert read(published, "lists/2026-01-31") == ["a"]
    assert json.loads(published.read("lists/2026-01-31", NOTE))["made_by"] == "llmaug recommend"
