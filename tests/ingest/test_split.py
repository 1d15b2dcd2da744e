"""The split by hand: which event trains, which validates, which tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llmaug.config import SplitConfig
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.split import (
    TEST,
    TRAIN,
    VALIDATION,
    _split_part,
    cutoffs_from_hours,
    fold_of_rows,
)
from tests.tables import Row, events, histories, read_rows

FOLDS = (TRAIN, VALIDATION, TEST)
HOUR_US = 3_600_000_000


def folds(user_letters: str, max_train: int | None = None, num_test: int = 1) -> str:
    """Fold of each row, a letter each: (t)rain, (v)alidation, t(e)st, (-) left out."""
    letters = {TRAIN: "t", VALIDATION: "v", TEST: "e", "": "-"}
    found = fold_of_rows(np.array(list(user_letters), dtype=object), max_train, num_test)
    return "".join(letters[fold] for fold in found)


def test_leave_one_out_tests_the_last_event_and_validates_the_one_before() -> None:
    #              user a  user b
    assert folds("aaaaabbb") == "tttve" + "tve"


def test_users_with_fewer_than_three_events_only_train() -> None:
    assert folds("abbcccd") == "t" + "tt" + "tve" + "t"
    assert folds("") == ""


def test_only_the_last_training_events_are_kept_for_an_experiment_on_thin_logs() -> None:
    assert folds("aaaaaabb", max_train=2) == "--ttve" + "tt"
    assert folds("aabb", max_train=1) == "-t" + "-t"


def test_more_test_events_of_each_user_narrow_the_intervals() -> None:
    #              user a    user b  user c: nothing would be left to train on
    assert folds("aaaaaabbbbbccc", num_test=3) == "ttveee" + "tveee" + "ttt"
    assert folds("aaaaaabbb", max_train=1, num_test=2) == "--tvee" + "--t"


def split(
    tmp_path: Path, rows: list[Row], config: SplitConfig, cutoffs: tuple[int, int] | None = None
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """(fold to its events as `user item`, counts) of one part."""
    storage = Storage(str(tmp_path))
    storage.write_part(events(rows), {}, "ingest", "part")
    counts = _split_part(storage, "ingest", "split", config, cutoffs, "part")
    found = {
        fold: [f"{row['user_id']} {row['item_id']}" for row in read_rows(storage, f"split/{fold}")]
        for fold in FOLDS
    }
    return found, counts


def test_events_at_the_same_second_keep_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [("u", item, 5.0) for item in "zyx"]
    found, _ = split(tmp_path, rows, SplitConfig(kind="leave_one_out"))
    assert found == {TRAIN: ["u z"], VALIDATION: ["u y"], TEST: ["u x"]}


def test_leave_one_out_of_a_part_with_its_counts(tmp_path: Path) -> None:
    rows = histories(u1="abcd", u2="ab")
    found, counts = split(tmp_path, rows, SplitConfig(kind="leave_one_out"))
    assert found == {TRAIN: ["u1 a", "u1 b", "u2 a", "u2 b"], VALIDATION: ["u1 c"], TEST: ["u1 d"]}
    assert counts == {
        **{"train": 4, "validation": 1, "test": 1, "thinned_out": 0, "train_users": 2},
        **{"test_users": 1, "test_users_with_history": 1},
    }


def absolute(*hours: int) -> tuple[int, int]:
    """Cut-offs (microseconds since 1970) at hours since the tables' start."""
    start = events([("u", "i", 0)])["timestamp"][0].value
    first, second = (start + hour * HOUR_US for hour in hours)
    return first, second


def test_temporal_holds_out_what_lies_at_or_past_the_cut_offs(tmp_path: Path) -> None:
    rows = [("u1", "a", 1), ("u1", "b", 5), ("u1", "c", 9), ("u2", "d", 4.99), ("u3", "e", 9)]
    found, counts = split(tmp_path, rows, SplitConfig(kind="temporal"), absolute(5, 9))
    assert found == {TRAIN: ["u1 a", "u2 d"], VALIDATION: ["u1 b"], TEST: ["u1 c", "u3 e"]}
    assert (counts["test_users"], counts["test_users_with_history"]) == (2, 1)


def test_temporal_with_thin_logs_counts_training_events_alone(tmp_path: Path) -> None:
    rows = histories(u1="abcdef", u2="a", u3="abc")
    config = SplitConfig(kind="temporal", max_train_events=2)
    found, counts = split(tmp_path, rows, config, absolute(4, 5))
    assert found[TRAIN] == ["u1 c", "u1 d", "u2 a", "u3 b", "u3 c"]
    assert (found[VALIDATION], found[TEST]) == (["u1 e"], ["u1 f"])
    assert counts["thinned_out"] == 3


def test_kind_none_holds_nothing_out(tmp_path: Path) -> None:
    found, counts = split(tmp_path, histories(u="abcd"), SplitConfig(kind="none"))
    assert len(found[TRAIN]) == 4 and found[VALIDATION] == found[TEST] == []
    assert counts["test_users"] == 0


@pytest.mark.parametrize("kind", ["leave_one_out", "temporal"])
def test_every_event_is_in_exactly_one_fold_and_twice_the_same(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{number}", float(number + rng.random()))
        for user in range(20)
        for number in range(rng.integers(1, 9))
    ]
    config = SplitConfig.model_validate({"kind": kind})
    cutoffs = absolute(3, 5) if kind == "temporal" else None
    found, _ = split(tmp_path, rows, config, cutoffs)
    everything = [event for fold in FOLDS for event in found[fold]]
    assert all(found.values())
    assert sorted(everything) == sorted(f"{user} {item}" for user, item, _ in rows)

    storage = Storage(str(tmp_path))
    digests = [storage.read_json(f"split/{fold}", "part.json")["digest"] for fold in FOLDS]
    split(tmp_path, rows, config, cutoffs)
    assert digests == [storage.read_json(f"split/{f}", "part.json")["digest"] for f in FOLDS]


def test_cut_offs_are_the_hours_before_which_the_shares_lie() -> None:
    # Hours 0 to 9 hold an event each: 8 of 10 lie before hour 8, 9 of 10 before hour 9.
    assert cutoffs_from_hours(Counter(range(10)), 0.8, 0.9) == (8 * HOUR_US, 9 * HOUR_US)
    # One busy hour: 90 of 100 events lie before hour 1, 95 before hour 6.
    hours = Counter({0: 90, **dict.fromkeys(range(1, 11), 1)})
    assert cutoffs_from_hours(hours, 0.8, 0.95) == (1 * HOUR_US, 6 * HOUR_US)


@pytest.mark.parametrize("hours", [{5: 100}, {5: 95, 6: 5}, {5: 1, 6: 99}])
def test_events_too_close_together_for_two_cut_offs_say_so(hours: dict[int, int]) -> None:
    with pytest.raises(UserError, match=rf"{len(hours)} distinct hours.*use leave_one_out"):
        cutoffs_from_hours(Counter(hours), 0.8, 0.9)
