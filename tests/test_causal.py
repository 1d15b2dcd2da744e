"""The behaviour model: it knows item features, and exports as an ordinary Llama."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmaug.config import LmConfig
from llmaug.errors import UserError
from llmaug.lm import causal
from llmaug.lm.causal import CausalLm, prompt_of
from llmaug.sequences import Batches, of_events
from llmaug.storage import Storage
from llmaug.vocabulary import BOS
from tests.tables import catalogue, events, histories

# Nobody has seen the newest action film and the newest drama yet.
TAGS = {"a": ["action"], "b": ["action"], "c": ["drama"], "d": ["drama"],
        "new_action": ["action"], "new_drama": ["drama"]}  # fmt: skip
WORDS = catalogue(list(TAGS), tags=TAGS)
A, B, C, D, NEW_ACTION, NEW_DRAMA = range(3, 9)
CONFIG = LmConfig(
    hidden_size=64, num_heads=2, num_layers=1, context_len=8, dropout=0.0, batch_size=8
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than these models do, on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(num_steps: int, config: LmConfig = CONFIG) -> CausalLm:
    """Half of the users like action, the other half drama."""
    torch.manual_seed(0)
    rows = histories(u1="abab", u2="baab", u3="cdcd", u4="dccd")
    batches = Batches(of_events(events(rows), WORDS), 8, config.context_len, seed=1)
    model = CausalLm(config, WORDS, min_tag_items=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(num_steps):
        loss = model(*(torch.as_tensor(x) for x in batches.at(step)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def next_logits(model: torch.nn.Module, history: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[BOS, *history]])).logits[0, -1]


def loaded_by_transformers(storage: Storage, folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(storage.path(folder)).eval()


@pytest.mark.parametrize("item_features", [True, False])
def test_the_folded_model_says_what_the_training_model_says(
    item_features: bool, tmp_path: Path
) -> None:
    model = trained(5, CONFIG.model_copy(update={"item_features": item_features}))
    storage = Storage(str(tmp_path))
    causal.save(storage, "lm", model, WORDS, {"name": "toy"})
    loaded = loaded_by_transformers(storage, "lm")
    assert loaded.config.model_type == "llama"
    assert "tags" not in " ".join(loaded.state_dict())
    for history in ([], [A], [C, D, A, NEW_DRAMA]):
        with torch.no_grad():
            expected = model.score(["u"], [history])[0]
        assert torch.allclose(next_logits(model.folded(), history), expected, atol=1e-5)
        assert torch.allclose(next_logits(loaded, history), expected, atol=1e-5)


def test_folding_leaves_the_training_model_as_it_was() -> None:
    model = trained(2)
    before = model.table().detach().clone()
    model.folded()
    assert torch.equal(model.table(), before)
    assert not torch.equal(model.llama.model.embed_tokens.weight, before)  # tags are apart


def test_items_that_nobody_has_seen_are_liked_for_their_tags() -> None:
    model = trained(60)
    with torch.no_grad():
        action_fan, drama_fan = model.score(["x", "y"], [[A, B], [C, D]])
    assert action_fan[NEW_ACTION] > action_fan[NEW_DRAMA]
    assert drama_fan[NEW_DRAMA] > drama_fan[NEW_ACTION]


def test_tags_on_too_few_items_are_no_features() -> None:
    assert CausalLm(CONFIG, WORDS, min_tag_items=4).tags is None
    rare = catalogue("abc", tags={"a": ["x", "y"], "b": ["x"]})
    features = CausalLm(CONFIG, rare, min_tag_items=2)
    assert features.tags is not None and features.tags.vectors.num_embeddings == 1
    difference = features.table() - features.llama.model.embed_tokens.weight
    has_features = difference.abs().sum(1) > 0
    assert has_features.tolist() == [False] * 3 + [True, True, False]  # specials, a, b, c


def test_users_are_scored_alike_alone_and_in_company() -> None:
    model = trained(2)
    histories = [[A, B, C], [], [D]]
    with torch.no_grad():
        together = model.score(["x", "y", "z"], histories)
        alone = torch.cat([model.score(["x"], [history]) for history in histories])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_prompt_longer_than_the_context_keeps_its_newest_events() -> None:
    assert prompt_of([A, B], 8) == [BOS, A, B]
    assert prompt_of([A, B, C, D], 3) == [B, C, D]


def test_a_model_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    causal.save(storage, "lm", trained(0), WORDS, {})
    causal.check_vocabulary(storage, "lm", WORDS)
    with pytest.raises(UserError, match="trained on another vocabulary"):
        causal.check_vocabulary(storage, "lm", catalogue("xyz"))
    with pytest.raises(UserError, match="not a behaviour model"):
        causal.check_vocabulary(storage, "nowhere", WORDS)
