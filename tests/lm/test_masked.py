"""The masked model: trained on hidden events, it fills gaps by what stands on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from llmaug.config import MaskedConfig
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.batches import Batches
from llmaug.items.sequences import of_events
from llmaug.items.vocabulary import BOS, PAD
from llmaug.lm import Request
from llmaug.lm.masked import completion
from llmaug.lm.masked import model as masked
from llmaug.lm.masked.completion import Completer, load_completer
from llmaug.lm.masked.masking import MaskedBatches, masked_prompt
from llmaug.lm.masked.model import MaskedLm
from tests.tables import catalogue, events, histories

LETTERS = "abcdefghij"
WORDS = catalogue(
    [*LETTERS, "new vowel", "new consonant"],
    tags={i: ["vowel" if i in ("a", "e", "i", "new vowel") else "consonant"]
          for i in [*LETTERS, "new vowel", "new consonant"]},
    train_events=dict.fromkeys(LETTERS, 9),
)  # fmt: skip
A, B, C, D, E, F, G, H, _I, J = range(3, 13)
MASK = WORDS.num_tokens
CONFIG = MaskedConfig(
    model="masked", hidden_size=32, num_heads=1, num_layers=2, context_len=10, dropout=0.0,
    batch_size=56, learning_rate=0.003, num_passes=3,
)  # fmt: skip
# Everyone walks along the alphabet, so that each gap has one answer.
WALKS = events(histories(**{f"u{n:02d}": LETTERS[n % 7 :][: 3 + n % 5] for n in range(70)}))


def batches(window: int = 9) -> MaskedBatches:
    return MaskedBatches(Batches(of_events(WALKS, WORDS), 56, window, 1), MASK, 0.3, seed=1)


def fitted(num_steps: int, **changes: Any) -> MaskedLm:
    torch.manual_seed(0)
    model = MaskedLm(CONFIG.model_copy(update=changes), WORDS, min_tag_items=2)
    optimiser = torch.optim.Adam(model.parameters(), lr=CONFIG.learning_rate)
    for step in range(num_steps):
        loss = model(*(torch.as_tensor(x) for x in batches().at(step)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than these models do, on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(one_thread: None) -> MaskedLm:
    return fitted(150)


@pytest.fixture(scope="module")
def completer(model: MaskedLm) -> Completer:
    return Completer(model.folded(), num_passes=3)


# -- what it is trained on -----------------------------------------------------------------


def test_what_is_hidden_is_asked_for_and_nothing_else() -> None:
    shares = []
    for step in range(20):
        tokens, weights, whole = batches().at(step)
        hidden = tokens == MASK
        assert (hidden == (weights > 0)).all()
        assert (tokens[~hidden] == whole[~hidden]).all()
        assert hidden.any(axis=1).all()  # every row teaches
        assert (whole[:, 0] == BOS).all() and not hidden[:, 0].any()
        shares.append(hidden.sum() / (whole > BOS).sum())
    assert np.mean(shares) == pytest.approx(0.3, abs=0.06)


def test_the_last_event_alone_is_hidden_often_enough_to_learn_what_comes_next() -> None:
    last_alone = 0
    for step in range(20):
        tokens, _, whole = batches().at(step)
        length = (whole != PAD).sum(1)
        is_last = tokens[np.arange(len(tokens)), length - 1] == MASK
        last_alone += (is_last & ((tokens == MASK).sum(1) == 1)).sum()
    assert last_alone / (20 * 56) > 0.2


def test_a_masked_batch_depends_on_its_step_alone_and_is_shared() -> None:
    undisturbed = [batches().at(step) for step in range(3)]
    for found, expected in zip(batches().at(2), undisturbed[2], strict=True):
        assert (found == expected).all()
    halves = [batches().at(2, rank, world_size=2)[0] for rank in (0, 1)]
    rows = sorted(tuple(t for t in row if t != PAD) for half in halves for row in half.tolist())
    assert rows == sorted(tuple(t for t in row if t != PAD) for row in undisturbed[2][0].tolist())


def test_windows_fit_into_the_model() -> None:
    for step in range(5):
        assert batches(window=4).at(step)[0].shape[1] <= 5


# -- prompts -------------------------------------------------------------------------------


def test_positions_are_masked_where_they_stand() -> None:
    assert masked_prompt([A, B, C], [1], MASK, 10) == [BOS, A, MASK, C]
    assert masked_prompt([A, B, C], [2, 0], MASK, 10) == [BOS, MASK, B, MASK]


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([7], [F, G, MASK, _I, J]),
        ([0], [BOS, MASK, B, C, D]),
        ([9], [F, G, H, _I, MASK]),
        ([3, 5], [C, MASK, E, MASK, G]),
        ([4, 8], [MASK, F, G, H, MASK]),
    ],
)
def test_of_a_long_history_the_model_sees_the_window_around_its_gaps(
    positions: list[int], expected: list[int]
) -> None:
    assert masked_prompt(list(range(A, J + 1)), positions, MASK, 5) == expected


def test_gaps_that_lie_too_far_apart_are_an_error() -> None:
    with pytest.raises(UserError, match="events 1 and 6 of a history are farther apart than the 5"):
        masked_prompt(list(range(A, J + 1)), [1, 6], MASK, 5)


# -- completion ----------------------------------------------------------------------------


def test_a_gap_is_filled_by_what_stands_on_both_sides(completer: Completer) -> None:
    [one, two, last] = completer.complete(
        [[C, A, E], [B, J, J, E], [D, E, J]], [[1], [1, 2], [2]], seeds=[1, 2, 3], num_passes=3,
        top_k=1,
    )  # fmt: skip
    assert one == [C, D, E]
    assert two == [B, C, D, E]
    assert last == [D, E, F]


def test_what_is_not_masked_stays(completer: Completer) -> None:
    history = [J, A, H, B, G]
    [found] = completer.complete([history], [[1, 3]], [5], num_passes=4)
    assert [found[place] for place in (0, 2, 4)] == [J, H, G]


def test_a_completion_depends_on_its_seed_and_history_alone(
    completer: Completer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    long = [rng.integers(A, J + 1, size=rng.integers(2, 30)).tolist() for _ in range(60)]
    positions = [[len(h) // 2, len(h) // 2 - 1] for h in long]
    together = completer.complete(long, positions, range(60), num_passes=3, temperature=1.3)
    alone = [
        completer.complete([h], [p], [seed], num_passes=3, temperature=1.3)[0]
        for seed, (h, p) in enumerate(zip(long, positions, strict=True))
    ]
    monkeypatch.setattr(completion, "_CELLS", 1)
    one_by_one = completer.complete(long, positions, range(60), num_passes=3, temperature=1.3)
    assert together == alone == one_by_one
    reseeded = completer.complete(long, positions, range(60, 120), num_passes=3, temperature=1.3)
    assert reseeded != together


def test_later_passes_make_the_events_of_a_gap_fit_each_other(completer: Completer) -> None:
    """At once, each event of a wide gap is drawn without knowing the others."""

    def share_of_steps(num_passes: int) -> float:
        rows = completer.complete([[A] * 4] * 400, [range(4)] * 400, range(400), num_passes)
        pairs = np.array(rows)
        return float((np.diff(pairs, axis=1) == 1).mean())

    once, often = share_of_steps(1), share_of_steps(6)
    assert often > once + 0.1


def test_forbidden_repeats_are_never_drawn(completer: Completer) -> None:
    history = [A, B, C, D, E]
    for row in completer.complete(
        [history] * 100, [[1, 2, 3]] * 100, range(100), 3, temperature=3.0, forbid_repeats=True
    ):
        assert len(set(row)) == 5 and (row[0], row[4]) == (A, E)


def test_where_no_item_is_left_an_event_stays(completer: Completer) -> None:
    everything = list(range(A, MASK))
    [found] = completer.complete([[*everything, A]], [[12]], [1], 2, forbid_repeats=True)
    assert found == [*everything, A]


# -- the protocol --------------------------------------------------------------------------


def test_units_are_asked_with_masks_and_answered_in_order(completer: Completer) -> None:
    def unit(prompt: list[int], max_tokens: int) -> dict[str, Any]:
        sampling = {
            "temperature": 1.0, "top_p": 1.0, "top_k": 1, "max_tokens": max_tokens,
            "forbid_repeats": False,
        }  # fmt: skip
        return {"prompt": prompt, "sampling": sampling, "seed": 4, "also_seen": None}

    requests = completer.requests(
        [
            unit([BOS, C, MASK, E], 1),
            unit([BOS, C, D], 1),  # nothing is asked for
            unit([BOS, C, MASK + 1], 1),
            unit([BOS, *[MASK] * 12], 12),
            unit([BOS, B, MASK, MASK, E], 2),
        ]
    )
    assert requests[0] == Request([BOS, C, MASK, E], 1, seed=4, top_k=1)
    one, nothing, unknown, long, two = completer.answer(requests)
    assert (one, two) == ([D], [C, D])
    assert nothing == "refused_by_engine: prompt has 0 masks, 1 events are asked for"
    assert unknown == f"refused_by_engine: prompt has token ids outside 0..{MASK}"
    assert long == "refused_by_engine: 13 tokens are more than the context of 10"
    assert two == [C, D]
    [none_left] = completer.answer(
        [Request([*range(A, A + 9), MASK], 1, seed=1, forbid_repeats=True)]
    )
    assert not isinstance(none_left, str) and none_left[0] in (J, MASK - 2, MASK - 1)


def test_a_unit_for_which_no_item_is_left_fails_alone() -> None:
    pair = catalogue("ab")
    small = Completer(MaskedLm(CONFIG, pair, 1).folded(), 1)
    mask = pair.num_tokens
    full, free = small.answer(
        [
            Request([BOS, A, B, mask], 1, seed=1, forbid_repeats=True),
            Request([BOS, A, mask], 1, seed=1, forbid_repeats=True),
        ]
    )
    assert isinstance(full, str) and full.startswith("no_item_left: ")
    assert free == [B]


# -- the model as others see it ------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"item_features": False}, {"cold_items_are_negatives": False}], ids=str
)
def test_the_folded_model_says_what_the_training_model_says(
    changes: dict[str, bool], tmp_path: Path
) -> None:
    model = fitted(3, **changes)
    storage = Storage(str(tmp_path))
    masked.save(storage, "lm", model, WORDS, {"name": "toy"})
    plain = AutoModelForMaskedLM.from_pretrained(storage.path("lm")).eval()
    assert plain.config.model_type == "bert"
    for history in ([], [A], [C, D, A, J]):
        with torch.no_grad():
            expected = model.score(["u"], [history])[0]
            found = plain(torch.tensor([[BOS, *history, MASK]])).logits[0, -1, :MASK]
        assert torch.allclose(found, expected, atol=1e-5)


def test_users_are_scored_alike_alone_and_in_company(model: MaskedLm, completer: Completer) -> None:
    histories = [[A, B, C], [], [D], list(range(A, J + 1))]
    with torch.no_grad():
        together = model.score([""] * 4, histories)
        alone = torch.cat([model.score([""], [history]) for history in histories])
    assert torch.allclose(together, alone, atol=1e-5)
    assert together[0].argmax() == D and together[2].argmax() == E
    assert torch.allclose(completer.score([""] * 4, histories), together, atol=1e-5)


def test_items_without_any_event_are_placed_by_their_tags() -> None:
    model = fitted(60, cold_items_are_negatives=False)
    vowel, consonant = WORDS.encode(["new vowel", "new consonant"]).tolist()
    with torch.no_grad():  # d is followed by e, f by g
        after_d, after_f = model.score(["x", "y"], [[C, D], [E, F]]).softmax(-1)
    assert after_d[vowel] > after_d[consonant]
    assert after_f[consonant] > after_f[vowel]


def test_a_saved_model_is_loaded_and_another_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    model = fitted(3)
    digest = masked.save(storage, "lm", model, WORDS, {"name": "toy"})
    loaded, fresh = load_completer(storage, "lm", WORDS, digest), Completer(model.folded(), 3)
    question = ([[A, B, C, D]] * 20, [[1, 2]] * 20, range(20), 3)
    assert loaded.complete(*question) == fresh.complete(*question)
    with pytest.raises(UserError, match="trained on another vocabulary"):
        load_completer(storage, "lm", catalogue("abc"), digest)
    weights = tmp_path / "lm/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError, match="model.safetensors has .* bytes; delete the folder"):
        load_completer(storage, "lm", WORDS, digest)
