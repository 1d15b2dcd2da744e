"""The held-out users that training stops early by."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from llmaug.core.storage import Storage
from llmaug.items.lives import Lives
from llmaug.items.sequences import timed_events, user_histories
from llmaug.items.vocabulary import Vocabulary
from llmaug.training.ranking import ScoreUsers, hide, mean_ndcg_at_10, target_ranks

_MAX_USERS = 2000
_BATCH = 256


@dataclass(frozen=True)
class ValidationUsers:
    """Users with a training history and the first validation event after it."""

    user_ids: list[str]
    histories: list[list[int]]
    targets: list[int]
    times: list[float] = field(default_factory=list)
    """Of the targets, in seconds since 1970; they count where there are `lives`."""
    lives: Lives | None = None

    def ranks(self, score: ScoreUsers, exclude_seen: bool) -> np.ndarray:
        """(N,) ranks from 0 of the targets among what was there."""
        return target_ranks(
            score, self.user_ids, self.histories, self.targets, exclude_seen,
            lives=self.lives, times=self.times,
        )  # fmt: skip

    def ndcg_at_10(self, score: ScoreUsers, exclude_seen: bool) -> float:
        return mean_ndcg_at_10(self.ranks(score, exclude_seen))

    def log_likelihood(self, score: ScoreUsers, exclude_seen: bool = False) -> float:
        """Mean natural logarithm of the targets' probabilities over the catalogue (or what of
        it is not in the history); its negative is the logarithm of the perplexity. NaN
        without users."""
        import torch

        out = []
        with torch.inference_mode():
            for start in range(0, len(self.targets), _BATCH):
                stop = start + _BATCH
                histories = self.histories[start:stop]
                logits = score(self.user_ids[start:stop], histories).double()
                target = torch.tensor(self.targets[start:stop], device=logits.device)[:, None]
                own = logits.gather(1, target)
                hide(logits, histories if exclude_seen else [])
                logits.scatter_(1, target, own)  # a target that was seen before counts, too
                out.append((own - logits.logsumexp(1, keepdim=True)).flatten().cpu().numpy())
        return float(np.concatenate(out).mean()) if out else math.nan


def load_validation(
    storage: Storage,
    train: str,
    validation: str,
    vocabulary: Vocabulary,
    seed: int,
    max_users: int = _MAX_USERS,
) -> ValidationUsers:
    """At most `max_users` users, drawn from all and the same ones for one seed; one part more than
    these is in memory."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, list[int], int, float]] = []
    keys = np.empty(0)
    for part in storage.parts(validation):
        histories = user_histories(storage, [train], part, vocabulary)
        targets = timed_events(storage, validation, part, vocabulary)
        found = [(u, histories[u], *own[0]) for u, own in targets.items() if own and u in histories]
        # The users with the smallest random keys of all that were seen so far.
        rows, keys = rows + found, np.concatenate([keys, rng.random(len(found))])
        if len(rows) > max_users:
            kept = np.sort(np.argpartition(keys, max_users)[:max_users])
            rows, keys = [rows[index] for index in kept], keys[kept]
    return ValidationUsers(
        [row[0] for row in rows],
        [row[1] for row in rows],
        [row[2] for row in rows],
        [row[3] for row in rows],
        vocabulary.lives,
    )
