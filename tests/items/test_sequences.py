"""Events to training sequences, and sequences to batches that depend on the step alone."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.arrays import group_bounds
from llmaug.items.batches import Batches
from llmaug.items.sequences import Sequences, load_sequences, of_events, user_histories
from llmaug.items.vocabulary import BOS, PAD
from llmaug.schema import EVENT, SOFT_EVENT, SYNTHETIC
from tests.tables import catalogue, events, histories

A, B, C, D, E = range(3, 8)  # the tokens of catalogue("abcde")
WORDS = catalogue("abcde")


def synthetic(
    user: str, unit: str, items: str, weight: float, places: list[int] | None = None,
    strategy: str = "continue",
) -> pa.Table:  # fmt: skip
    rows = events([(user, item, number) for number, item in enumerate(items)]).to_pylist()
    changes = {"unit_id": unit, "weight": weight, "origin": SYNTHETIC, "strategy": strategy}
    placed = places or [None] * len(items)
    rows = [{**row, **changes, "place": p} for row, p in zip(rows, placed, strict=True)]
    return pa.Table.from_pylist(rows, schema=EVENT)


def as_lists(sequences: Sequences) -> list[tuple[list[int], list[float]]]:
    """(tokens, weights) of each sequence."""
    bounds = zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)
    return [
        (sequences.tokens[start:end].tolist(), sequences.weights[start:end].tolist())
        for start, end in bounds
    ]


def test_a_history_is_a_sentence_that_starts_with_bos() -> None:
    sequences = of_events(events(histories(u1="abc", u2="d")), WORDS)
    assert as_lists(sequences) == [([BOS, A, B, C], [0, 1, 1, 1]), ([BOS, D], [0, 1])]
    assert (len(sequences), sequences.num_targets) == (2, 4)


def test_a_continuation_sees_the_real_history_but_is_not_trained_on_it_again() -> None:
    rows = pa.concat_tables(
        [
            events(histories(u1="ab")),
            synthetic("u1", "unit-1", "cd", weight=0.5),
            synthetic("u1", "unit-2", "e", weight=0.5),
            events(histories(u2="c")),
        ]
    )
    assert as_lists(of_events(rows, WORDS)) == [
        ([BOS, A, B], [0, 1, 1]),
        ([BOS, A, B, C, D], [0, 0, 0, 0.5, 0.5]),
        ([BOS, A, B, E], [0, 0, 0, 0.5]),
        ([BOS, C], [0, 1]),
    ]


def test_a_new_user_has_no_context_whoever_stands_before() -> None:
    rows = pa.concat_tables(
        [events(histories(u1="ab")), synthetic("synthetic:unit", "unit", "cd", weight=0.5)]
    )
    assert as_lists(of_events(rows, WORDS))[1] == ([BOS, C, D], [0, 0.5, 0.5])


def test_generated_events_stand_in_their_places() -> None:
    """Loss begins with the first of them: what follows is predicted from another past."""
    rows = pa.concat_tables(
        [
            events(histories(u1="abc")),
            synthetic("u1", "unit-1", "ed", 0.5, [0, 0], "prefix"),
            synthetic("u1", "unit-2", "ed", 0.5, [2, 2], "infill"),
            synthetic("u1", "unit-3", "ed", 0.5, [1, 2], "substitute"),
            synthetic("u1", "unit-4", "e", 0.5, [1], "substitute"),
        ]
    )
    assert as_lists(of_events(rows, WORDS))[1:] == [
        ([BOS, E, D, A, B, C], [0, 0.5, 0.5, 0.5, 0.5, 0.5]),
        ([BOS, A, B, E, D, C], [0, 0, 0, 0.5, 0.5, 0.5]),
        ([BOS, A, E, D], [0, 0, 0.5, 0.5]),
        ([BOS, A, E, C], [0, 0, 0.5, 0.5]),
    ]


def test_places_count_events_of_unknown_items() -> None:
    rows = pa.concat_tables(
        [
            events([("u1", "a", 0), ("u1", "stranger", 1), ("u1", "b", 2)]),
            synthetic("u1", "unit-1", "e", 0.5, [2], "infill"),
            synthetic("u1", "unit-2", "e", 0.5, [1], "substitute"),
        ]
    )
    assert as_lists(of_events(rows, WORDS)) == [
        ([BOS, A, B], [0, 1, 1]),
        ([BOS, A, E, B], [0, 0, 0.5, 0.5]),
        ([BOS, A, E, B], [0, 0, 0.5, 0.5]),
    ]


def test_every_sequence_knows_its_user() -> None:
    rows = pa.concat_tables(
        [events(histories(u1="ab")), synthetic("u1", "unit", "c", 1.0), events(histories(u2="d"))]
    )
    assert of_events(rows, WORDS).user_ids.tolist() == ["u1", "u1", "u2"]


def test_items_outside_the_vocabulary_are_left_out() -> None:
    rows = events([("u1", "a", 0), ("u1", "stranger", 1), ("u1", "b", 2), ("u2", "stranger", 3)])
    assert as_lists(of_events(rows, WORDS)) == [([BOS, A, B], [0, 1, 1])]


def test_parts_are_read_in_order_and_empty_ones_add_nothing(tmp_path) -> None:
    storage = Storage(str(tmp_path))
    for part, rows in {"p0": histories(u1="ab"), "p1": [], "p2": histories(u2="c")}.items():
        storage.write_part(events(rows), {}, "train", part)
    sequences = load_sequences(storage, "train", WORDS)
    assert [tokens for tokens, _ in as_lists(sequences)] == [[BOS, A, B], [BOS, C]]


def test_events_stream_to_disk_and_do_not_fill_the_memory(tmp_path) -> None:
    """Forty parts: what is in memory at a time is a small part of them."""
    storage, words = Storage(str(tmp_path)), catalogue([f"i{n:02d}" for n in range(50)])
    rows = [(f"u{user}", f"i{n % 50:02d}", n) for user in range(10) for n in range(500)]
    for part in range(40):
        storage.write_part(events(rows), {}, "train", f"p{part:02d}")
    load_sequences(storage, "train", words)  # what is imported on the way does not count
    tracemalloc.start()
    sequences = load_sequences(storage, "train", words)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sequences.num_targets == len(sequences.tokens) - len(sequences) == 40 * 10 * 500
    assert peak < (sequences.tokens.nbytes + sequences.weights.nbytes) / 2


def test_looking_at_events_in_blocks_changes_nothing(monkeypatch) -> None:
    rows = [events(histories(u1="abc", u2="d", u3="cde")), synthetic("u3", "unit", "ab", 1.0)]
    sequences = of_events(pa.concat_tables(rows), WORDS)
    whole = sequences.first_losses, Batches(sequences, 4, 5, seed=1).target_counts(9)
    assert whole[0].tolist() == [1, 5, 7, 14]
    for block in (1, 2, 3, 7):
        monkeypatch.setattr("llmaug.items.sequences._BLOCK", block)
        anew = replace(sequences)
        assert (anew.first_losses == whole[0]).all()
        assert (Batches(anew, 4, 5, seed=1).target_counts(9) == whole[1]).all()


def test_histories_run_from_one_folder_into_the_next(tmp_path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_part(events(histories(u1="ab", u2="c")), {}, "train", "p")
    storage.write_part(events(histories(u1="d", u3="e")), {}, "validation", "p")
    assert user_histories(storage, ["train", "validation"], "p", WORDS) == {
        "u1": [A, B, D],
        "u2": [C],
        "u3": [E],
    }


def test_groups_are_runs_of_equal_rows_in_all_columns() -> None:
    users, units = np.array(["u", "u", "u", "v"]), np.array(["", "x", "x", "x"])
    assert group_bounds(users, units) == [(0, 1), (1, 3), (3, 4)]
    assert group_bounds(np.array([])) == []


# -- batches -------------------------------------------------------------------------------


def numbered(num_users: int) -> Sequences:
    """User i has the history a, then item i: the last token tells the sequences apart."""
    ids = [f"i{number:02d}" for number in range(num_users)]
    rows = [(f"u{i}", item, hour) for i in ids for hour, item in enumerate(["first", i])]
    return of_events(events(rows), catalogue(["first", *ids]))


def test_short_rows_are_padded_right_without_weight() -> None:
    batches = Batches(of_events(events(histories(u1="abc", u2="d")), WORDS), 2, window=5, seed=1)
    tokens, weights = batches.at(0)
    rows = sorted(zip(tokens.tolist(), weights.tolist(), strict=True))
    assert rows == [([BOS, A, B, C], [0, 1, 1, 1]), ([BOS, D, PAD, PAD], [0, 1, 0, 0])]


def test_a_batch_depends_on_its_step_alone() -> None:
    sequences = numbered(10)
    one, other = Batches(sequences, 4, 5, seed=1), Batches(sequences, 4, 5, seed=1)
    undisturbed = [one.at(step) for step in range(8)]
    resumed = other.at(7)  # a resumed run has not seen steps 0 to 6
    for left, right in zip(undisturbed[7], resumed, strict=True):
        assert (left == right).all()
    reseeded = Batches(sequences, 4, 5, seed=2)
    assert any((undisturbed[step][0] != reseeded.at(step)[0]).any() for step in range(8))


def test_an_epoch_visits_every_sequence_once() -> None:
    batches = Batches(numbered(10), 4, 5, seed=1)  # 10 sequences: 5 batches are two epochs
    order = np.concatenate([batches.at(step)[0][:, -1] for step in range(5)])
    assert Counter(order[:10]) == Counter(order[10:]) == Counter(range(4, 14)) - Counter()
    assert order[:10].tolist() != order[10:].tolist()


def test_two_workers_share_a_batch_without_overlap() -> None:
    batches = Batches(numbered(10), 5, 5, seed=1)
    whole = batches.at(3)[0].tolist()
    first, second = (batches.at(3, rank, world_size=2)[0].tolist() for rank in (0, 1))
    assert (len(first), len(second)) == (3, 2)
    assert sorted(first + second) == sorted(whole)


def test_a_batch_that_cannot_be_shared_says_so() -> None:
    with pytest.raises(UserError, match="3 sequences cannot be cut into 4 shares: lower num_wo"):
        Batches(numbered(3), 8, 5, seed=1).at(0, rank=3, world_size=4)


def test_a_long_history_gives_a_window_that_moves() -> None:
    letters = "abcdeabcdeabcdeabcde"
    batches = Batches(of_events(events(histories(u="".join(letters))), WORDS), 1, window=4, seed=1)
    history = [BOS, *WORDS.encode(list(letters)).tolist()]
    windows = [tuple(history[start : start + 5]) for start in range(len(history) - 4)]
    seen = set()
    for step in range(60):
        tokens, weights = batches.at(step)
        assert tuple(tokens[0]) in windows
        assert weights[0].tolist() == [0, 1, 1, 1, 1]
        seen.add(tuple(tokens[0]))
    assert len(seen) > 3


def test_a_long_context_is_cut_rather_than_the_events_behind_it() -> None:
    rows = pa.concat_tables(
        [events(histories(u="abcde" * 10)), synthetic("u", "unit", "edc", weight=1.0)]
    )
    sequences = of_events(rows, WORDS)
    continuation = _only(sequences, 1)
    batches = Batches(continuation, 1, window=4, seed=1)
    for step in range(5):
        tokens, weights = batches.at(step)
        assert tokens[0].tolist() == [D, E, E, D, C]
        assert weights[0].tolist() == [0, 0, 1, 1, 1]


def test_real_sequences_can_be_asked_for_alone() -> None:
    rows = pa.concat_tables(
        [events(histories(u1="ab", u2="cd")), synthetic("v", "unit", "ed", weight=0.5)]
    )
    sequences = of_events(rows, WORDS)
    assert sequences.is_real.tolist() == [True, True, False]
    alone = Batches(sequences, 3, window=5, seed=1, only=sequences.is_real)
    everything = {tuple(row) for row in Batches(sequences, 3, 5, seed=1).at(0)[0].tolist()}
    assert {tuple(row) for row in alone.at(0)[0].tolist()} == {(BOS, A, B), (BOS, C, D)}
    assert everything == {(BOS, A, B), (BOS, C, D), (BOS, E, D)}


def _only(sequences: Sequences, index: int) -> Sequences:
    start, end = sequences.offsets[index : index + 2]
    return Sequences(
        sequences.tokens[start:end],
        sequences.weights[start:end],
        np.array([0, end - start]),
        sequences.user_ids[index : index + 1],
        sequences.is_real[index : index + 1],
    )


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(UserError, match="no training sequence has an event to learn from"):
        Batches(of_events(events([]), WORDS), 4, 5, seed=1)


# -- soft targets --------------------------------------------------------------------------


def with_soft(table: pa.Table, *soft: dict[str, float] | None) -> pa.Table:
    """Of each event what else could have come, and how likely."""
    rows = []
    for row, found in zip(table.to_pylist(), soft, strict=True):
        tokens = WORDS.encode(list(found)).tolist() if found else None
        chances = list(found.values()) if found else None
        rows.append({**row, "soft_tokens": tokens, "soft_chances": chances})
    return pa.Table.from_pylist(rows, schema=SOFT_EVENT)


SOFT = with_soft(
    events([("u1", "a", 0), ("u1", "stranger", 1), ("u1", "b", 2), ("u2", "c", 3)]),
    {"b": 0.5, "c": 0.25}, {"d": 1.0}, None, {"e": 0.125},
)  # fmt: skip


def soft_of(sequences: Sequences) -> list[tuple[list[int], list[float]]]:
    """Of each token of the sequences."""
    soft = sequences.soft
    assert soft is not None
    bounds = itertools.pairwise(soft.offsets.tolist())
    return [(soft.tokens[a:b].tolist(), soft.chances[a:b].tolist()) for a, b in bounds]


IN_PLACE = [
    ([], []), ([B, C], [0.5, 0.25]), ([], []),  # BOS a b: what was outside went with its own
    ([], []), ([E], [0.125]),
]  # fmt: skip


def test_soft_targets_stay_with_their_events_of_the_real_sequence() -> None:
    assert soft_of(of_events(SOFT, WORDS)) == IN_PLACE
    assert of_events(events(histories(u1="ab")), WORDS).soft is None
    continued = pa.concat_tables(
        [SOFT.slice(0, 3), synthetic("u1", "unit", "e", 1.0), SOFT.slice(3)],
        promote_options="permissive",
    )
    found = soft_of(of_events(continued, WORDS))
    assert found == [*IN_PLACE[:3], *[([], [])] * 4, *IN_PLACE[3:]]


def test_soft_targets_are_read_where_they_are_asked_for(tmp_path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_part(events(histories(u0="ab")), {}, "merged", "p0")
    storage.write_part(SOFT, {}, "merged", "p1")
    assert load_sequences(storage, "merged", WORDS).soft is None
    assert soft_of(load_sequences(storage, "merged", WORDS, soft=True)) == [([], [])] * 3 + IN_PLACE
    storage.delete("merged", "p1.json")
    assert load_sequences(storage, "merged", WORDS, soft=True).soft is None


def test_a_batch_has_the_soft_targets_of_its_windows_alone() -> None:
    rows = events(histories(u1="abcde", u2="b"))
    chances = [{letter: 0.5} for letter in "bcdea"] + [{"a": 0.5, "c": 0.25}]
    batches = Batches(of_events(with_soft(rows, *chances), WORDS), 2, window=3, seed=1)
    following = dict(zip(range(A, A + 5), [B, C, D, E, A], strict=True))
    for step in range(4):
        tokens, weights, others, found = batches.at(step)
        assert others.shape == found.shape == (*tokens.shape, 2)
        assert (others.dtype, found.dtype) == (np.int64, np.float32)
        for row, width in zip(range(2), (tokens > 0).sum(1), strict=True):
            own, own_others = tokens[row, :width].tolist(), others[row, :width].tolist()
            if own == [BOS, B]:
                assert own_others == [[-1, -1], [A, C]]
                assert found[row, 1].tolist() == [0.5, 0.25]
            else:
                assert own_others == [[following.get(token, -1), -1] for token in own]
            assert (others[row, width:] == -1).all() and not found[row, width:].any()
