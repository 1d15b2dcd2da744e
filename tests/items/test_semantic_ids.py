"""Large catalogues: an item is a path of words, and no path that is no item's can come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.semantic_ids import (
    IDS_FILE,
    SemanticIds,
    Trie,
    build,
    item_vectors,
    read_ids,
    taken_items,
    write_ids,
)
from llmaug.items.vocabulary import BOS, EOS, NUM_SPECIAL
from llmaug.lm.language import Language, load_language
from tests.tables import VllmConfig, catalogue, events, histories

# a and b are alike, c is near them, d is far away.
IDS = SemanticIds(np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]], np.int32))
A, B, C, D = range(NUM_SPECIAL, NUM_SPECIAL + 4)


def test_items_are_spelled_in_words_and_read_back() -> None:
    assert (IDS.word_len, IDS.sizes, IDS.num_words) == (3, [2, 2, 2], NUM_SPECIAL + 6)
    assert IDS.spell([A, D]).tolist() == [3, 5, 7, 4, 5, 7]  # each level has its own words
    assert IDS.read([3, 5, 7, 4, 5, 7]) == [A, D]
    assert IDS.read([4, 6, 7, 3, 5]) == [-1]  # nobody's path, and one that is cut


def test_alike_items_share_their_first_codes() -> None:
    """Four groups far from each other, fifty items in each."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 50)
    vectors = np.eye(4)[group] * 10 + rng.normal(size=(200, 4)) * 0.1
    ids = build(vectors, num_levels=2, num_codes=4, seed=1)
    assert ids.word_len == 3
    assert len({tuple(path) for path in ids.codes.tolist()}) == 200
    first = ids.codes[:, 0]
    assert all(len(set(first[group == number])) == 1 for number in range(4))
    assert len(set(first)) == 4
    same = build(vectors, num_levels=2, num_codes=4, seed=1)
    assert ids.digest == same.digest  # the same data gives the same ids


def test_what_people_take_together_is_alike_and_so_is_text(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    pairs = {f"u{number}": "ab" if number % 2 else "cd" for number in range(40)}
    storage.write_part(events(histories(**pairs)), {}, "train", "part-0")
    tags = {"e": ["opera"], "f": ["opera"], "a": ["rock"], "b": ["rock"]}
    vectors = item_vectors(storage, "train", catalogue("abcdef", tags=tags), seed=1)
    near = vectors @ vectors.T
    a, b, c, d, e, f = range(6)
    assert near[a, b] > near[a, c] and near[c, d] > near[c, a]
    assert near[e, f] > near[e, a]  # nobody has taken e and f: their text tells


def test_of_many_events_those_of_some_users_are_looked_at(tmp_path: Path) -> None:
    """Each part has users of its own, and all of their events."""
    storage, words = Storage(str(tmp_path)), catalogue("abcd")
    storage.write_part(events(histories(u1="abb", u2="?")), {}, "train", "part-0")
    storage.write_part(events(histories(u3="cd")), {}, "train", "part-1")
    taken, lengths = taken_items(storage, "train", words)
    assert taken.toarray().tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]
    assert lengths.tolist() == [3, 1, 2]
    some, _ = taken_items(storage, "train", words, max_events=2)
    assert some.toarray().tolist() == taken.toarray()[:2].tolist()


