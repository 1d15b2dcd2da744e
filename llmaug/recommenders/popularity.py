"""What is popular goes to everybody: the baseline that every other model must beat.

Counts all training events, or those of the last `popularity_days` days of them; or goes by when
items came out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from llmaug.config import PopularityConfig
from llmaug.errors import UserError
from llmaug.recommenders import DataFacts


class Popularity(nn.Module):
    log_share: Tensor

    def __init__(self, config: PopularityConfig, facts: DataFacts) -> None:
        super().__init__()
        self._vocabulary = facts.vocabulary
        self._days = config.popularity_days
        self._by = getattr(config, "popularity_by", "events")  # configs of others may lack it
        self.register_buffer("log_share", torch.zeros(facts.vocabulary.num_tokens))

    def fit(self, events: Callable[[], Iterable[pa.Table]]) -> int:
        """Count the events' weights; `events()` gives the training events table by table, each
        time it is called. Returns how many events were counted. Raises UserError where `newest` is
        asked for and nothing is known of when items came out."""
        if self._by == "newest":
            self.log_share.copy_(self._by_age())
            return 0
        since = None
        if self._days is not None:
            newest = [pc.max(table["timestamp"]).as_py() for table in events() if table.num_rows]
            since = max(newest) - timedelta(days=self._days) if newest else None
        counts = torch.ones(len(self.log_share), dtype=torch.float64)  # nothing is impossible
        num_events = 0
        for table in events():
            if since is not None:
                table = table.filter(pc.greater(table["timestamp"], pa.scalar(since)))
            token = torch.from_numpy(self._vocabulary.encode(table["item_id"])).long()
            weight = torch.tensor(table["weight"].to_numpy(), dtype=torch.float64)
            counts.index_add_(0, token[token >= 0], weight[token >= 0])
            num_events += int((token >= 0).sum())
        self.log_share.copy_((counts / counts.sum()).log())
        return num_events

    def _by_age(self) -> Tensor:
        """(V,) log shares: they halve with each day of age. What came out nobody knows when is as
        old as the oldest."""
        lives = self._vocabulary.lives
        begin = lives.begin if lives else np.full(len(self.log_share), -np.inf)
        known = np.isfinite(begin)
        if not known.any():
            raise UserError(
                "train: popularity_by newest: no item says when it came out; give the items table "
                "`available_from`, or set vocabulary.item_life_h"
            )
        begin = np.where(known, begin, begin[known].min())
        age_days = torch.from_numpy((begin.max() - begin) / 86_400)
        return torch.log_softmax(-age_days * math.log(2), dim=0).float()

    def score(self, users: list[str], histories: list[list[int]]) -> Tensor:
        """(B, V) log shares of the events, the same for every user."""
        return self.log_share.repeat(len(users), 1)

    def probability(self, scores: Tensor) -> Tensor:
        """The item's share of the events."""
        return scores.exp()
