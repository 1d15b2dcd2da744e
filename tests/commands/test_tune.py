"""`llmaug tune`: validation chooses within its minutes, test stays closed, `none` may win."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from llmaug import pipeline
from llmaug.arms.arms import chosen
from llmaug.cli.app import app
from llmaug.commands import tune_result as result
from llmaug.commands.tune import Tuned, _Tuning, tune
from llmaug.commands.tune_candidates import (
    REAL_ALONE,
    Candidate,
    Facts,
    built_in,
    changed,
    from_file,
    shortened,
)
from llmaug.config import Config, load_config, parse_config
from llmaug.core.storage import Storage
from llmaug.core.terminal import Terminal
from llmaug.errors import Interrupted, UserError

FACTS = Facts(100, 2_000, True, 90, "content")
LIFT = {"num_users": 90, "relative": 0.985, "low": 0.2, "high": 1.5}
STEPS = {"train": {"num_steps": 400, "warmup_steps": 40, "seeds": [1, 2]}}


def base(**sections: Any) -> Config:
    return parse_config({"name": "night", **STEPS, **sections})


class Logs:
    """A pipeline that knows what validation says of each candidate, by arm and number of
    synthetic users, and a clock that each training moves by a minute."""

    def __init__(self, generator: float | None = 0.2, **ndcg: float) -> None:
        self.ndcg, self.generator = {"real": 0.1, **ndcg}, generator
        self.asked: list[tuple[str, list[str], int]] = []
        self.minute = 0.0
        self.fails: dict[str, BaseException] = {}

    def run(
        self, config: Config, storage: Storage, run_id: str, until: str, progress: Any
    ) -> dict[str, Any]:
        assert run_id == "tune-night"
        arms = [arm.name for arm in chosen(config)]
        steps = config.train.num_steps  # type: ignore[attr-defined]
        self.asked.append((until, arms, steps))
        manifests: dict[str, Any] = {
            "split": {"counts": {"train_users": 100, "train": 2_000}, "content": "a"},
            "vocabulary": {"counts": {}, "content": "b"},
            "lm/causal": {"counts": {"validation_ndcg": self.generator}},
        }
        if until == "train":
            self.minute += 1
            if arms[-1] in self.fails:
                raise self.fails[arms[-1]]
            users = sum(getattr(s, "num_users", 0) for s in config.plan.strategies)
            manifests["merged/augmented"] = {"counts": {"synthetic": 10 * users}}
            for arm in arms:
                ndcg = self.ndcg.get(f"{arm}_{users}", self.ndcg.get(arm, 0.0))
                manifests[f"model/{arm}"] = {
                    "counts": {f"seed-{s}": {"validation_ndcg": ndcg + s / 1000}
                               for s in config.train.seeds}
                }  # fmt: skip
        return manifests

    @property
    def trainings(self) -> list[tuple[str, int]]:
        return [(arms[-1], steps) for until, arms, steps in self.asked if until == "train"]


def tuned(
    logs: Logs, root: Path, monkeypatch: pytest.MonkeyPatch, minutes: float = 1000, **options: Any
) -> Tuned:
    monkeypatch.setattr(pipeline, "run", logs.run)
    monkeypatch.setattr(_Tuning, "_contents", lambda self: (True, 90))
    monkeypatch.setattr(_Tuning, "_lift", lambda self, config, arm: LIFT)
    options.setdefault("config", base())
    config = options.pop("config")
    return tune(config, Storage(str(root)), minutes, clock=lambda: 60 * logs.minute, **options)


def of_users(name: str, num_users: int) -> Candidate:
    plan = {"strategies": [{"kind": "new_users", "num_users": num_users}]}
    return Candidate(name, "augmented", {"plan": plan})


# -- the candidates ------------------------------------------------------------------------------


def test_the_list_is_made_from_config_and_logs() -> None:
    names = {c.name: c for c in built_in(base(), FACTS)}
    assert list(names) == [
        "fusion", "started", "restarted", "soft", "soft-fusion", "soft-started", "short-continue",
        "x0.25", "x1", "x1-light", "x1-before", "x1-light-started", "x3", "x3-light", "x3-before",
    ]  # fmt: skip
    made = names["x3-light"].config(base())
    assert made.plan.strategies[0].num_users == 300  # type: ignore[union-attr]
    assert made.plan.strategies[0].num_events == 40
    assert made.merge.synthetic_weight == 0.2
    assert made.train.arms == ["real", "augmented"]
    assert names["x1-before"].config(base(), 0.5).train.finetune_after == 100  # type: ignore[attr-defined]
    assert names["started"].config(base(plan=names["x1"].changes["plan"])).plan.strategies == []


def test_the_weight_of_a_strategy_goes_with_it() -> None:
    """A config that weighs its strategies can be tuned, and a mistake in a recipe is still told."""
    both = [{"kind": "continue"}, {"kind": "new_users"}]
    config = base(
        plan={"strategies": both}, merge={"strategy_weights": {"continue": 0.5, "new_users": 0.25}}
    )
    fewer: dict[str, Any] = {"plan": {"strategies": both[:1]}}
    assert changed(config, fewer).merge.strategy_weights == {"continue": 0.5}
    assert changed(config, {"plan": {"strategies": []}}).merge.strategy_weights == {}
    assert len(changed(config, {"merge": {}}).merge.strategy_weights) == 2
    with pytest.raises(UserError, match="no strategy new_users in plan.strategies"):
        changed(config, {**fewer, "merge": {"strategy_weights": {"new_users": 2.0}}})


def test_what_does_not_fit_is_not_on_it() -> None:
    plain = Facts(100, 2_000, False, 90, "content")
    ngram = [c.name for c in built_in(base(lm={"model": "ngram"}), plain)]
    assert not {"fusion", "started", "restarted", "x1-light-started", "short-prefix"} & set(ngram)
    assert not any(name.startswith("soft") for name in ngram)
    unread = [c.name for c in built_in(base(), plain)]
    assert "soft-started" in unread and "soft-fusion" not in unread
    linear = {c.arm for c in built_in(parse_config({"train": {"model": "linear"}}), FACTS)}
    assert linear == {"augmented"}
    both = base(lm={"directions": {"forward": 1, "reverse": 1}})
    assert "short-prefix" in [c.name for c in built_in(both, FACTS)]
    own = {"strategies": [{"kind": "new_users", "num_users": 7, "num_events": 9, "top_p": 0.5}]}
    asked = {c.name: c for c in built_in(base(plan=own), FACTS)}
    assert asked["config"].config(base(plan=own)).plan.strategies[0].num_users == 7  # type: ignore[union-attr]
    assert asked["x1"].changes["plan"]["strategies"][0]["top_p"] == 0.5  # as the config asks


def test_the_generator_is_trained_for_those_who_use_it() -> None:
    needs = {arm: Candidate(arm, arm).needs_lm for arm in ("restarted", "fusion", "started")}
    assert needs == {"restarted": False, "fusion": False, "started": True}
    assert Candidate("x1", "augmented").needs_lm


def test_all_lengths_shrink_together() -> None:
    train = shortened(base(train={"num_steps": 400, "finetune_after": 200}), 0.25).train
    assert (train.num_steps, train.warmup_steps, train.finetune_after) == (100, 25, 50)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("recipes", "wrong"),
    [
        ("- a", "a mapping is expected"),
        ("none: {}", "`none` is always among"),
        ("a: {arm: stared}", "arm stared: one of real, popularity"),
        ("a: {plan: 3}", "a: plan is no section with fields below it"),
        ("a: {merge: {synthetic_wait: 1}}", "did you mean 'synthetic_weight'"),
        ("a: {arm: fusion, train: {num_stepz: 9}}", "did you mean 'num_steps'"),
        ("a: {merge: {synthetic_weight: 1}}", "there is nothing to learn"),
    ],
)
def test_a_mistake_in_a_recipe_is_told(tmp_path: Path, recipes: str, wrong: str) -> None:
    file = tmp_path / "recipes.yaml"
    file.write_text(recipes)
    with pytest.raises(UserError, match="recipes.yaml") as caught:
        from_file(file, base())
    assert wrong in caught.value.message


def test_recipes_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "recipes.yaml"
    file.write_text("bold: {plan: {strategies: [{kind: new_users}]}}\nreads: {arm: fusion}\n")
    assert [(c.name, c.arm) for c in from_file(file, base())] == [
        ("bold", "augmented"), ("reads", "fusion"),
    ]  # fmt: skip


# -- the choice ----------------------------------------------------------------------------------


def test_the_better_half_goes_on_and_the_best_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = Logs(fusion=0.11, started=0.15, augmented_7=0.14, augmented_3=0.05)
    four = [Candidate("fusion", "fusion"), Candidate("started", "started"),
            of_users("bold", 7), of_users("timid", 3)]  # fmt: skip
    found = tuned(logs, tmp_path, monkeypatch, candidates=four)
    assert found.rungs == [100, 200, 400]
    assert found.winner.candidate.name == "started"
    assert found.winner.ndcg(400) == pytest.approx(0.1515)  # mean of two seeds
    assert logs.trainings == [
        ("real", 400), ("real", 100), ("fusion", 100), ("started", 100), ("augmented", 100),
        ("augmented", 100), ("real", 200), ("started", 200), ("augmented", 200), ("started", 400),
    ]  # fmt: skip
    whys = {row.candidate.name: row.why for row in found.rows}
    assert whys == {"none": "", "started": "", "bold": "not in the better half",
                    "fusion": "not in the better half",
                    "timid": "not in the better half"}  # fmt: skip


def test_test_events_are_never_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = Logs(started=0.2)
    tuned(logs, tmp_path, monkeypatch)
    assert {until for until, *_ in logs.asked} == {"vocabulary", "lm", "train"}
    behind = pipeline.STEPS[pipeline.STEPS.index("train") + 1 :]
    assert "evaluate" in behind


def test_a_tie_is_no_reason_to_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tuned(Logs(augmented=0.1), tmp_path, monkeypatch, candidates=[of_users("same", 5)])
    assert found.winner.candidate == REAL_ALONE
    said = result.statement(base(), found)
    assert said.startswith("`none` wins: train on real events alone")
    assert "90 validation users and 2 seeds" in said and "No lift is claimed" in said


def test_a_winner_of_soft_events_is_no_winner_of_synthetic_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft = {c.name: c for c in built_in(base(), FACTS)}["soft-fusion"]
    found = tuned(Logs(augmented_fusion=0.2), tmp_path, monkeypatch, candidates=[soft])
    assert (
        "It learns from soft events, on real events alone, and its recommender reads tags"
        in result.statement(base(), found)
    )


def test_the_control_of_what_goes_on_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = Logs(started=0.15, fusion=0.14, restarted=0.05, augmented=0.01)
    four = [Candidate(f"my {arm}", arm) for arm in ("fusion", "started", "restarted")]
    found = tuned(logs, tmp_path, monkeypatch, candidates=[*four, of_users("few", 3)])
    assert found.winner.candidate.arm == "started"
    assert "Its control restarted has 0.0515." in result.statement(base(), found)


def test_a_generator_that_knows_no_more_ends_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    logs = Logs(generator=0.1, started=0.15, augmented=0.9)
    found = tuned(logs, tmp_path, monkeypatch, say=lines.append)
    assert found.generator and not found.generator["ahead"]
    assert found.generator["real_validation_ndcg"] == pytest.approx(0.1015)
    assert {arm for arm, _ in logs.trainings} == {"real", "fusion", "started", "restarted"}
    assert found.winner.candidate.name == "started"
    assert any("knows no more than the recommender" in line for line in lines)
    assert "no better than real: candidates with" in result.statement(base(), found)
    assert ("lm", ["real", "started"], 400) in logs.asked  # and no plan is made for it


def test_a_generator_that_is_not_measured_gets_its_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tuned(Logs(None, augmented_9=0.3), tmp_path, monkeypatch, candidates=[of_users("x", 9)])
    assert (found.generator, found.winner.candidate.name) == (None, "x")


def test_when_the_minutes_are_spent_what_is_known_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = Logs(augmented_7=0.14, augmented_3=0.12)
    two = [of_users("bold", 7), of_users("timid", 3)]
    nothing = tuned(logs, tmp_path, monkeypatch, minutes=0, candidates=two)
    assert nothing.winner.candidate == REAL_ALONE and not nothing.complete
    assert "`none` stays: no candidate was trained" in result.statement(base(), nothing)
    # The same command goes on: `real` is not trained again, and there are two trainings more.
    logs.minute = 0
    some = tuned(logs, tmp_path, monkeypatch, minutes=2, candidates=two)
    assert logs.trainings == [("real", 400), ("real", 200), ("augmented", 200)]
    assert (some.winner.candidate.name, some.decided_at, some.complete) == ("bold", 200, False)
    said = result.statement(base(), some)
    assert "Decided at 200 of 400 steps." in said and "the same command goes on" in said
    logs.minute = 0
    whole = tuned(logs, tmp_path, monkeypatch, candidates=two)
    assert logs.trainings[3:] == [("augmented", 200), ("augmented", 400)]
    assert whole.complete and whole.decided_at == 400
    before = len(logs.trainings)
    known = tuned(logs, tmp_path, monkeypatch, minutes=0, candidates=two)
    assert len(logs.trainings) == before and known.complete
    assert known.winner.by_steps == whole.winner.by_steps
    changed = base(train={**STEPS["train"], "dropout": 0.5})
    tuned(logs, tmp_path, monkeypatch, candidates=two, config=changed)
    assert len(logs.trainings) > before


def test_one_that_fails_is_a_row_and_a_signal_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = Logs(augmented_7=0.2)
    logs.fails = {"fusion": UserError("no tags"), "restarted": RuntimeError("fell over")}
    arms = [Candidate(arm, arm) for arm in ("fusion", "restarted")]
    found = tuned(logs, tmp_path, monkeypatch, candidates=[*arms, of_users("bold", 7)])
    assert [row.why for row in found.rows] == [
        "", "failed: no tags", "failed: RuntimeError('fell over')", "",
    ]  # fmt: skip
    logs.fails = {"fusion": Interrupted("stopped")}
    with pytest.raises(Interrupted):
        tuned(logs, tmp_path, monkeypatch, candidates=arms)
    logs.fails = {"real": UserError("no logs")}
    with pytest.raises(UserError, match="no logs"):
        tuned(logs, tmp_path / "other", monkeypatch, candidates=arms)


# -- what it says and writes ---------------------------------------------------------------------


def test_the_config_that_is_written_is_the_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "night.yaml"
    given.write_text(yaml.safe_dump({"name": "night", **STEPS, "gate": {"against": ["real"]}}))
    config = load_config(given)
    found = tuned(Logs(augmented_7=0.2), tmp_path, monkeypatch, config=config,
                  candidates=[of_users("bold", 7)])  # fmt: skip
    place = result.place_of(None, given)
    assert place.name == "night_tuned.yaml"
    result.write(place, given, config, found)
    raw = yaml.safe_load(place.read_text())
    assert raw["base"] == "night.yaml" and "storage" not in raw
    made = load_config(place)
    assert made.train.arms == ["real", "oversampled", "augmented"]
    assert (made.gate.arm, made.gate.against) == ("augmented", None)
    assert made.plan.strategies[0].num_users == 7  # type: ignore[union-attr]
    comments = [line for line in place.read_text().splitlines() if line.startswith("#")]
    assert any("bold" in line and "<- chosen" in line and "0.2015" in line for line in comments)
    result.place_of(None, given)  # its own file may be replaced
    with pytest.raises(UserError, match="is there, and not from tune"):
        result.place_of(given, given)
    with pytest.raises(UserError, match="there is no folder"):
        result.place_of(tmp_path / "gone" / "best.yaml", given)
    # Elsewhere it stands alone: a base lies beside its variant or below.
    elsewhere = tmp_path / "below" / "best.yaml"
    elsewhere.parent.mkdir()
    result.write(elsewhere, given, config, found)
    assert "base" not in yaml.safe_load(elsewhere.read_text())
    assert load_config(elsewhere) == made


@pytest.mark.parametrize("wins", ["augmented_7", "fusion", "real"])
def test_dated_configs_and_weights_of_strategies_can_be_written(
    wins: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, day = tmp_path / "night.yaml", date(2026, 1, 31)
    both = {"strategies": [{"kind": "continue"}, {"kind": "new_users"}]}
    weights = {"strategy_weights": {"continue": 0.5, "new_users": 0.25}}
    dated = {"path": "{root}/logs/dt={date}"}
    given.write_text(
        yaml.safe_dump({"name": "night", **STEPS, "plan": both, "merge": weights, "ingest": dated})
    )
    config = load_config(given, day)
    few = [of_users("bold", 7), Candidate("fusion", "fusion")]
    logs = Logs(**{wins: 0.2})
    found = tuned(logs, tmp_path, monkeypatch, config=config, candidates=few)
    place = result.place_of(None, given)
    result.write(place, given, config, found, day)
    assert "{date}" in place.read_text() or "base" in yaml.safe_load(place.read_text())
    made = load_config(place, day)
    kinds = {strategy.kind for strategy in made.plan.strategies}
    assert set(made.merge.strategy_weights) <= kinds


def test_when_none_wins_the_config_generates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, plan = tmp_path / "night.yaml", {"strategies": [{"kind": "new_users"}]}
    against = {"train": {**STEPS["train"], "arms": ["real", "oversampled", "augmented"]},
               "gate": {"against": ["oversampled"]}, "plan": plan}  # fmt: skip
    given.write_text(yaml.safe_dump({"name": "night", **against}))
    config = load_config(given)
    found = tuned(Logs(), tmp_path, monkeypatch, config=config, candidates=[of_users("x", 7)])
    result.write(tmp_path / "best.yaml", given, config, found)
    made = load_config(tmp_path / "best.yaml")
    assert [arm.name for arm in chosen(made)] == ["real"] and made.plan.strategies == []


def test_table_and_json_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tuned(Logs(started=0.2), tmp_path, monkeypatch)
    summary = json.loads(json.dumps(result.summary(base(), found)))
    assert (summary["winner"], summary["arm"], summary["complete"]) == ("started", "started", True)
    rows = {row["name"]: row for row in summary["candidates"]}
    assert rows["started"]["validation_ndcg"]["400"] == pytest.approx(0.2015)
    assert rows["started"]["changes"]["train"]["arms"] == ["real", "restarted", "started"]
    console = Terminal(width=200, record=True, quiet=False)
    console.print(result.table(found))
    [line] = [one for one in console.export_text().splitlines() if "<- chosen" in one]
    assert line.split()[:2] == ["started", "started"]
    assert "+98.5%" in line and "+20.0% to +150.0%" in line
    assert rows["started"]["lift_over_none"] == LIFT and rows["none"]["lift_over_none"] is None


def test_it_says_whether_the_gain_may_be_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tuned(Logs(started=0.2), tmp_path, monkeypatch)
    said = result.statement(base(), found)
    assert "Over `none` that is +98.5% (+20.0% to +150.0%) for 90 validation users." in said
    found.winner.lift = {**LIFT, "low": -0.01}
    said = result.statement(base(), found)
    assert "(-1.0% to +150.0%) for 90 validation users: it may be nothing." in said


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "run", Logs(started=0.2).run)
    monkeypatch.setattr(_Tuning, "_contents", lambda self: (True, 90))
    monkeypatch.setattr(_Tuning, "_lift", lambda self, config, arm: LIFT)
    given, root = tmp_path / "night.yaml", str(tmp_path / "root")
    given.write_text(yaml.safe_dump({"name": "night", **STEPS}))
    call = ["tune", "--config", str(given), "--root", root]
    shown = CliRunner().invoke(app, call)
    assert shown.exit_code == 0, shown.output
    assert "`started` (arm started) is best" in " ".join(shown.stdout.split())
    assert "started, 400 steps: NDCG@10 0.2015 (none 0.1015)" in shown.stderr
    assert load_config(tmp_path / "night_tuned.yaml").gate.arm == "started"
    found = json.loads(CliRunner().invoke(app, [*call, "--json"]).stdout)
    assert found["winner"] == "started" and found["config"].endswith("night_tuned.yaml")
    written = Storage(root).read_json("tune", "night", "tune.json")
    assert written == found
