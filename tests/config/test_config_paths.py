"""Relative paths in a config are those from its own folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llmaug.config import Config, load_config
from llmaug.config.paths import FIELDS
from llmaug.core.formats import RUN
from llmaug.core.storage import Storage
from llmaug.core.stored import read_config
from llmaug.errors import UserError
from llmaug.pipeline import reopened

PATHS = """
storage: {root: store}
ingest:
  path: ../logs/clicks
  items: {path: items.parquet}
  users: {path: "./users"}
vocabulary: {text_encoder: encoder}
lm: {model: instruct, folder: models/chat, context_len: 512}
text: {folder: models/writer, image_root: ../images}
plan: {strategies: []}
"""


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def values(config: Config) -> dict[str, str]:
    found = {}
    for field in FIELDS:
        value = config
        for step in field.split("."):
            value = getattr(value, step)
        found[field] = str(value)
    return found


def test_each_path_starts_at_the_folder_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "shop/configs/night.yaml", PATHS)
    home = tmp_path / "shop/configs"
    expected = {
        "storage.root": f"{home}/store",
        "ingest.path": f"{tmp_path}/shop/logs/clicks",
        "ingest.items.path": f"{home}/items.parquet",
        "ingest.users.path": f"{home}/users",
        "vocabulary.text_encoder": f"{home}/encoder",
        "lm.folder": f"{home}/models/chat",
        "text.folder": f"{home}/models/writer",
        "text.image_root": f"{tmp_path}/shop/images",
    }
    for folder, name in ((tmp_path, "shop/configs/night.yaml"), (home, "night.yaml")):
        monkeypatch.chdir(folder)
        assert values(load_config(name)) == expected


@pytest.mark.parametrize(
    "path", ["{root}/logs", "s3://bucket/logs", "/data/logs", "file:///data/logs"]
)
def test_what_is_no_relative_path_stays(path: str, tmp_path: Path) -> None:
    config = written(tmp_path / "night.yaml", yaml.safe_dump({"ingest": {"path": path}}))
    assert load_config(config).ingest.path == path


@pytest.mark.parametrize(("encoder", "is_name"), [("minilm", True), ("./minilm", False)])
def test_the_name_of_a_packaged_model_is_no_path(
    encoder: str, is_name: bool, tmp_path: Path
) -> None:
    text = yaml.safe_dump({"vocabulary": {"text_encoder": encoder}, "ingest": {"path": "minilm"}})
    config = load_config(written(tmp_path / "night.yaml", text))
    expected = encoder if is_name else f"{tmp_path}/minilm"
    assert config.vocabulary.text_encoder == expected
    assert config.ingest.path == f"{tmp_path}/minilm"


def test_a_path_in_a_base_starts_at_the_base(tmp_path: Path) -> None:
    written(tmp_path / "bases/shop.yaml", "ingest: {path: clicks, items: {path: items}}")
    variant = "base: bases/shop.yaml\ningest: {path: fewer}"
    config = load_config(written(tmp_path / "night.yaml", variant))
    assert config.ingest.path == f"{tmp_path}/fewer"
    assert config.ingest.items and config.ingest.items.path == f"{tmp_path}/bases/items"


def test_a_path_from_the_working_folder_is_refused_with_what_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = written(tmp_path / "configs/night.yaml", "ingest: {path: logs/clicks.csv}")
    written(tmp_path / "logs/clicks.csv", "user_id,item_id")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="write ../logs/clicks.csv$"):
        load_config(config)


def test_the_example_of_text_logs_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Path(__file__).parents[2] / "examples/text_logs"
    monkeypatch.chdir(tmp_path)
    config = load_config(example / "config.yaml")
    assert config.ingest.path == str(example / "logs.txt") and Path(config.ingest.path).is_file()


def test_a_home_folder_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load_config(written(tmp_path / "night.yaml", "ingest: {path: ~/logs}"))
    assert config.ingest.path == "/home/somebody/logs"


def test_a_run_goes_on_from_another_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(written(tmp_path / "configs/night.yaml", PATHS))
    storage = Storage(config.storage.root)
    kept = {**RUN.stamp, "config": config.model_dump(mode="json"), "stages": []}
    storage.write_json(kept, "runs/night", "run.json")
    written(tmp_path / "elsewhere/x", "")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert values(read_config(storage, "night")) == values(config)
    with reopened(storage, "night") as context:
        assert context.config == config
