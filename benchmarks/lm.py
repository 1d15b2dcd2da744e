"""Every behaviour model on held-out events: perplexity, HR@10 and NDCG@10.

Trains each model through its stage on the training events of MovieLens-100K (and of the
Games set, where its folder is given), loads what was saved, and asks for each user's last
event, leave-one-out. Perplexity is over the catalogue, and once more over what of it is not
in the history (few people take a film twice); the ranking is over the latter. `uniform` and
`ngram-1` (popularity) are the floor.

    python benchmarks/lm.py
    python benchmarks/lm.py --max-train-events 5                    # thin logs
    python benchmarks/lm.py --games PATH --models ngram-3,causal-ids
    python benchmarks/lm.py --sample-users 0.05 --num-steps 20      # does it run?
    python benchmarks/lm.py --models causal,causal-private          # the cost of epsilon 8
    python benchmarks/lm.py --of-run demo/runs/demo                 # the model that a run trained
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from llmaug import pipeline
from llmaug.commands.datasets import write_ml_100k
from llmaug.config import BEHAVIOUR_MODELS, parse_config
from llmaug.core.cluster import disconnect
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.core.stored import read_config
from llmaug.core.terminal import Terminal
from llmaug.errors import UserError
from llmaug.ingest.split import TEST, TRAIN, VALIDATION
from llmaug.items.arrays import padded_prompts
from llmaug.items.sequences import user_histories
from llmaug.items.vocabulary import BOS, NUM_SPECIAL, Vocabulary, load_vocabulary
from llmaug.lm import train as lm_train
from llmaug.lm.language import load_language
from llmaug.lm.masked import completion
from llmaug.lm.ngram import model as ngram
from llmaug.training.ranking import ndcg, target_ranks
from llmaug.training.validation import ValidationUsers

MODELS: dict[str, dict[str, Any]] = {
    "uniform": {},
    **{f"ngram-{order}": {"model": "ngram", "order": order} for order in (1, 2, 3, 4)},
    "causal-ids": {"item_features": False},
    "causal": {},
    "causal-cold": {"cold_items_are_negatives": False},
    "causal-3-ways": {"directions": {"forward": 0.5, "reverse": 0.25, "infill": 0.25}},
    "causal-users": {"user_attributes": ["age", "gender", "occupation"]},
    "causal-private": {
        "private": {"epsilon": 8.0, "delta": 1e-4},
        "batch_size": 256,
        "num_steps": 200,
        "learning_rate": 2e-3,
        "warmup_steps": 20,
        "validate_every": 100,
        "dropout": 0.0,
    },
    "masked-ids": {"model": "masked", "item_features": False},
    "masked": {"model": "masked"},
}
"""Name: fields of `lm`, which go before the options. Those with features need tags, `causal-users`
a users table."""


def main(
    games: Annotated[Path | None, typer.Option(help="Folder of the Games set, to add it.")] = None,
    of_run: Annotated[
        Path | None, typer.Option(help="Folder of a run: measure its model, and train none.")
    ] = None,
    films: Annotated[bool, typer.Option(help="Measure on MovieLens-100K.")] = True,
    models: Annotated[str, typer.Option(help="Names, by commas.")] = ",".join(MODELS),
    title_words: Annotated[bool, typer.Option(help="Words of titles are tags.")] = False,
    text_encoder: Annotated[
        Path | None, typer.Option(help="Folder of a sentence encoder that reads the titles.")
    ] = None,
    num_steps: Annotated[int, typer.Option(help="Steps of neural models at most.")] = 2000,
    max_train_events: Annotated[int | None, typer.Option(help="Last events a user.")] = None,
    sample_users: Annotated[float, typer.Option(help="Share of the users.")] = 1.0,
    threads: Annotated[int, typer.Option(help="CPU threads of training.")] = 1,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 7,
) -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    wanted = [name.strip() for name in models.split(",")]
    if unknown := set(wanted) - set(MODELS):
        raise typer.BadParameter(f"no model {sorted(unknown)}; there are {list(MODELS)}")
    shared = {
        "seed": seed,
        "split": {"kind": "leave_one_out", "max_train_events": max_train_events},
        "vocabulary": {
            "title_words": title_words,
            "text_encoder": str(text_encoder.resolve()) if text_encoder else None,
        },
    }
    training = {"num_steps": num_steps, "stop_on": "perplexity", "threads_per_worker": threads}
    if of_run:
        return _report([_measure_run(of_run)], {"of_run": of_run.name})
    results = []
    with tempfile.TemporaryDirectory() as root:
        for dataset, ingest in _datasets(root, games, sample_users).items():
            if dataset == "ml-100k" and not films:
                continue
            config = {**shared, "name": dataset, "ingest": ingest}
            results += _measure(Storage(root), dataset, config, training, wanted)
        disconnect()
    options = {"num_steps": num_steps, "max_train_events": max_train_events,
               "sample_users": sample_users, "title_words": title_words,
               "text_encoder": bool(text_encoder), "seed": seed}  # fmt: skip
    _report(results, options)


def _report(results: list[dict[str, Any]], options: dict[str, Any]) -> None:
    _print(results)
    print(json.dumps({"benchmark": "lm", **options, "results": results}))


def _datasets(root: str, games: Path | None, sample_users: float) -> dict[str, dict[str, Any]]:
    """Name: fields of `ingest`."""
    write_ml_100k(f"{root}/ml-100k")
    found = {
        "ml-100k": {
            "path": f"{root}/ml-100k/events",
            "k_core": 5,
            "items": {"path": f"{root}/ml-100k/items"},
            "users": {"path": f"{root}/ml-100k/users"},
        }
    }
    if games is not None:
        folder = games.resolve()
        found["games"] = {
            "path": str(folder / "events.parquet"),
            # It has an order but no times: positions stand in as seconds since 1970.
            "columns": {"timestamp": "position"},
            "timestamp_unit": "s",
            "earliest": "1970-01-01T00:00:00+00:00",
            "items": {"path": str(folder / "items.parquet")},
        }
    return {name: {**ingest, "sample_users": sample_users} for name, ingest in found.items()}


def _measure(
    storage: Storage,
    dataset: str,
    raw: dict[str, Any],
    training: dict[str, Any],
    wanted: list[str],
) -> list[dict[str, Any]]:
    """One row of figures a model."""
    plain = parse_config({**raw, "lm": training})
    pipeline.run(plain, storage, dataset, until="vocabulary")
    context = Context(storage, plain, dataset)
    vocabulary = load_vocabulary(storage, context.folder("vocabulary"))
    held_out = _held_out(context, vocabulary)
    has_features = vocabulary.has_features(plain.vocabulary.min_tag_items).any()
    rows = []
    for name in wanted:
        known = BEHAVIOUR_MODELS.fields_of(MODELS[name])  # counts take no steps
        taught = {field: training[field] for field in training if field in known}
        lm = {**taught, **MODELS[name], "name": name}
        needs_features = MODELS[name].get("model") != "ngram" and lm.get("item_features", True)
        if name != "uniform" and needs_features and not has_features:
            print(f"{dataset}: no item has tags or a text, {name} is left out")
            continue
        if "user_attributes" in lm and "users" not in raw["ingest"]:
            print(f"{dataset}: there is no users table, {name} is left out")
            continue
        model = replace(context, config=parse_config({**raw, "lm": lm}))
        begin = time.monotonic()
        facts = lm_train.run(model) if name != "uniform" else {}
        seconds = time.monotonic() - begin
        score = _scorer(model, name, vocabulary, facts)
        rows.append(_row(dataset, name, vocabulary, held_out, score, facts, seconds))
        print(json.dumps(rows[-1]))
    return rows


def _measure_run(run: Path) -> dict[str, Any]:
    """The row of the behaviour model that a run has trained."""
    storage = Storage(str(run.parent.parent))
    context = Context(storage, read_config(storage, run.name), run.name)
    name = context.config.lm.name
    trained = context.manifest(f"lm/{name}")
    vocabulary = load_vocabulary(storage, context.folder("vocabulary"))
    score = _scorer(context, name, vocabulary, trained["counts"])
    held_out = _held_out(context, vocabulary)
    seconds = trained["seconds"]
    return _row(run.name, name, vocabulary, held_out, score, trained["counts"], seconds)


def _row(
    dataset: str,
    name: str,
    vocabulary: Vocabulary,
    held_out: ValidationUsers,
    score: Any,
    facts: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    ranks = target_ranks(score, held_out.user_ids, held_out.histories, held_out.targets)
    unseen = held_out.log_likelihood(score, exclude_seen=True)
    return {
        "dataset": dataset,
        "model": name,
        "num_events": len(ranks),
        "num_items": vocabulary.num_items,
        "perplexity": round(math.exp(-held_out.log_likelihood(score)), 2),
        "perplexity_unseen": round(math.exp(-unseen), 2),
        "hr@10": round(float((ranks < 10).mean()), 4),
        "ndcg@10": round(float(ndcg(ranks, 10).mean()), 4),
        "train_seconds": round(seconds, 1),
        "steps": facts.get("steps"),
        "best_step": facts.get("best_step"),
    }


def _held_out(context: Context, vocabulary: Vocabulary) -> ValidationUsers:
    """Users with their training and validation events, and the first test event after them."""
    storage, split = context.storage, context.folder("split")
    users: dict[str, tuple[list[int], int]] = {}
    for part in storage.parts(f"{split}/{TEST}"):
        before = [f"{split}/{TRAIN}", f"{split}/{VALIDATION}"]
        known = user_histories(storage, before, part, vocabulary)
        for user, tokens in user_histories(storage, [f"{split}/{TEST}"], part, vocabulary).items():
            if tokens and known.get(user):
                users[user] = (known[user], tokens[0])
    if not users:
        raise UserError("no user has a history and a held-out event: raise --sample-users")
    return ValidationUsers(
        list(users), [history for history, _ in users.values()], [t for _, t in users.values()]
    )


def _scorer(context: Context, name: str, vocabulary: Vocabulary, facts: dict[str, Any]) -> Any:
    """What ranks: (users, histories) to (B, num_tokens) logits, by the saved model."""
    import torch

    storage, folder = context.storage, context.folder(f"lm/{name}")
    if name == "uniform":
        return lambda users, histories: torch.zeros(len(users), vocabulary.num_tokens)
    if context.config.lm.model == "ngram":
        counted = ngram.load_ngram(storage, folder, vocabulary)

        def by_counts(users: list[str], histories: list[list[int]]) -> Any:
            p = counted.probabilities([[BOS, *history] for history in histories])
            return torch.from_numpy(np.pad(np.log(p), ((0, 0), (NUM_SPECIAL, 0))))

        return by_counts
    if context.config.lm.model == "masked":
        return completion.load_completer(storage, folder, vocabulary, facts["model_digest"]).score
    return CausalScorer(context, folder, vocabulary)


class CausalScorer:
    """The exported Llama, asked forward with what is known of the user."""

    def __init__(self, context: Context, folder: str, vocabulary: Vocabulary) -> None:
        from transformers import AutoModelForCausalLM

        storage, users = context.storage, context.folder("ingest/users")
        self._language = load_language(storage, folder, vocabulary)
        self._model = AutoModelForCausalLM.from_pretrained(
            storage.path(folder), trust_remote_code=False
        ).eval()
        self._max_len = context.config.lm.context_len
        self._attributes = {
            row["user_id"]: dict(row["attributes"] or ())
            for part in storage.parts(users)
            for row in storage.read_part(users, part).to_pylist()
        }

    def __call__(self, users: list[str], histories: list[list[int]]) -> Any:
        import torch

        language = self._language
        prompts = [
            language.forward_prompt(
                history, self._max_len, language.user_tokens(self._attributes.get(user))
            )
            for user, history in zip(users, histories, strict=True)
        ]
        tokens, last = (torch.from_numpy(x) for x in padded_prompts(prompts))
        hidden = self._model.model(tokens, use_cache=False).last_hidden_state
        logits = self._model.lm_head(hidden[torch.arange(len(last)), last])
        return logits[:, : language.num_words]


def _print(results: list[dict[str, Any]]) -> None:
    names = ("data", "model", "perplexity", "(unseen)", "HR@10", "NDCG@10", "seconds", "steps")
    table = Table(*names, box=None)
    for row in results:
        table.add_row(
            row["dataset"], row["model"], f"{row['perplexity']:.1f}",
            f"{row['perplexity_unseen']:.1f}", f"{row['hr@10']:.4f}", f"{row['ndcg@10']:.4f}",
            f"{row['train_seconds']:.0f}", str(row["steps"] or ""),
        )  # fmt: skip
    Terminal(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
