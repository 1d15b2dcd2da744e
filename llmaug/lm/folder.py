"""What every model folder has, and what is checked before anything loads one.

`llmaug.json` is written with the model: which kind it is, the digest of the vocabulary that
its tokens mean, and the facts of its training.
"""

from __future__ import annotations

from typing import Any

from llmaug.errors import UserError
from llmaug.storage import Storage
from llmaug.vocabulary import Vocabulary

NOTES = "llmaug.json"


def read_notes(storage: Storage, folder: str, model: str) -> dict[str, Any]:
    """`llmaug.json` of `folder`. Raises UserError unless a `model` (causal, ...) is in it."""
    notes = storage.read_json(folder, NOTES)
    if notes is None:
        raise UserError(f"{storage.uri(folder)}: not a behaviour model (no {NOTES})")
    if notes.get("model") != model:
        raise UserError(
            f"{storage.uri(folder)}: holds a model of kind {notes.get('model')}, not {model}; "
            "set lm.name to another folder or lm.model to its kind"
        )
    return notes


def check_digest(uri: str, notes: dict[str, Any], vocabulary: Vocabulary) -> None:
    """Raises UserError when the model at `uri` speaks another vocabulary."""
    if notes["vocabulary_digest"] != vocabulary.digest:
        raise UserError(
            f"{uri}: this model was trained on another vocabulary; "
            "train it again on this run's logs"
        )
