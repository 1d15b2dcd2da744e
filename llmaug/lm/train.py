"""Stage `lm/<name>`: the behaviour model, from training events alone.

Neural models train in the Ray Train loop that they share with the recommenders.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from llmaug.config import Config
from llmaug.core.stage import Context, Stage
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.split import TRAIN, VALIDATION
from llmaug.ingest.users import attributes_digest, load_users
from llmaug.items.semantic_ids import read_ids
from llmaug.items.sequences import Batches, load_sequences
from llmaug.items.vocabulary import Vocabulary, load_statistics, load_vocabulary
from llmaug.lm import package_of
from llmaug.lm.causal.documents import Documents
from llmaug.lm.causal.language import Attributes, Language, known_attributes
from llmaug.lm.chat import choices
from llmaug.lm.chat import fit as instruct
from llmaug.lm.earlier import EarlierModel, find_earlier, refuse_leaks
from llmaug.lm.masked.masking import MaskedBatches
from llmaug.lm.ngram import model as ngram
from llmaug.training.loop import Task
from llmaug.training.trainer import fit
from llmaug.training.validation import load_validation


def run(context: Context) -> dict[str, Any]:
    config = context.config
    check_learnable(load_vocabulary(context.storage, context.folder("vocabulary")), config)
    if config.lm.model == "ngram":
        return ngram.fit(context)
    if config.lm.model == "instruct":
        return instruct.fit(context)
    name = f"lm/{config.lm.name}"
    needed = {"model": name} | {n: n for n in ("split", "vocabulary", "ingest/users")}
    folders = {key: context.folder(value) for key, value in needed.items()}
    arguments = (context.storage, folders, config)
    build: Callable[..., Task] = partial(CausalTask, *arguments)
    if config.lm.model == "masked":
        build = partial(MaskedTask, *arguments)
    elif config.lm.warm_start:
        refuse_leaks(context, config.lm.warm_start, _WARM_START)
        build = partial(CausalTask, *arguments, _earlier(context))
    facts = fit(context, name, build, config.lm, config.seed)
    if facts["windowed_histories"]:
        context.progress.note(
            f"{facts['windowed_histories']:,} histories are longer than lm.context_len "
            f"{config.lm.context_len}: each visit reads another window of them"
        )
    return facts


def _earlier(context: Context) -> EarlierModel | None:
    run_id = context.config.lm.warm_start
    return find_earlier(context, run_id, _WARM_START) if run_id else None


def check_learnable(vocabulary: Vocabulary, config: Config) -> None:
    """Raises UserError when no model could learn anything from such a catalogue."""
    most = max(vocabulary.items["train_events"].to_pylist())
    if most == 0:
        raise UserError("there is no training event: check ingest.start, ingest.end and the split")
    reads_features = config.lm.model != "ngram" and config.lm.item_features
    min_tag_items = config.vocabulary.min_tag_items
    if most == 1 and not (reads_features and vocabulary.has_features(min_tag_items).any()):
        raise UserError(
            "every item has a single training event, and there are neither tags that items share "
            "nor text vectors: nothing can be learnt. Read more days (ingest.start, ingest.end), "
            "or give a table of items with tags (ingest.items) or vocabulary.text_encoder, and "
            "set lm.item_features"
        )


_BATCH = 256  # validation users at a time
_WARM_START = "lm.warm_start"


class LmTask:
    """What tasks of neural behaviour models share; built inside each worker."""

    model: Any
    patient_until = 0
    ranks = True
    """Whether it can rank the catalogue after a history."""
    window: int
    """Tokens of a sequence that a visit reads, less one."""

    def __init__(self, storage: Storage, folders: dict[str, str], config: Config) -> None:
        """folders: of model, split, vocabulary and ingest/users."""
        self._storage, self._folders, self._config = storage, folders, config
        self._vocabulary = self._events(load_vocabulary(storage, folders["vocabulary"]))
        train, validation = (f"{folders['split']}/{fold}" for fold in (TRAIN, VALIDATION))
        self._sequences = load_sequences(storage, train, self._vocabulary)
        self._validation = load_validation(
            storage, train, validation, self._vocabulary, config.seed
        )
        self.metric = "log_likelihood" if config.lm.stop_on == "perplexity" else "ndcg"

    def _events(self, vocabulary: Vocabulary) -> Vocabulary:
        """The vocabulary whose events the model learns: items alone, unless it says more."""
        return vocabulary

    def weight(self, batch: tuple[Any, ...]) -> float:
        return float(batch[1].sum())

    def validate(self) -> float:
        if self.metric == "log_likelihood":
            return self._validation.log_likelihood(self.score)
        return self._validation.ndcg_at_10(self.score, self._config.evaluate.exclude_seen)

    def score(self, users: list[str], histories: list[list[int]]) -> Any:
        """(B, V) scores of the vocabulary after each history."""
        return self.model.score(users, histories)

    def facts(self) -> dict[str, Any]:
        """What the manifest and the model's notes say of every model."""
        longer = np.diff(self._sequences.offsets) > self.window + 1
        return {
            "name": self._config.lm.name,
            "num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "windowed_histories": int(longer.sum()),
        }

    def saved(self, save: Callable[..., str]) -> dict[str, Any]:
        """The facts and the digest of the model, which `save` writes, and how it ranks: what was
        measured of a generator is no part of who it is, so its digest and answers stay."""
        facts = self.facts()
        digest = save(self._storage, self._folders["model"], self.model, self._vocabulary, facts)
        return {**facts, "model_digest": digest, **self._ranking()}

    def _ranking(self) -> dict[str, Any]:
        """{"validation_ndcg"}, comparable with a recommender's, where training did not stop by it
        (then it stands in the facts of `fit`)."""
        if not self.ranks or self.metric == "ndcg":
            return {}
        self.model.eval()
        ndcg = self._validation.ndcg_at_10(self.score, self._config.evaluate.exclude_seen)
        return {"validation_ndcg": None if math.isnan(ndcg) else ndcg}


