"""The format of each kind of file that outlives a run, and how older ones become today's.

Every such file says `format_version`, and `llmaug_version` that wrote it; one that says neither
is of format 1. A change that would make an older file unreadable, or read otherwise (a field
renamed, moved or dropped; a column of a table), is one more function at the end of that format's
`upgrades`. It takes what one version wrote and returns what the next one would have written. A
new field whose default is what went before needs none.

`tests/corpus/formats/` holds what earlier versions wrote: all of it stays readable.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from llmaug import __version__
from llmaug.errors import UserError
from llmaug.schema import SOFT, UNIT

VERSION, WRITER = "format_version", "llmaug_version"
_UNMARKED = "0.1.0 or earlier"


def utc_now() -> str:
    """As files and logs say it: 2026-01-31T02:10:44Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclass(frozen=True)
class Format:
    """Of one kind of file: JSON objects, or tables."""

    name: str
    """What people call such a file."""
    upgrades: tuple[Callable[[Any], Any], ...] = ()
    """The first makes format 2 of format 1, the next 3 of 2."""

    @property
    def version(self) -> int:
        """The one that is written today."""
        return 1 + len(self.upgrades)

    @property
    def stamp(self) -> dict[str, Any]:
        """What a JSON object of today says of itself."""
        return {VERSION: self.version, WRITER: __version__}

    @property
    def mark(self) -> dict[str, Any]:
        """As `stamp`, of what is known by its digest: who wrote it changes nothing of it, and
        format 1 goes without saying."""
        return {VERSION: self.version} if self.version > 1 else {}

    def upgraded(self, value: dict[str, Any], where: str) -> dict[str, Any]:
        """The object that was read from `where`, as today's code would have written it. Raises
        UserError for one of a later llmaug, and for one that is damaged."""
        found = value.get(VERSION, 1)
        return {**self._upgrade(value, found, writer(value), where), VERSION: self.version}

    def stamped(self, table: pa.Table) -> pa.Table:
        """The table with the same stamp in its metadata."""
        stamp = {key: str(said) for key, said in self.stamp.items()}
        return table.replace_schema_metadata({**(table.schema.metadata or {}), **stamp})

    def is_of_today(self, schema: pa.Schema, where: str) -> bool:
        """Of a stored table. Raises UserError for one of a later llmaug."""
        found, by = _said(schema)
        self._check(found, by, where)
        return found == self.version

    def upgraded_table(self, table: pa.Table, where: str) -> pa.Table:
        """As `upgraded`, for a table with all of its columns."""
        found, by = _said(table.schema)
        return self.stamped(self._upgrade(table, found, by, where))

    def _check(self, found: Any, by: str, where: str) -> None:
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise UserError(f"{where}: damaged: {VERSION} is {found!r}, no number from 1")
        if found > self.version:
            readable = "format 1" if self.version == 1 else f"formats 1 to {self.version}"
            raise UserError(
                f"{where}: {self.name} of format {found}, written by llmaug {by}. This is llmaug "
                f"{__version__}, which reads {readable}: install llmaug {by} or later"
            )

    def _upgrade(self, value: Any, found: Any, by: str, where: str) -> Any:
        self._check(found, by, where)
        try:
            for upgrade in self.upgrades[found - 1 :]:
                value = upgrade(value)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{where}: damaged: no {self.name} of format {found} ({error!r})"
            ) from error
        return value


def writer(value: dict[str, Any]) -> str:
    """The version of llmaug that wrote a JSON object."""
    return str(value.get(WRITER, _UNMARKED))


def written_by(value: dict[str, Any]) -> str:
    """What to add where a field of it is one that nobody here knows."""
    by = writer(value)
    return f"It was written by llmaug {by}, this is {__version__}: llmaug {by} reads it"


def _said(schema: pa.Schema) -> tuple[Any, str]:
    """(format, version of llmaug that wrote it) by the metadata of a table."""
    said = {key.decode(): text.decode() for key, text in (schema.metadata or {}).items()}
    version = said.get(VERSION, "1")
    return int(version) if version.isdecimal() else version, writer(said)


def _night_of_card(card: dict[str, Any]) -> dict[str, Any]:
    """Cards had no night once: it ended no later than they were published."""
    return {**card, "night": card.get("night") or [card.get("published_utc") or ""]}


# The sections `train` and `lm` of format 1 had the fields of all kinds: which kinds a field was of.
_READ_HISTORIES = ("sasrec", "two_tower")
_BY_DESCENT = (*_READ_HISTORIES, "linear")
_OPTIMISER = ("num_steps", "batch_size", "learning_rate", "weight_decay", "warmup_steps",
              "schedule", "num_accumulations", "precision", "validate_every", "patience",
              "num_workers", "use_gpu")  # fmt: skip
