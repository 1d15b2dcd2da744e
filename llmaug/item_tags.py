"""What a model sees of an item besides its id: a vector for each tag, added to the id's row.

The behaviour model always learns such a sum; the recommender does in the fusion arms. Both
fold it into one plain embedding table when they are saved, so serving needs no tags.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmaug.config import TrainConfig
from llmaug.errors import UserError
from llmaug.vocabulary import NUM_SPECIAL, Vocabulary


class TagVectors(nn.Module):
    """One learned vector a tag; called, it gives each token the sum of its tags' vectors."""

    _flat: Tensor
    _offsets: Tensor

    def __init__(
        self,
        names: list[str],
        flat: np.ndarray,
        offsets: np.ndarray,
        dim: int,
        num_tokens: int | None = None,
    ) -> None:
        """names, flat, offsets: as `Vocabulary.tag_bags` has them. num_tokens: V, where other
        tokens come after the items."""
        super().__init__()
        self.names = names
        items_end = NUM_SPECIAL + len(offsets)
        self._num_others = (num_tokens or items_end) - items_end
        self.vectors = nn.Embedding(len(names), dim)
        nn.init.normal_(self.vectors.weight, std=0.02)
        self.register_buffer("_flat", torch.from_numpy(flat), persistent=False)
        self.register_buffer("_offsets", torch.from_numpy(offsets), persistent=False)

    def forward(self) -> Tensor:
        """(V, D); zero for what is no item, and for items without tags."""
        bags = F.embedding_bag(self._flat, self.vectors.weight, self._offsets, mode="sum")
        return F.pad(bags, (0, 0, NUM_SPECIAL, self._num_others))


def tag_vectors(
    vocabulary: Vocabulary, min_tag_items: int, dim: int, num_tokens: int | None = None
) -> TagVectors | None:
    """Fresh vectors of `dim` numbers for the tags of at least `min_tag_items` items; None when
    there is no such tag."""
    names, flat, offsets = vocabulary.tag_bags(min_tag_items)
    return TagVectors(names, flat, offsets, dim, num_tokens) if names else None


def item_tags(config: TrainConfig, vocabulary: Vocabulary, min_tag_items: int) -> TagVectors | None:
    """Tag vectors of a recommender; None without `train.item_features`.

    Raises UserError when the catalogue has no tags: the arm would be `real` under another name.
    """
    if not config.item_features:
        return None
    tags = tag_vectors(vocabulary, min_tag_items, config.embedding_dim)
    if tags is None:
        raise UserError(
            f"no tag is shared by {min_tag_items} items (vocabulary.min_tag_items): give the "
            "items table of the config (ingest.items) a column tags, or leave out "
            "train.item_features and the fusion arms"
        )
    return tags


def folded_state(model: Any) -> dict[str, Tensor]:
    """Weights of a recommender with `items`, `tags` and `table()`, the tags folded into the
    rows of `items`."""
    weights = model.state_dict()
    if getattr(model, "tags", None) is None:
        return weights
    rows = {"items.weight": model.table()}
    return {n: w for n, w in weights.items() if not n.startswith("tags.")} | rows