class CausalTask(LmTask):
    def __init__(
        self,
        storage: Storage,
        folders: dict[str, str],
        config: Config,
        earlier: EarlierModel | None = None,
    ) -> None:
        """earlier: the model to start from."""
        from llmaug.lm.causal.model import CausalLm

        super().__init__(storage, folders, config)
        lm = config.lm
        attributes, of_user = self._user_attributes()
        items = read_ids(storage, folders["vocabulary"])
        num_words = items.num_words if items else self._vocabulary.num_tokens
        language = Language(
            num_words, len(lm.directions) > 1, attributes, items, self._vocabulary.actions
        )
        if language.ids:  # ranking would need the paths of all items
            self.ranks, self.metric = False, "log_likelihood"
        self.window = lm.context_len // language.word_len  # the last token is only asked for
        self._user_tokens = {user: language.user_tokens(found) for user, found in of_user.items()}
        users = None
        if attributes:
            nobody = language.user_tokens(None)
            users = [self._user_tokens.get(user, nobody) for user in self._sequences.user_ids]
        self._documents = Documents(
            Batches(self._sequences, lm.batch_size, self.window, config.seed),
            language, lm.directions, lm.context_len, lm.packed, users, config.seed,
        )  # fmt: skip
        min_tag_items = config.vocabulary.min_tag_items
        self.model = CausalLm(lm, self._vocabulary, min_tag_items, language)
        self._taken: dict[str, int] = {}
        if earlier is not None:
            from llmaug.lm.causal.warm_start import warm_start

            self._taken = warm_start(
                self.model, self._vocabulary, min_tag_items, storage, earlier.folder,
                earlier.vocabulary, earlier.digest,
            )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **self._taken}

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Any, ...]:
        return self._documents.at(step, rank, world_size)

    def score(self, users: list[str], histories: list[list[int]]) -> Any:
        """(B, V) logits after each history, users' attributes before it."""
        language, max_len = self.model.language, self._config.lm.context_len
        nobody = language.user_tokens(None)
        prompts = [
            language.forward_prompt(history, max_len, self._user_tokens.get(user, nobody))
            for user, history in zip(users, histories, strict=True)
        ]
        return self.model.next_logits(prompts)

    def validate(self) -> float:
        language, users = self.model.language, self._validation
        if language.ids is None:
            return super().validate()
        import torch

        room = self._config.lm.context_len - language.word_len
        nobody, found = language.user_tokens(None), [torch.empty(0)]
        for start in range(0, len(users.targets), _BATCH):
            piece = slice(start, start + _BATCH)
            prompts = [
                language.forward_prompt(history, room, self._user_tokens.get(user, nobody))
                for user, history in zip(users.user_ids[piece], users.histories[piece], strict=True)
            ]
            targets = [language.spell([target]) for target in users.targets[piece]]
            with torch.inference_mode():
                found.append(self.model.log_likelihood(prompts, targets).cpu())
        return float(torch.cat(found).double().mean())  # NaN without users

    def export(self) -> dict[str, Any]:
        from llmaug.lm.causal.model import save

        return self.saved(save)

    def _events(self, vocabulary: Vocabulary) -> Vocabulary:
        """With actions, where the training events have several."""
        actions = load_statistics(self._storage, self._folders["vocabulary"]).actions
        if len(actions) < 2 or not self._config.lm.action_tokens:
            return vocabulary
        return replace(vocabulary, actions=tuple(actions))

    def _user_attributes(self) -> tuple[Attributes, dict[str, dict[str, str]]]:
        """The attributes to read, and those of each training user."""
        names = self._config.lm.user_attributes
        if not names:
            return (), {}
        everyone = load_users(self._storage, self._folders["ingest/users"]).by_id()
        trained = set(self._sequences.user_ids)
        of_user = {user: found for user, found in everyone.items() if user in trained}
        found = known_attributes(names, of_user.values(), self._config.lm.min_attribute_users)
        return found, of_user


class MaskedTask(LmTask):
    def __init__(self, storage: Storage, folders: dict[str, str], config: Config) -> None:
        from llmaug.lm.masked.model import MaskedLm

        super().__init__(storage, folders, config)
        lm = config.lm
        self.model = MaskedLm(lm, self._vocabulary, config.vocabulary.min_tag_items)
        self.window = lm.context_len - 1
        batches = Batches(self._sequences, lm.batch_size, self.window, config.seed)
        self._batches = MaskedBatches(batches, self.model.mask, lm.mask_share, config.seed)

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Any, ...]:
        return self._batches.at(step, rank, world_size)

    def export(self) -> dict[str, Any]:
        from llmaug.lm.masked.model import save

        return self.saved(save)


def stage(name: str) -> Stage:
    """The stage that trains `lm/<name>`."""
    return Stage(
        name=f"lm/{name}",
        run=run,
        inputs=("split", "vocabulary"),
        roots=lambda config: (package_of(config.lm.model),),
        settings=lambda config: [
            config.lm,
            config.vocabulary,
            config.evaluate.exclude_seen,
            choices.num_candidates(config) if config.lm.finetune else None,
        ],
        outside=lambda context: [
            found.digest if (found := _earlier(context)) else None,
            attributes_digest(context),
        ],
    )
