"""`llmaug recommend` without a user: everybody's list, by the model that is published now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmaug import publish
from llmaug.pipeline import reopened
from llmaug.progress import Progress
from llmaug.recommend import score_all
from llmaug.storage import Storage


def recommend_all(
    storage: Storage,
    name: str,
    k: int,
    to: str,
    progress: Callable[[Callable[[dict], None]], Progress] | None = None,
    verify: bool = False,
) -> dict[str, Any]:
    """Top k of every user in the logs of the run that published model `name`, written anew to
    folder `to` below the root (schema RECOMMENDATION).

    Returns {users, rows, users_per_s: of one actor, model, folder}. Raises UserError when there
    is no published model, or its run is gone, damaged (`verify`: by digest too) or held by
    another process.
    """
    card = publish.current(storage, name)
    with reopened(storage, card["run_id"], progress, verify=verify) as context:
        config = context.config.recommend.model_copy(update={"k": k})
        storage.delete(to)
        context.progress.start("recommendations")
        counts = score_all(context, card, to, config)
    return {**counts, "model": card["version"], "folder": storage.uri(to)}
