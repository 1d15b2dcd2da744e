"""What is known of a masked model without its weights."""

from __future__ import annotations

from typing import Any

from llmaug.core.storage import Storage
from llmaug.items.vocabulary import Vocabulary
from llmaug.lm.folder import check_digest, check_weights, read_notes


def check(storage: Storage, folder: str, vocabulary: Vocabulary) -> dict[str, Any]:
    """The notes of the model in `folder`. Raises UserError when it is none, is not whole, or was
    trained on another vocabulary."""
    notes = read_notes(storage, folder, "masked")
    check_digest(storage.uri(folder), notes, vocabulary)
    check_weights(storage, folder, "masked", vocabulary.num_tokens + 1)
    return notes
