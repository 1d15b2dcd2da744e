"""The config: wrong keys are named with their place, presets build on each other."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from llmaug.config import Config, Kinds, LinearConfig, load_config, parse_config
from llmaug.errors import UserError

REPOSITORY = Path(__file__).parents[2]
PRESETS = sorted([*REPOSITORY.glob("configs/*.yaml"), *REPOSITORY.glob("examples/**/config.yaml")])


def refusal(raw: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        parse_config(raw, "night.yaml")
    return caught.value.message


@pytest.mark.parametrize(
    ("raw", "field", "suggestion"),
    [
        ({"ingset": {}}, "ingset", "ingest"),
        ({"ingest": {"timestamp_units": "s"}}, "ingest.timestamp_units", "timestamp_unit"),
        ({"lm": {"hiden_size": 64}}, "lm.hiden_size", "hidden_size"),
        ({"train": {"learning_rat": 1}}, "train.learning_rat", "learning_rate"),
        ({"ingest": {"items": {"path": "x", "formt": "csv"}}}, "ingest.items.formt", "format"),
    ],
)
def test_a_typo_is_named_with_its_place_and_the_likely_key(
    raw: dict[str, Any], field: str, suggestion: str
) -> None:
    message = refusal(raw)
    assert message == f"night.yaml: {field}: unknown key; did you mean '{suggestion}'?"


@pytest.mark.parametrize(
    ("strategy", "suggestion"),
    [
        ({"kind": "new_users", "num_user": 5}, "num_users"),
        ({"kind": "continue", "sample_per_user": 5}, "samples_per_user"),
    ],
)
def test_a_typo_inside_a_list_of_strategies_is_looked_up_in_its_own_kind(
    strategy: dict[str, Any], suggestion: str
) -> None:
    fine = {"kind": "new_users", "num_users": 1}
    message = refusal({"plan": {"strategies": [fine, strategy]}})
    assert "plan.strategies.1." in message
    assert f"did you mean '{suggestion}'?" in message


def test_the_arm_real_is_what_goes_out_otherwise_and_cannot_be_in_question() -> None:
    assert "gate.arm: real is what goes out where" in refusal({"gate": {"arm": "real"}})


def test_a_key_that_resembles_nothing_lists_what_there_is() -> None:
    assert "publish.zzz: unknown key; known: name" in refusal({"publish": {"zzz": 1}})


def test_an_unknown_kind_of_strategy_lists_the_known_ones() -> None:
    message = refusal({"plan": {"strategies": [{"kind": "clone"}]}})
    assert "plan.strategies.0" in message
    assert "there are continue, prefix" in message and "new_users" in message


def test_all_mistakes_are_told_at_once() -> None:
    message = refusal({"seed": "many", "split": {"test_quantile": 2}})
    lines = message.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("night.yaml: seed: ")
    assert lines[1].startswith("night.yaml: split.test_quantile: ")


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"lm": {"hidden_size": 64, "num_heads": 4}}, "lm.hidden_size / lm.num_heads is 64/4"),
        ({"lm": {"hidden_size": 65, "num_heads": 2}}, "65 is not a multiple of lm.num_heads 2"),
        ({"train": {"embedding_dim": 64, "num_heads": 3}}, "train.embedding_dim"),
        ({"split": {"validation_quantile": 0.9, "test_quantile": 0.8}}, "must be below"),
        ({"split": {"kind": "temporal", "num_test_events": 5}}, "is for leave_one_out"),
        ({"split": {"kind": "leave_one_out", "num_test_events": 5}}, "evaluate.targets: all"),
        ({"ingest": {"format": "text"}}, "ingest: pattern"),
        ({"ray": {"num_cpus": 2}}, "ray.num_cpus"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"seed": 202601311200}, "less than 4294967296"),  # a time is none: sklearn takes 32 bits
        ({"train": {"seeds": [1, -1]}}, "greater than or equal to 0"),
        ({"evaluate": {"cutoffs": [10, 0]}}, "greater than or equal to 1"),
        (
            {
                "lm": {"context_len": 8},
                "plan": {"strategies": [{"kind": "new_users", "num_events": 7}]},
            },
            "at most 6",
        ),
        (
            {"plan": {"strategies": [{"kind": "prefix"}]}},
            "prefix needs a model that reads reverse",
        ),
        (
            {"lm": {"model": "ngram"}, "plan": {"strategies": [{"kind": "infill"}]}},
            "infill is nothing that lm.model ngram can do; it can do continue, new_users",
        ),
        (
            {"lm": {"model": "masked"}, "plan": {"strategies": [{"kind": "new_users"}]}},
            "new_users is nothing that lm.model masked can do",
        ),
    ],
)
def test_values_that_cannot_work_are_refused_before_the_night_starts(
    raw: dict[str, Any], told: str
) -> None:
    assert told in refusal(raw)


def test_a_weight_is_of_a_strategy_that_is_asked() -> None:
    raw = {"merge": {"strategy_weights": {"continu": 0.5}}}
    assert "merge.strategy_weights: no strategy continu in plan.strategies" in refusal(raw)


def test_two_strategies_that_ask_the_same_questions_are_refused() -> None:
    """Equal questions have equal unit ids, so the second strategy would add nothing new."""
    twice = [{"kind": "new_users", "num_users": 5}, {"kind": "new_users", "num_users": 9}]
    assert "plan.strategies" in refusal({"plan": {"strategies": twice}})
    twice[1]["temperature"] = 1.0
    assert len(parse_config({"plan": {"strategies": twice}}).plan.strategies) == 2


def test_a_linear_model_of_any_width_needs_no_heads() -> None:
    config = parse_config({"train": {"model": "linear", "embedding_dim": 5}})
    assert config.train == LinearConfig(embedding_dim=5)


@pytest.mark.parametrize(
    ("train", "field", "having"),
    [
        ({"model": "linear", "num_heads": 2}, "num_heads", "sasrec"),
        ({"model": "linear", "item_features": True}, "item_features", "sasrec or two_tower"),
        (
            {"model": "ease", "num_steps": 5},
            "num_steps",
            "sasrec or two_tower or linear or linear_rating",
        ),
        ({"model": "ease", "popularity_days": 5}, "popularity_days", "popularity"),
    ],
)
def test_a_field_of_another_kind_is_refused_with_the_kinds_that_have_it(
    train: dict[str, Any], field: str, having: str
) -> None:
    assert refusal({"train": train}) == (
        f"night.yaml: train.{field}: a field of model {having}; model {train['model']} has none "
        "of that name: leave it out"
    )


def test_a_field_that_no_kind_has_is_a_typo() -> None:
    message = refusal({"train": {"model": "linear", "num_negative": 2}})
    assert message == "night.yaml: train.num_negative: unknown key; did you mean 'num_negatives'?"


def test_a_variant_changes_fields_of_its_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: base\ntrain: {num_steps: 5, dropout: 0.1}\n")
    (tmp_path / "middle.yaml").write_text("base: base.yaml\ntrain: {dropout: 0.3}\n")
    (tmp_path / "top.yaml").write_text("base: middle.yaml\nname: top\ntrain: {seeds: [1, 2]}\n")
    config = load_config(tmp_path / "top.yaml")
    assert config.name == "top"
    assert (config.train.num_steps, config.train.dropout) == (5, 0.3)
    assert config.train.seeds == [1, 2]


def test_an_empty_file_is_the_default_config(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(tmp_path / "empty.yaml") == Config()


@pytest.mark.parametrize(
    ("text", "told"), [("a: [", "not a YAML file"), ("- a", "a mapping of sections, not a list")]
)
def test_what_is_not_a_config_says_so(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        load_config(path)
    assert str(path) in caught.value.message


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    (tmp_path / "top.yaml").write_text("base: nowhere.yaml\n")
    with pytest.raises(UserError, match="nowhere.yaml: no such config file"):
        load_config(tmp_path / "top.yaml")


def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    """`model` and all models below it."""
    found = {model}
    for field in model.model_fields.values():
        queue: list[Any] = [field.annotation, *field.metadata]
        while queue:
            annotation = queue.pop()
            queue += typing.get_args(annotation)
            if isinstance(annotation, Kinds):
                queue += annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                found |= sections(annotation)
    return found


def test_every_section_and_every_field_is_described() -> None:
    models = sections(Config)
    names = {model.__name__ for model in models}
    assert {
        "CausalConfig",
        "LinearConfig",
        "TableConfig",
        "NewUsersConfig",
        "CopiedConfig",
    } <= names
    for model in models:
        assert model.__doc__, model
        for name, field in model.model_fields.items():
            is_section = isinstance(field.annotation, type) and field.annotation in models
            assert field.description or is_section, f"{model.__name__}.{name}"


@pytest.mark.parametrize("name", ["access_key", "secret_key", "password", "token", "credentials"])
def test_secrets_have_no_field(name: str) -> None:
    assert f"storage.{name}: unknown key" in refusal({"storage": {name: "AKIA..."}})
    for model in sections(Config):
        assert not [f for f in model.model_fields if f == name or f.endswith(f"_{name}")], model


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_every_preset_loads(path: Path) -> None:
    assert load_config(path).name != Config().name


def test_a_base_that_leads_back_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml")
    (tmp_path / "b.yaml").write_text("base: a.yaml")
    with pytest.raises(UserError, match="leads back to itself"):
        load_config(tmp_path / "a.yaml")


def test_a_behaviour_model_is_named_after_its_kind() -> None:
    assert parse_config({}).lm.name == "causal"
    assert parse_config({"lm": {"model": "ngram"}}).lm.name == "ngram"
    assert parse_config({"lm": {"model": "ngram", "name": "tri"}}).lm.name == "tri"


@pytest.mark.parametrize(
    ("lm", "told"),
    [
        ({"directions": {"reverse": 1}}, "lm.directions needs a share of forward"),
        ({"directions": {"forward": 1, "infill": 0}}, "greater than 0"),
        ({"directions": {"forward": 1, "sideways": 1}}, "'forward', 'reverse' or 'infill'"),
        ({"directions": {"forward": 1, "infill": 1}, "context_len": 5}, "leaves no room"),
        ({"user_attributes": ["age"]}, "needs a users table: set ingest.users"),
        ({"model": "ngram", "order": 5}, "less than or equal to 4"),
    ],
)
def test_a_behaviour_model_that_cannot_be_says_why(lm: dict[str, Any], told: str) -> None:
    assert told in refusal({"lm": lm})


def test_a_column_that_every_event_has_cannot_be_left_out() -> None:
    assert parse_config({"ingest": {"columns": {"value": None}}}, "x").ingest.columns == {
        "value": None
    }
    assert "ingest.columns.user_id: null is for action, value" in refusal(
        {"ingest": {"columns": {"user_id": None}}}
    )
    assert "ingest.order: line" in refusal({"ingest": {"columns": {"timestamp": None}}})


def test_a_time_format_has_to_read_what_it_writes() -> None:
    parse_config({"ingest": {"time_format": "%m/%d/%Y %I:%M:%S %p"}}, "x")
    for wrong in ("%Q", "%-d", "%Y %Y"):
        assert "ingest.time_format: " in refusal({"ingest": {"time_format": wrong}})


def test_null_words_are_for_formats_without_a_null_of_their_own() -> None:
    default = parse_config({}, "x").ingest
    assert "\\N" in default.null_words("csv") and "nan" in default.null_words("parquet")
    assert default.null_words("jsonl") == ()
    own = parse_config({"ingest": {"null_values": ["anonymous"]}}, "x").ingest
    assert own.null_words("jsonl") == own.null_words("text") == ("anonymous",)


SOFT = {"strategies": [{"kind": "soft_events"}]}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"lm": {"model": "masked"}}, "soft_events is nothing that lm.model masked can do"),
        ({"generate": {"engine": "uniform"}}, "leave soft_events out"),
        ({"train": {"model": "two_tower"}}, "two_tower cannot learn from soft_events; sasrec can"),
        ({"train": {"arms": ["real", "ngram"]}}, "leave ngram out"),
        ({"plan": {"strategies": [{"kind": "soft_events"},
                                  {"kind": "soft_events", "num_candidates": 20}]}},
         "leave one soft_events"),
        ({"plan": {"strategies": [{"kind": "soft_events", "samples_per_user": 2}]}}, "samples_per"),
    ],
)  # fmt: skip
def test_what_soft_events_cannot_do(config: dict[str, Any], told: str) -> None:
    assert parse_config({"plan": SOFT}).plan.soft
    assert told in refusal({"plan": SOFT, **config})


@pytest.mark.parametrize("kind", ["continue", "prefix"])
def test_nothing_may_be_put_into_the_history_of_a_real_person_where_privacy_says_so(
    kind: str,
) -> None:
    strategies = [{"kind": "new_users"}, {"kind": kind}]
    lm = {"directions": {"forward": 1, "reverse": 1}}
    message = refusal(
        {"privacy": {"new_users_only": True}, "lm": lm, "plan": {"strategies": strategies}}
    )
    assert f"{kind} adds to the histories of real people" in message


def test_lives_of_items_need_times() -> None:
    message = refusal({"vocabulary": {"item_life_h": 24}, "ingest": {"order": "line"}})
    assert "item_life_h needs times" in message
