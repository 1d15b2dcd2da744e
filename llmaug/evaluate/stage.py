"""Before and after, on held-out real events: full ranking, paired bootstrap over users.

Every user with a training history and a held-out event (or a sample of them, see `sample`) is
ranked by every trained model; the ranks are written (`evaluation/<model>/part-*.parquet`), and
all figures are computed from them, so anyone can compute them again. They are summed up part by
part (`sums`, `lists`, `satisfaction`), and only sums reach the driver.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug import recommenders
from llmaug.arms.arms import Arm
from llmaug.config import EvaluateConfig
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.evaluate import labels, ratings
from llmaug.evaluate.comparison import Lists, Model, figures, segments, sum_lists, sum_ranks
from llmaug.evaluate.figures import Figures
from llmaug.evaluate.sample import Sample, drawn, held_out_users, write_keys
from llmaug.evaluate.satisfaction import from_sums, sum_users
from llmaug.ingest.split import TEST, TRAIN, VALIDATION
from llmaug.items.sequences import timed_events, user_histories
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary, load_vocabulary
from llmaug.schema import RANK, validate
from llmaug.training.ranking import rank_targets, users_at_once

SUMS, LISTS, SATISFACTION, LABELS = "sums", "lists", "satisfaction", "labels"
RATINGS = "ratings"
SAMPLE = "sample"

_SUMS_SCHEMA = pa.schema({"segment": pa.string(), "sums": pa.list_(pa.float64())})
_ARM_SCHEMA = pa.schema({"arm": pa.string(), "sums": pa.list_(pa.float64())})
_LISTS_SCHEMA = pa.schema(
    {
        "arm": pa.string(),
        "seed": pa.int32(),
        "k": pa.int32(),
        "items": pa.list_(pa.int32()),  # those in anybody's list
        "exposures": pa.list_(pa.int64()),  # and in how many
        "unlike": pa.float64(),
        "num_pairs": pa.int64(),
    }
)


def run(arms: tuple[Arm, ...], context: Context) -> dict[str, Any]:
    storage, config = context.storage, context.config
    split, folder = context.folder("split"), context.folder("evaluation")
    parts = storage.parts(f"{split}/{TEST}")
    models: list[Model] = [(arm.name, seed) for arm in arms for seed in config.train.seeds]
    sample = _draw(context, parts)
    for arm, seed in models:
        trained = context.manifest(f"model/{arm}")["counts"][f"seed-{seed}"]
        model = (context.folder(f"model/{arm}/seed-{seed}"), trained["model_digest"])
        work = partial(
            _rank_part, storage, model, split, _folder_of(folder, (arm, seed)), arm, seed,
            config.evaluate, sample=sample,
        )  # fmt: skip
        map_parts(context, _folder_of(folder, (arm, seed)), parts, work)
    vocabulary = context.folder("vocabulary")
    add_up = partial(
        _sum_part, storage, folder, split, models, vocabulary, config.evaluate, config.seed
    )
    map_parts(context, f"{folder}/{SUMS}", parts, add_up)
    train_events = load_vocabulary(storage, vocabulary).items["train_events"].to_numpy()
    sums, lists = _total(storage, folder, parts, len(train_events))
    found = figures(
        sums, lists, models, train_events, config.evaluate, config.seed, config.gate.arm
    )
    if sample is not None:
        found["interval"]["sampled_from"] = sample.num_users
    found["satisfaction"] = {
        arm: judged
        for arm, own in _add_rows(storage, f"{folder}/{SATISFACTION}", parts, "arm").items()
        if (judged := from_sums(own))["num_users_with_ratings"]
    }
    found["labels"] = {
        arm: labels.from_sums(own)
        for arm, own in _add_rows(storage, f"{folder}/{LABELS}", parts, "arm").items()
    }
    found["ratings"] = ratings.from_sums(_add_rows(storage, f"{folder}/{RATINGS}", parts, "arm"))
    if found["num_users"] < config.evaluate.min_users:
        context.progress.warn(
            f"only {found['num_users']} held-out users with a history: the intervals are wide"
        )
    return Figures.keeps(found)


def _folder_of(folder: str, model: Model) -> str:
    return f"{folder}/{model[0]}-seed-{model[1]}"


def _draw(context: Context, parts: list[str]) -> Sample | None:
    """Whom to evaluate; None: everybody."""
    config, storage = context.config, context.storage
    max_users, folder = config.evaluate.max_users, context.folder(f"evaluation/{SAMPLE}")
    if max_users is None:
        return None
    write = partial(
        write_keys, storage, context.folder("split"), context.folder("vocabulary"), folder,
        max_users, config.seed,
    )  # fmt: skip
    num_users = map_parts(context, folder, parts, write)["users"]
    return drawn(storage, folder, parts, max_users, config.seed, num_users)


def _rank_part(
    storage: Storage,
    model_at: tuple[str, str],
    split: str,
    folder: str,
    arm: str,
    seed: int,
    config: EvaluateConfig,
    part: str,
    sample: Sample | None = None,
) -> dict[str, Any]:
    model, vocabulary = recommenders.load_recommender_once(storage, *model_at)
    train = user_histories(storage, [f"{split}/{TRAIN}"], part, vocabulary)
    known = user_histories(storage, [f"{split}/{TRAIN}", f"{split}/{VALIDATION}"], part, vocabulary)
    held_out = timed_events(storage, f"{split}/{TEST}", part, vocabulary)
    users = held_out_users(train, held_out, sample)
    # The first event after the cut-off, or every item once, when it came first.
    last = 1 if config.targets == "first" else None
    first = [dict(reversed(held_out[user])) for user in users]
    targets = [list(dict.fromkeys(t for t, _ in held_out[user]))[:last] for user in users]
    times = [[own[token] for token in some] for own, some in zip(first, targets, strict=True)]
    ranks, best = rank_targets(
        model.score, users, [known[u] for u in users], targets, config.exclude_seen,
        num_best=max(config.cutoffs), batch_size=users_at_once(vocabulary.num_tokens),
        lives=vocabulary.lives, times=times,
    )  # fmt: skip
    row_user = [user for user, own in zip(users, targets, strict=True) for _ in own]
    tokens = [token for own in targets for token in own]
    lists = dict(zip(users, best.tolist(), strict=True))
    of_user = {user: set(known[user]) | set(own) for user, own in zip(users, targets, strict=True)}
    hidden = {
        user: of_user[user] - set(own) if config.exclude_seen else set()
        for user, own in zip(users, targets, strict=True)
    }
    when = [at for own in times for at in own]
    if isinstance(model, recommenders.PredictsRatings):
        test = storage.read_part(f"{split}/{TEST}", part)
        errors = ratings.predicted(model, vocabulary, test.filter(pc.is_in(
            test["user_id"], pa.array(users, pa.string()))))  # fmt: skip
        storage.write_part(errors, {}, f"{folder}/{RATINGS}", part)
    losses: tuple[Any, Any] = [None] * len(tokens), [None] * len(tokens)
    if isinstance(model, recommenders.JudgesPairs) and tokens:
        seen = [of_user[user] for user in row_user]
        losses = labels.pair_losses(model, row_user, tokens, seen, vocabulary.num_items, seed)
    popularity = vocabulary.items["train_events"].to_numpy()
    table = pa.table(
        {
            "user_id": pa.array(row_user, pa.string()),
            "item_id": pa.array([vocabulary.decode(t) for t in tokens], pa.string()),
            "arm": pa.array([arm] * len(tokens), pa.string()),
            "seed": pa.array([seed] * len(tokens), pa.int32()),
            "rank": pa.array(ranks, pa.int32()),
            "num_ranked": pa.array(
                [
                    num_there(vocabulary, hidden[user], token, at)
                    for user, token, at in zip(row_user, tokens, when, strict=True)
                ],
                pa.int32(),
            ),
            "history_len": pa.array([len(train[u]) for u in row_user], pa.int32()),
            "item_train_events": pa.array(
                [popularity[t - NUM_SPECIAL] for t in tokens], pa.int32()
            ),
            "recommended": pa.array(
                [lists.pop(user, None) for user in row_user], pa.list_(pa.int32())
            ),
            "log_loss": pa.array(losses[0], pa.float64()),
            "squared_error": pa.array(losses[1], pa.float64()),
        }
    )
    storage.write_part(validate(table, RANK, part), {"users": len(users)}, folder, part)
    return {"users": len(users)}


def num_there(vocabulary: Vocabulary, hidden: set[int], target: int, at: float) -> int:
    """How many items a target is ranked among: those that are there at its time (seconds since
    1970) and not hidden, with itself."""
    lives = vocabulary.lives
    if lives is None:
        return vocabulary.num_items - len(hidden)
    gone = lives.gone(np.array([at]))[0]
    gone[target] = False
    return vocabulary.num_items - int(gone.sum()) - sum(not gone[token] for token in hidden)


# -- sums over users, part by part ---------------------------------------------------------


def _sum_part(
    storage: Storage,
    folder: str,
    split: str,
    models: list[Model],
    vocabulary_folder: str,
    config: EvaluateConfig,
    seed: int,
    part: str,
) -> dict[str, Any]:
    vocabulary = load_vocabulary(storage, vocabulary_folder)
    ranks = [storage.read_part(_folder_of(folder, model), part) for model in models]
    found = []
    for (arm, model_seed), table in zip(models, ranks, strict=True):
        recommended = table["recommended"].drop_null().combine_chunks()
        best = recommended.flatten().to_numpy().reshape(-1, max(config.cutoffs))
        for k in config.cutoffs:
            lists = sum_lists(best, k, vocabulary)
            items = np.flatnonzero(lists.exposures)
            found.append(
                {"arm": arm, "seed": model_seed, "k": k, "items": items,
                 "exposures": lists.exposures[items], "unlike": lists.unlike,
                 "num_pairs": lists.num_pairs}
            )  # fmt: skip
    table = pa.Table.from_pylist(found, schema=_LISTS_SCHEMA)
    storage.write_part(table, {}, f"{folder}/{LISTS}", part)
    table = _judged(storage, split, models, ranks, vocabulary, config, seed, part)
    storage.write_part(table, {}, f"{folder}/{SATISFACTION}", part)
    storage.write_part(_labelled(models, ranks, config, seed), {}, f"{folder}/{LABELS}", part)
    table = _rated(storage, folder, models, config, seed, part)
    storage.write_part(table, {}, f"{folder}/{RATINGS}", part)
    parts = segments(vocabulary.items["train_events"].to_numpy())
    sums = sum_ranks(ranks, parts, config, seed)
    rows = [{"segment": name, "sums": row} for name, own in sums.items() for row in own]
    table = pa.Table.from_pylist(rows, schema=_SUMS_SCHEMA)
    storage.write_part(table, {}, f"{folder}/{SUMS}", part)  # last: its note says "done"
    return {}


def _judged(
    storage: Storage,
    split: str,
    models: list[Model],
    ranks: list[pa.Table],
    vocabulary: Vocabulary,
    config: EvaluateConfig,
    seed: int,
    part: str,
) -> pa.Table:
    """Satisfaction sums of each arm's first seed, the one that may be published; no rows
    where nobody rated anything later."""
    held_out, training = (storage.read_part(f"{split}/{fold}", part) for fold in (TEST, TRAIN))
    has_ratings = held_out["value"].null_count < held_out.num_rows
    rows: list[dict[str, Any]] = []
    for (arm, model_seed), table in zip(models, ranks, strict=True):
        if has_ratings and model_seed == models[0][1]:
            shown = _recommendations(table, vocabulary)
            k, liked = config.cutoffs[0], config.liked_value
            sums = sum_users(shown, held_out, training, k, liked, config.num_bootstrap, seed)
            rows += [{"arm": arm, "sums": row} for row in sums]
    return pa.Table.from_pylist(rows, schema=_ARM_SCHEMA)


def _labelled(
    models: list[Model], ranks: list[pa.Table], config: EvaluateConfig, seed: int
) -> pa.Table:
    """Sums of the losses of each arm's first seed, where the model judges pairs."""
    rows: list[dict[str, Any]] = []
    for (arm, model_seed), table in zip(models, ranks, strict=True):
        if model_seed == models[0][1] and table["log_loss"].null_count < table.num_rows:
            losses = np.stack([table[n].to_numpy() for n in ("log_loss", "squared_error")], axis=1)
            user_ids = table["user_id"].to_numpy()
            sums = labels.sum_losses(user_ids, losses, config.num_bootstrap, seed)
            rows += [{"arm": arm, "sums": row} for row in sums]
    return pa.Table.from_pylist(rows, schema=_ARM_SCHEMA)


