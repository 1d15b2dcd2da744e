"""Recommendations from a published model: for all users in batch, or for one."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug import recommenders
from llmaug.arms.arms import chosen
from llmaug.config import Config, RecommendConfig
from llmaug.core.contents import check_stage, pseudonym_key_of, read_manifest
from llmaug.core.placing import Ask
from llmaug.core.pseudonyms import stored_names
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.core.stored import read_config
from llmaug.errors import UserError
from llmaug.ingest.cleaning import id_hash
from llmaug.items.sequences import user_histories
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary
from llmaug.publish import pointer
from llmaug.schema import ANSWER, RECOMMENDATION, SCORED_PAIR, validate
from llmaug.training.ranking import hide, users_at_once


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
        "k": config.k, "include_seen": config.include_seen, "at_s": config.at_s(),
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
        at_s: float,
    ) -> None:
        import torch

        torch.set_num_threads(1)
        self._storage, self._events, self._folder = storage, events, folder
        self._k, self._include_seen, self._at_s = k, include_seen, at_s
        self._model, self._vocabulary, _ = recommenders.load_recommender(
            storage, model, model_digest
        )
        if torch.cuda.is_available():  # Ray shows an actor the GPUs that it has
            self._model.to("cuda")

    def __call__(self, part: str) -> dict[str, int]:
        begin = time.monotonic()
        histories = user_histories(self._storage, [self._events], part, self._vocabulary)
        users = list(histories)
        rows: list[dict[str, Any]] = []
        size = users_at_once(self._vocabulary.num_tokens)
        for start in range(0, len(users), size):
            batch = users[start : start + size]
            own = [histories[user] for user in batch]
            ranked = top_k(
                self._model, self._vocabulary, batch, own, self._k, self._at_s, self._include_seen
            )
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
    at_s: float,
    include_seen: bool = False,
) -> list[list[tuple[str, float]]]:
    """For each user up to k (item id, probability) of items that are there at `at_s` (seconds since
    1970), best first; fewer when items run out."""
    import torch

    with torch.inference_mode():
        scores = model.score(list(users), list(histories))
        probability = model.probability(scores.clone())
        hide(scores, [] if include_seen else histories)
        hide_gone(scores, vocabulary, at_s)
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


def hide_gone(scores: Any, vocabulary: Vocabulary, at_s: float) -> None:
    """Set items that are not there at `at_s` to minus infinity in (B, V) scores, in place."""
    import torch

    if vocabulary.lives:
        gone = vocabulary.lives.gone(np.array([at_s]))[0]
        scores[:, torch.from_numpy(gone).to(scores.device)] = -math.inf


@dataclass(frozen=True)
class Served:
    """A published model in memory, and where its run keeps what users did."""

    storage: Storage
    card: dict[str, Any]
    model: Any
    vocabulary: Vocabulary

    @cached_property
    def config(self) -> Config:
        """That of the run."""
        return read_config(self.storage, self.card["run_id"])

    def stored_names(self, user_ids: Iterable[str]) -> dict[str, str]:
        """{id as it is asked for: id under which the run has the user}. Raises UserError where
        that is a pseudonym, and its key is not in the environment."""
        pseudonyms = self.config.privacy.pseudonyms
        if pseudonyms is None:
            return {user: user for user in user_ids}
        ingest = read_manifest(self.storage, f"runs/{self.card['run_id']}/ingest")
        key_id = pseudonym_key_of(ingest)
        return stored_names(user_ids, pseudonyms.key_env, key_id)

    def histories(self, user_ids: Iterable[str]) -> dict[str, list[int] | None]:
        """Item tokens of each user in the logs of the run, by `stored_names`; None where a user
        is not there."""
        events = f"runs/{self.card['run_id']}/ingest"
        parts = self.storage.parts(events)
        if not parts:
            raise UserError(
                f"{self.storage.uri(events)}: the logs that this model came from are gone"
            )
        users = list(dict.fromkeys(user_ids))
        found: dict[str, list[int] | None] = dict.fromkeys(users)
        places = id_hash(pa.array(users, pa.string())) % len(parts)
        for place in sorted(set(places.tolist())):
            there = user_histories(self.storage, [events], parts[place], self.vocabulary)
            for user, own in zip(users, places, strict=True):
                if own == place:
                    found[user] = there.get(user)
        return found


def serve(storage: Storage, name: str, verify: bool = False) -> Served:
    """The published model `name`. Raises UserError when there is none, it is damaged, or the logs
    of its run are (verify: by digest too, which reads them all)."""
    card = pointer.current(storage, name)
    model, vocabulary, _ = recommenders.load_recommender(
        storage, card["version"], card["model_digest"]
    )
    check_stage(storage, card["run_id"], "ingest", verify)
    return Served(storage, card, model, vocabulary)


def for_user(
    storage: Storage, name: str, user_id: str, k: int, verify: bool = False
) -> dict[str, Any]:
    """`of_user` by the published model `name`. verify: the digests of the logs are checked, which
    reads them all."""
    return of_user(serve(storage, name, verify), user_id, k)


def of_user(served: Served, user_id: str, k: int) -> dict[str, Any]:
    """Top k for one user by a published model, with titles; without what the user had
    already, unless `recommend.include_seen` of the run says otherwise.

    A user who is not in the logs gets what the model says of an empty history, and
    `known_user` is false.
    """
    name = served.stored_names([user_id])[user_id]
    history = served.histories([name])[name]
    return {
        "user_id": user_id,
        "known_user": history is not None,
        "history_len": len(history or []),
        "model": served.card["version"],
        "arm": served.card["arm"],
        "items": [
            {name: row[name] for name in ("position", "item_id", "title", "score")}
            for row in for_users(served, [user_id], k).to_pylist()
        ],
    }


def for_users(served: Served, user_ids: Sequence[str], k: int) -> pa.Table:
    """Top k of each user, in the order they are given and best first (schema ANSWER)."""
    names = served.stored_names(user_ids)
    histories = served.histories(names.values())
    vocabulary = served.vocabulary
    config = served.config.recommend
    at_s = config.at_s()
    titles = dict(zip(vocabulary.item_ids, vocabulary.items["title"].to_pylist(), strict=True))
    rows: list[dict[str, Any]] = []
    size = users_at_once(vocabulary.num_tokens)
    for start in range(0, len(user_ids), size):
        batch = user_ids[start : start + size]
        known = [names[user] for user in batch]
        own = [histories[name] or [] for name in known]
        ranked = top_k(served.model, vocabulary, known, own, k, at_s, config.include_seen)
        rows += [
            {"user_id": user, "item_id": item, "position": place, "score": score,
             "title": titles.get(item), "known_user": histories[names[user]] is not None}
            for user, items in zip(batch, ranked, strict=True)
            for place, (item, score) in enumerate(items, start=1)
        ]  # fmt: skip
    return validate(pa.Table.from_pylist(rows, schema=ANSWER), ANSWER, "answer")


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
    """Score in (0, 1), or rating (linear_rating), of each (user id, item id) by the published
    model `name`: rows of SCORED_PAIR."""
    return score_table(serve(storage, name), pairs).to_pylist()


def score_table(served: Served, pairs: Sequence[tuple[str, str]]) -> pa.Table:
    """Score in (0, 1), or rating (linear_rating), of each (user id, item id), in their order
    (schema SCORED_PAIR).

    An item outside the catalogue has score None with a sequence model, and that of the
    mean item with the linear one; `known_user` and `known_item` say what was known.
    """
    users, items = [user for user, _ in pairs], [item for _, item in pairs]
    tokens = served.vocabulary.encode(items).tolist()
    names = served.stored_names(users)
    known = [names[user] for user in users]
    histories = served.histories(known)
    scores: list[float | None] = []
    size = users_at_once(served.vocabulary.num_tokens)
    for start in range(0, len(pairs), size):
        batch = slice(start, start + size)
        own = [histories[name] or [] for name in known[batch]]
        scores += _scores(served.model, known[batch], own, tokens[batch])
    columns = {
        "user_id": users,
        "item_id": items,
        "score": scores,
        "known_user": [histories[name] is not None for name in known],
        "known_item": [token >= 0 for token in tokens],
    }
    return pa.table(columns, schema=SCORED_PAIR)


def _scores(
    model: Any, users: list[str], histories: list[list[int]], tokens: list[int]
) -> list[float | None]:
    import torch

    with torch.inference_mode():
        if isinstance(model, recommenders.PredictsRatings):
            values: list[float | None] = model.ratings(users, tokens).tolist()
            return values
        if isinstance(model, recommenders.JudgesPairs):
            found: list[float | None] = model.probability(model.score_pairs(users, tokens)).tolist()
            return found
        rows = model.probability(model.score(users, histories))
        return [float(rows[row, token]) if token >= 0 else None for row, token in enumerate(tokens)]


STAGE = Stage(
    name="recommendations",
    run=run,
    asks=lambda config, on_gpus: (
        Ask(
            "scorer",
            1,
            config.recommend.num_gpus,
            config.recommend.num_actors,
            fields="recommend.num_actors, recommend.num_gpus",
        ),
    ),
    inputs=("publish", "ingest"),
    measured=("users_per_s",),
    roots=lambda config: recommenders.roots_of(config, chosen(config)),
    settings=lambda config: config.recommend,
)
