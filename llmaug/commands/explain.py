"""Why a user is recommended an item: the events of the history without which it would rank lower.

Leave one out: the history is scored again without each of its items in turn. The effect of an item
on a recommendation is how much nearer to the average item of the catalogue the recommended one
comes without it, in the scores of the model (occlusion; Zeiler and Fergus 2014). A shift of all
scores alike is no effect. It asks the model as it is, of whatever kind, and says nothing of causes
outside of it.
"""

from __future__ import annotations

from typing import Any

from llmaug.items.vocabulary import NUM_SPECIAL
from llmaug.publish.recommend import Served, for_users, hide_gone
from llmaug.training.ranking import hide

MAX_ITEMS = 200
"""Of a longer history the last so many different items are left out, one at a time."""
_BATCH = 64


def explain(served: Served, user_id: str, k: int, num_reasons: int = 3) -> list[dict[str, Any]]:
    """For each of the top k of a user, best first: {item_id, because: [{item_id, title, effect,
    rank_without}]}, the strongest first; rank_without: its place, from 1, in the list without that
    item of the history. Items whose effect is not above zero are left out: a model that does not
    read histories has no reasons."""
    import torch

    vocabulary = served.vocabulary
    name = served.stored_names([user_id])[user_id]
    history = served.histories([name])[name] or []
    items = for_users(served, [user_id], k)["item_id"].to_pylist()
    tokens = vocabulary.encode(items).tolist()
    left_out = list(dict.fromkeys(reversed(history)))[:MAX_ITEMS]
    seen = [] if served.config.recommend.include_seen else [history]
    if not left_out or not tokens:
        return [{"item_id": item, "because": []} for item in items]
    with torch.inference_mode():
        whole = _above_average(served.model.score([name], [history]))[0, tokens]  # (K,)
        effects: list[Any] = []
        ranks: list[Any] = []
        for start in range(0, len(left_out), _BATCH):
            batch = left_out[start : start + _BATCH]
            without = [[token for token in history if token != gone] for gone in batch]
            scores = served.model.score([name] * len(batch), without)  # (B, V)
            effects.append(whole - _above_average(scores)[:, tokens])
            hide(scores, seen * len(batch))
            hide_gone(scores, vocabulary, served.config.recommend.at_s())
            own = scores[:, tokens]  # (B, K)
            above = [(scores > own[:, [n]]).sum(1) for n in range(len(tokens))]
            ranks.append(1 + torch.stack(above, 1))
        effect, rank = torch.cat(effects), torch.cat(ranks)
    titles = dict(zip(vocabulary.item_ids, vocabulary.items["title"].to_pylist(), strict=True))
    found = []
    for number, item in enumerate(items):
        order = effect[:, number].argsort(descending=True, stable=True)[:num_reasons].tolist()
        reasons = [(vocabulary.decode(left_out[row]), row) for row in order]
        found.append({
            "item_id": item,
            "because": [
                {"item_id": other, "title": titles.get(str(other)),
                 "effect": float(effect[row, number]), "rank_without": int(rank[row, number])}
                for other, row in reasons
                if float(effect[row, number]) > _NOISE * float(whole[number].abs())
            ],
        })  # fmt: skip
    return found


_NOISE = 1e-5  # of the score: what rounding makes of the same sum in another order


def _above_average(scores: Any) -> Any:
    """(B, V) scores, less the mean of the catalogue's items."""
    return scores - scores[:, NUM_SPECIAL:].mean(1, keepdim=True)
