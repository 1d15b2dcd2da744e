"""The published pointer: whole models only, one publisher at a time, and never back by itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.publish import pointer

NIGHTS = ["monday", "tuesday", "wednesday", "thursday"]
MONDAY, TUESDAY, WEDNESDAY, THURSDAY = NIGHTS


def card(run_id: str, content: str = "0") -> dict[str, Any]:
    read = f"2026-01-{26 + NIGHTS.index(run_id):02d}T02:00:00Z"
    return {"run_id": run_id, "version": f"published/m/versions/{run_id}-{content}", "arm": "real",
            "model_digest": content, "night": [read, read, run_id]}  # fmt: skip


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def advance(storage: Storage, *nights: str, content: str = "0") -> list[str]:
    """Each night writes its version and publishes it; returns what became of them."""
    outcomes = []
    for night in nights:
        made = card(night, content)
        storage.write_json(made, made["version"], pointer.CARD)
        outcomes.append(pointer.advance(storage, "m", made)["outcome"])
    return outcomes


def served(storage: Storage) -> str:
    return pointer.current(storage, "m")["version"].rpartition("/")[2]


# -- forward -------------------------------------------------------------------------------


def test_the_pointer_remembers_the_versions_that_it_replaces(storage: Storage) -> None:
    advance(storage, MONDAY)
    assert "previous" not in pointer.current(storage, "m")
    advance(storage, TUESDAY)
    assert advance(storage, TUESDAY) == ["already current"]  # the same again: not its own past
    advance(storage, WEDNESDAY)
    current = pointer.current(storage, "m")
    assert current["previous"] == "published/m/versions/tuesday-0"
    assert current["earlier"] == ["published/m/versions/monday-0"]


def test_a_night_that_is_resumed_late_does_not_replace_a_newer_one(storage: Storage) -> None:
    assert advance(storage, TUESDAY, MONDAY) == ["published", "left"]
    assert served(storage) == "tuesday-0"
    done = pointer.advance(storage, "m", card(MONDAY))
    assert done == {"outcome": "left", "current": "published/m/versions/tuesday-0",
                    "why": "tuesday-0 is newer"}  # fmt: skip


def test_the_same_run_with_another_result_replaces_itself(storage: Storage) -> None:
    advance(storage, MONDAY)
    assert advance(storage, MONDAY, content="1") == ["published"]
    assert served(storage) == "monday-1"


def test_a_card_of_an_older_llmaug_is_older_than_tonight(storage: Storage) -> None:
    old = {**card(MONDAY), "run_id": "old", "published_utc": "2026-01-26T05:00:00Z"}
    old |= {"version": "published/m/versions/old"}
    del old["night"]
    storage.write_json(old, "published/m/CURRENT")
    assert advance(storage, MONDAY, TUESDAY) == ["left", "published"]


def test_a_night_that_a_wrong_clock_put_into_the_future_stands_in_nobodys_way(
    storage: Storage,
) -> None:
    ahead = {**card(THURSDAY), "night": ["2999-01-01T00:00:00Z"] * 2 + [THURSDAY]}
    storage.write_json(ahead, "published/m/CURRENT")
    assert advance(storage, MONDAY) == ["published"]


# -- back ----------------------------------------------------------------------------------


def test_a_rollback_goes_back_one_version_each_time(storage: Storage) -> None:
    advance(storage, MONDAY, TUESDAY, WEDNESDAY)
    pointer.roll_back(storage, "m")
    assert served(storage) == "tuesday-0"
    pointer.roll_back(storage, "m")
    assert served(storage) == "monday-0"
    with pytest.raises(UserError, match="no version was current before.*tuesday-0, wednesday-0"):
        pointer.roll_back(storage, "m")
    assert served(storage) == "monday-0"


@pytest.mark.parametrize("content", ["0", "1"])
def test_no_old_night_undoes_a_rollback_and_the_next_one_ends_it(
    storage: Storage, content: str
) -> None:
    """content 1: the nights are resumed with other code, and make other versions."""
    advance(storage, MONDAY, TUESDAY, WEDNESDAY)
    pointer.roll_back(storage, "m", to="monday-0")
    outcomes = advance(storage, WEDNESDAY, TUESDAY, MONDAY, content=content)
    assert outcomes == ["left", "left", "already current" if content == "0" else "left"]
    assert served(storage) == "monday-0"
    done = pointer.advance(storage, "m", card(WEDNESDAY))
    assert "monday-0 was made current by hand (rolled back, 20" in done["why"]

    assert advance(storage, THURSDAY) == ["published"]
    current = pointer.current(storage, "m")
    assert "held" not in current and current["previous"].endswith("monday-0")
    assert advance(storage, WEDNESDAY, THURSDAY) == ["left", "already current"]


def test_a_rollback_to_a_later_version_goes_forward_again(storage: Storage) -> None:
    advance(storage, MONDAY, TUESDAY)
    pointer.roll_back(storage, "m")
    pointer.roll_back(storage, "m", to="tuesday-0")
    current = pointer.current(storage, "m")
    assert current["version"].endswith("tuesday-0") and current["previous"].endswith("monday-0")
    assert advance(storage, MONDAY, THURSDAY) == ["left", "published"]


def test_a_rollback_names_the_versions_when_there_is_no_such_one(storage: Storage) -> None:
    with pytest.raises(UserError, match="no published model here"):
        pointer.roll_back(storage, "m")
    with pytest.raises(UserError, match="friday: no whole version.*versions here: none"):
        pointer.roll_back(storage, "m", to="friday")
    advance(storage, MONDAY)
    storage.write(b"half", "published/m/versions/killed-0", "model.safetensors")
    for missing in ("friday", "killed-0"):
        with pytest.raises(UserError, match=f"{missing}: no whole version.*monday-0"):
            pointer.roll_back(storage, "m", to=missing)
    for wrong in ("../monday-0", "", "."):
        with pytest.raises(UserError, match="--to .* cannot be a folder's name"):
            pointer.roll_back(storage, "m", to=wrong)
    assert served(storage) == "monday-0"


def test_a_version_that_lost_a_file_is_not_rolled_back_to(storage: Storage) -> None:
    advance(storage, MONDAY, TUESDAY)
    folder = "published/m/versions/monday-0"
    storage.write_json({**card(MONDAY), "files": {"model.safetensors": "x"}}, folder, pointer.CARD)
    with pytest.raises(UserError, match="monday-0: model.safetensors is missing"):
        pointer.roll_back(storage, "m")
    assert served(storage) == "tuesday-0"


def test_a_force_steps_back_once_and_what_it_chose_stays(storage: Storage) -> None:
    advance(storage, MONDAY, TUESDAY)
    done = pointer.advance(storage, "m", card(MONDAY), by_force="tuesday sells umbrellas")
    assert (done["outcome"], served(storage)) == ("published", "monday-0")
    assert pointer.current(storage, "m")["held"]["reason"] == "tuesday sells umbrellas"
    assert advance(storage, TUESDAY) == ["left"]
    assert advance(storage, WEDNESDAY, MONDAY) == ["published", "left"]


# -- several publishers ---------------------------------------------------------------------


@dataclass(frozen=True)
class Crowded(Storage):
    """Between our look at the pointer and our move, others move it: each name once."""

    others: tuple[str, ...] = ()

    def read_any(self, *names: str) -> tuple[Any, str | None]:
        seen = super().read_any(*names)
        plain = Storage(self.root)
        done = plain.read_json("moves") or []
        for other in self.others[len(done) : len(done) + 1]:
            plain.write_json([*done, other], "moves")
            plain.write_json(card(MONDAY, other), "published", "m", "CURRENT")
        return seen


@pytest.mark.parametrize("num_before", [0, 1])
def test_a_publisher_that_was_overtaken_looks_again(storage: Storage, num_before: int) -> None:
    for _ in range(num_before):
        pointer.advance(storage, "m", card(MONDAY))
    crowded = Crowded(storage.root, others=("other",))
    pointer.advance(crowded, "m", card(TUESDAY))
    current = pointer.current(storage, "m")
    assert current["version"].endswith("tuesday-0")
    assert current["previous"].endswith("other")


def test_a_publisher_that_is_overtaken_again_and_again_gives_up(storage: Storage) -> None:
    crowded = Crowded(storage.root, others=tuple(f"other{number}" for number in range(9)))
    with pytest.raises(UserError, match="others are publishing at the same time"):
        pointer.advance(crowded, "m", card(TUESDAY))
    assert "other" in pointer.current(storage, "m")["version"]


# -- what readers are told -------------------------------------------------------------------


def test_no_published_model_names_the_place_and_what_to_do(storage: Storage) -> None:
    with pytest.raises(UserError, match="no published model here. Run the job first") as caught:
        pointer.current(storage, "films")
    assert f"{storage.root}/published/films" in caught.value.message
    with pytest.raises(UserError, match="--name '../m' cannot be a folder's name"):
        pointer.current(storage, "../m")


@pytest.mark.parametrize(
    ("damaged", "said"),
    [(b"", "is damaged"), (b'{"version": "publ', "is damaged"), (b"\xff\x00", "is damaged"),
     (b"[1]", "is damaged"), (b"{}", "is damaged"), (b'{"version": 5}', "is damaged"),
     (b"runs/monday/model/real", "points to 'runs/monday/model/real', no version of its own"),
     (b"published/m/versions/..", "no version of its own"),
     (b"published/other/versions/x", "no version of its own")],
)  # fmt: skip
def test_a_damaged_pointer_is_a_sentence_and_is_mended_by_a_rollback(
    storage: Storage, damaged: bytes, said: str
) -> None:
    advance(storage, MONDAY, TUESDAY)
    if b"/" in damaged:
        damaged = json.dumps({**card(MONDAY), "version": damaged.decode()}).encode()
    storage.write(damaged, "published/m/CURRENT")
    for act in (pointer.current, pointer.roll_back):
        with pytest.raises(UserError, match=f"CURRENT .*{said}.*--rollback --to VERSION.*monday-0"):
            act(storage, "m")
    with pytest.raises(UserError, match=said):  # whether it is newer cannot be told
        pointer.advance(storage, "m", card(WEDNESDAY))
    pointer.roll_back(storage, "m", to="monday-0")
    assert served(storage) == "monday-0"
    assert advance(storage, TUESDAY, WEDNESDAY) == ["left", "published"]


def test_a_pointer_that_was_deleted_is_put_back_and_held(storage: Storage) -> None:
    advance(storage, MONDAY, TUESDAY)
    storage.delete("published/m/CURRENT")
    pointer.roll_back(storage, "m", to="monday-0")
    assert advance(storage, TUESDAY, WEDNESDAY) == ["left", "published"]
