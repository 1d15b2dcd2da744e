"""Model folders that users bring: data is copied, code never."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmaug.config import GenerateConfig
from llmaug.core.hf_folder import adopt_folder
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.generate.vllm_engine import vllm_arguments

ROOT = Path(__file__).parents[2]
DATA = ["chat_template.jinja", "config.json", "model.safetensors", "spm.model", "vocab.txt"]


def write_folder(folder: Path, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True)
    for name in DATA:
        (folder / name).write_text("x")
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    return folder


def adopt(tmp_path: Path, folder: Path, notes: list[str] | None = None) -> tuple[Storage, str]:
    storage = Storage(str(tmp_path / "root"))
    note = (notes if notes is not None else []).append
    return storage, adopt_folder(storage, str(folder), "f", "it", ["config.json"], note)[0]


def test_only_data_is_copied_and_what_is_left_out_is_noted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    left_out = [".secret.json", "_notes.json", "adapter_config.json", "modeling_x.py", "x.pkl",
                "pytorch_model.bin", "README.md", "model.gguf", "training_args.pt"]  # fmt: skip
    for name in left_out:
        (folder / name).write_text("x")
    (folder / "1_Pooling").mkdir()
    os.mkfifo(folder / "pipe.json")
    notes: list[str] = []
    storage, copied = adopt(tmp_path, folder, notes)
    assert [name for name in storage.names(copied) if (folder / name).exists()] == DATA
    assert storage.read_json(copied, "_complete.json")["left_out"] == sorted(
        [*left_out, "1_Pooling", "pipe.json"]
    )
    (note,) = notes
    assert note.startswith("f: .secret.json, 1_Pooling, README.md, ") and "and 6 more" in note


def test_a_folder_of_data_alone_has_nothing_to_note(tmp_path: Path) -> None:
    notes: list[str] = []
    adopt(tmp_path, write_folder(tmp_path / "model"), notes)
    assert notes == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize(
    "value",
    [
        {"auto_map": {"AutoModel": "modeling_x.Model"}},
        {"text_config": {"auto_map": {"AutoConfig": "someone/else--x.Config"}}},
        {"custom_pipelines": {"x": {"impl": "x.X"}}},
        {"attn_implementation": "someone/kernels"},
    ],
    ids=["auto_map", "nested", "pipelines", "kernels"],
)
def test_a_folder_that_brings_code_is_refused(
    tmp_path: Path, name: str, value: dict[str, Any]
) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / name).write_text(json.dumps(value))
    with pytest.raises(UserError, match=f"{name} has .*: the model brings code of its own"):
        adopt(tmp_path, folder)
    assert not (tmp_path / "root" / "models").exists()


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, "\x00"])
def test_a_damaged_config_is_named(tmp_path: Path, text: str) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match="generation_config.json is damaged"):
        adopt(tmp_path, folder)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "passwords.txt").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="passwords.txt is a link out of the folder"):
        adopt(tmp_path, folder)
    (folder / "passwords.txt").unlink()
    (folder / "merges.txt").symlink_to("vocab.txt")
    assert "merges.txt" in Storage(str(tmp_path / "root")).names(adopt(tmp_path, folder)[1])


def test_a_snapshot_in_the_cache_of_the_hub_is_a_folder(tmp_path: Path) -> None:
    """There each file is a link to ../../blobs."""
    model = tmp_path / "models--someone--model"
    folder = write_folder(model / "snapshots" / "0123abc")
    (model / "blobs").mkdir()
    for number, name in enumerate(DATA):
        (folder / name).rename(model / "blobs" / str(number))
        (folder / name).symlink_to(f"../../blobs/{number}")
    storage, copied = adopt(tmp_path, folder)
    assert set(DATA) <= set(storage.names(copied))
    (folder / "x.json").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="x.json is a link out of the folder"):
        adopt(tmp_path, folder)


def test_a_dangling_link_is_a_file_that_is_missing(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("nowhere")
    with pytest.raises(UserError, match="config.json is missing"):
        adopt(tmp_path, folder)


def test_nothing_is_loaded_with_the_code_that_comes_with_it() -> None:
    """Said at each call: transformers asks at a terminal where it is left out."""
    files = [path for room in ("llmaug", "benchmarks") for path in (ROOT / room).rglob("*.py")]
    calls = [
        (path.name, call)
        for path in files
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "from_pretrained"
    ]
    assert len(calls) >= 8
    for name, call in calls:
        given = {word.arg: word.value for word in call.keywords}
        value = given.get("trust_remote_code")
        assert isinstance(value, ast.Constant) and value.value is False, f"{name}:{call.lineno}"
    assert vllm_arguments("x", GenerateConfig(), 8, on_gpu=False)["trust_remote_code"] is False
