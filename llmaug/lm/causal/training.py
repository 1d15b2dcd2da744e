"""Training of the causal model, from training events alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from llmaug.config import CausalConfig, Config
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.ingest.users import load_users
from llmaug.items.batches import Batches
from llmaug.items.semantic_ids import read_ids
from llmaug.items.vocabulary import Vocabulary, load_statistics
from llmaug.lm.causal.documents import Documents
from llmaug.lm.earlier import WARM_START, EarlierModel, find_earlier, refuse_leaks, still_there
from llmaug.lm.language import Attributes, Language, known_attributes
from llmaug.lm.task import LmTask, fit_task, folders_of

_BATCH = 256  # validation users at a time


def train(context: Context) -> dict[str, Any]:
    """Fit `lm/<name>`; returns facts of the model."""
    lm = context.config.lm
    assert isinstance(lm, CausalConfig)
    earlier = None
    if lm.warm_start:
        earlier = find_earlier(context, lm.warm_start, WARM_START)
        refuse_leaks(context, earlier, WARM_START)
    build = partial(CausalTask, context.storage, folders_of(context), context.config, earlier)
    facts = fit_task(context, build, lm)
    if earlier is None:
        return facts
    return facts | {"learned_from": still_there(context.storage, earlier)}


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

        lm = config.lm
        assert isinstance(lm, CausalConfig)
        self._lm = lm
        super().__init__(storage, folders, config)
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
        if lm.private:
            from llmaug.lm.causal.private import private_steps

            names = self._sequences.user_ids
            assert len(set(names)) == len(names), "a user with two sequences would count twice"
            self.private = private_steps(lm, self.model, self._documents, items is not None)
        self._taken: dict[str, int] = {}
        if earlier is not None:
            from llmaug.lm.causal.warm_start import warm_start

            self._taken = warm_start(
                self.model, self._vocabulary, min_tag_items, storage, earlier.folder,
                earlier.vocabulary, earlier.digest,
            )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        private = {"private": self.private.facts()} if self.private else {}
        return {**super().facts(), **self._taken, **private}

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
        if len(actions) < 2 or not self._lm.action_tokens:
            return vocabulary
        return replace(vocabulary, actions=tuple(actions))

    def _user_attributes(self) -> tuple[Attributes, dict[str, dict[str, str]]]:
        """The attributes to read, and those of each training user."""
        names = self._lm.user_attributes
        if not names:
            return (), {}
        everyone = load_users(self._storage, self._folders["ingest/users"])
        of_user = everyone.attributes_of(self._sequences.user_ids)
        found = known_attributes(names, of_user.values(), self._lm.min_attribute_users)
        return found, of_user
