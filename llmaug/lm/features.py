"""What items are known by besides their id: the sum of their tags' vectors and projected text.

While a model trains, an item's embedding is its own row plus this sum; at export both are
folded into one plain table. So an item that nobody has taken yet is placed by its genre,
year, brand or title, and the exported model is an ordinary one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from llmaug.config import NeuralConfig
from llmaug.items.item_features import ItemFeatures, item_features
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary


def lm_features(
    config: NeuralConfig, vocabulary: Vocabulary, min_tag_items: int, num_tokens: int
) -> ItemFeatures | None:
    """None where the config wants no features, or no tag is on enough items and there are no
    texts."""
    if not config.item_features:
        return None
    return item_features(vocabulary, min_tag_items, config.hidden_size, num_tokens)


def new_items(config: NeuralConfig, vocabulary: Vocabulary, min_tag_items: int) -> Tensor | None:
    """(items,) tokens of the items that features alone place: with some, without an event.

    None where there are none, or where they are competitors like any other
    (`lm.cold_items_are_negatives`).
    """
    if config.cold_items_are_negatives or not config.item_features:
        return None
    is_cold = vocabulary.items["train_events"].to_numpy() == 0
    new = np.flatnonzero(vocabulary.has_features(min_tag_items) & is_cold) + NUM_SPECIAL
    return torch.from_numpy(new) if len(new) else None


def averaged(values: Tensor, new: Tensor | None, num_words: int) -> Tensor:
    """(V, ...) learnt values of tokens, those of `new` items replaced by an average item's:
    they have learnt none of their own. num_words: where the items end."""
    if new is None:
        return values
    known = torch.ones(len(values), dtype=torch.bool, device=values.device)
    known[new] = False
    mean = values[known][NUM_SPECIAL : num_words - len(new)].mean(0)
    return torch.where(known.view(-1, *[1] * (values.dim() - 1)), values, mean)
