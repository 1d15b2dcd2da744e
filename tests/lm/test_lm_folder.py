"""Model folders that are not what they should be are refused before an engine starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from llmaug.config import CausalConfig
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.lm.causal import model as causal
from llmaug.lm.causal.model import CausalLm
from llmaug.lm.language import Language, load_language
from tests.tables import catalogue

WORDS = catalogue("abcde")
LANGUAGE = Language(WORDS.num_tokens, True, (("age", ("old", "young")),))
CONFIG = CausalConfig(hidden_size=32, num_heads=1, num_layers=1, context_len=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that is fine."""
    torch.manual_seed(0)
    model = CausalLm(CONFIG, WORDS, 1, LANGUAGE)
    causal.save(Storage(str(tmp_path)), "lm", model, WORDS, {"name": "toy"})
    return tmp_path / "lm"


def refusal(folder: Path, words: Any = WORDS) -> str:
    storage = Storage(str(folder.parent))
    with pytest.raises(UserError) as caught:
        load_language(storage, folder.name, words)
    assert caught.value.message.startswith(f"{folder}: ")  # the message names the place
    return caught.value.message


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_model_is_accepted_with_its_language(folder: Path) -> None:
    assert load_language(Storage(str(folder.parent)), "lm", WORDS) == LANGUAGE


def test_a_model_does_not_say_who_wrote_it_and_one_of_a_later_format_is_refused(
    folder: Path,
) -> None:
    """Its digest is part of every unit's id: the same model is asked the same by any version."""
    assert "llmaug_version" not in json.loads((folder / "llmaug.json").read_text())
    change_json(folder / "llmaug.json", format_version=99, llmaug_version="7.0.0")
    with pytest.raises(UserError, match="behaviour model of format 99, written by llmaug 7.0.0"):
        load_language(Storage(str(folder.parent)), "lm", WORDS)


def test_a_model_of_another_vocabulary_is_refused(folder: Path) -> None:
    assert "trained on another vocabulary" in refusal(folder, catalogue("abcdx"))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "not a behaviour model (no llmaug.json)" in refusal(tmp_path / "nowhere")


def test_a_model_of_another_kind_is_refused(folder: Path) -> None:
    change_json(folder / "llmaug.json", model="masked")
    assert "holds a model of kind masked, not causal; set lm.name" in refusal(folder)


def test_another_architecture_is_refused(folder: Path) -> None:
    small = BertConfig(
        vocab_size=LANGUAGE.num_tokens, hidden_size=32, num_hidden_layers=1, num_attention_heads=1
    )
    BertForMaskedLM(small).save_pretrained(folder)
    message = refusal(folder)
    assert "holds BertForMaskedLM, a causal model is LlamaForCausalLM" in message


@pytest.mark.parametrize("keep", [-1, 5000, 100, 4, 0])
def test_weights_that_were_cut_short_are_refused(folder: Path, keep: int) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:keep])
    left = len(whole[:keep])
    told = f"{left:,} of {len(whole):,} bytes" if left > 4000 else "a damaged header"
    assert f"model.safetensors has {told}; delete the folder and run again" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"{name} is missing" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "llmaug.json"])
def test_damaged_notes_are_named(folder: Path, name: str) -> None:
    (folder / name).write_text((folder / name).read_text()[:-20])
    assert f"{name} is damaged" in refusal(folder)


def test_files_of_two_models_are_noticed(folder: Path) -> None:
    change_json(folder / "config.json", vocab_size=77)
    assert "has 77 tokens, its llmaug.json speaks of 15" in refusal(folder)


def test_a_model_of_an_older_version_is_refused(folder: Path) -> None:
    notes = json.loads((folder / "llmaug.json").read_text())
    del notes["language"]
    (folder / "llmaug.json").write_text(json.dumps(notes))
    assert "written by an older version" in refusal(folder)
