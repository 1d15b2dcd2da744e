"""The models of a kind: what is checked before anything is paid, and what answers by itself."""

from __future__ import annotations

from typing import Any

from llmaug.lm import Answers
from llmaug.lm.language import load_language
from llmaug.storage import Storage
from llmaug.vocabulary import Vocabulary


def check_model(storage: Storage, folder: str, kind: str, vocabulary: Vocabulary) -> Any:
    """Raises UserError unless `folder` holds a whole model of this kind for the vocabulary.

    Returns what is known of it without its weights.
    """
    if kind == "ngram":
        from llmaug.lm import ngram

        return ngram.load(storage, folder, vocabulary)
    if kind == "masked":
        from llmaug.lm import completion

        return completion.check(storage, folder, vocabulary)
    return load_language(storage, folder, vocabulary)


def load_answers(
    storage: Storage, folder: str, kind: str, vocabulary: Vocabulary, model_digest: str
) -> Answers:
    """The n-gram or masked model in `folder`, ready to answer."""
    if kind == "ngram":
        from llmaug.lm import ngram

        return ngram.load(storage, folder, vocabulary)
    from llmaug.lm import completion

    return completion.load(storage, folder, vocabulary, model_digest)
