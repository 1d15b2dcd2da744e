"""Training that starts from an earlier model: what is taken, and where new items begin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmaug.config import CausalConfig
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.vocabulary import BOS, ITEMS_PART, NUM_SPECIAL, Vocabulary
from llmaug.lm.causal import model as causal
from llmaug.lm.causal.model import CausalLm
from llmaug.lm.causal.warm_start import warm_start
from llmaug.lm.language import Language
from tests.tables import catalogue

CONFIG = CausalConfig(hidden_size=32, num_heads=1, num_layers=1, context_len=16, dropout=0.0)
TAGS = {"a": ["rock"], "b": ["rock", "live"], "c": ["opera"]}
WORDS = catalogue("abc", tags=TAGS)
AGE = (("age", ("old", "young")),)


def language_of(words: Vocabulary) -> Language:
    return Language(words.num_tokens, has_directions=True, attributes=AGE)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """Last night's model and vocabulary."""
    torch.manual_seed(0)
    storage = Storage(str(tmp_path))
    storage.write_part(WORDS.items, {"vocabulary_digest": WORDS.digest}, "words", ITEMS_PART)
    model = CausalLm(CONFIG, WORDS, 1, language_of(WORDS))
    causal.save(storage, "lm", model, WORDS, {})
    return storage


def started(
    storage: Storage, words: Vocabulary, config: CausalConfig = CONFIG
) -> tuple[CausalLm, dict[str, int]]:
    torch.manual_seed(1)
    model = CausalLm(config, words, 1, language_of(words))
    return model, warm_start(model, words, 1, storage, "lm", "words", "v1")


def logits(model: CausalLm, prompt: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval().next_logits([prompt])[0]


def test_with_the_same_items_training_goes_on_where_it_ended(storage: Storage) -> None:
    torch.manual_seed(0)
    earlier = CausalLm(CONFIG, WORDS, 1, language_of(WORDS))
    model, facts = started(storage, WORDS)
    assert facts == {"known_items": 3, "new_items": 0}
    old = earlier.language.user_tokens({"age": "old"})
    for prompt in ([BOS, 3, 4], [*old, earlier.language.reverse, 5]):
        assert torch.allclose(logits(model, prompt), logits(earlier, prompt), atol=1e-5)
    # Tags are inside the rows that were taken; from here they learn again.
    assert model.features is not None and not model.features.tags.weight.any()


def test_a_new_item_starts_among_the_items_it_shares_tags_with(storage: Storage) -> None:
    tags = {**TAGS, "aa": ["rock", "live"], "bb": ["news"]}
    words = catalogue(sorted(tags), tags=tags)
    model, facts = started(storage, words)
    assert facts == {"known_items": 3, "new_items": 2}
    rows = model.table().detach()
    row = {item: rows[NUM_SPECIAL + number] for number, item in enumerate(words.item_ids)}
    assert torch.allclose(row["aa"], (row["a"] + 2 * row["b"]) / 3, atol=1e-6)  # 1 and 2 tags
    assert torch.allclose(row["bb"], (row["a"] + row["b"] + row["c"]) / 3, atol=1e-6)


def test_a_new_item_starts_among_the_items_with_the_nearest_texts(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmaug.lm.causal.warm_start._NUM_NEAREST", 1)
    tags = {**TAGS, "aa": ["rock"], "bb": ["opera"]}
    texts = {"a": [1.0, 0.0], "c": [0.0, 1.0], "aa": [0.6, 0.8]}
    words = catalogue(sorted(tags), tags=tags, text=texts)
    model, _ = started(storage, words)
    rows = model.table().detach()
    row = {item: rows[NUM_SPECIAL + number] for number, item in enumerate(words.item_ids)}
    assert torch.allclose(row["aa"], row["c"], atol=1e-6)  # its text, not its tag
    assert torch.allclose(row["bb"], row["c"], atol=1e-6)  # no text: its tag
    assert model.features is not None
    assert not any(weight.any() for weight in model.features.parameters())


def test_another_domain_takes_the_trunk_alone(storage: Storage) -> None:
    words = catalogue("xyz")
    model, facts = started(storage, words)
    assert facts == {"known_items": 0, "new_items": 3}
    torch.manual_seed(0)
    earlier = CausalLm(CONFIG, WORDS, 1, language_of(WORDS))
    trunk = dict(earlier.llama.model.layers.named_parameters())
    for name, weight in model.llama.model.layers.named_parameters():
        assert torch.equal(weight, trunk[name])


def test_a_model_of_another_shape_is_refused(storage: Storage) -> None:
    wide = CausalConfig(hidden_size=64, num_heads=1, num_layers=1, context_len=16)
    with pytest.raises(UserError, match="hidden_size 32, this one 64"):
        started(storage, WORDS, wide)
