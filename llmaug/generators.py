"""Which generator a run asks: its name, its model folder and the vocabulary it speaks."""

from __future__ import annotations

from dataclasses import dataclass

from llmaug.stage import Context


@dataclass(frozen=True)
class Generator:
    """A generator and where its files lie."""

    name: str
    """`model name @ content digest`: part of every unit's id."""
    vocabulary: str
    """Folder of the vocabulary whose tokens it reads and writes."""
    model: str | None
    """Folder of the model; None for items drawn at random."""
    model_digest: str


def generator_of(context: Context) -> Generator:
    """The generator of this run; its stage `lm/<name>` must have happened."""
    if context.config.generate.engine == "uniform":
        counts = context.manifest("vocabulary")["counts"]
        known = counts["vocabulary_digest"]  # decides what is drawn, as weights would
        return Generator(f"uniform@{known[:16]}", context.folder("vocabulary"), None, known)
    name = context.config.lm.name
    counts = context.manifest(f"lm/{name}")["counts"]
    return Generator(
        name=f"{name}@{counts['model_digest'][:16]}",
        vocabulary=counts.get("vocabulary_folder") or context.folder("vocabulary"),
        model=counts.get("model_folder") or context.folder(f"lm/{name}"),
        model_digest=counts["model_digest"],
    )
