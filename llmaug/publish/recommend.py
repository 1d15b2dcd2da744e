"""Recommendations from a published model: for all users in batch, or for one."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmaug import recommenders
from llmaug.arms.arms import chosen
from llmaug.config import RecommendConfig
from llmaug.core.contents import check_stage
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.core.stored import read_config
from llmaug.errors import UserError
from llmaug.ingest.cleaning import user_hash
from llmaug.items.sequences import user_histories
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary
from llmaug.publish import pointer
from llmaug.schema import RECOMMENDATION, validate
from llmaug.training.ranking import hide

_BATCH = 256


def run(context: Context) -> dict[str, Any]:
    """Top k of every user in the logs, to `recommendations/part-*.parquet`."""
    card = context.manifest("publish")["counts"]
    return score_all(context, card, context.folder("recommendations"), context.config.recommend)


def score_all(
    context: Context, card: dict[str, Any], folder: str, config: RecommendConfig
) -> dict[str, Any]:
    """Top k of every user in the logs of the run, by the published model of `card`, to parts in
    `folder` (schema RECOMMENDATION); {users, users_per_s: of one actor}."""
    events = context.folder("ingest")
    scorer = {
        "storage": context.storage, "model": card["version"],
        "model_digest": card["model_digest"], "events": events, "folder": folder,
        "k": config.k, "include_seen": config.include_seen,
    }  # fmt: skip
    parts = context.storage.parts(events)
    actors = min(config.num_actors, len(parts))
    counts = map_parts(
        context, folder, parts, BatchScorer, fn_constructor_kwargs=scorer,
        concurrency=(actors, actors), num_gpus=config.num_gpus,
    )  # fmt: skip
    seconds = counts.pop("score_ms") / 1000
    rate = round(counts["users"] / max(seconds, 1e-3), 1)
    context.progress.note(f"{counts['users']:,} users, {rate:,.0f} a second and actor")
    return {**counts, "users_per_s": rate}


class BatchScorer:
    """A Ray Data actor: loads the model once, then takes part after part of the logs."""

    def __init__(
        self,
        storage: Storage,
        model: str,
        model_digest: str,
        events: str,
        folder: str,
        k: int,
        include_seen: bool,
    ) -> None:
        import torch

        torch.set_num_threads(1)
        self._storage, self._events, self._folder = storage, events, folder
        self._k, self._include_seen = k, include_seen
        self._model, self._vocabulary, _ = recommenders.load(storage, model, model_digest)
        if torch.cuda.is_available():  # Ray shows an actor the GPUs that it has
            self._model.to("cuda")

    def __call__(self, part: str) -> dict[str, int]:
        begin = time.monotonic()
        histories = user_histories(self._storage, [self._events], part, self._vocabulary)
        users = list(histories)
        rows: list[dict[str, Any]] = []
        for start in range(0, len(users), _BATCH):
            batch = users[start : start + _BATCH]
            own = [histories[user] for user in batch]
            ranked = top_k(self._model, self._vocabulary, batch, own, self._k, self._include_seen)
            for user, items in zip(batch, ranked, strict=True):
                rows += [
                    {"user_id": user, "item_id": item, "position": place, "score": score}
                    for place, (item, score) in enumerate(items, start=1)
                ]
        table = pa.Table.from_pylist(rows, schema=RECOMMENDATION)
        counts = {"users": len(users), "score_ms": round(1000 * (time.monotonic() - begin))}
        table = validate(table, RECOMMENDATION, part)
        self._storage.write_part(table, counts, self._folder, part)
        return counts


def top_k(
    model: recommenders.Recommender,
    vocabulary: Vocabulary,
    users: Sequence[str],
    histories: Sequence[list[int]],
    k: int,
    include_seen: bool = False,
) -> list[list[tuple[str, float]]]:
    """For each user up to k (item id, probability), best first; fewer when items run out."""
    import torch

    with torch.inference_mode():
        scores = model.score(list(users), list(histories))
        probability = model.probability(scores.clone())
        hide(scores, [] if include_seen else histories)
        best = scores.topk(min(k, vocabulary.num_items), dim=1)
        out = []
        for row in range(len(users)):
            pairs = zip(best.values[row].tolist(), best.indices[row].tolist(), strict=True)
            out.append(
                [
                    (vocabulary.item_ids[token - NUM_SPECIAL], float(probability[row, token]))
                    for value, token in pairs
                    if value != float("-inf")
                ]
            )
    return out


def for_user(
    storage: Storage, name: str, user_id: str, k: int, verify: bool = False
) -> dict[str, Any]:
    """Top k for one user by the published model `name`, with titles; without what the user had
    already, unless `recommend.include_seen` of the run says otherwise.

    A user who is not in the logs gets what the model says of an empty history, and
    `known_user` is false. verify: the digests of the logs are checked, which reads them all.
    """
    card = pointer.current(storage, name)
    model, vocabulary, _ = recommenders.load(storage, card["version"], card["model_digest"])
    check_stage(storage, card["run_id"], "ingest", verify)
    history = history_of(storage, card["run_id"], user_id, vocabulary)
    titles = dict(zip(vocabulary.item_ids, vocabulary.items["title"].to_pylist(), strict=True))
    include_seen = read_config(storage, card["run_id"]).recommend.include_seen
    [ranked] = top_k(model, vocabulary, [user_id], [history or []], k, include_seen)
    return {
        "user_id": user_id,
        "known_user": history is not None,
        "history_len": len(history or []),
        "model": card["version"],
        "arm": card["arm"],
        "items": [
            {"position": place, "item_id": item, "title": titles.get(item), "score": score}
            for place, (item, score) in enumerate(ranked, start=1)
        ],
    }


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """(user id, item id) rows of a CSV with those column names.

    Raises UserError naming the file, and the line where a field is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot read it as a UTF-8 CSV file: {error}") from error
    for line, row in enumerate(rows, start=2):
        if not row.get("user_id") or not row.get("item_id"):
            raise UserError(
                f"{path}, line {line}: no user_id or item_id; the first line of the file must "
                "be 'user_id,item_id'"
            )
    if not rows:
        raise UserError(f"{path}: no pairs in it; the first line is 'user_id,item_id'")
    return [(row["user_id"], row["item_id"]) for row in rows]


