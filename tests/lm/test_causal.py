"""The behaviour model: it knows item features, and exports as an ordinary Llama."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM

from llmaug.config import CausalConfig
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.batches import Batches, Row, padded
from llmaug.items.sequences import of_events
from llmaug.items.vocabulary import BOS, EOS, PAD, Vocabulary
from llmaug.lm.causal import model as causal
from llmaug.lm.causal.documents import Documents, packed
from llmaug.lm.causal.model import CausalLm
from llmaug.lm.language import FORWARD, INFILL, REVERSE, Language, load_language
from tests.tables import catalogue, events, histories

# Nobody has seen the newest action film and the newest drama yet.
TAGS = {"a": ["action"], "b": ["action"], "c": ["drama"], "d": ["drama"],
        "new_action": ["action"], "new_drama": ["drama"]}  # fmt: skip
WORDS = catalogue(list(TAGS), tags=TAGS, train_events=dict.fromkeys("abcd", 4))
A, B, C, D, NEW_ACTION, NEW_DRAMA = range(3, 9)
CONFIG = CausalConfig(
    hidden_size=64, num_heads=2, num_layers=1, context_len=8, dropout=0.0, batch_size=8,
    learning_rate=0.01,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than these models do, on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


TASTES = events(histories(u1="abab", u2="baab", u3="cdcd", u4="dccd"))


def trained(num_steps: int, config: CausalConfig = CONFIG, words: Vocabulary = WORDS) -> CausalLm:
    """Half of the users like action, the other half drama."""
    return fitted(num_steps, config, words, TASTES)


def fitted(
    num_steps: int,
    config: CausalConfig,
    words: Vocabulary,
    table: pa.Table,
    language: Language | None = None,
    user_tokens: dict[str, list[int]] | None = None,
) -> CausalLm:
    """A model after `num_steps` of Adam on the events of `table`, as the stage would batch them."""
    torch.manual_seed(0)
    sequences = of_events(table, words)
    model = CausalLm(config, words, 1, language)
    documents = Documents(
        Batches(sequences, config.batch_size, config.context_len, seed=1),
        model.language,
        config.directions,
        config.context_len,
        config.packed,
        [user_tokens[user] for user in sequences.user_ids] if user_tokens else None,
        seed=1,
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    for step in range(num_steps):
        loss = model(*(torch.as_tensor(x) for x in documents.at(step)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def next_logits(model: torch.nn.Module, history: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[BOS, *history]])).logits[0, -1]


def loaded_by_transformers(storage: Storage, folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(storage.path(folder)).eval()


# b and the new drama have no text.
TEXT = {"a": [1.0, 0, 0], "c": [0, 1.0, 0], "d": [0, 0.6, 0.8], "new_action": [0.8, 0, 0.6]}
READ = catalogue(list(TAGS), tags=TAGS, train_events=dict.fromkeys("abcd", 4), text=TEXT)


@pytest.mark.parametrize("words", [WORDS, READ], ids=["tags", "tags and text"])
@pytest.mark.parametrize(
    "changes", [{}, {"item_features": False}, {"cold_items_are_negatives": False}], ids=str
)
def test_the_folded_model_says_what_the_training_model_says(
    changes: dict[str, bool], words: Vocabulary, tmp_path: Path
) -> None:
    model = trained(5, CONFIG.model_copy(update=changes), words)
    storage = Storage(str(tmp_path))
    causal.save(storage, "lm", model, words, {"name": "toy"})
    loaded = loaded_by_transformers(storage, "lm")
    assert loaded.config.model_type == "llama"
    assert "features" not in " ".join(loaded.state_dict())
    for history in ([], [A], [C, D, A, NEW_DRAMA]):
        with torch.no_grad():
            expected = model.score(["u"], [history])[0]
        assert torch.allclose(next_logits(model.folded(), history), expected, atol=1e-5)
        assert torch.allclose(next_logits(loaded, history), expected, atol=1e-5)


MIXED = CONFIG.model_copy(
    update={"directions": {FORWARD: 0.4, REVERSE: 0.3, INFILL: 0.3}, "context_len": 12}
)
LANGUAGE = Language(WORDS.num_tokens, True, (("taste", ("action", "drama")),))
TASTE_OF = {
    user: LANGUAGE.user_tokens({"taste": taste})
    for user, taste in dict(u1="action", u2="action", u3="drama", u4="drama").items()
}


def test_the_folded_model_says_the_same_in_every_direction(tmp_path: Path) -> None:
    model = fitted(10, MIXED, WORDS, TASTES, LANGUAGE, TASTE_OF)
    storage = Storage(str(tmp_path))
    causal.save(storage, "lm", model, WORDS, {"name": "toy"})
    loaded = loaded_by_transformers(storage, "lm")
    assert load_language(storage, "lm", WORDS) == LANGUAGE
    user = TASTE_OF["u1"]
    for prompt in (
        LANGUAGE.forward_prompt([A, D], 12, user),
        LANGUAGE.reverse_prompt([C, NEW_DRAMA], 12, LANGUAGE.user_tokens(None)),
        LANGUAGE.infill_prompt([A], [B], 12, user),
    ):
        with torch.no_grad():
            expected = model.next_logits([prompt])[0]
            found = loaded(torch.tensor([prompt])).logits[0, -1]
        assert len(found) == LANGUAGE.num_tokens
        assert len(expected) == WORDS.num_tokens  # control tokens are nothing to recommend
        assert torch.allclose(found[: WORDS.num_tokens], expected, atol=1e-5)


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


GENRES = ("action", "comedy", "drama", "horror")
SHELF = catalogue(
    [f"{genre}{n}" for genre in GENRES for n in range(10)],
    tags={f"{genre}{n}": [genre] for genre in GENRES for n in range(10)},
    train_events={f"{genre}{n}": 7 for genre in GENRES for n in range(7)},
)


def texts() -> dict[str, list[float]]:
    """Films of a genre have texts of about one direction."""
    rng = np.random.default_rng(5)
    vectors = np.eye(16)[np.repeat(range(4), 10)] + rng.normal(size=(40, 16)) * 0.1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return dict(zip([f"{g}{n}" for g in GENRES for n in range(10)], vectors.tolist(), strict=True))


# The same shelf without tags: what stands on the covers must do.
COVERS = catalogue(
    list(texts()),
    train_events={f"{genre}{n}": 7 for genre in GENRES for n in range(7)},
    text=texts(),
)
# Nobody has taken the last three films of each genre.
COLD = {g: SHELF.encode([f"{g}{n}" for n in (7, 8, 9)]).tolist() for g in GENRES}


def fans() -> pa.Table:
    """Forty users who each take five of the seven known films of one genre."""
    rng = np.random.default_rng(4)
    rows = []
    for number in range(40):
        genre = GENRES[number % 4]
        films = rng.choice(7, 5, replace=False)
        rows += [(f"u{number:02d}", f"{genre}{film}", hour) for hour, film in enumerate(films)]
    return events(rows)


# As negatives, items teach that their very own texts are never taken, which tags cannot say.
@pytest.mark.parametrize(
    ("is_negative", "words"), [(True, SHELF), (False, SHELF), (False, COVERS)],
    ids=["tags, negative", "tags", "text"],
)  # fmt: skip
def test_items_without_any_event_are_ranked_by_their_features(
    is_negative: bool, words: Vocabulary
) -> None:
    """How often a fan's cold films stand above cold films of other genres; 1/2 is chance."""
    assert share_of_wins({"cold_items_are_negatives": is_negative}, words) > 0.9


