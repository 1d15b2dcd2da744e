"""Which generator a run asks: its name, its model folder and the vocabulary it speaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from llmaug.config import BEHAVIOUR_MODELS, Config, imported, modules_of
from llmaug.core.stage import Context
from llmaug.core.storage import Storage, digest
from llmaug.items.vocabulary import Vocabulary, load_statistics, load_vocabulary
from llmaug.lm.members import member_configs

if TYPE_CHECKING:
    from llmaug.lm.prompts import Prompts

_OF_ITEMS = "llmaug.lm.prompts:of_items"


@dataclass(frozen=True)
class Member:
    """One more model of a generator."""

    folder: str
    model_digest: str


@dataclass(frozen=True)
class Generator:
    """A generator and where its files lie."""

    name: str
    """`model name @ content digest`: part of every unit's id."""
    kind: str
    """As `lm.model`."""
    vocabulary: str
    """Folder of the vocabulary whose tokens it reads and writes."""
    model: str | None
    """Folder of the model; None for items drawn at random."""
    model_digest: str
    """Of the files in that folder."""
    context_len: int
    """Tokens that it sees, those it generates included."""
    others: tuple[Member, ...] = ()
    """Further models that are asked for chances, too (`lm.members`)."""
    side: str | None = None
    """Folder of the stage that trained it or took it in: what is known besides the model."""

    @property
    def models(self) -> tuple[Member, ...]:
        """All of them, the one that writes events first."""
        return Member(self.folder, self.model_digest), *self.others

    @property
    def folder(self) -> str:
        """Of the model, where there is one."""
        assert self.model is not None, self.name
        return self.model


def roots_of(config: Config) -> tuple[str, ...]:
    """Roots of a stage that asks the generator or reads its answers."""
    if config.generate.engine == "uniform":
        return (_OF_ITEMS.partition(":")[0],)
    return modules_of(config.lm, named=["asking"])


def generator_of(context: Context) -> Generator:
    """The generator of this run; its stage `lm/<name>` must have happened."""
    lm = context.config.lm
    if context.config.generate.engine == "uniform":
        counts = context.manifest("vocabulary")["counts"]
        known = counts["vocabulary_digest"]  # decides what is drawn, as weights would
        return Generator(
            f"uniform@{known[:16]}", "uniform", context.folder("vocabulary"), None, known,
            lm.context_len,
        )  # fmt: skip
    stages = [f"lm/{own.lm.name}" for own in member_configs(context.config)]
    found = {stage: context.manifest(stage)["counts"] for stage in stages}
    first, *others = (
        Member(counts.get("model_folder") or context.folder(stage), counts["model_digest"])
        for stage, counts in found.items()
    )
    digests = [model.model_digest for model in (first, *others)]
    known = digest(digests) if others else first.model_digest
    return Generator(
        name=f"{lm.name}@{known[:16]}",
        kind=lm.model,
        vocabulary=found[stages[0]].get("vocabulary_folder") or context.folder("vocabulary"),
        model=first.folder,
        model_digest=first.model_digest,
        context_len=lm.context_len,
        others=tuple(others),
        side=context.folder(stages[0]),
    )


@lru_cache(maxsize=2)
def prompts_of(storage: Storage, generator: Generator) -> Prompts:
    """How the generator is asked, and how its answers are read; kept by each worker."""
    vocabulary = load_vocabulary(storage, generator.vocabulary)
    known = generator.model is not None
    asking = BEHAVIOUR_MODELS.find(generator.kind).asking if known else _OF_ITEMS
    prompts: Prompts = imported(asking)(storage, generator, vocabulary)
    return prompts


def vocabulary_of(storage: Storage, generator: Generator) -> Vocabulary:
    """The vocabulary whose event tokens the generator's answers are read as."""
    actions = prompts_of(storage, generator).language.actions
    return replace(load_vocabulary(storage, generator.vocabulary), actions=actions)


def repeatable(context: Context, generator: Generator) -> tuple[bool, ...]:
    """Whether an event of each action of the generator's language may come again; where it has
    none, of the one that all synthetic events get: the most frequent."""
    actions: Sequence[str] = prompts_of(context.storage, generator).language.actions
    if not actions:
        actions = load_statistics(context.storage, context.folder("vocabulary")).actions[:1]
    return tuple(context.config.filters.may_repeat(action) for action in actions)
