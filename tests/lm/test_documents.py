"""Sequences as documents of three directions, in rows without waste."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from llmaug.items.batches import Batches, Row
from llmaug.items.sequences import of_events
from llmaug.items.vocabulary import BOS, EOS, PAD
from llmaug.lm.causal.documents import Documents, document, packed
from llmaug.lm.language import FORWARD, INFILL, REVERSE, Language
from tests.tables import catalogue, events, histories

WORDS = catalogue("abcdef")
A, B, C, D, E, F = range(3, 9)
LANGUAGE = Language(WORDS.num_tokens, True, (("age", ("old", "young")),))
OLD = LANGUAGE.user_tokens({"age": "old"})
NOBODY = LANGUAGE.user_tokens(None)
HISTORY = Row(0, np.array([BOS, A, B, C, D]), np.array([0, 1, 1, 1, 2], np.float32))


def as_lists(row: Row) -> tuple[list[int], list[float]]:
    return row.tokens.tolist(), row.weights.tolist()


def test_forward_is_the_history_as_it_was() -> None:
    assert as_lists(document(LANGUAGE, FORWARD, HISTORY, [], 9)) == as_lists(HISTORY)
    tokens, weights = as_lists(document(LANGUAGE, FORWARD, HISTORY, OLD, 9))
    assert (tokens, weights) == ([*OLD, BOS, A, B, C, D], [0, 0, 1, 1, 1, 2])


def test_reverse_is_the_history_backwards_weights_and_all() -> None:
    tokens, weights = as_lists(document(LANGUAGE, REVERSE, HISTORY, [], 9))
    assert (tokens, weights) == ([LANGUAGE.reverse, D, C, B, A], [0, 2, 1, 1, 1])


def test_infill_moves_a_run_of_events_to_the_end() -> None:
    row = document(LANGUAGE, INFILL, HISTORY, [], 9, start=0.3, length=0.4)
    assert as_lists(row) == (
        [LANGUAGE.infill, A, LANGUAGE.suffix, D, LANGUAGE.middle, B, C, EOS],
        [0, 1, 0, 2, 0, 1, 1, 1],
    )


@pytest.mark.parametrize("start", [0, 0.24, 0.5, 0.999])
@pytest.mark.parametrize("length", [0, 0.5, 0.999])
def test_every_gap_holds_an_event_and_no_event_is_lost(start: float, length: float) -> None:
    tokens = document(LANGUAGE, INFILL, HISTORY, [], 9, start, length).tokens.tolist()
    place = {t: tokens.index(t) for t in (LANGUAGE.infill, LANGUAGE.suffix, LANGUAGE.middle)}
    first, second, third = place.values()
    prefix, suffix, middle = tokens[1:second], tokens[second + 1 : third], tokens[third + 1 : -1]
    assert first == 0 and middle and tokens[-1] == EOS
    assert prefix + middle + suffix == [A, B, C, D]


def test_a_user_of_one_event_reads_in_every_direction() -> None:
    one = Row(0, np.array([BOS, A]), np.array([0, 1], np.float32))
    assert document(LANGUAGE, FORWARD, one, [], 9).tokens.tolist() == [BOS, A]
    assert document(LANGUAGE, REVERSE, one, [], 9).tokens.tolist() == [LANGUAGE.reverse, A]
    for draw in (0, 0.999):
        assert document(LANGUAGE, INFILL, one, [], 9, draw, draw).tokens.tolist() == [
            LANGUAGE.infill, LANGUAGE.suffix, LANGUAGE.middle, A, EOS
        ]  # fmt: skip


@pytest.mark.parametrize("direction", [FORWARD, REVERSE, INFILL])
@pytest.mark.parametrize("user", [[], OLD])
def test_a_window_that_is_too_long_loses_its_oldest_events(direction: str, user: list[int]) -> None:
    long = Row(0, np.array([BOS, *[A] * 9, B]), np.array([0] + [1] * 10, np.float32))
    row = document(LANGUAGE, direction, long, user, 7, 0.5, 0.0)
    assert len(row.tokens) == 7 and row.tokens[: len(user)].tolist() == user
    assert B in row.tokens and BOS not in row.tokens
    asked = {token for token, weight in zip(*as_lists(row), strict=True) if weight}
    assert asked <= {A, B, EOS}


def test_an_event_whose_past_was_cut_off_is_not_asked_for() -> None:
    tokens, weights = as_lists(document(LANGUAGE, FORWARD, HISTORY, [], 3))
    assert (tokens, weights) == ([B, C, D], [0, 1, 2])


# -- packing -------------------------------------------------------------------------------


def test_documents_share_rows_and_positions_start_anew() -> None:
    rows = [
        Row(n, np.arange(10 * n, 10 * n + size), np.full(size, n, np.float32))
        for n, size in enumerate((2, 5, 3, 1), start=1)
    ]
    tokens, weights, positions = packed(rows, width=6)
    # Longest first, each where it fits first: 5 + 1, then 3 + 2.
    assert tokens.tolist() == [[20, 21, 22, 23, 24, 40], [30, 31, 32, 10, 11, PAD]]
    assert weights.tolist() == [[2, 2, 2, 2, 2, 4], [3, 3, 3, 1, 1, 0]]
    assert positions.tolist() == [[0, 1, 2, 3, 4, 0], [0, 1, 2, 0, 1, 0]]


def batches_of(**changes: Any) -> Documents:
    rows = {f"u{n:02d}": "abcdef"[: 1 + n % 6] for n in range(24)}
    sequences = of_events(events(histories(**rows)), WORDS)
    options = {
        "language": LANGUAGE,
        "shares": {FORWARD: 2.0, REVERSE: 1.0, INFILL: 1.0},
        "context_len": 12,
        "packed": False,
        "users": [OLD] * len(sequences),
        "seed": 3,
        **changes,
    }
    return Documents(Batches(sequences, 12, 12, seed=3), **options)


def test_packing_asks_for_the_same_events_in_fewer_rows() -> None:
    (tokens, weights), (rows, row_weights, _) = batches_of().at(4), batches_of(packed=True).at(4)
    assert rows.shape[1] == 13 and len(rows) < len(tokens)
    assert Counter(rows[row_weights > 0].tolist()) == Counter(tokens[weights > 0].tolist())
    assert (rows == PAD).mean() < 0.3 < (tokens == PAD).mean()


def test_a_batch_depends_on_its_step_alone() -> None:
    undisturbed = [batches_of(packed=True).at(step) for step in range(4)]
    for found, expected in zip(batches_of(packed=True).at(3), undisturbed[3], strict=True):
        assert (found == expected).all()
    assert undisturbed[2][0].tolist() != undisturbed[3][0].tolist()


def test_workers_share_a_batch_and_agree_on_its_directions() -> None:
    whole = batches_of().at(5)[0]
    shares = [batches_of().at(5, rank, world_size=2)[0] for rank in (0, 1)]
    asked = [tuple(t for t in row if t != PAD) for share in shares for row in share.tolist()]
    assert sorted(asked) == sorted(tuple(t for t in row if t != PAD) for row in whole.tolist())


def test_directions_and_hidden_users_come_by_their_shares() -> None:
    first: Counter[int] = Counter()
    users: Counter[int] = Counter()
    for step in range(200):
        for row in batches_of().at(step)[0]:
            users[row[0]] += 1
            first[row[1]] += 1
    total = sum(users.values())
    assert users[OLD[0]] / total == pytest.approx(0.9, abs=0.03)
    assert users[NOBODY[0]] / total == pytest.approx(0.1, abs=0.03)
    assert first[BOS] / total == pytest.approx(0.5, abs=0.04)
    assert first[LANGUAGE.reverse] / total == pytest.approx(0.25, abs=0.04)
    assert first[LANGUAGE.infill] / total == pytest.approx(0.25, abs=0.04)


def test_forward_alone_is_what_recommenders_train_on() -> None:
    plain = batches_of(language=Language(WORDS.num_tokens), shares={FORWARD: 1.0}, users=None)
    rows = {f"u{n:02d}": "abcdef"[: 1 + n % 6] for n in range(24)}
    theirs = Batches(of_events(events(histories(**rows)), WORDS), 12, 12, seed=3)
    for step in range(3):
        for ours, other in zip(plain.at(step), theirs.at(step), strict=True):
            assert (ours == other).all()
