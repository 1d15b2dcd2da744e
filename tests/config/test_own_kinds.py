"""A recommender that somebody else wrote: named by the path of its class, kept wherever the config
is, and built by what the class says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llmaug import recommenders
from llmaug.arms.arms import ARMS
from llmaug.config import Config, parse_config
from llmaug.core.formats import RUN
from llmaug.core.storage import Storage
from llmaug.core.stored import read_config
from llmaug.errors import UserError
from llmaug.recommenders import DataFacts
from tests.tables import catalogue, events, histories

MODULE = '''
from typing import Literal

from llmaug.config import ClosedFormConfig, SasrecConfig, TrainConfig
from llmaug.recommenders.popularity import Popularity


class LoudConfig(ClosedFormConfig):
    """Popularity, said louder."""

    implementation = "shop_models:Loud"

    model: Literal["shop_models:LoudConfig"] = "shop_models:LoudConfig"
    loudness: float = 1.0
    popularity_days: None = None


class Loud(Popularity):
    def __init__(self, config, facts):
        super().__init__(config, facts)
        self.loudness = config.loudness

    def score(self, users, histories):
        return self.loudness * super().score(users, histories)


class DeepConfig(SasrecConfig):
    """Deep by default, and otherwise as it is."""

    model: Literal["shop_models:DeepConfig"] = "shop_models:DeepConfig"
    num_layers: int = 6


class HalfConfig(TrainConfig):
    """Says nothing of how it is trained."""

    implementation = "shop_models:Loud"
'''
LOUD = {"model": "shop_models:LoudConfig", "loudness": 3.0}


@pytest.fixture(autouse=True)
def shop_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module, where Python finds it."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/shop_models.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield
    sys.modules.pop("shop_models", None)


def config_of(**train: Any) -> Config:
    return parse_config({"train": train}, "night.yaml")


def roots_of(config: Config, arm_name: str = "real") -> tuple[str, ...]:
    [arm] = [arm for arm in ARMS if arm.name == arm_name]
    return recommenders.roots_of(config, [arm])


def test_its_fields_survive_the_dump_and_run_json(tmp_path: Path) -> None:
    config = config_of(**LOUD)
    assert config.train.loudness == 3.0  # type: ignore[attr-defined]
    dumped = config.model_dump(mode="json")
    assert dumped["train"].items() >= LOUD.items()
    assert parse_config(dumped) == config
    storage = Storage(str(tmp_path / "root"))
    storage.write_json({**RUN.stamp, "config": dumped}, "runs/night", "run.json")
    assert read_config(storage, "night") == config


def test_its_model_is_built_saved_and_loaded(tmp_path: Path) -> None:
    config, words = config_of(**LOUD).train, catalogue("abc")
    model = recommenders.build(config, DataFacts(words))
    assert model.fit(lambda: [events(histories(u1="aab"))]) == 3
    storage = Storage(str(tmp_path / "root"))
    digest = recommenders.save_recommender(storage, "model", model, config, words)
    loaded, _, facts = recommenders.load_recommender(storage, "model", digest)
    assert facts["config"]["loudness"] == loaded.loudness == 3.0
    assert "item_features" not in facts["config"]
    assert torch.equal(loaded.score(["u1"], [[]]), model.score(["u1"], [[]]))


def test_a_model_whose_code_is_gone_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, words = config_of(**LOUD).train, catalogue("abc")
    storage = Storage(str(tmp_path / "root"))
    recommenders.save_recommender(
        storage, "model", recommenders.build(config, DataFacts(words)), config, words
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "shop_models", None)
    with pytest.raises(
        UserError, match=r"config\.model: recommender shop_models:LoudConfig cannot"
    ) as caught:  # noqa: E501
        recommenders.load_recommender(storage, "model")
    assert caught.value.message.startswith(storage.uri("model", "config.json"))
    assert "It was written by llmaug" in caught.value.message


def test_an_edit_of_its_code_trains_its_models_again() -> None:
    assert roots_of(config_of(**LOUD)) == ("shop_models",)
    deep = config_of(model="shop_models:DeepConfig")
    assert roots_of(deep) == ("llmaug.recommenders.sasrec", "shop_models")
    assert roots_of(deep, "ease") == ("llmaug.recommenders.ease",)


def test_what_it_inherits_it_can_do() -> None:
    arms = ["real", "fusion"]
    config = config_of(model="shop_models:DeepConfig", arms=arms)
    [fusion] = [arm for arm in ARMS if arm.name == "fusion"]
    assert fusion.train_config(config) == config.train.model_copy(
        update={"arms": ["real"], "item_features": True, "soft_share": 0.0}
    )
    with pytest.raises(UserError, match="shop_models:LoudConfig has no item_features"):
        config_of(**LOUD, arms=arms)


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({**LOUD, "loudnes": 1}, "train.loudnes: unknown key; did you mean 'loudness'?"),
        ({**LOUD, "num_heads": 1}, "train.num_heads: a field of model sasrec; model shop_models:"),
        ({"model": "shop_models:HalfConfig"}, "its class inherits ByDescentConfig"),
        ({"model": "shop_models:Loud"}, "shop_models:Loud is no recommender: a class that"),
        ({"model": "shop_models:Louder"}, "shop_models:Louder cannot be imported"),
        ({"model": "shop_model:LoudConfig"}, "No module named 'shop_model'"),
        ({"model": "shop_models.LoudConfig"}, "no recommender is called 'shop_models.LoudConfig'"),
        ({"model": "sasrek"}, "did you mean 'sasrec'?"),
    ],
)
def test_what_is_none_is_a_sentence(train: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        config_of(**train)
    assert caught.value.message.startswith("night.yaml: train")
    assert told in caught.value.message