_YARDSTICKS = ("popularity_days", "ease_l2", "ease_max_items")
_RECOMMENDERS_WITH: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_OPTIMISER, _BY_DESCENT),
    "embedding_dim": _BY_DESCENT,
    "loss": _BY_DESCENT,
    **dict.fromkeys(
        ("item_features", "history_len", "dropout", "finetune_after", "max_negatives"),
        _READ_HISTORIES,
    ),
    **dict.fromkeys(("num_layers", "num_heads"), ("sasrec",)),
    **dict.fromkeys(("interaction", "num_negatives"), ("linear",)),
    "popularity_days": ("popularity",),
    **dict.fromkeys(("ease_l2", "ease_max_items"), ("ease",)),
}
_FIRST_LOSS = {"sasrec": "softmax", "two_tower": "sampled_softmax", "linear": "bce"}
_BEHAVIOUR_MODELS_WITH: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*_OPTIMISER, "threads_per_worker"), ("causal", "masked", "instruct")),
    **dict.fromkeys(
        ("hidden_size", "num_layers", "num_heads", "dropout", "item_features",
         "cold_items_are_negatives", "stop_on"),
        ("causal", "masked"),
    ),
    **dict.fromkeys(
        ("warm_start", "directions", "user_attributes", "min_attribute_users", "action_tokens",
         "packed"),
        ("causal",),
    ),
    **dict.fromkeys(("mask_share", "num_passes"), ("masked",)),
    "order": ("ngram",),
    **dict.fromkeys(("folder", "prompt_language", "finetune", "lora_rank"), ("instruct",)),
}  # fmt: skip


def _of_its_kind(
    section: dict[str, Any], kind: str, kinds_with: dict[str, tuple[str, ...]]
) -> dict[str, Any]:
    """Without the fields of other kinds; one that nobody knows stays, and is refused later."""
    return {name: value for name, value in section.items()
            if kind in kinds_with.get(name, (kind,))}  # fmt: skip


def _recommender_of_its_kind(config: dict[str, Any]) -> dict[str, Any]:
    kind = config.get("model", "sasrec")
    made = _of_its_kind(config, kind, _RECOMMENDERS_WITH)
    if "loss" in made and made["loss"] is None:  # the first of its kind
        made["loss"] = _FIRST_LOSS[kind]
    return made


def _model_of_its_kind(facts: dict[str, Any]) -> dict[str, Any]:
    return {**facts, "config": _recommender_of_its_kind(facts["config"])}


def _run_of_its_kinds(run: dict[str, Any]) -> dict[str, Any]:
    config = run.get("config")
    if not isinstance(config, dict):
        return run  # refused where it is asked for
    made = dict(config)
    if isinstance(train := config.get("train"), dict):
        yardsticks = {name: train[name] for name in _YARDSTICKS if name in train}
        made["train"] = {**_recommender_of_its_kind(train), "yardsticks": yardsticks}
    if isinstance(lm := config.get("lm"), dict):
        made["lm"] = _of_its_kind(lm, lm.get("model", "causal"), _BEHAVIOUR_MODELS_WITH)
    if isinstance(filters := config.get("filters"), dict):
        made["filters"] = _with_rules(filters)
    return {**run, "config": made}


def _with_rules(filters: dict[str, Any]) -> dict[str, Any]:
    """What was asked of all outcomes, as the rules that ask it."""
    rules: list[dict[str, Any]] = [{"kind": "repeated"}]
    for kind, option in (("too_short", "min_events"), ("copied", "max_copied_share")):
        rules.append({"kind": kind, **({option: filters[option]} if option in filters else {})})
    others = {k: v for k, v in filters.items() if k not in ("min_events", "max_copied_share")}
    return {**others, "rules": rules}


def _with_privacy(run: dict[str, Any]) -> dict[str, Any]:
    """The two numbers by which the audit knows a run that identifies somebody stood in two
    sections."""
    config = run.get("config")
    if not isinstance(config, dict):
        return run
    made, privacy = dict(config), {}
    for section, old, new in (
        ("filters", "copied_ngram", "run_len"),
        ("gate", "min_run_users", "min_run_users"),
    ):
        if isinstance(fields := config.get(section), dict) and old in fields:
            made[section] = {name: value for name, value in fields.items() if name != old}
            privacy[new] = fields[old]
    return {**run, "config": {**made, "privacy": privacy} if privacy else made}


def _with_soft_targets(outcomes: pa.Table) -> pa.Table:
    """There was no strategy soft_events."""
    for field in SOFT:
        if field.name not in outcomes.column_names:
            outcomes = outcomes.append_column(field, pa.nulls(outcomes.num_rows, field.type))
    return outcomes


def _with_texts(units: pa.Table) -> pa.Table:
    """There were no text tasks."""
    return _with_null_texts(units, "item_id", "text")


def _with_said_text(outcomes: pa.Table) -> pa.Table:
    """There were no text tasks."""
    return _with_null_texts(outcomes, "text")


def _with_images(units: pa.Table) -> pa.Table:
    """No image went with a question."""
    field = UNIT.field("image")
    if field.name in units.column_names:
        return units
    return units.append_column(field, pa.nulls(units.num_rows, field.type))


def _with_null_texts(table: pa.Table, *names: str) -> pa.Table:
    for name in names:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    return table


RUN = Format("run.json", (_run_of_its_kinds, _with_privacy))
MANIFEST = Format("manifest")
NOTE = Format("note of a part")
CARD = Format("card of a published model", (_night_of_card,))
MODEL = Format("recommender", (_model_of_its_kind,))
LANGUAGE_MODEL = Format("behaviour model")
UNITS = Format("part of a plan", (_with_texts, _with_images))
PLANNED = Format("list of the parts of a plan")
OUTCOMES = Format("part of the outcomes", (_with_soft_targets, _with_said_text))
