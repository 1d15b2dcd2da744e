"""What `llmaug tune` chooses among: an arm, and what is generated for it and how it is weighed.

The built-in list is made from the config and from what the logs have; what the config would
refuse (a strategy that its generator cannot do, an arm that its recommender is not made for) is not
on it. A YAML of recipes takes its place: `{name: {arm: ..., plan: ..., merge: ..., train: ...}}`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmaug.arms.arms import ARMS, AUGMENTED, CONTROLS, FUSION, NGRAM, REAL, Arm, needed_shards
from llmaug.config import (
    ByDescentConfig,
    Config,
    NewUsersConfig,
    parse_config,
)
from llmaug.config.file import SECTION_KINDS, plain_yaml
from llmaug.errors import UserError

NONE = "none"
_NOTHING: dict[str, Any] = {"plan": {"strategies": []}}
_TIMES = (0.25, 1, 3)  # synthetic users for each real one
_LIGHT = 0.2


@dataclass(frozen=True)
class Candidate:
    """One way to train tonight's model."""

    name: str
    arm: str
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Fields of sections of the config that differ."""

    @property
    def generates(self) -> bool:
        """Whether it trains on synthetic events of the config's generator."""
        return AUGMENTED in self._shards

    @property
    def needs_lm(self) -> bool:
        """Whether the generator has to be trained for it."""
        return self.generates or self._arm.changes.get("start_from") == "generator"

    @property
    def _shards(self) -> list[str]:
        return needed_shards([self._arm])

    @property
    def _arm(self) -> Arm:
        return next(arm for arm in ARMS if arm.name == self.arm)

    def config(self, base: Config, share: float = 1.0) -> Config:
        """That of a run which trains it beside `real`, for a share of the steps."""
        return shortened(changed(base, self.sections(base, [self.arm])), share)

    def sections(self, base: Config, arms: list[str]) -> dict[str, dict[str, Any]]:
        """What differs from `base` where it is compared with `real`, beside `arms`."""
        sections = {name: dict(fields) for name, fields in self.changes.items()}
        if not {AUGMENTED, NGRAM} & set(self._shards):
            sections |= _NOTHING
        trained = list(dict.fromkeys([REAL, *arms]))
        sections["train"] = {**sections.get("train", {}), "arms": trained}
        if self.arm != REAL:
            sections["gate"] = {"arm": self.arm, "against": None}
        elif base.gate.against:  # of arms that are not trained
            sections["gate"] = {"against": None}
        return sections


REAL_ALONE = Candidate(NONE, REAL)


@dataclass(frozen=True)
class Facts:
    """What is known of the logs before anything is trained."""

    train_users: int
    train_events: int
    has_features: bool
    """Whether items have tags or texts that a recommender can read."""
    validation_users: int
    """Users that validation ranks for."""
    content: str
    """Digest of the split and the vocabulary."""

    @property
    def mean_len(self) -> int:
        return max(1, round(self.train_events / max(1, self.train_users)))


def changed(config: Config, changes: dict[str, dict[str, Any]]) -> Config:
    """`config` with fields of its sections replaced. Raises UserError where it does not fit."""
    raw = config.model_dump(mode="json")
    for section, fields in changes.items():
        if not isinstance(raw.get(section), dict) or not isinstance(fields, dict):
            raise UserError(f"recipe: {section} is no section of a config with fields below it")
    return parse_config(joined(raw, changes), "recipe")


