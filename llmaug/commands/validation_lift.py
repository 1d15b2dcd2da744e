"""An arm against another one on validation events, with the interval that a choice needs.

Training stops early by a sample of the validation users; what is chosen by so few would be luck
where logs are sparse. The test events stay closed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llmaug import recommenders
from llmaug.config import Config
from llmaug.config.names import run_folder
from llmaug.core.storage import Storage
from llmaug.evaluate.bootstrap import mean_over_seeds, means, relative_lift, resampled_sums
from llmaug.ingest.split import TRAIN, VALIDATION
from llmaug.items.vocabulary import load_vocabulary
from llmaug.training.ranking import ndcg
from llmaug.training.validation import ValidationUsers, load_validation

MAX_USERS = 20_000
_K = 10


def validation_lift(
    storage: Storage,
    run_id: str,
    config: Config,
    arm: str,
    against: str,
    max_users: int = MAX_USERS,
) -> dict[str, Any]:
    """The relative lift of NDCG@10 of `arm` over `against`, both trained in the run, with a 95%
    interval over users (and over seeds, where there are several), paired by both.

    Returns {num_users, relative, low, high}, as `bootstrap.relative_lift` has them. Users beyond
    `max_users` are a sample. Weights are those of the best validation among some of the same
    users, so both figures are a little too good; their ratio less so.
    """
    run = run_folder(run_id)
    vocabulary = load_vocabulary(storage, f"{run}/vocabulary")
    train, held_out = (f"{run}/split/{fold}" for fold in (TRAIN, VALIDATION))
    users = load_validation(storage, train, held_out, vocabulary, config.seed, max_users)
    new, old = (
        ndcg_of_users(storage, f"{run}/model/{name}", config, users) for name in (arm, against)
    )
    place = np.arange(len(users.user_ids))
    return {"num_users": len(place), **lift_of_users(users.user_ids, place, new, old, config)}


def lift_of_users(
    user_ids: list[str], place: np.ndarray, new: np.ndarray, old: np.ndarray, config: Config
) -> dict[str, Any]:
    """{relative, low, high} of the mean of `new` over that of `old`, each (n, seeds) of the users
    at the (n,) ascending rows `place`."""
    groups = [(place, new), (place, old)]
    sums = resampled_sums(user_ids, groups, config.evaluate.num_bootstrap, config.seed)
    resampled = (
        mean_over_seeds(means(own)[:, :, None], [config.seed, number])[:, 0]
        for number, own in enumerate(sums)
    )
    return relative_lift(*resampled)


def ndcg_of_users(
    storage: Storage, folder: str, config: Config, users: ValidationUsers
) -> np.ndarray:
    """(N, seeds) NDCG@10 of each user by the model of each seed."""
    columns = []
    for seed in config.train.seeds:
        model, _, _ = recommenders.load_recommender(storage, f"{folder}/seed-{seed}")
        columns.append(ndcg(users.ranks(model.score, config.evaluate.exclude_seen), _K))
    return np.stack(columns, axis=1)
