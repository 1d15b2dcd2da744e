"""Who saw which variant and what came of it: logs of a few lines, counted by hand."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from llmaug.errors import UserError
from llmaug.live.experiment import Experiment, UserSums, user_sums
from llmaug.schema import EXPOSURE, FEEDBACK
from tests.tables import hour

Seen = tuple[str, str, float, str | None]
"""(user, variant, hour, item)"""
Done = tuple[str, str, float, str | None, float | None]
"""(user, action, hour, item, value)"""

BOTH: list[Seen] = [("u1", "old", 0, None), ("u2", "new", 0, None)]
KINDS: dict[str, Any] = {"clicks": ("click",), "conversions": ("buy",), "scores": ("rate",)}


def sums(seen: list[Seen], done: list[Done], **experiment: Any) -> UserSums:
    shown = [
        {"user_id": user, "variant": variant, "timestamp": hour(at), "item_id": item}
        for user, variant, at, item in seen
    ]
    said = [
        {"user_id": user, "action": action, "timestamp": hour(at), "item_id": item, "value": value}
        for user, action, at, item, value in done
    ]
    options = {"control": "old", **(experiment or {"clicks": ("click",)})}
    return user_sums(
        [(pa.Table.from_pylist(shown, EXPOSURE), pa.Table.from_pylist(said, FEEDBACK))],
        Experiment(**options),
    )


def column(found: UserSums, name: str) -> dict[str, float]:
    return dict(found.users[name])


def test_sums_of_two_users() -> None:
    found = sums(
        [("u1", "old", 0, None), ("u1", "old", 5, None), ("u2", "new", 0, None)],
        [
            ("u1", "click", 1, None, None),
            ("u1", "click", 2, None, None),  # the same exposure: it was clicked, once
            ("u2", "buy", 1, None, 99.0),
            ("u2", "buy", 2, None, 1.0),
            ("u2", "rate", 3, None, 4.0),
            ("u2", "rate", 3, None, 2.0),
        ],
        **KINDS,
    )
    assert found.treatment == "new"
    assert column(found, "variant") == {"u1": "old", "u2": "new"}
    assert column(found, "exposures") == {"u1": 2, "u2": 1}
    assert column(found, "clicked_exposures") == {"u1": 1, "u2": 0}
    assert column(found, "converted") == {"u1": 0, "u2": 1}
    assert column(found, "scores") == {"u1": 0, "u2": 2}
    assert column(found, "score_sum") == {"u1": 0, "u2": 6}  # amounts of purchases are no scores


def test_feedback_goes_to_the_last_exposure_of_its_item() -> None:
    seen: list[Seen] = [
        ("u1", "old", 0, "a"),
        ("u1", "old", 1, "b"),
        ("u1", "old", 2, "a"),
        ("u2", "new", 0, "a"),
    ]
    done: list[Done] = [
        ("u1", "click", 1.5, "a", None),  # to hour 0, though b came between
        ("u1", "click", 3, "a", None),  # to hour 2
        ("u1", "click", 0.5, "b", None),  # before b was shown
        ("u1", "click", 3, "c", None),  # never shown
        ("u2", "click", 9, None, None),  # says no item: the user's last exposure
    ]
    found = sums(seen, done)
    assert column(found, "clicked_exposures") == {"u1": 2, "u2": 1}
    assert found.feedback["attributed"] == 3 and found.feedback["no_exposure_before"] == 2


def test_exposures_without_items_take_feedback_of_any() -> None:
    found = sums(BOTH, [("u1", "click", 1, "a", None)])
    assert column(found, "clicked_exposures") == {"u1": 1, "u2": 0}


def test_the_window_is_inclusive() -> None:
    done: list[Done] = [
        ("u1", "click", 0, None, None),
        ("u2", "click", 2, None, None),
        ("u2", "click", 2.001, None, None),
    ]
    found = sums(BOTH, done, clicks=("click",), window_hours=2)
    assert column(found, "clicked_exposures") == {"u1": 1, "u2": 1}
    assert found.feedback["outside_window"] == 1
    assert found.exposures["window_open"] == 0
    assert sums(BOTH, done, clicks=("click",), window_hours=9).exposures["window_open"] == 2


def test_users_of_several_variants_are_quarantined_and_every_row_is_in_the_ledger() -> None:
    seen: list[Seen] = [
        *BOTH,
        ("both", "old", 0, None),
        ("both", "new", 0, None),
        ("mixed", "new", 0, None),
        ("mixed", "third", 0, None),
        ("u3", "third", 0, None),
    ]
    done: list[Done] = [
        ("u1", "click", 1, None, None),
        ("u1", "scroll", 1, None, None),
        ("u1", "rate", 1, None, None),
        ("u1", "click", -1, None, None),
        ("u2", "click", 50, None, None),
        ("both", "click", 1, None, None),
        ("u3", "click", 1, None, None),
        ("nobody", "click", 1, None, None),
    ]
    found = sums(seen, done, treatment="new", **KINDS | {"conversions": ()})
    assert list(found.users.index) == ["u1", "u2"]
    assert found.num_quarantined == 2
    assert found.exposures == {
        "analysed": 2,
        "quarantined_users": 4,
        "other_variants": 1,
        "window_open": 0,
    }
    assert found.feedback == {
        "attributed": 1,
        "quarantined_users": 1,
        "users_without_exposure": 1,
        "other_variants": 1,
        "other_actions": 1,
        "score_without_value": 1,
        "no_exposure_before": 1,
        "outside_window": 1,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name actions with --click"),
        ({"clicks": ("clik",)}, "--click clik: no such feedback; there are click"),
        ({"clicks": ("click",), "control": "A"}, "no exposure of variant 'A'; there are new, old"),
        ({"clicks": ("click",), "treatment": "B"}, "no exposure of variant 'B'"),
        ({"clicks": ("click",), "treatment": "old"}, "are both 'old'"),
        ({"clicks": ("click",), "treatment_share": 50}, "not between 0 and 1"),
        ({"clicks": ("click",), "window_hours": 0}, "not above 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sums(BOTH, [("u1", "click", 1, None, None)], **{"control": "old", **options})


def test_more_than_two_variants_need_a_choice() -> None:
    with pytest.raises(UserError, match="2 variants beside control 'old': new, third; choose"):
        sums([*BOTH, ("u3", "third", 0, None)], [("u1", "click", 1, None, None)])
    with pytest.raises(UserError, match="0 variants beside control 'old'$"):
        sums(BOTH[:1], [("u1", "click", 1, None, None)])
