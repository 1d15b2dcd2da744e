"""A recommender that starts from the item vectors of another model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.semantic_ids import SemanticIds, write_ids
from llmaug.items.vocabulary import ITEMS_PART, NUM_SPECIAL, Vocabulary
from llmaug.recommenders.start import Start, start_from
from tests.tables import catalogue

TENSOR = "model.embed_tokens.weight"


def source(storage: Storage, words: Vocabulary, rows: torch.Tensor) -> Start:
    """A model with `rows` for the items, and a control token behind them."""
    table = torch.cat([torch.full((NUM_SPECIAL, rows.shape[1]), 9.0), rows, rows[:1]])
    Path(storage.root, "lm").mkdir()
    save_file({TENSOR: table}, f"{storage.root}/lm/model.safetensors")
    counts = {"vocabulary_digest": words.digest}
    storage.write_part(words.items, counts, "vocabulary", ITEMS_PART)
    return Start("lm", TENSOR, "vocabulary")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_the_table_is_the_generators_and_special_tokens_keep_their_rows(storage: Storage) -> None:
    words, rows = catalogue("abc"), torch.randn(3, 4)
    table = nn.Embedding(words.num_tokens, 4)
    special = table.weight[:NUM_SPECIAL].detach().clone()
    facts = start_from(table, storage, source(storage, words, rows), words)
    assert torch.equal(table.weight[NUM_SPECIAL:], rows)
    assert torch.equal(table.weight[:NUM_SPECIAL], special)
    assert facts == {"started_items": 3, "started_width": 4}


def test_where_items_are_spelt_there_are_no_vectors_of_items(storage: Storage) -> None:
    """The rows of such a table are those of code words."""
    words, rows = catalogue("abc"), torch.randn(3, 4)
    start = source(storage, words, rows)
    write_ids(storage, SemanticIds(np.array([[3, 4], [3, 5], [4, 5]])), "lm")
    with pytest.raises(UserError, match="raise it"):
        start_from(nn.Embedding(words.num_tokens, 4), storage, start, words)


def test_items_are_found_by_their_ids_in_another_vocabulary(storage: Storage) -> None:
    """With lm.from_run the generator speaks the vocabulary of its own night."""
    rows = torch.arange(6.0).reshape(3, 2)
    start = source(storage, catalogue("abc"), rows)
    tonight = catalogue("bcd")
    table = nn.Embedding(tonight.num_tokens, 2)
    new = table.weight[-1].detach().clone()
    assert start_from(table, storage, start, tonight)["started_items"] == 2
    assert torch.equal(table.weight[NUM_SPECIAL : NUM_SPECIAL + 2], rows[1:])
    assert torch.equal(table.weight[-1], new)  # d: nobody knew it
    with pytest.raises(UserError, match="knows none of the items"):
        start_from(nn.Embedding(5, 2), storage, start, catalogue("xy"))


def test_wider_rows_keep_their_products_as_well_as_fewer_numbers_can(storage: Storage) -> None:
    rng = np.random.default_rng(1)
    plane = rng.normal(size=(6, 2)) @ rng.normal(size=(2, 8))  # eight wide, of rank two
    words = catalogue("abcdef")
    start = source(storage, words, torch.from_numpy(plane).float())
    table = nn.Embedding(words.num_tokens, 2)
    start_from(table, storage, start, words)
    own = table.weight[NUM_SPECIAL:].detach().numpy()
    assert own @ own.T == pytest.approx(plane @ plane.T, abs=1e-4)


def test_narrower_rows_are_filled_up_with_the_models_own_numbers(storage: Storage) -> None:
    words, rows = catalogue("ab"), torch.tensor([[1.0], [2.0]])
    start = source(storage, words, rows)
    table = nn.Embedding(words.num_tokens, 3)
    before = table.weight.detach().clone()
    start_from(table, storage, start, words)
    assert torch.equal(table.weight[NUM_SPECIAL:, :1], rows)
    assert torch.equal(table.weight[NUM_SPECIAL:, 1:], before[NUM_SPECIAL:, 1:])
