"""Off-policy estimates on simulated logs: two kinds of users, four items, a known truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmaug.errors import UserError
from llmaug.live.counterfactual import estimate
from llmaug.schema import LOGGED_CHOICE
from tests.jobs import llmaug

# (kind of user, item): probability of a click, and of being shown by the old and new policy.
REWARD = np.array([[0.1, 0.2, 0.4, 0.6], [0.5, 0.4, 0.2, 0.1]])
OLD = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
NEW = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
TRUTH = float((NEW * REWARD).sum(1).mean())  # both kinds are equally frequent
LOGGED = float((OLD * REWARD).sum(1).mean())
WRONG_MODEL = np.full_like(REWARD, 0.9)


def log(
    seed: int,
    num_users: int = 200,
    model: np.ndarray = REWARD,
    logged_propensity: Callable[[np.ndarray], np.ndarray] = lambda propensity: propensity,
    old: np.ndarray = OLD,
) -> pa.Table:
    """One to ten rows of each user: rows of a user share its kind and are not independent."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(num_users), rng.integers(1, 11, num_users))
    kind = rng.integers(0, 2, num_users)[user]
    item = (rng.random(len(user))[:, None] > old[kind].cumsum(1)).sum(1)
    columns: dict[str, Any] = {
        "user_id": [f"user-{number}" for number in user],
        "item_id": [f"{'ab'[which]}{number}" for which, number in zip(kind, item, strict=True)],
        "propensity": logged_propensity(old[kind, item]),
        "reward": (rng.random(len(user)) < REWARD[kind, item]).astype(float),
        "new_probability": NEW[kind, item],
        "predicted_reward": model[kind, item],
        "expected_reward": (NEW * model).sum(1)[kind],
    }
    return pa.table(columns).cast(LOGGED_CHOICE)


def four_rows(**changes: list[float]) -> pa.Table:
    """Weights 2, 1, 0.5 and 1."""
    columns = {
        "user_id": ["u1", "u1", "u2", "u3"],
        "item_id": ["a", "b", "a", "b"],
        "propensity": [0.25, 0.5, 0.5, 0.5],
        "reward": [1.0, 0.0, 1.0, 0.0],
        "new_probability": [0.5, 0.5, 0.25, 0.5],
        **changes,
    }
    return pa.table(columns)


def test_four_rows_by_hand() -> None:
    result = estimate(four_rows())
    assert (result["num_rows"], result["num_users"]) == (4, 3)
    assert result["logged"]["value"] == 0.5
    assert set(result["estimates"]) == {"ips", "snips"}
    ips, snips = result["estimates"]["ips"], result["estimates"]["snips"]
    assert ips["value"] == 2.5 / 4 and snips["value"] == 2.5 / 4.5
    assert ips["lift"]["value"] == 0.125 and ips["lift"]["relative"] == 0.25
    assert result["weights"]["mean"] == 4.5 / 4
    assert result["weights"]["effective_rows"] == 4.5**2 / (4 + 1 + 0.25 + 1)

    modelled = four_rows(predicted_reward=[0.5, 0.5, 1, 0], expected_reward=[0.5, 0.5, 0.25, 0.75])
    found = estimate(modelled)["estimates"]
    assert found["direct"]["value"] == 0.5
    assert found["dr"]["value"] == 0.5 + (2 * 0.5 - 0.5) / 4


def test_clipping_by_hand() -> None:
    result = estimate(four_rows(), clip=1)
    assert result["estimates"]["ips"]["value"] == 1.5 / 4
    assert result["weights"]["clipped_rows"] == 1
    assert result["weights"]["clipped_share"] == pytest.approx(1 / 4.5)
    assert any("clipping took 22.2% of the weight, in 1 rows" in w for w in result["warnings"])


def test_a_new_policy_that_is_the_old_one_changes_nothing() -> None:
    table = log(1)
    table = table.set_column(4, LOGGED_CHOICE.field("new_probability"), table["propensity"])
    result = estimate(table)
    for name in ("ips", "snips"):
        lift = result["estimates"][name]["lift"]
        assert (lift["value"], lift["low"], lift["high"]) == pytest.approx((0, 0, 0))
    assert result["weights"]["effective_rows"] == pytest.approx(table.num_rows)
    assert result["warnings"] == []


def test_estimates_are_right_on_average_where_the_plain_mean_is_not() -> None:
    """And their intervals cover the truth as often as they say."""
    results = [estimate(log(seed)) for seed in range(200)]
    logged = [result["logged"]["value"] for result in results]
    assert np.mean(logged) == pytest.approx(LOGGED, abs=0.01)
    assert TRUTH - LOGGED > 0.1  # what the plain mean would be wrong by
    for name in ("ips", "snips", "direct", "dr"):
        found = [result["estimates"][name] for result in results]
        values = np.array([one["value"] for one in found])
        standard_error = values.std() / np.sqrt(200)
        assert abs(values.mean() - TRUTH) < max(3 * standard_error, 1e-3), name
        covered = np.mean([one["low"] <= TRUTH <= one["high"] for one in found])
        lifts = [one["lift"] for one in found]
        covered_lift = np.mean([one["low"] <= TRUTH - LOGGED <= one["high"] for one in lifts])
        assert 0.90 <= covered <= 0.99, (name, covered)
        assert 0.90 <= covered_lift <= 0.99, (name, covered_lift)
    spread = {
        name: np.std([result["estimates"][name]["value"] for result in results])
        for name in ("ips", "snips", "dr")
    }
    assert spread["dr"] < spread["snips"] < spread["ips"]