def _rated(
    storage: Storage, folder: str, models: list[Model], config: EvaluateConfig, seed: int, part: str
) -> pa.Table:
    """Sums of the mistakes of each arm's first seed, where the model predicts ratings."""
    rows: list[dict[str, Any]] = []
    for arm, model_seed in models:
        own = f"{_folder_of(folder, (arm, model_seed))}/{RATINGS}"
        if model_seed == models[0][1] and storage.exists(own, f"{part}.json"):
            sums = ratings.sum_errors(storage.read_part(own, part), config.num_bootstrap, seed)
            rows += [{"arm": arm, "sums": row} for row in sums]
    return pa.Table.from_pylist(rows, schema=_ARM_SCHEMA)


def _recommendations(ranks: pa.Table, vocabulary: Vocabulary) -> pa.Table:
    """user_id, item_id, position of the lists in a table of schema RANK."""
    lists = ranks.select(["user_id", "recommended"]).filter(ranks["recommended"].is_valid())
    rows = [
        (user, vocabulary.decode(token), place)
        for user, own in zip(*(lists[n].to_pylist() for n in lists.column_names), strict=True)
        for place, token in enumerate(own, start=1)
        if token >= 0  # -1: items ran out
    ]
    columns = zip(*rows, strict=True) if rows else ([], [], [])
    types = (pa.string(), pa.string(), pa.int32())
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    return pa.table(arrays, names=["user_id", "item_id", "position"])


