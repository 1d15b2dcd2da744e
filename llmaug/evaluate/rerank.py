"""Stages `text/<task>/candidates` and `text/<task>/measured`: lists for a chat model to reorder,
and whether that did any good.

`of: held_out`: the lists that the evaluation made for held-out users, by the arm that goes out;
then both orders are measured on the held-out events. `of: recommendations`: those of everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.config import Config, RerankConfig
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.evaluate.bootstrap import interval, means, resampled_sums
from llmaug.evaluate.figures import Reranked
from llmaug.ingest.split import TRAIN, VALIDATION
from llmaug.items.vocabulary import Vocabulary, load_vocabulary
from llmaug.schema import CANDIDATES as SCHEMA
from llmaug.schema import validate
from llmaug.text.choosing import CANDIDATES
from llmaug.text.stages import task_stages
from llmaug.training.ranking import mean_ndcg_at_10

_K = 10


def rerank_stages(config: Config, publishing: bool) -> list[Stage]:
    """Behind all others; of recommendations only where there are some (`publishing`)."""
    found = []
    for own in config.text.tasks:
        if isinstance(own, RerankConfig) and (publishing or own.of == "held_out"):
            found += [_candidates(own), *task_stages(config, own)]
            found += [_measured(own)] if own.of == "held_out" else []
    return found


def _candidates(own: RerankConfig) -> Stage:
    held_out = ("evaluation", "gate", "split", "vocabulary")
    return Stage(
        name=f"text/{own.name}/{CANDIDATES}",
        run=partial(candidates, own),
        inputs=held_out if own.of == "held_out" else ("recommendations", "ingest"),
        settings=lambda config: [own.of, own.top_n],
        asks=lambda config, on_gpus: TASKS,
    )


def _measured(own: RerankConfig) -> Stage:
    track = f"text/{own.name}"
    return Stage(
        name=f"{track}/measured",
        run=partial(measured, own),
        inputs=(f"{track}/{CANDIDATES}", f"{track}/plan", f"{track}/rows"),
        settings=lambda config: [own.top_n, config.evaluate.num_bootstrap, config.seed],
        asks=lambda config, on_gpus: TASKS,
    )


def candidates(own: RerankConfig, context: Context) -> dict[str, Any]:
    storage, folder = context.storage, context.folder(f"text/{own.name}/{CANDIDATES}")
    if own.of == "recommendations":
        lists, histories = context.folder("recommendations"), [context.folder("ingest")]
        work = partial(_of_everybody, storage, lists, histories, folder)
    else:
        arm, seed = context.manifest("gate")["counts"]["arm"], context.config.train.seeds[0]
        lists = context.folder(f"evaluation/{arm}-seed-{seed}")
        histories = [f"{context.folder('split')}/{fold}" for fold in (TRAIN, VALIDATION)]
        vocabulary = context.folder("vocabulary")
        work = partial(_of_held_out, storage, lists, histories, vocabulary, own.top_n, folder)
    return dict(map_parts(context, folder, storage.parts(lists), work))


def _of_held_out(
    storage: Storage,
    lists: str,
    histories: list[str],
    words: str,
    top_n: int,
    folder: str,
    part: str,
) -> dict[str, Any]:
    vocabulary: Vocabulary = load_vocabulary(storage, words)
    users: dict[str, dict[str, Any]] = {}
    for row in storage.read_part(lists, part).to_pylist():
        user = users.setdefault(row["user_id"], {"candidates": [], "held_out": []})
        user["held_out"].append(row["item_id"])
        tokens = [token for token in row["recommended"] or () if token >= 0][:top_n]
        user["candidates"] += [vocabulary.decode(token) for token in tokens]
    return _write(storage, users, histories, folder, part)


def _of_everybody(
    storage: Storage, lists: str, histories: list[str], folder: str, part: str
) -> dict[str, Any]:
    users: dict[str, dict[str, Any]] = {}
    for row in storage.read_part(lists, part).sort_by("position").to_pylist():
        user = users.setdefault(row["user_id"], {"candidates": [], "held_out": []})
        user["candidates"].append(row["item_id"])
    return _write(storage, users, histories, folder, part)


def _write(
    storage: Storage,
    users: dict[str, dict[str, Any]],
    histories: Sequence[str],
    folder: str,
    part: str,
) -> dict[str, Any]:
    had: dict[str, list[str]] = {user: [] for user in users}
    for place in histories:
        for row in storage.read_part(place, part, columns=["user_id", "item_id"]).to_pylist():
            if row["user_id"] in had:
                had[row["user_id"]].append(row["item_id"])
    rows = [{"user_id": user, "history": had[user], **users[user]} for user in sorted(users)]
    table = validate(pa.Table.from_pylist(rows, schema=SCHEMA), SCHEMA, part)
    storage.write_part(table, {"users": len(rows)}, folder, part)
    return {"users": len(rows)}


def measured(own: RerankConfig, context: Context) -> dict[str, Any]:
    """NDCG@10 of the held-out events of the users that were asked about, in both orders; where
    there is no accepted answer, the order stays."""
    storage, track = context.storage, f"text/{own.name}"
    users, values, num_reordered = [], [], 0
    asked = _asked_users(storage, context.folder(f"{track}/plan"))
    for part in storage.parts(context.folder(f"{track}/{CANDIDATES}")):
        new = {
            row["user_id"]: row["item_ids"]
            for row in storage.read_part(context.folder(f"{track}/rows"), part).to_pylist()
        }
        for row in storage.read_part(context.folder(f"{track}/{CANDIDATES}"), part).to_pylist():
            if row["user_id"] in asked:
                num_reordered += row["user_id"] in new
                after = new.get(row["user_id"], row["candidates"])
                users.append(row["user_id"])
                values.append(
                    [ndcg(order, row["held_out"]) for order in (row["candidates"], after)]
                )
    if not users:
        context.progress.note(f"{own.name}: no held-out user has a list to reorder")
        return Reranked.keeps({"users": 0, "reordered": 0, "ndcg_at_10": None})
    pairs = np.array(values).reshape(-1, 2)
    order = np.argsort(np.array(users))
    [sums] = resampled_sums(
        [users[n] for n in order], [(np.arange(len(users)), pairs[order])],
        context.config.evaluate.num_bootstrap, context.config.seed,
    )  # fmt: skip
    both = means(sums)
    found = {
        "before": interval(both[:, 0]),
        "after": interval(both[:, 1]),
        "difference": interval(both[:, 1] - both[:, 0]),
    }
    context.progress.note(
        f"{own.name}: NDCG@{_K} of {len(users):,} users {found['before']['mean']:.4f}, reordered "
        f"{found['after']['mean']:.4f}: {found['difference']['mean']:+.4f} "
        f"({found['difference']['low']:+.4f} to {found['difference']['high']:+.4f})"
    )
    return Reranked.keeps({"users": len(users), "reordered": num_reordered, "ndcg_at_10": found})


def _asked_users(storage: Storage, plan: str) -> set[str]:
    return {
        user
        for part in storage.parts(plan)
        for user in storage.read_part(plan, part, columns=["user_id"])["user_id"].to_pylist()
    }


def ndcg(items: Sequence[str], held_out: Sequence[str]) -> float:
    """Mean over the held-out items of what each would count alone."""
    ranks = [items.index(item) if item in items else _K for item in held_out]
    return mean_ndcg_at_10(np.array(ranks))