def test_doubly_robust_needs_only_one_of_the_two_to_be_right() -> None:
    def flat(propensity: np.ndarray) -> np.ndarray:
        return np.full_like(propensity, 0.25)

    def means(**wrong: Any) -> dict[str, float]:
        results = [estimate(log(seed, 400, **wrong))["estimates"] for seed in range(60)]
        return {name: np.mean([one[name]["value"] for one in results]) for name in results[0]}

    wrong_model = means(model=WRONG_MODEL)
    assert wrong_model["direct"] == pytest.approx(0.9)
    assert wrong_model["dr"] == pytest.approx(TRUTH, abs=0.01)
    wrong_propensity = means(logged_propensity=flat)
    assert abs(wrong_propensity["ips"] - TRUTH) > 0.05
    assert wrong_propensity["dr"] == pytest.approx(TRUTH, abs=0.01)
    both_wrong = means(model=WRONG_MODEL, logged_propensity=flat)
    assert abs(both_wrong["dr"] - TRUTH) > 0.03


def test_snips_does_not_mind_where_rewards_start() -> None:
    """Rewards 0 and 1 or 10 and 11: ips takes its chance mean weight times ten."""
    table = log(3)
    shifted = table.set_column(
        3, LOGGED_CHOICE.field("reward"), pa.compute.add(table["reward"], 10.0).cast(pa.float32())
    )
    before, after = (estimate(each)["estimates"] for each in (table, shifted))
    assert after["snips"]["value"] - before["snips"]["value"] == pytest.approx(10)
    assert abs(after["ips"]["value"] - before["ips"]["value"] - 10) > 0.05
    width = {name: after[name]["high"] - after[name]["low"] for name in ("ips", "snips")}
    assert width["snips"] < width["ips"] / 5


def test_the_mean_weight_gives_wrong_propensities_away() -> None:
    false_alarms = sum(bool(estimate(log(seed))["warnings"]) for seed in range(200))
    assert false_alarms <= 2  # at 99.9%
    doubled = estimate(log(4, logged_propensity=lambda propensity: propensity / 2))
    assert doubled["warnings"][0].startswith("the mean weight is ")
    never = np.array([[0.5, 0.3, 0.2, 0.0], [0.0, 0.3, 0.3, 0.4]])  # items that `NEW` prefers
    unsupported = estimate(log(5, old=never))
    assert unsupported["weights"]["mean"] == pytest.approx(0.6, abs=0.1)
    assert "shows items that the old one never did" in unsupported["warnings"][0]


def test_policies_too_far_apart_are_pointed_out() -> None:
    rare = np.array([[0.5, 0.3, 0.195, 0.005], [0.005, 0.195, 0.3, 0.5]])
    result = estimate(log(6, 60, old=rare))
    assert result["weights"]["effective_rows"] < 100 < result["num_rows"]
    assert any("(effective sample size)" in text for text in result["warnings"])
    clipped = estimate(log(6, 60, old=rare), clip=5)
    assert clipped["weights"]["effective_rows"] > 2 * result["weights"]["effective_rows"]


def test_a_policy_may_be_a_function() -> None:
    table = log(7)

    def policy(users: list[str], items: list[str]) -> np.ndarray:
        assert users == table["user_id"].to_pylist()
        return np.array([NEW["ab".index(item[0]), int(item[1])] for item in items])

    bare = table.drop_columns(["new_probability"])
    assert estimate(bare, policy) == estimate(table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"propensity": [0.25, 0.0, 0.5, 0.0]}, "2 of 4 rows, the first is 0.0 for user 'u1', "),
        ({"propensity": [0.25, 0.5, 1.5, 0.5]}, r"propensity is outside \(0, 1\].*item 'a'"),
        ({"new_probability": [0.5, -0.5, 0.25, 0.5]}, r"new_probability is outside \[0, 1\]"),
        ({"new_probability": [0.5, None, 0.25, 0.5]}, "new_probability is missing in 1 of 4 rows"),
        ({"new_probability": [0.0] * 4}, "0 in every row"),
        ({"predicted_reward": [0.5] * 4}, "go together"),
        ({"user_id": ["u"] * 4}, "1 users in the log"),
        ({"reward": [1.0, None, 0.0, 0.0]}, "'reward' has 1 nulls"),
    ],
)
def test_logs_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        estimate(four_rows(**changes))


def test_the_command(tmp_path: Path) -> None:
    table = log(8)
    names = ["p_new" if name == "new_probability" else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), tmp_path / "log.parquet")
    options = ["counterfactual", "--log", str(tmp_path / "log.parquet")]
    options += ["--log-columns", "new_probability=p_new", "--clip", "3"]
    done = llmaug(*options, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == estimate(table, clip=3) | {"refused": {}}
    shown = llmaug(*options, COLUMNS="120")
    assert shown.returncode == 0, shown.stderr
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:6]] == [
        "logged",
        "ips",
        "snips",
        "direct",
        "dr",
    ]
    assert "- clipping took" in shown.stdout
    wrong = llmaug(*options[:3], "--log-columns", "p=p_new")
    assert wrong.returncode == 1 and "write OURS=THEIRS" in wrong.stderr
