"""Item vectors to start a recommender from: `train.start_from`.

A transfer, and no synthetic event: the recommender takes over where its source put the items, and
learns the rest from its own events. The generator's rows are those of its folded table: they hold
what it learned of titles and tags. Those of arm `real` are the control, which says how much of a
gain comes from starting twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.semantic_ids import NO_ITEM_VECTORS, read_ids
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary, load_vocabulary


@dataclass(frozen=True)
class Start:
    """Where the vectors are."""

    folder: str
    """Of a model."""
    tensor: str
    """Its item table: a row for each token of its vocabulary, and maybe more behind those."""
    vocabulary: str
    """Folder of the vocabulary that its tokens are of."""


def start_from(
    table: Any, storage: Storage, start: Start, vocabulary: Vocabulary
) -> dict[str, int]:
    """Put the rows of `start` into the (V, D) item table of a fresh model; items that it does not
    know keep theirs. Returns facts: how many items took over, and the width that they came in.

    table: torch.nn.Embedding. Rows of another width D' are projected: wider ones onto their first D
    principal directions (without centring: what counts between vectors are their products),
    narrower ones are filled up with the fresh model's own numbers. Raises UserError when `start`
    knows none of the items, or has no vectors of items.
    """
    import torch

    if read_ids(storage, start.folder):
        raise UserError(NO_ITEM_VECTORS)
    rows = _rows(storage, start)
    known = load_vocabulary(storage, start.vocabulary)
    row_of = {item_id: row for row, item_id in enumerate(known.item_ids)}
    own = [row for row, item_id in enumerate(vocabulary.item_ids) if item_id in row_of]
    theirs = [row_of[vocabulary.item_ids[row]] for row in own]
    if not own:
        raise UserError(f"train.start_from: {storage.uri(start.folder)} knows none of the items")
    found = _narrowed(rows[theirs], table.embedding_dim)
    with torch.no_grad():
        to = torch.as_tensor(own) + NUM_SPECIAL
        table.weight[to, : found.shape[1]] = torch.from_numpy(found).to(table.weight.dtype)
    return {"started_items": len(own), "started_width": rows.shape[1]}


def _narrowed(rows: np.ndarray, width: int) -> np.ndarray:
    """(N, D') to (N, min(D', width)), the products between rows kept as well as may be."""
    if rows.shape[1] <= width:
        return rows
    _, directions = np.linalg.eigh(rows.T @ rows)  # ascending
    return np.ascontiguousarray(rows @ directions[:, ::-1][:, :width])


def _rows(storage: Storage, start: Start) -> np.ndarray:
    """(I, D') of the items."""
    from safetensors.torch import load

    weights = load(storage.read(start.folder, "model.safetensors"))
    rows: np.ndarray = weights[start.tensor].float().numpy()[NUM_SPECIAL:]
    return rows