def joined(raw: dict[str, Any], changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A raw config with fields of its sections replaced; where a section becomes of another kind,
    without the fields that this one does not have, and where strategies go, without their weights.
    """
    out = dict(raw)
    for section, fields in changes.items():
        own = out.get(section) or {}
        kinds = SECTION_KINDS.get(section)
        out[section] = {**(kinds.kept(own, fields) if kinds else own), **fields}
    if weights := _weights_left(raw, changes):
        out["merge"] = {**out["merge"], **weights}
    return out


def _weights_left(raw: dict[str, Any], changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Where other strategies are asked: `merge.strategy_weights` of those that are still there."""
    weights = (raw.get("merge") or {}).get("strategy_weights")
    asked = changes.get("plan", {}).get("strategies")
    if not weights or not isinstance(asked, list) or "strategy_weights" in changes.get("merge", {}):
        return {}
    kinds = [strategy.get("kind") for strategy in asked if isinstance(strategy, dict)]
    return {"strategy_weights": {kind: weights[kind] for kind in kinds if kind in weights}}


def shortened(config: Config, share: float) -> Config:
    """`config` with a share of the training steps, and the same share of warm-up and of what
    goes before `finetune_after`. A recommender in closed form has no steps."""
    train = config.train
    if share == 1 or not isinstance(train, ByDescentConfig):
        return config
    steps = max(1, round(train.num_steps * share))
    fields: dict[str, Any] = {
        "num_steps": steps,
        "validate_every": min(train.validate_every, steps),
        "warmup_steps": round(train.warmup_steps * share),
    }
    if switch := getattr(train, "finetune_after", None):
        earlier = max(1, round(switch * share))
        fields["finetune_after"] = earlier if earlier < steps else None
    return changed(config, {"train": fields})


def built_in(config: Config, facts: Facts) -> list[Candidate]:
    """Those that fit, beside `none`: cheap ones first, then ever more synthetic events."""
    has = type(config.train).model_fields
    found: list[Candidate] = []
    reads = facts.has_features and not getattr(config.train, "item_features", False)
    if reads:
        found += [Candidate(FUSION, FUSION)]
    start = Candidate("started", "started")
    if "start_from" in has and config.lm.item_table and config.train.start_from is None:  # type: ignore[attr-defined]
        found += [start, Candidate("restarted", "restarted")]
    if config.plan.strategies:
        found += [Candidate("config", AUGMENTED)]
    soft = _mixed(config, {"strategies": [{"kind": "soft_events"}]}, 1.0)
    found += [Candidate("soft", AUGMENTED, soft)]
    if reads:
        found += [Candidate("soft-fusion", "augmented_fusion", soft)]
    if start in found:
        found += [Candidate("soft-started", "augmented_started", soft)]
    for kind in ("continue", "prefix"):  # more events after short histories, and before them
        some = {"samples_per_user": 1, "num_events": 3, "max_history_len": facts.mean_len}
        plan = {"strategies": [{"kind": kind, **some}]}
        found += [Candidate(f"short-{kind}", AUGMENTED, _mixed(config, plan, 1.0))]
    for times in _TIMES:
        name, plan = f"x{times}", {"strategies": [_new_users(config, facts, times)]}
        heavy, light = _mixed(config, plan, 1.0), _mixed(config, plan, _LIGHT)
        found += [Candidate(name, AUGMENTED, heavy)]
        if times < 1:  # so few events at a fifth of the weight are nothing
            continue
        found += [Candidate(f"{name}-light", AUGMENTED, light)]
        if "finetune_after" in has and config.train.num_steps > 1:  # type: ignore[attr-defined]
            half = {"finetune_after": config.train.num_steps // 2}  # type: ignore[attr-defined]
            found += [Candidate(f"{name}-before", AUGMENTED, {**heavy, "train": half})]
        if times == 1 and start in found:
            found += [Candidate(f"{name}-light-started", "augmented_started", light)]
    return [candidate for candidate in found if _fits(candidate, config)]


def from_file(path: Path, config: Config) -> list[Candidate]:
    """The recipes of a YAML file, each checked against the config; `arm` is `augmented` where
    a recipe names none. Raises UserError that names the recipe."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a file of recipes: {error}") from error
    recipes = plain_yaml(text, str(path))
    if not isinstance(recipes, dict) or not recipes:
        raise UserError(f"{path}: a mapping is expected: {{name: {{arm: ..., plan: ...}}}}")
    found = []
    for name, recipe in recipes.items():
        if name == NONE or not isinstance(recipe, dict):
            raise UserError(
                f"{path}: {name}: a recipe is a mapping {{arm: ..., plan: ...}} with a name of its "
                f"own; `{NONE}` is always among the candidates"
            )
        arm = recipe.get("arm", AUGMENTED)
        if arm == REAL or arm not in CONTROLS:
            raise UserError(f"{path}: {name}: arm {arm}: one of {', '.join(CONTROLS)} but {REAL}")
        rest = {section: fields for section, fields in recipe.items() if section != "arm"}
        for section, fields in rest.items():
            if not isinstance(fields, dict):
                raise UserError(f"{path}: {name}: {section} is no section with fields below it")
        found.append(Candidate(str(name), arm, rest))
        try:
            made = found[-1].config(config)
        except UserError as error:
            raise UserError(f"{path}: {name}: {error.message}") from error
        if found[-1].generates and not made.plan.strategies:
            raise UserError(f"{path}: {name}: plan.strategies is empty: there is nothing to learn")
    return found


def _mixed(config: Config, plan: dict[str, Any], weight: float) -> dict[str, dict[str, Any]]:
    """Changes for events of a plan and their weight, beside real ones from first to last."""
    changes: dict[str, dict[str, Any]] = {"plan": plan, "merge": {"synthetic_weight": weight}}
    if "finetune_after" in type(config.train).model_fields:
        changes["train"] = {"finetune_after": None}
    return changes


def _new_users(config: Config, facts: Facts, times: float) -> dict[str, Any]:
    """As the config asks for new users, or with histories about as long as twice the real ones."""
    own = [s for s in config.plan.strategies if isinstance(s, NewUsersConfig)]
    room = max(2, min(50, config.lm.room()))
    like = own[0] if own else NewUsersConfig(num_events=min(room, max(10, 2 * facts.mean_len)))
    return {
        **like.model_dump(mode="json"),
        "num_users": max(1, round(times * facts.train_users)),
    }


def _fits(candidate: Candidate, config: Config) -> bool:
    try:
        candidate.config(config)
    except UserError:
        return False
    return True