def score_pairs(storage: Storage, name: str, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Score in (0, 1) of each (user id, item id) by the published model `name`.

    An item outside the catalogue has score None with a sequence model, and that of the
    mean item with the linear one; `known_user` and `known_item` say what was known.
    """
    import torch

    card = pointer.current(storage, name)
    model, vocabulary, _ = recommenders.load(storage, card["version"], card["model_digest"])
    check_stage(storage, card["run_id"], "ingest")
    users = [user for user, _ in pairs]
    tokens = vocabulary.encode([item for _, item in pairs]).tolist()
    histories = {u: history_of(storage, card["run_id"], u, vocabulary) for u in set(users)}
    with torch.inference_mode():
        if isinstance(model, recommenders.JudgesPairs):
            scores = model.probability(model.score_pairs(users, tokens)).tolist()
        else:
            rows = model.probability(model.score(users, [histories[u] or [] for u in users]))
            scores = [
                float(rows[row, token]) if token >= 0 else None for row, token in enumerate(tokens)
            ]
    return [
        {
            "user_id": user,
            "item_id": item,
            "score": score,
            "known_user": histories[user] is not None,
            "known_item": token >= 0,
        }
        for (user, item), token, score in zip(pairs, tokens, scores, strict=True)
    ]


def history_of(
    storage: Storage, run_id: str, user_id: str, vocabulary: Vocabulary
) -> list[int] | None:
    """Item tokens of one user in the logs of a run; None when the user is not there."""
    events = f"runs/{run_id}/ingest"
    parts = storage.parts(events)
    if not parts:
        raise UserError(f"{storage.uri(events)}: the logs that this model came from are gone")
    part = parts[int(user_hash(pa.array([user_id]))[0] % len(parts))]
    return user_histories(storage, [events], part, vocabulary).get(user_id)


STAGE = Stage(
    name="recommendations",
    run=run,
    inputs=("publish", "ingest"),
    measured=("users_per_s",),
    roots=lambda config: recommenders.modules_of(config, chosen(config)),
    settings=lambda config: config.recommend,
)