@pytest.mark.parametrize("words", [SHELF, COVERS], ids=["tags", "text"])
def test_without_features_their_rank_is_chance(words: Vocabulary) -> None:
    assert share_of_wins({"item_features": False}, words) == pytest.approx(0.5, abs=0.2)


def share_of_wins(changes: dict[str, bool], words: Vocabulary) -> float:
    model = fitted(80, CONFIG.model_copy(update=changes), words, fans())
    histories = [SHELF.encode([f"{g}{n}" for n in (0, 3, 5)]).tolist() for g in GENRES]
    with torch.no_grad():
        logits = model.score(list(GENRES), histories)
    wins = [
        float(logits[row, own] > logits[row, other])
        for row, genre in enumerate(GENRES)
        for own in COLD[genre]
        for others in (COLD[g] for g in GENRES if g != genre)
        for other in others
    ]
    return float(np.mean(wins))


def test_items_without_any_event_are_generated_where_they_need_not_compete() -> None:
    """A softmax over the whole catalogue teaches that nobody takes them. Left out of it, they
    come as often as their features promise."""
    fan = torch.tensor([[BOS, *SHELF.encode(["drama0", "drama3"]).tolist()]] * 200)
    drawn: dict[bool, np.ndarray] = {}
    for is_negative in (True, False):
        config = CONFIG.model_copy(update={"cold_items_are_negatives": is_negative})
        torch.manual_seed(0)
        tokens = fitted(80, config, SHELF, fans()).folded().generate(
            fan, max_new_tokens=3, do_sample=True, top_k=0, suppress_tokens=[PAD, BOS, EOS]
        )[:, 3:]  # fmt: skip
        drawn[is_negative] = np.bincount(tokens.flatten().numpy(), minlength=SHELF.num_tokens)
    others = [token for genre in GENRES if genre != "drama" for token in COLD[genre]]
    assert drawn[False][COLD["drama"]].sum() > 10 > drawn[True][COLD["drama"]].sum()
    assert drawn[False][COLD["drama"]].sum() > 2 * drawn[False][others].sum()


def test_tags_on_too_few_items_are_no_features() -> None:
    assert CausalLm(CONFIG, WORDS, min_tag_items=4).features is None
    rare = catalogue("abc", tags={"a": ["x", "y"], "b": ["x"]})
    model = CausalLm(CONFIG, rare, min_tag_items=2)
    assert model.features is not None and model.features.names == ["x"]
    assert with_features(model) == [False] * 3 + [True, True, False]  # specials, a, b, c


