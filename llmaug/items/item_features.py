"""What a model sees of an item besides its id, added to the id's row: a learned vector for each
of its tags, and a learned projection of the vector of its text.

The behaviour model always learns such a sum; the recommender does in the fusion arms. Both
fold it into one plain embedding table when they are saved, so serving needs neither tags nor
text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmaug.config import OfHistoriesConfig
from llmaug.errors import UserError
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary


class ItemFeatures(nn.Module):
    """Called, it gives each token the sum of its tags' vectors and its projected text."""

    _flat: Tensor
    _offsets: Tensor
    _text: Tensor

    def __init__(
        self, vocabulary: Vocabulary, min_tag_items: int, dim: int, num_tokens: int | None = None
    ) -> None:
        """num_tokens: V, where other tokens come after the items."""
        super().__init__()
        self._num_others = (num_tokens or vocabulary.num_tokens) - vocabulary.num_tokens
        self.names, flat, offsets = vocabulary.tag_bags(min_tag_items)
        self.tags = nn.Embedding(len(self.names), dim)
        nn.init.normal_(self.tags.weight, std=0.02)
        self.register_buffer("_flat", torch.from_numpy(flat), persistent=False)
        self.register_buffer("_offsets", torch.from_numpy(offsets), persistent=False)
        self.project = None
        if vocabulary.text is not None:
            self.project = nn.Linear(vocabulary.text.shape[1], dim, bias=False)
            nn.init.normal_(self.project.weight, std=0.02)  # of texts of length 1: as tags
            self.register_buffer("_text", torch.from_numpy(vocabulary.text), persistent=False)

    def forward(self) -> Tensor:
        """(V, D); zero for what is no item, and for items without tags and text."""
        rows = F.embedding_bag(self._flat, self.tags.weight, self._offsets, mode="sum")
        if self.project is not None:
            rows = rows + self.project(self._text)
        return F.pad(rows, (0, 0, NUM_SPECIAL, self._num_others))


def item_features(
    vocabulary: Vocabulary, min_tag_items: int, dim: int, num_tokens: int | None = None
) -> ItemFeatures | None:
    """Fresh features of `dim` numbers: tags of at least `min_tag_items` items, and texts; None
    when there are none."""
    if not vocabulary.has_features(min_tag_items).any():
        return None
    return ItemFeatures(vocabulary, min_tag_items, dim, num_tokens)


def recommender_features(
    config: OfHistoriesConfig, vocabulary: Vocabulary, min_tag_items: int
) -> ItemFeatures | None:
    """Features of a recommender; None without `train.item_features`.

    Raises UserError when the catalogue has none: the arm would be `real` under another name.
    """
    if not config.item_features:
        return None
    features = item_features(vocabulary, min_tag_items, config.embedding_dim)
    if features is None:
        raise UserError(
            f"no tag is shared by {min_tag_items} items (vocabulary.min_tag_items), and there are "
            "no text vectors: give the items table of the config (ingest.items) a column tags, "
            "or set vocabulary.text_encoder, or leave out train.item_features and the fusion arms"
        )
    return features


def folded_state(model: Any) -> dict[str, Tensor]:
    """Weights of a recommender with `items`, `features` and `table()`, the features folded into
    the rows of `items`."""
    weights = model.state_dict()
    if getattr(model, "features", None) is None:
        return weights
    rows = {"items.weight": model.table()}
    return {n: w for n, w in weights.items() if not n.startswith("features.")} | rows
