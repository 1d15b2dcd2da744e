"""The n-gram model: Kneser-Ney by hand and by the book, counted in parts, sampled by seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmaug.core.stage import Context
from llmaug.errors import UserError
from llmaug.items.sequences import Sequences, of_events
from llmaug.items.vocabulary import BOS, NUM_SPECIAL, Vocabulary
from llmaug.lm import Request
from llmaug.lm import train as lm_train
from llmaug.lm.ngram import counts as ngram_counts
from llmaug.lm.ngram import model as ngram
from llmaug.lm.ngram.model import NgramLm, load_ngram, of_sequences
from tests.tables import catalogue, events, histories, write_vocabulary

MakeContext = Callable[..., Context]
WORDS = catalogue("abcd")
A, B, C, D = range(3, 7)


def sequences_of(words: Vocabulary = WORDS, **items: str) -> Sequences:
    return of_events(events(histories(**items)), words)


def model_of(order: int, discounts: Any = None, **items: str) -> NgramLm:
    return of_sequences(sequences_of(**items), order, 4, discounts)


THREE_USERS = {"u1": "ab", "u2": "ab", "u3": "ac"}  # nobody takes d


def test_two_events_by_hand() -> None:
    """Discount 1/2. b and c follow one item each, a follows the beginning: of 3 places, each
    keeps (1 - 1/2) / 3, and the 1/2 that is saved goes to the four items alike."""
    model = model_of(2, [0.5, 0.5], **THREE_USERS)
    once = 0.5 / 3 + 0.5 / 4
    [after_a] = model.probabilities([[BOS, A]])
    # a is followed by b twice and by c once; 1/2 of each kind is saved for the order below.
    assert after_a[B - 3] == pytest.approx(1.5 / 3 + 1 / 3 * once)
    assert after_a[C - 3] == pytest.approx(0.5 / 3 + 1 / 3 * once)
    assert after_a[A - 3] == pytest.approx(1 / 3 * once)
    assert after_a[D - 3] == pytest.approx(1 / 3 * 0.5 / 4)


def test_three_events_by_hand() -> None:
    """In the order below, (a, b) and (a, c) count once each: both have only the beginning in
    front. (beginning, a) has nothing in front and keeps its count."""
    model = model_of(3, [0.5, 0.5, 0.5], **THREE_USERS)
    once = 0.5 / 3 + 0.5 / 4
    b_after_a = 0.5 / 2 + 1 / 2 * once
    assert model.probabilities([[BOS, A]])[0, B - 3] == pytest.approx(1.5 / 3 + 1 / 3 * b_after_a)
    assert model.probabilities([[A]])[0, B - 3] == pytest.approx(b_after_a)
    assert model.probabilities([[BOS]])[0, A - 3] == pytest.approx(2.5 / 3 + 0.5 / 3 * once)


def test_the_discount_comes_from_how_many_n_grams_are_there_once_and_twice() -> None:
    model_counts = ngram_counts.adjusted(
        ngram_counts.count_ngrams(sequences_of(u1="ab", u2="ab", u3="ac", u4="ad"), 2), 2
    )
    totals = ngram_counts.Totals.of(model_counts, 2)
    # Pairs: (beginning, a) 4 times, (a, b) twice, (a, c) and (a, d) once.
    assert (totals.ones[1], totals.twos[1]) == (2, 1)
    assert totals.discounts()[1] == pytest.approx(2 / (2 + 2 * 1))
    # Each of the four items follows in one place: the estimate has no twos to go by.
    assert (totals.ones[0], totals.twos[0]) == (4, 0)
    assert totals.discounts()[0] == 0.5


def random_histories(num_users: int = 30, num_items: int = 6) -> tuple[list[list[int]], Vocabulary]:
    rng = np.random.default_rng(5)
    taste = rng.dirichlet(np.full(num_items, 0.4), size=num_items)
    out = []
    for _ in range(num_users):
        history = [int(rng.integers(num_items - 1))]  # the last item is rare
        while len(history) < rng.integers(1, 12):
            history.append(int(rng.choice(num_items, p=taste[history[-1]])))
        out.append([item + NUM_SPECIAL for item in history])
    return out, catalogue("abcdef"[:num_items])


def as_sequences(tokens: list[list[int]]) -> Sequences:
    rows = [[BOS, *row] for row in tokens]
    flat = np.array([token for row in rows for token in row], np.int32)
    ends = np.cumsum([0] + [len(row) for row in rows])
    users = np.array([f"u{n}" for n in range(len(rows))], dtype=object)
    return Sequences(flat, (flat != BOS).astype(np.float32), ends, users, np.ones(len(rows), bool))


def by_the_book(
    rows: list[list[int]], order: int, num_items: int, discounts: list[float]
) -> Callable[[tuple[int, ...], int], float]:
    """Interpolated Kneser-Ney, formula by formula: P(token | context)."""
    raw = Counter(
        tuple(row[end - k : end])
        for row in ([BOS, *row] for row in rows)
        for k in range(1, order + 1)
        for end in range(max(2, k), len(row) + 1)
    )

    def count(gram: tuple[int, ...]) -> int:
        if len(gram) == order or gram[0] == BOS:
            return raw[gram]
        return sum(1 for longer in raw if len(longer) == len(gram) + 1 and longer[1:] == gram)

    items = range(NUM_SPECIAL, NUM_SPECIAL + num_items)

    def p(context: tuple[int, ...], token: int) -> float:
        counts = {w: count((*context, w)) for w in items}
        total, discount = sum(counts.values()), discounts[len(context)]
        below = p(context[1:], token) if context else 1 / num_items
        if not total:
            return below
        saved = discount * sum(c > 0 for c in counts.values()) / total
        return max(counts[token] - discount, 0) / total + saved * below

    return p


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_it_agrees_with_the_formula_in_every_context_and_adds_to_one(order: int) -> None:
    rows, words = random_histories()
    discounts = [0.3, 0.5, 0.7, 0.9][:order]
    model = of_sequences(as_sequences(rows), order, words.num_items, discounts)
    expected = by_the_book(rows, order, words.num_items, discounts)
    prompts = {tuple([BOS, *row[:end]][-4:]) for row in rows for end in range(len(row) + 1)}
    prompts |= {(8, 8, 8), (BOS, 8, 3, 7)}  # never seen
    found = model.probabilities([list(prompt) for prompt in prompts])
    assert found.shape == (len(prompts), words.num_items)
    assert found.sum(axis=1) == pytest.approx(1)
    assert (found > 0).all()
    for prompt, row in zip(prompts, found, strict=True):
        context = prompt[len(prompt) - min(order - 1, len(prompt)) :]
        items = range(NUM_SPECIAL, NUM_SPECIAL + words.num_items)
        assert row == pytest.approx([expected(context, token) for token in items])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_log_prob_is_the_logarithm_of_what_is_sampled_from(order: int) -> None:
    rows, words = random_histories()
    model = of_sequences(as_sequences(rows), order, words.num_items)
    tokens = [BOS, *rows[0], 8, *rows[1], 3]
    found = model.log_prob(tokens)
    stepwise = [
        np.log(model.probabilities([tokens[:end]])[0, tokens[end] - NUM_SPECIAL])
        for end in range(1, len(tokens))
    ]
    assert found == pytest.approx(stepwise)
    assert model.log_prob([BOS]).shape == (0,)


def test_it_agrees_with_nltk() -> None:
    """nltk fills the beginning up to the order and shares nothing among unseen items: so
    without a discount on single items, and where no history begins."""
    lm = pytest.importorskip("nltk.lm")
    rows, words = random_histories()
    for order in (2, 3):
        model = of_sequences(as_sequences(rows), order, words.num_items, [0.0, 0.6, 0.6][:order])
        theirs = lm.KneserNeyInterpolated(order, discount=0.6)
        grams = [
            [
                tuple(map(str, padded[end - k : end]))
                for k in range(1, order + 1)
                for end in range(order, len(padded) + 1)
            ]
            for padded in ([BOS] * (order - 1) + row for row in rows)
        ]
        theirs.fit(grams, [str(token) for row in rows for token in [BOS, *row]])
        for left, right in pairwise(rows[0] + rows[1]):
            context = [left, right][-(order - 1) :]
            [ours] = model.probabilities([context])
            for token in range(NUM_SPECIAL, NUM_SPECIAL + words.num_items):
                score = theirs.score(str(token), [str(word) for word in context])
                assert ours[token - NUM_SPECIAL] == pytest.approx(score)


def test_users_with_one_event_still_make_a_model() -> None:
    model = model_of(4, u1="a", u2="a", u3="b")
    first = model.probabilities([[BOS], [BOS, A], [BOS, A, B]])
    assert first[0].argmax() == A - 3
    assert first.sum(axis=1) == pytest.approx(1)
    assert len(model.sample([[BOS]], [1], num_events=3)[0]) == 3


# -- sampling ------------------------------------------------------------------------------


def test_samples_come_as_often_as_their_probability() -> None:
    model = model_of(2, **THREE_USERS)
    drawn = model.sample([[BOS, A]] * 4000, range(4000), num_events=1)
    share = np.bincount([row[0] - NUM_SPECIAL for row in drawn], minlength=4) / 4000
    assert share == pytest.approx(model.probabilities([[BOS, A]])[0], abs=0.03)


def test_each_event_follows_the_one_before() -> None:
    model = model_of(2, [0.5, 0.01], u1="abcd" * 5)
    assert model.sample([[BOS, A]], [1], num_events=6, top_k=1) == [[B, C, D, A, B, C]]


def test_a_row_depends_on_its_seed_and_prompt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, words = random_histories()
    model = of_sequences(as_sequences(rows), 3, words.num_items)
    prompts = [[BOS, *row] for row in rows]
    seeds = [2**62 + n for n in range(len(prompts))]
    together = model.sample(prompts, seeds, 7, temperature=0.8, top_k=4, top_p=0.9)
    alone = [
        model.sample([p], [s], 7, temperature=0.8, top_k=4, top_p=0.9)[0]
        for p, s in zip(prompts, seeds, strict=True)
    ]
    monkeypatch.setattr(ngram, "_CELLS", 20)  # a few rows at a time
    in_chunks = model.sample(prompts, seeds, 7, temperature=0.8, top_k=4, top_p=0.9)
    assert together == alone == in_chunks
    assert model.sample([[BOS]] * 9, range(9), 7) != model.sample([[BOS]] * 9, range(9, 18), 7)


def test_forbidden_repeats_are_never_drawn_and_end_when_no_item_is_left() -> None:
    model = model_of(2, **THREE_USERS)
    for row in model.sample([[BOS, A]] * 50, range(50), num_events=6, forbid_repeats=True):
        assert sorted(row) == [B, C, D]
    assert model.sample([[A, B, C, D]], [1], 3, forbid_repeats=True) == [[]]


def test_units_are_asked_and_answered_in_order() -> None:
    model = model_of(2, **THREE_USERS)
    sampling = {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "max_tokens": 3,
        "forbid_repeats": True,
    }
    units = [
        {"prompt": [BOS, A], "sampling": sampling, "seed": 5, "also_seen": None},
        {"prompt": [BOS, 99], "sampling": sampling, "seed": 5, "also_seen": None},  # no such token
        {
            "prompt": [BOS],
            "sampling": {**sampling, "max_tokens": 2, "top_k": 1},
            "seed": 5,
            "also_seen": None,
        },
    ]
    requests = model.requests(units)
    assert requests[0] == Request([BOS, A], 3, seed=5, forbid_repeats=True)
    first, second, third = model.answer(requests)
    assert sorted(first) == [B, C, D]
    assert isinstance(second, str) and second.startswith("refused_by_engine: prompt has token ids")
    assert third[0] == A and len(third) == 2


# -- the stage -----------------------------------------------------------------------------


@pytest.fixture
def counted(make_context: MakeContext, ray_session: None) -> Context:
    """A run whose training events lie in three parts, one of them empty, and its model."""
    context = make_context(lm={"model": "ngram", "order": 3})
    write_vocabulary(context, catalogue("abcd", train_events=dict(a=6, b=4, c=2)), {})
    for part, items in {"p0": {"u1": "abab", "u2": "ba"}, "p1": {}, "p2": {"u3": "cacab"}}.items():
        folder = f"{context.folder('split')}/train"
        context.storage.write_part(events(histories(**items)), {}, folder, part)
    return context


def test_counting_in_parts_equals_counting_at_once(counted: Context) -> None:
    facts = lm_train.run(counted)
    assert facts["name"] == "ngram"
    model = load_ngram(counted.storage, counted.folder("lm/ngram"), catalogue("abcd"))
    at_once = model_of(3, u1="abab", u2="ba", u3="cacab")
    prompts = [[BOS], [BOS, A], [A, B], [C, A], [D, D]]
    assert (model.probabilities(prompts) == at_once.probabilities(prompts)).all()
    again = lm_train.run(counted)
    assert again == facts  # the digest, too: the same events make the same bytes


def test_a_folder_that_is_not_whole_or_not_ours_is_refused(counted: Context) -> None:
    lm_train.run(counted)
    storage, folder = counted.storage, counted.folder("lm/ngram")
    with pytest.raises(UserError, match="trained on another vocabulary"):
        load_ngram(storage, folder, catalogue("abcx"))
    with pytest.raises(UserError, match="not a behaviour model"):
        load_ngram(storage, "nowhere")
    part = storage.parts(folder)[0]
    path = Path(storage.path(folder, f"{part}.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=f"{part}.parquet is damaged; delete the folder"):
        load_ngram(storage, folder)
    path.unlink()
    with pytest.raises(UserError, match=f"{part}.parquet is missing"):
        load_ngram(storage, folder)
    storage.write_json({"model": "causal"}, folder, "llmaug.json")
    with pytest.raises(UserError, match="kind causal, not ngram"):
        load_ngram(storage, folder)


def test_a_catalogue_that_does_not_fit_is_refused_before_anything_is_written(
    counted: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngram_counts, "_BITS", 2)
    with pytest.raises(UserError, match="takes at most 3 tokens, the catalogue has 7"):
        lm_train.run(counted)
    assert counted.storage.names(counted.folder("lm/ngram")) == []
