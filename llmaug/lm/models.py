"""The models of a kind: what is checked before anything is paid, and what answers by itself."""

from __future__ import annotations

from typing import Any

from llmaug.core.storage import Storage
from llmaug.items.vocabulary import Vocabulary
from llmaug.lm import Answers
from llmaug.lm.causal.language import load_language


def check_model(storage: Storage, folder: str, kind: str, vocabulary: Vocabulary) -> Any:
    """Raises UserError unless `folder` holds a whole model of this kind for the vocabulary.

    Returns what is known of it without its weights.
    """
    if kind == "ngram":
        from llmaug.lm.ngram import model as ngram

        return ngram.load_ngram(storage, folder, vocabulary)
    if kind == "masked":
        from llmaug.lm.masked import completion

        return completion.check(storage, folder, vocabulary)
    return load_language(storage, folder, vocabulary)


def load_answers(
    storage: Storage, folder: str, kind: str, vocabulary: Vocabulary, model_digest: str
) -> Answers:
    """The n-gram or masked model in `folder`, ready to answer."""
    if kind == "ngram":
        from llmaug.lm.ngram import model as ngram

        return ngram.load_ngram(storage, folder, vocabulary)
    from llmaug.lm.masked import completion

    return completion.load_completer(storage, folder, vocabulary, model_digest)
