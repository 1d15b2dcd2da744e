"""A masked model answers by itself."""

from __future__ import annotations

from functools import partial

from llmaug.core.storage import Storage
from llmaug.items.vocabulary import Vocabulary
from llmaug.lm import Answers, ByItself
from llmaug.lm.generator import Generator
from llmaug.lm.masked.notes import check


def served(storage: Storage, generator: Generator, vocabulary: Vocabulary) -> ByItself:
    """Reads no weights. Raises UserError as `check` does."""
    check(storage, generator.folder, vocabulary)
    return ByItself(partial(_load, storage, generator, vocabulary))


def _load(storage: Storage, generator: Generator, vocabulary: Vocabulary) -> Answers:
    from llmaug.lm.masked.completion import load_completer

    return load_completer(storage, generator.folder, vocabulary, generator.model_digest)
