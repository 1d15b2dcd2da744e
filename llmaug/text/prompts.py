"""A row as a question: tokens for vLLM, text for an endpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.lm.chat.tokenizer import load_tokenizer
from llmaug.text.cleaning import CutText, Fields, control_tokens, cut_by_length, cut_by_tokens
from llmaug.text.model import ChatModel
from llmaug.text.task import Row, Task
from llmaug.text.templates import render

_SHORTEST = 8  # tokens of a field


@dataclass(frozen=True)
class Question:
    """What is asked about a row."""

    text: str
    tokens: list[int]
    """With the frame of the chat template; empty where an endpoint is asked."""
    num_cut: int
    """Fields that were cut."""
    num_controls: int
    """Fields in which a control token was broken up."""


class Asking:
    """Makes the questions of one task; keeps the tokenizer."""

    def __init__(self, storage: Storage, model: ChatModel, task: Task, context_len: int) -> None:
        """context_len: tokens of question and answer together."""
        self._task, self._model = task, model
        self._room = context_len - task.max_new_tokens
        self._tokenizer: Any = None
        self._controls: dict[str, int] = {}
        self._cut: CutText = cut_by_length
        if model.folder:
            self._tokenizer = load_tokenizer(storage, model.folder, model.digest)
            self._controls = control_tokens(self._tokenizer)
            self._cut = cut_by_tokens(self._tokenizer)

    def question(self, row: Row) -> Question:
        """About `row`; where it does not fit into the context, its fields are cut to half their
        lengths until it does.

        Raises UserError where the template is at fault.
        """
        size = self._task.max_field_tokens
        question = self._ask(row, size)
        while len(question.tokens) > self._room and size > _SHORTEST:
            size //= 2
            question = self._ask(row, size)
        return question

    def _ask(self, row: Row, max_field_tokens: int) -> Question:
        question = self._rendered(row, max_field_tokens)
        if self._num_controls(question.tokens) == self._own_controls:
            return question
        question = self._rendered(row, max_field_tokens, words_only=True)
        if self._num_controls(question.tokens) != self._own_controls:
            raise UserError(
                f"text.tasks: {self._task.name}: the template has a control token of the chat "
                f"model: {question.text[:200]!r}"
            )
        return replace(question, num_controls=max(question.num_controls, 1))

    def _rendered(self, row: Row, max_field_tokens: int, words_only: bool = False) -> Question:
        controls = tuple(self._controls)
        fields = Fields(self._cut, max_field_tokens, controls, words_only=words_only)
        known = {name: fields.clean(value) for name, value in row.fields.items()}
        where = f"text.tasks: {self._task.name}: template"
        text = render(self._task.template, {**self._task.constants, **known}, where)
        if self._tokenizer is not None:  # what two fields make together
            text = fields.without_controls(text)
        tokens = self._encode(text) if self._tokenizer else []
        return Question(text, tokens, fields.num_cut, fields.num_controls)

    def _encode(self, text: str) -> list[int]:
        """As the chat template has it."""
        before, behind = self._model.frame
        return list(self._tokenizer.encode(before + text + behind, add_special_tokens=False))

    @cached_property
    def _own_controls(self) -> int:
        """Control tokens that the chat template brings: no question has others."""
        return self._num_controls(self._encode("")) if self._tokenizer else 0

    def _num_controls(self, tokens: list[int]) -> int:
        special = set(self._controls.values())
        return sum(token in special for token in tokens)
