"""Training that starts from a finished causal model: last night's, or another domain's.

The trunk (attention, MLPs, norms) is taken as it is: how histories go on is much alike from
night to night, and even from films to games. Rows of items that both know are taken, too. A
new item starts at the mean of the known items whose text vectors are nearest to its own;
without a text, of those that it shares tags with, each counted by the number of shared tags;
without any, at the mean of all. Where no item is known (another
domain) rows stay random, at the scale of the earlier ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from llmaug.core.model_files import fetch_model
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary, load_vocabulary
from llmaug.lm.causal.model import CausalLm
from llmaug.lm.language import Language, load_language

_NUM_NEAREST = 10
_NEW_AT_ONCE = 1024
_SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def warm_start(
    model: CausalLm,
    vocabulary: Vocabulary,
    min_tag_items: int,
    storage: Storage,
    folder: str,
    vocabulary_folder: str,
    version: str,
) -> dict[str, int]:
    """Set the weights of a fresh `model` from the finished one in `folder`.

    vocabulary_folder: of that model. version: its digest. Returns {"known_items", "new_items"}.
    Raises UserError when its shape is another.
    """
    from transformers import LlamaForCausalLM

    known_words = load_vocabulary(storage, vocabulary_folder)
    language = load_language(storage, folder, known_words)
    if language.items or model.language.items:
        raise UserError("lm.warm_start: models with semantic ids cannot start from another one")
    earlier: Any = LlamaForCausalLM.from_pretrained(
        fetch_model(storage, folder, version), trust_remote_code=False, use_safetensors=True
    )
    _check_shape(storage.uri(folder), model, earlier)
    with torch.no_grad():
        table = earlier.model.embed_tokens.weight
        state = {
            name: weight
            for name, weight in earlier.state_dict().items()
            if "embed_tokens" not in name and "lm_head" not in name
        }
        model.llama.load_state_dict(state, strict=False)
        rows = model.llama.model.embed_tokens.weight
        rows[:NUM_SPECIAL] = table[:NUM_SPECIAL]
        _copy_others(rows, table, model.language, language)
        place = known_words.encode(vocabulary.items["item_id"])
        known = place >= 0
        if known.any():
            _place_items(rows, table, place, vocabulary, min_tag_items)
            if model.features is not None:  # the folded rows have them in already
                for weight in model.features.parameters():
                    weight.zero_()
        else:
            items = table[NUM_SPECIAL : language.num_words]
            rows[NUM_SPECIAL : model.language.num_words] *= items.std() / rows.std()
    return {"known_items": int(known.sum()), "new_items": int((~known).sum())}


def _place_items(
    rows: torch.Tensor,
    table: torch.Tensor,
    place: np.ndarray,
    vocabulary: Vocabulary,
    min_tag_items: int,
) -> None:
    """Rows of known items as they were, of new ones among their neighbours."""
    known = place >= 0
    items = rows[NUM_SPECIAL : NUM_SPECIAL + len(place)]
    items[torch.from_numpy(known)] = table[torch.from_numpy(place[known]).long()]
    if known.all():
        return
    is_known = torch.from_numpy(known)
    items[~is_known] = _means_by_tags(items[is_known], is_known, vocabulary, min_tag_items)
    if vocabulary.text is not None:
        texts = torch.from_numpy(vocabulary.text)
        has_text = texts.any(1)
        source, new = is_known & has_text, ~is_known & has_text
        if source.any():
            items[new] = _means_by_text(items[source], texts[source], texts[new])


def _means_by_tags(
    own: torch.Tensor, is_known: torch.Tensor, vocabulary: Vocabulary, min_tag_items: int
) -> torch.Tensor:
    """(N, D) means of the rows of known items (K, D), for the items that are not known."""
    names, flat, offsets = vocabulary.tag_bags(min_tag_items)
    tags = torch.zeros(vocabulary.num_items, max(1, len(names)))
    item = np.repeat(np.arange(len(tags)), np.diff(np.r_[offsets, len(flat)]))
    tags[item, flat] = 1
    of_known, of_new = tags[is_known], tags[~is_known]
    # (new, known) shared tags times (known, D) rows, without the first matrix.
    total = of_new @ (of_known.T @ own)
    shared = (of_new @ of_known.sum(0))[:, None]
    return torch.where(shared > 0, total / shared.clamp(min=1), own.mean(0))


def _means_by_text(own: torch.Tensor, texts: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """(N, D) means of those rows of known items (K, D) whose texts (K, E) are nearest to each
    of the new ones (N, E)."""
    size = min(_NUM_NEAREST, len(own))
    near = [(some @ texts.T).topk(size).indices for some in new.split(_NEW_AT_ONCE)]
    return own[torch.cat(near)].mean(1)


def _copy_others(
    rows: torch.Tensor, table: torch.Tensor, language: Language, earlier: Language
) -> None:
    """Control tokens, attribute values and actions that both have."""
    both = [name for name in language.actions if name in earlier.actions]
    rows[language.action_words(both)] = table[earlier.action_words(both)]
    if language.has_directions and earlier.has_directions:
        for name in ("reverse", "infill", "suffix", "middle"):
            rows[getattr(language, name)] = table[getattr(earlier, name)]
    values_then = dict(earlier.attributes)
    for number, (name, values) in enumerate(language.attributes):
        if name not in values_then:
            continue
        then = [other for other, _ in earlier.attributes].index(name)
        for value in [None, *values]:
            if value is None or value in values_then[name]:
                attributes = {} if value is None else {name: value}
                mine = language.user_tokens(attributes)[number]
                rows[mine] = table[earlier.user_tokens(attributes)[then]]


def _check_shape(uri: str, model: CausalLm, earlier: Any) -> None:
    for field in _SHAPE:
        mine, other = getattr(model.llama.config, field), getattr(earlier.config, field)
        if mine != other:
            raise UserError(
                f"lm.warm_start: the model at {uri} has {field} {other}, this one {mine}: give "
                "both the same lm.hidden_size, lm.num_layers and lm.num_heads"
            )
