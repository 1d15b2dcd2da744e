"""Who was trained on, told by the synthetic events: of a generator that copies, and of one that
does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from llmaug.config import EvaluateConfig, GateConfig
from llmaug.core.stage import Context
from llmaug.evaluate import membership as attacks
from llmaug.evaluate.gate import decide
from llmaug.evaluate.membership import attack, likeness_to_nearest, membership
from llmaug.schema import EVENT, SYNTHETIC
from tests.evaluate.test_gate import figures
from tests.nights import without_ray
from tests.tables import catalogue, events, histories, write_vocabulary

MakeContext = Callable[..., Context]
ITEMS = [chr(code) for code in range(0x100, 0x100 + 60)]
NEW = [chr(code) for code in range(0x200, 0x200 + 10)]  # nobody took them before the cut-off


def test_likeness_is_that_of_the_sets_of_items() -> None:
    asked, others = pa.array(list("abc" + "xyzz" + "q")), pa.array(list("abcd" + "bcx" + "zyx"))
    found = likeness_to_nearest(asked, np.array([3, 4, 1]), others, np.array([4, 3, 3]))
    assert found.tolist() == [3 / 4, 1.0, 0.0]
    none = likeness_to_nearest(
        asked, np.array([3, 4, 1]), pa.array([], pa.string()), np.zeros(0, int)
    )
    assert none.tolist() == [0.0, 0.0, 0.0]


def test_the_auc_is_the_usual_one_and_its_interval_covers_it() -> None:
    """Of normal scores that lie 1 apart the true AUC is 0.760 (the normal's value at 1/sqrt(2))."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        members, others = rng.normal(1, 1, 60).round(1), rng.normal(0, 1, 60).round(1)
        found = attack(members, others)
        labels = np.repeat([1, 0], 60)
        usual = roc_auc_score(labels, np.concatenate([members, others]))
        assert found["auc"] == pytest.approx(usual)
        covered += found["low"] <= 0.760 <= found["high"]
    assert 0.90 * 200 <= covered <= 0.99 * 200


def test_true_positives_are_counted_at_one_false_alarm_in_a_hundred() -> None:
    others = np.arange(200) / 200  # two of them may lie above: 0.99 and 0.995
    assert attack(np.array([0.5, 0.986, 0.99, 1.0]), others)["tpr"] == 0.75
    assert attack(np.array([0.1, 0.2]), others)["tpr"] == 0.0
    # Wilson's interval of 3 in 4, by hand: (p + z2/2n +- z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n).
    found = attack(np.array([0.5, 0.986, 0.99, 1.0]), others)
    assert (found["tpr_low"], found["tpr_high"]) == pytest.approx((0.301, 0.954), abs=1e-3)
    # Of fewer than a hundred none may.
    assert attack(np.array([0.9, 1.0]), np.array([0.0, 0.9]))["tpr"] == 0.5


def found_of(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, generated: list[str],
    members: dict[str, str], others: dict[str, str], **config: Any,
) -> dict[str, Any] | None:  # fmt: skip
    without_ray(monkeypatch)
    context = make_context(**config)
    storage, split = context.storage, context.folder("split")
    for fold, people in (("train", members), ("validation", {}), ("test", others)):
        for part, last in (("p", "02468"), ("q", "13579")):
            own = {user: items for user, items in people.items() if user[-1] in last}
            storage.write_part(events(histories(**own)), {}, f"{split}/{fold}", part)
    rows = events(histories(**{f"s{n}": own for n, own in enumerate(generated)})).to_pylist()
    for row in rows:
        row |= {"origin": SYNTHETIC, "unit_id": f"unit {row['user_id']}"}
    merged = context.folder("merged/augmented")
    for part in range(2):
        own = [row for row in rows if int(row["user_id"][1:]) % 2 == part]
        storage.write_part(pa.Table.from_pylist(own, schema=EVENT), {}, merged, f"m{part}")
    counts = Counter("".join(members.values()))
    write_vocabulary(context, catalogue(sorted({*counts, *NEW}), train_events=counts), {})
    found = membership(context, merged)
    assert storage.names(context.folder("privacy")) == []
    return found


def people(name: str, number: int, seed: int) -> dict[str, str]:
    rng = np.random.default_rng(seed)
    return {
        f"{name}{n:02d}": "".join(rng.permutation(ITEMS)[: rng.integers(6, 16)])
        for n in range(number)
    }


MEMBERS, OTHERS = people("u", 60, seed=1), people("v", 30, seed=2)


def test_a_generator_that_copies_gives_its_users_away(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = list(MEMBERS.values())
    found = found_of(make_context, monkeypatch, copies, MEMBERS, OTHERS)
    assert found is not None and 20 <= found["pairs"] <= 30
    assert found["auc"] > 0.9 and found["low"] > 0.8 and found["tpr"] > 0.5


def test_one_that_makes_histories_up_does_not(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = list(people("s", 60, seed=3).values())
    found = found_of(make_context, monkeypatch, made_up, MEMBERS, OTHERS)
    assert found is not None and found["low"] < 0.5 < found["high"]


def test_lengths_alone_tell_nobody(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members have thrice the events of the others: they are cut to as many."""
    longer = {user: items + "".join(ITEMS[40:]) for user, items in MEMBERS.items()}
    asked: list[np.ndarray] = []
    monkeypatch.setattr(
        attacks, "likeness_to_nearest",
        lambda items, sizes, others, other_sizes: (asked.append(sizes), np.zeros(len(sizes)))[1],
    )  # fmt: skip
    found = found_of(make_context, monkeypatch, ["abc"], longer, OTHERS)
    assert found is not None and found["auc"] == 0.5
    assert (asked[0][0::2] == asked[0][1::2]).all()


def test_items_that_nobody_could_generate_tell_nobody(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What held-out people took besides is new: left in, it made each of them a stranger."""
    later = {user: items + "".join(NEW) for user, items in OTHERS.items()}
    made_up = list(people("s", 60, seed=3).values())
    found = found_of(make_context, monkeypatch, made_up, MEMBERS, later)
    assert found == found_of(make_context, monkeypatch, made_up, MEMBERS, OTHERS)


@pytest.mark.parametrize(
    ("others", "config"),
    [
        (dict(list(OTHERS.items())[:19]), {}),
        ({user.replace("v", "u"): items for user, items in OTHERS.items()}, {}),  # all have both
        ({user: items[:4] for user, items in OTHERS.items()}, {}),
        (OTHERS, {"split": {"kind": "leave_one_out"}}),
    ],
    ids=["too few", "nobody without a history", "too short", "no user is held out"],
)
def test_nothing_is_said_where_it_cannot_be_measured(
    make_context: MakeContext,
    monkeypatch: pytest.MonkeyPatch,
    others: dict[str, str],
    config: dict[str, Any],
) -> None:
    assert found_of(make_context, monkeypatch, ["abc"], MEMBERS, others, **config) is None


def decided(found: dict[str, Any] | None, **limit: float) -> dict[str, Any]:
    """By the gate, of a model that is better and copies no run of events."""
    audit = {"synthetic": 60, "identifying": 0, "identifying_share": 0.0, "run_len": 5,
             "min_run_users": 5, "membership": found}  # fmt: skip
    return decide(figures(), GateConfig(**limit), EvaluateConfig(), audit)


def test_the_gate_refuses_a_generator_that_gives_its_users_away_where_a_limit_is_set(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = found_of(make_context, monkeypatch, list(MEMBERS.values()), MEMBERS, OTHERS)
    assert decided(copied)["passed"]
    refused = decided(copied, max_membership_auc=0.6)
    assert not refused["passed"] and refused["arm"] == "real"
    assert "its lower end may be 0.600 at most" in refused["reasons"][0]


def test_the_gate_lets_one_pass_that_makes_histories_up(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = list(people("s", 60, seed=3).values())
    found = found_of(make_context, monkeypatch, made_up, MEMBERS, OTHERS)
    assert decided(found, max_membership_auc=0.6)["passed"]


def test_what_was_not_measured_does_not_pass_a_limit() -> None:
    (why,) = decided(None, max_membership_auc=0.6)["reasons"]
    assert "was not measured" in why
