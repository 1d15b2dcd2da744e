"""An A/B test on simulated logs of known truth: errs as often as told, finds what is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from llmaug.errors import UserError
from llmaug.live.ab import METRICS, analyse
from llmaug.live.experiment import Experiment
from llmaug.live.user_parts import UserParts
from llmaug.schema import EXPOSURE, FEEDBACK
from tests.jobs import llmaug
from tests.tables import START

EXPERIMENT = Experiment(
    control="old", clicks=("click",), conversions=("buy",), scores=("rate",), expected_lift=0.2
)
_HOUR_US = 3_600_000_000


def logs(
    seed: int,
    num_users: int = 400,
    lift: float = 0.0,
    treatment_share: float = 0.5,
    lost_share: float = 0.0,
) -> tuple[pa.Table, pa.Table]:
    """Exposures and feedback of a week. Users differ in how often they come and how gladly they
    click, so a user's rows are alike. `lift` (relative) is what `new` adds to the click rate,
    the buying rate and the mean score; `lost_share` of its users are not logged."""
    rng = np.random.default_rng(seed)
    is_new = rng.random(num_users) < treatment_share
    if lost_share:
        is_new &= rng.random(num_users) >= lost_share
    factor = 1 + lift * is_new
    visits = 1 + rng.poisson(rng.exponential(3, num_users))
    user = np.repeat(np.arange(num_users), visits)
    at = (rng.random(len(user)) * 168 * _HOUR_US).astype(np.int64)
    clicked = rng.random(len(user)) < (rng.beta(2.4, 5.6, num_users) * factor)[user]
    bought = np.flatnonzero(rng.random(num_users) < 0.25 * factor)
    rated = np.flatnonzero(rng.random(num_users) < 0.5)
    first = np.searchsorted(user, np.arange(num_users))
    value = rng.normal(3 * factor, 1)[rated]

    names = np.array([f"user-{index}" for index in range(num_users)])
    shown = _table(EXPOSURE, names[user], at, variant=np.where(is_new, "new", "old")[user])
    said = [
        _table(FEEDBACK, names[user[clicked]], at[clicked] + 60_000_000, action="click"),
        _table(FEEDBACK, names[bought], at[first[bought]] + _HOUR_US, action="buy"),
        _table(FEEDBACK, names[rated], at[first[rated]] + _HOUR_US, action="rate", value=value),
    ]
    return shown, pa.concat_tables(said)


def _table(schema: pa.Schema, users: np.ndarray, us: np.ndarray, **columns: Any) -> pa.Table:
    start = int(START.timestamp() * 1e6)
    time = pa.array(start + us).cast(pa.timestamp("us", "UTC"))
    arrays = {"user_id": pa.array(users, pa.string()), "timestamp": time}
    for field in schema:
        if field.name not in arrays:
            value = columns.get(field.name)
            whole = value if isinstance(value, np.ndarray) else [value] * len(users)
            arrays[field.name] = pa.array(whole, field.type)
    return pa.table(arrays).select(schema.names).cast(schema)


@pytest.fixture(scope="module")
def null_results() -> list[dict[str, Any]]:
    """150 tests of two variants that are the same."""
    return [analyse([logs(seed, num_users=200)], EXPERIMENT) for seed in range(150)]


def test_without_an_effect_p_values_are_uniform(null_results: list[dict[str, Any]]) -> None:
    """5% are wrong for each metric, and by Holm 5% for all metrics together."""
    for name in METRICS:
        ordered = np.sort([result["metrics"][name]["p_value"] for result in null_results])
        distance = np.abs(ordered - (np.arange(150) + 0.5) / 150).max()
        assert distance < 1.63 / np.sqrt(150), name  # Kolmogorov-Smirnov at 1%
        assert 0.0 < np.mean(ordered < 0.05) <= 0.10, name  # 3 standard errors
    families = [result["metrics"].values() for result in null_results]
    wrong = np.mean([any(metric["significant"] for metric in family) for family in families])
    uncorrected = np.mean([any(metric["p_value"] < 0.05 for metric in f) for f in families])
    assert wrong <= 0.10 < uncorrected


def test_rows_of_a_user_are_not_independent(null_results: list[dict[str, Any]]) -> None:
    """What makes the users, and not the rows, the unit: rows would be wrong far too often."""
    wrong = 0
    for result in null_results:
        sides = result["variants"].values()
        rates = [side["click_through_rate"]["value"] for side in sides]
        variance = sum(
            rate * (1 - rate) / side["exposures"] for rate, side in zip(rates, sides, strict=True)
        )
        wrong += abs(rates[0] - rates[1]) > 1.96 * np.sqrt(variance)
    assert wrong / 150 > 0.1


def test_equal_splits_are_seldom_called_a_mismatch(null_results: list[dict[str, Any]]) -> None:
    assert sum(not result["trusted"] for result in null_results) <= 2  # at p < 0.001


def test_intervals_cover_the_planted_lift() -> None:
    covered: dict[str, list[bool]] = {name: [] for name in METRICS}
    for seed in range(50):
        result = analyse([logs(seed, num_users=400, lift=0.2)], EXPERIMENT)
        for name, metric in result["metrics"].items():
            relative = metric["relative"]
            covered[name].append(relative["low"] <= 0.2 <= relative["high"])
    for name, hits in covered.items():
        assert np.mean(hits) >= 0.86, name  # 0.95, and 3 standard errors below


def test_a_planted_lift_is_found() -> None:
    result = analyse([logs(1, num_users=4000, lift=0.3)], EXPERIMENT)
    assert result["trusted"] and result["warnings"] == []
    assert set(result["metrics"]) == {"click_through_rate", "conversion_rate", "satisfaction"}
    for metric in result["metrics"].values():
        assert metric["significant"]
        assert metric["relative"]["low"] < 0.3 < metric["relative"]["high"]
        assert metric["p_value"] <= metric["p_adjusted"] < 0.001
        assert 0 < metric["minimal_detectable"]["relative"] < 0.3
    sides = result["variants"]
    assert sides["old"]["conversion_rate"]["value"] == pytest.approx(0.25, abs=0.03)
    assert sides["new"]["satisfaction"]["value"] == pytest.approx(3.9, abs=0.1)
    assert sides["old"]["users"] + sides["new"]["users"] == 4000


def test_lost_users_are_noticed() -> None:
    lossy = analyse([logs(2, num_users=4000, lift=0.3, lost_share=0.2)], EXPERIMENT)
    assert lossy["sample_ratio"]["mismatch"] and not lossy["trusted"]
    assert lossy["warnings"][0].startswith("sample ratio mismatch: ")
    found = lossy["metrics"]["click_through_rate"]
    assert found["p_adjusted"] < 0.001 and not found["significant"]  # no use that it looks so
    skewed = logs(2, num_users=4000, treatment_share=0.1)
    assert not analyse([skewed], EXPERIMENT)["trusted"]
    planned = Experiment(control="old", clicks=("click",), treatment_share=0.1)
    assert analyse([skewed], planned)["trusted"]


def test_users_of_both_variants_are_left_out_and_reported() -> None:
    shown, said = logs(3)
    crossed = shown.slice(0, 1)
    other = "old" if crossed["variant"][0].as_py() == "new" else "new"
    crossed = crossed.set_column(1, EXPOSURE.field("variant"), pa.array([other]))
    result = analyse([(pa.concat_tables([shown, crossed]), said)], EXPERIMENT)
    assert result["quarantined_users"] == 1
    assert "1 users saw several variants: left out" in result["warnings"]
    assert sum(side["users"] for side in result["variants"].values()) == 399


def test_more_visits_in_one_variant_are_pointed_out() -> None:
    """Clicks / exposures of other situations: here `new` shows everything three times."""
    shown, said = logs(4, num_users=1000)
    again = shown.filter(pa.compute.equal(shown["variant"], "new"))
    warnings = analyse([(pa.concat_tables([shown, again, again]), said)], EXPERIMENT)["warnings"]
    assert [text.split(" per user")[0] for text in warnings] == ["click_through_rate: exposures"]


def test_few_users_and_no_scores_are_pointed_out() -> None:
    shown, said = logs(5, num_users=60)
    result = analyse([(shown, said)], EXPERIMENT)
    assert any(text.startswith("conversion_rate: only ") for text in result["warnings"])
    is_new = pa.compute.equal(shown["variant"], "new")
    raters = shown.filter(is_new)["user_id"].unique()
    scores = pa.compute.equal(said["action"], "rate")
    by_new = pa.compute.is_in(said["user_id"], raters)
    unrated = said.filter(pa.compute.invert(pa.compute.and_(scores, by_new)))
    result = analyse([(shown, unrated)], EXPERIMENT)
    assert "satisfaction" not in result["metrics"]
    assert "satisfaction: a variant has no scores; nothing to compare" in result["warnings"]
    assert result["variants"]["new"]["satisfaction"] is None


def test_a_variant_without_users_is_an_error() -> None:
    shown, said = logs(6)
    one = shown.filter(pa.compute.equal(shown["variant"], "old"))
    lone = shown.filter(pa.compute.equal(shown["variant"], "new")).slice(0, 1)
    with pytest.raises(UserError, match="variant 'new' has 1 users who saw no other one"):
        analyse([(pa.concat_tables([one, lone]), said)], EXPERIMENT)


def test_logs_in_parts_say_the_same_as_in_one_piece(tmp_path: Path) -> None:
    """What no part knows by itself: which variants there are, when the logs end, and whether any
    exposure names an item."""
    shown, said = logs(3, num_users=300, lift=0.3)
    both = shown.slice(0, 40).set_column(1, EXPOSURE.field(1), pa.array(["old"] * 40))
    named = shown.slice(0, 1).set_column(3, EXPOSURE.field(3), pa.array(["an item"]))
    assert EXPOSURE.names[1] == "variant" and EXPOSURE.names[3] == "item_id"
    shown = pa.concat_tables([shown, both, named])
    with UserParts(tmp_path) as parts:
        for table in (shown.slice(0, 500), said.slice(0, 100), shown.slice(500), said.slice(100)):
            parts.add(table)
    sizes = [(len(exposures), len(feedback)) for exposures, feedback in parts]
    assert sum(np.array(sizes) > 0).min() > 30
    assert np.sum(sizes, axis=0).tolist() == [len(shown), len(said)]
    users = [set(exposures["user_id"].to_pylist()) for exposures, _ in parts]
    assert sum(map(len, users)) == len(set.union(*users))
    assert analyse(parts, EXPERIMENT) == analyse([(shown, said)], EXPERIMENT)


def test_the_command_on_folders_and_other_column_names(tmp_path: Path) -> None:
    """Exposures as Parquet in a folder, feedback as CSV with its own column names."""
    shown, said = logs(7, num_users=1000, lift=0.4)
    (tmp_path / "shown").mkdir()
    for part in range(2):
        pq.write_table(shown.slice(part * 1000, 1000 if part == 0 else None),
                       tmp_path / "shown" / f"{part}.parquet")  # fmt: skip
    names = ["who", "what", "timestamp", "item_id", "stars"]
    pyarrow.csv.write_csv(said.rename_columns(names), tmp_path / "said.csv")
    with (tmp_path / "said.csv").open("a") as file:
        file.write('user-1,click,yesterday,,\n"",click,2025-06-01,,\n')
    options = ["ab", "--exposures", str(tmp_path / "shown"), "--feedback"]
    options += [str(tmp_path / "said.csv"), "--control", "old", "--click", "click"]
    columns = [f"--feedback-columns={pair}" for pair in ("user_id=who", "action=what")]

    done = llmaug(*options, *columns, "--score", "rate", "--feedback-columns=value=stars", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    same = Experiment(control="old", clicks=("click",), scores=("rate",))
    assert result["metrics"] == analyse([(shown, said)], same)["metrics"]
    assert result["ledger"]["refused"]["feedback"] == {"bad_timestamp": 1, "null_user_id": 1}
    assert result["warnings"][-1].startswith(f"feedback: not all of {said.num_rows + 2:,} rows")

    table = llmaug(*options, *columns, "--expected-lift", "0.1", COLUMNS="160")
    assert table.returncode == 0, table.stderr
    assert "click through rate" in table.stdout and "power for the expected lift" in table.stdout
    assert "not to be trusted" not in table.stdout