def test_text_vectors_tell_more_than_the_words_of_a_text(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_part(events(histories(u1="ab", u2="ab")), {}, "train", "part-0")
    texts = {"c": [1.0, 0, 0, 0], "d": [0, 1.0, 0, 0], "e": [0.9, 0.1, 0, 0], "f": [0, 0, 0.1, 1.0]}
    vectors = item_vectors(storage, "train", catalogue("abcdef", text=texts), seed=1)
    near = vectors @ vectors.T
    a, _, c, d, e, f = range(6)
    assert near[c, e] > 0.9 > abs(near[c, d]) and near[c, e] > near[c, f]
    assert abs(near[a, c]) < 1e-5  # without a text, and never taken together


def test_the_trie_leads_to_items_only() -> None:
    trie = Trie(IDS)
    rows, words = trie.allowed(np.array([0, 0]))
    assert (rows.tolist(), words.tolist()) == ([0, 0, 1, 1], [3, 4, 3, 4])
    nodes = trie.after(np.array([0, 0, 0]), np.array([3, 4, 5]))
    assert nodes[2] == 0  # 5 is no first word
    assert trie.allowed(nodes[:2])[1].tolist() == [5, 6, 5]
    for item, path in enumerate(IDS.words):
        nodes = np.array([0])
        for level, word in enumerate(path):
            assert trie.path[item, level] == nodes[0]
            nodes = trie.after(nodes, np.array([word]))
        assert nodes[0] == trie.num_nodes + item


def test_ids_are_kept_as_parquet(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert read_ids(storage, "words") is None
    write_ids(storage, IDS, "words")
    found = read_ids(storage, "words")
    assert found is not None and found.digest == IDS.digest


# -- the language --------------------------------------------------------------------------

LANGUAGE = Language(IDS.num_words, has_directions=True, items=IDS)


def test_prompts_are_cut_between_items() -> None:
    assert LANGUAGE.forward_prompt([A, D], 7) == [BOS, 3, 5, 7, 4, 5, 7]
    assert LANGUAGE.forward_prompt([A, D], 6) == [3, 5, 7, 4, 5, 7]  # no room for BOS
    assert LANGUAGE.forward_prompt([A, D], 5) == [4, 5, 7]
    assert LANGUAGE.reverse_prompt([A, D], 9) == [LANGUAGE.reverse, 4, 5, 7, 3, 5, 7]
    infill = LANGUAGE.infill_prompt([A, C], [D], 10)
    assert infill == [LANGUAGE.infill, 3, 6, 7, LANGUAGE.suffix, 4, 5, 7, LANGUAGE.middle]


def test_answers_are_items_in_time_order() -> None:
    tokens = [3, 5, 7, 4, 5, 7]
    assert LANGUAGE.events("forward", tokens) == [A, D]
    assert LANGUAGE.events("reverse", tokens) == [D, A]
    assert LANGUAGE.events("infill", [3, 5, 7, EOS]) == [A]


# -- models --------------------------------------------------------------------------------

WORDS = catalogue([f"item-{n:03d}" for n in range(200)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """An untrained model over 200 items in folder `lm`."""
    import torch

    from llmaug.config import CausalConfig
    from llmaug.lm.causal import model as causal
    from llmaug.lm.causal.model import CausalLm

    torch.manual_seed(0)
    ids = build(np.random.default_rng(0).normal(size=(200, 6)), 2, 8, seed=0)
    config = CausalConfig(hidden_size=32, num_heads=1, num_layers=1, context_len=32)
    model = CausalLm(config, WORDS, 1, Language(ids.num_words, True, items=ids))
    storage = Storage(str(tmp_path_factory.mktemp("model")))
    causal.save(storage, "lm", model, WORDS, {})
    return storage


def test_a_model_carries_its_ids(saved: Storage, tmp_path: Path) -> None:
    language = load_language(saved, "lm", WORDS)
    assert language.ids is not None and language.word_len == 3
    # Far fewer rows than items, were there a million.
    assert language.num_tokens < 60
    copy = Storage(str(tmp_path))
    for name in saved.names("lm"):
        if name != IDS_FILE:
            copy.write(saved.read("lm", name), "lm", name)
    with pytest.raises(UserError, match="semantic_ids.parquet is missing or damaged"):
        load_language(copy, "lm", WORDS)


def test_likelihood_is_that_of_the_words_of_an_item() -> None:
    import torch

    from llmaug.config import CausalConfig
    from llmaug.lm.causal.model import CausalLm

    torch.manual_seed(0)
    config = CausalConfig(hidden_size=32, num_heads=1, num_layers=1, context_len=32, dropout=0)
    model = CausalLm(config, catalogue("abcd"), 1, LANGUAGE).eval()
    prompts = [[BOS, *LANGUAGE.spell([A])], [BOS]]
    with torch.no_grad():
        found = model.log_likelihood(prompts, [LANGUAGE.spell([D]), LANGUAGE.spell([B])])
        for prompt, item, total in zip(prompts, (D, B), found, strict=True):
            by_hand, row = 0.0, list(prompt)
            for word in LANGUAGE.spell([item]):
                table = model.table()
                hidden = model._hidden(torch.tensor([row]), table)[0, -1]
                by_hand += (hidden @ table.T).log_softmax(-1)[word].item()
                row.append(word)
            assert total.item() == pytest.approx(by_hand, abs=1e-4)


def test_decoding_cannot_leave_the_catalogue(saved: Storage) -> None:
    """The processor against random logits, asked as vLLM asks it."""
    import torch
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

    from llmaug.lm.causal.item_logits import ItemLogits

    language = load_language(saved, "lm", WORDS)
    assert language.ids is not None
    config = VllmConfig(saved.path("lm"), language.num_tokens)
    processor = ItemLogits(config, torch.device("cpu"), False)

    def asked(**extra: object) -> SamplingParams:
        return SamplingParams(max_tokens=60, extra_args=extra)

    seen = list(range(NUM_SPECIAL, NUM_SPECIAL + 150))
    outputs: list[list[int]] = [[], [], []]
    added = [
        (0, asked(forbid_repeats=False), [BOS], outputs[0]),
        (1, asked(forbid_repeats=True, also_seen=seen), [BOS], outputs[1]),
        (2, asked(forbid_repeats=False, may_end=True), [BOS], outputs[2]),
    ]
    processor.update_state(BatchUpdate(3, removed=[], added=added, moved=[]))
    torch.manual_seed(0)
    for _ in range(60):
        logits = processor.apply(torch.randn(3, language.num_tokens))
        drawn = torch.multinomial(logits.softmax(-1), 1).flatten().tolist()
        for output, token in zip(outputs, drawn, strict=True):
            output.append(token)
    free, strict, ending = outputs
    assert -1 not in language.ids.read(free) and len(language.ids.read(free)) == 20
    new = language.ids.read(strict)
    assert len(new) == len(set(new)) == 20 and not set(new) & set(seen)
    ends = [place for place, token in enumerate(ending) if token == EOS]
    assert ends and ends[0] % 3 == 0 and ends[0] > 0  # between items, and after one at least