def test_a_text_is_a_feature_with_tags_and_without() -> None:
    read = catalogue("abc", tags={"a": ["x"], "b": ["x"]}, text={"c": [0.6, 0.8]})
    for min_tag_items, has_tags in ((2, True), (3, False)):
        model = CausalLm(CONFIG, read, min_tag_items)
        assert with_features(model) == [False] * 3 + [has_tags, has_tags, True]


def with_features(model: CausalLm) -> list[bool]:
    """Tokens whose embedding is more than a row of their own."""
    return ((model.table() - model.llama.model.embed_tokens.weight).abs().sum(1) > 0).tolist()


def test_users_are_scored_alike_alone_and_in_company() -> None:
    model = trained(2)
    histories = [[A, B, C], [], [D]]
    with torch.no_grad():
        together = model.score(["x", "y", "z"], histories)
        alone = torch.cat([model.score(["x"], [history]) for history in histories])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_history_longer_than_the_context_is_scored_by_its_newest_events() -> None:
    model = trained(2)
    newest = [A, B, C, D, A, B, C, D]
    with torch.no_grad():
        long, short = model.score(["x", "y"], [[C, C, C, *newest], [B, *newest]])
    assert torch.equal(long, short)


def test_a_model_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    causal.save(storage, "lm", trained(0), WORDS, {})
    load_language(storage, "lm", WORDS)
    with pytest.raises(UserError, match="trained on another vocabulary"):
        load_language(storage, "lm", catalogue("xyz"))
    with pytest.raises(UserError, match="not a behaviour model"):
        load_language(storage, "nowhere", WORDS)


# -- directions ----------------------------------------------------------------------------

ALPHABET_IDS = "abcdefghij"
ALPHABET = catalogue(ALPHABET_IDS)
WALKS = events(histories(**{f"u{n:02d}": ALPHABET_IDS[n % 7 :][: 3 + n % 5] for n in range(70)}))


def letters(tokens: list[int]) -> str:
    return "".join(ALPHABET.decode(token) or "?" for token in tokens)


@pytest.mark.parametrize("in_rows", [False, True])
def test_one_model_reads_in_three_directions(in_rows: bool) -> None:
    """Everyone walks along the alphabet, so each question has one answer."""
    language = Language(ALPHABET.num_tokens, True)
    config = CausalConfig(
        directions={"forward": 0.25, "reverse": 0.25, "infill": 0.5}, packed=in_rows,
        hidden_size=32, num_heads=1, context_len=12, dropout=0.0, batch_size=56,
        learning_rate=0.003,
    )  # fmt: skip
    model = fitted(180, config, ALPHABET, WALKS, language)
    c, d, e, f, g = ALPHABET.encode(list("cdefg")).tolist()
    prompts = [
        language.forward_prompt([c, d], 12),
        language.reverse_prompt([e, f], 12),
        language.infill_prompt([d], [f], 12),
        language.infill_prompt([c, d], [f, g], 12),
    ]
    with torch.no_grad():
        best = model.next_logits(prompts).argmax(-1).tolist()
    assert letters(best) == "edee"
    # A gap is closed by EOS, and reverse answers come back in time order.
    with torch.no_grad():
        assert model.next_logits([[*prompts[2], e]]).argmax() == EOS
    assert letters(language.events("reverse", [d, c])) == "cd"


def test_user_attributes_decide_where_there_is_no_history() -> None:
    reader = Language(WORDS.num_tokens, attributes=LANGUAGE.attributes)
    tastes = dict(u1="action", u2="action", u3="drama", u4="drama")
    users = {user: reader.user_tokens({"taste": taste}) for user, taste in tastes.items()}
    model = fitted(60, CONFIG, WORDS, TASTES, reader, users)
    action, drama = (reader.user_tokens({"taste": t}) for t in ("action", "drama"))
    with torch.no_grad():
        first = model.next_logits([reader.forward_prompt([], 8, user) for user in (action, drama)])
    assert first[0, [A, B]].min() > first[0, [C, D]].max()
    assert first[1, [C, D]].min() > first[1, [A, B]].max()


def test_packed_documents_do_not_see_each_other() -> None:
    """The loss of a batch is the same in rows of its own and packed."""
    model = trained(3, CONFIG.model_copy(update={"context_len": 12}))
    rng = np.random.default_rng(0)
    rows = []
    for index in range(20):
        tokens = np.r_[BOS, rng.integers(A, D + 1, size=rng.integers(1, 9))]
        rows.append(Row(index, tokens, np.r_[0, rng.random(len(tokens) - 1)].astype(np.float32)))
    apart, together = padded(rows), packed(rows, 13)
    assert len(together[0]) < len(apart[0])
    with torch.no_grad():
        expected, found = (model(*map(torch.as_tensor, batch)) for batch in (apart, together))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
