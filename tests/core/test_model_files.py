"""A model is loaded as it was written, or not at all; weights are finite numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmaug import recommenders
from llmaug.core.hf_folder import adopt_folder
from llmaug.core.model_files import fetch_model
from llmaug.core.storage import FILES, Storage
from llmaug.errors import UserError
from llmaug.recommenders import DataFacts
from tests.recommenders.test_recommenders import config_of
from tests.tables import catalogue

WORDS = catalogue("abcdef")
VERSION = "published/shop/versions/monday"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


@pytest.fixture
def digest(storage: Storage) -> str:
    """Of a small recommender in VERSION."""
    torch.manual_seed(0)
    config = config_of("sasrec")
    return recommenders.save_recommender(
        storage, VERSION, recommenders.build(config, DataFacts(WORDS)), config, WORDS
    )


def flip(path: Path, place: int) -> None:
    """Change a bit of the byte `place`."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def refusal(storage: Storage, digest: str | None) -> str:
    with pytest.raises(UserError) as caught:
        recommenders.load_recommender(storage, VERSION, digest)
    assert caught.value.message.startswith(storage.uri(VERSION))
    return caught.value.message


@pytest.mark.parametrize("name", ["model.safetensors", "items.parquet", "config.json"])
def test_a_recommender_of_which_a_bit_was_flipped_is_refused(
    storage: Storage, digest: str, name: str
) -> None:
    recommenders.load_recommender(storage, VERSION, digest)
    path = Path(storage.path(VERSION, name))
    # In the last weight, in the titles, in a number of the config: all of it still reads.
    data = path.read_bytes()
    place = {"config.json": data.find(b"embedding_dim") + 16, "items.parquet": 40}
    flip(path, place.get(name, -1))
    message = refusal(storage, digest)
    assert f"{name} is damaged" in message and "publish --rollback" in message


def test_a_recommender_that_is_not_the_one_of_its_card_is_refused(
    storage: Storage, digest: str
) -> None:
    """Whole, but another: a later night wrote it, or somebody put it there with its record."""
    config = config_of("sasrec")
    torch.manual_seed(1)
    recommenders.save_recommender(
        storage, VERSION, recommenders.build(config, DataFacts(WORDS)), config, WORDS
    )
    recommenders.load_recommender(storage, VERSION)
    assert f"not those of model {digest}" in refusal(storage, digest)
    storage.delete(VERSION, FILES)
    assert f"not those of model {digest}" in refusal(storage, digest)


@pytest.mark.parametrize("name", ["model.safetensors", "items.parquet"])
def test_a_recommender_without_one_of_its_files_is_refused(
    storage: Storage, digest: str, name: str
) -> None:
    storage.delete(VERSION, name)
    assert f"{name} is missing" in refusal(storage, digest)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"vocabulary_digest": 1}'])
def test_a_config_that_is_none_is_refused(storage: Storage, digest: str, data: bytes) -> None:
    storage.write(data, VERSION, "config.json")
    assert "config.json" in refusal(storage, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_recommender_with_weights_that_are_no_numbers_is_refused(
    storage: Storage, digest: str, value: float
) -> None:
    """Also one without a record, by an earlier version or another hand."""
    path = storage.path(VERSION, "model.safetensors")
    weights = load_file(path)
    name, tensor = next((n, t) for n, t in weights.items() if t.is_floating_point())
    tensor.view(-1)[0] = value
    save_file(weights, path)
    storage.delete(VERSION, FILES)
    assert f"weights of {name} are no finite numbers" in refusal(storage, None)


# -- Hugging Face folders ---------------------------------------------------------------------


def break_last_weight(path: Path) -> None:
    flip(path / "model.safetensors", -1)


def drop_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").unlink()


def cut_weights(path: Path) -> None:
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-4])


def write_language_model(folder: Path, value: float = 1.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.full((4, 4), value)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("name", "do"),
    [
        ("model.safetensors", break_last_weight),
        ("model.safetensors", cut_weights),
        ("tokenizer.json", drop_tokenizer),
    ],
)
def test_a_language_model_that_is_not_as_it_was_written_is_refused(
    storage: Storage, tmp_path: Path, name: str, do: Callable[[Path], None]
) -> None:
    write_language_model(tmp_path / "local")
    version = storage.put_folder(tmp_path / "local", "runs/monday/lm/chat")
    fetch_model(storage, "runs/monday/lm/chat", version)
    do(Path(storage.path("runs/monday/lm/chat")))
    with pytest.raises(UserError, match=f"lm/chat: {name} is .*llmaug run --verify"):
        fetch_model(storage, "runs/monday/lm/chat", version)


def test_a_language_model_with_weights_that_are_no_numbers_is_refused(
    storage: Storage, tmp_path: Path
) -> None:
    write_language_model(tmp_path / "local", float("nan"))
    version = storage.put_folder(tmp_path / "local", "runs/monday/lm/chat")
    with pytest.raises(UserError, match="weights of w are no finite numbers"):
        fetch_model(storage, "runs/monday/lm/chat", version)


def test_a_model_that_users_brought_is_copied_again_where_the_copy_is_not_whole(
    storage: Storage, tmp_path: Path
) -> None:
    write_language_model(tmp_path / "theirs")

    def adopt() -> tuple[str, str]:
        return adopt_folder(storage, str(tmp_path / "theirs"), "lm.folder", "it", ["config.json"])

    folder, version = adopt()
    whole = storage.read(folder, "model.safetensors")
    for do in (cut_weights, drop_tokenizer):
        do(Path(storage.path(folder)))
        assert adopt() == (folder, version)
        fetch_model(storage, folder, version)
    assert storage.read(folder, "model.safetensors") == whole
    break_last_weight(Path(storage.path(folder)))
    with pytest.raises(UserError, match="model.safetensors is damaged.*it is copied anew"):
        fetch_model(storage, folder, version)
