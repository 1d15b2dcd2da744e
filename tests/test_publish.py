"""The published pointer: whole models only, moved by one publisher at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmaug import publish
from llmaug.errors import UserError
from llmaug.stage import Context
from llmaug.storage import Storage
from tests.tables import write_finished

MakeContext = Callable[..., Context]


def card(night: str) -> dict[str, Any]:
    return {"version": f"published/m/versions/{night}", "run_id": night, "arm": "real"}


def write_model(context: Context, arm: str, weights: bytes) -> None:
    folder = context.folder(f"model/{arm}/seed-1")
    context.storage.write(weights, folder, "model.safetensors")
    context.storage.write_json({"model_digest": weights.decode()}, folder, "_trained.json")


def test_the_arm_that_the_gate_chose_is_published(make_context: MakeContext) -> None:
    context = make_context(run_id="monday", publish={"name": "films"})
    write_model(context, "real", b"real")
    write_model(context, "augmented", b"augmented")
    decision = {"passed": True, "arm": "augmented", "reasons": ["a lift"]}
    write_finished(context, "gate", **decision)

    published = publish.run(context)

    storage, version = context.storage, "published/films/versions/monday"
    current = publish.current(storage, "films")
    assert (current["version"], current["run_id"]) == (version, "monday")
    assert (current["arm"], current["model_digest"]) == ("augmented", "augmented")
    assert current["gate"] == decision
    assert storage.names(version) == ["model.safetensors", "published.json"]
    assert storage.read(version, "model.safetensors") == b"augmented"
    assert published["uri"] == storage.uri(version)


def test_the_pointer_remembers_the_version_that_it_replaces(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    publish.point_to(storage, "m", card("monday"))
    assert "previous" not in publish.current(storage, "m")
    publish.point_to(storage, "m", card("tuesday"))
    publish.point_to(storage, "m", card("tuesday"))  # the same night again: not its own past
    current = publish.current(storage, "m")
    assert current["version"].endswith("tuesday")
    assert current["previous"].endswith("monday")


@dataclass(frozen=True)
class Crowded(Storage):
    """Between our look at the pointer and our move, others move it: each name once."""

    others: tuple[str, ...] = ()

    def read_version(self, *names: str) -> tuple[Any, str | None]:
        seen = super().read_version(*names)
        plain = Storage(self.root)
        done = plain.read_json("moves") or []
        for other in self.others[len(done) : len(done) + 1]:
            plain.write_json([*done, other], "moves")
            plain.write_json(card(other), *names)
        return seen


@pytest.mark.parametrize("num_before", [0, 1])
def test_a_publisher_that_was_overtaken_looks_again(tmp_path: Path, num_before: int) -> None:
    storage = Crowded(str(tmp_path), others=("other",))
    for _ in range(num_before):
        publish.point_to(Storage(str(tmp_path)), "m", card("monday"))
    publish.point_to(storage, "m", card("tuesday"))
    current = publish.current(storage, "m")
    assert current["version"].endswith("tuesday")
    assert current["previous"].endswith("other")


def test_a_publisher_that_is_overtaken_again_and_again_gives_up(tmp_path: Path) -> None:
    storage = Crowded(str(tmp_path), others=tuple(f"other-{number}" for number in range(9)))
    with pytest.raises(UserError, match="others are publishing at the same time"):
        publish.point_to(storage, "m", card("tuesday"))
    assert "other" in publish.current(storage, "m")["version"]


def test_no_published_model_names_the_place_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no published model here. Run the job first") as caught:
        publish.current(Storage(str(tmp_path)), "films")
    assert f"{tmp_path}/published/films" in caught.value.message