def _total(
    storage: Storage, folder: str, parts: list[str], num_items: int
) -> tuple[dict[str, np.ndarray], dict[tuple[Model, int], Lists]]:
    """The sums of all parts, added up one part at a time."""
    lists: dict[tuple[Model, int], Lists] = {}
    for part in parts:
        for row in storage.read_part(f"{folder}/{LISTS}", part).to_pylist():
            exposures = np.zeros(num_items, np.int64)
            exposures[row["items"]] = row["exposures"]
            key = (row["arm"], row["seed"]), row["k"]
            lists.setdefault(key, Lists(np.zeros(num_items, np.int64))).add(
                Lists(exposures, row["unlike"], row["num_pairs"])
            )
    return _add_rows(storage, f"{folder}/{SUMS}", parts, "segment"), lists


def _add_rows(
    storage: Storage, folder: str, parts: list[str], column: str
) -> dict[str, np.ndarray]:
    """By name in `column`: the matrices whose rows are `sums`, added up over parts."""
    found: dict[str, np.ndarray] = {}
    for part in parts:
        table = storage.read_part(folder, part)
        for name in dict.fromkeys(table[column].to_pylist()):
            rows = table.filter(pc.equal(table[column], name))["sums"].combine_chunks()
            own = rows.flatten().to_numpy().reshape(len(rows), -1)
            found[name] = found[name] + own if name in found else own
    return found


def stage(arms: tuple[Arm, ...]) -> Stage:
    return Stage(
        name="evaluation",
        run=partial(run, arms),
        asks=lambda config, on_gpus: TASKS,
        inputs=(*(f"model/{arm.name}" for arm in arms), "split", "vocabulary"),
        roots=lambda config: recommenders.roots_of(config, arms),
        settings=lambda config: [config.evaluate, config.train.seeds, config.gate.arm],
    )
