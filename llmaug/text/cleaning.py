"""User text is data, never instruction: what of it gets into a question.

A title may hold anything: orders to the model, template syntax, the control tokens by which a chat
template tells who speaks, fences, a page of text. Templates are rendered once, so their syntax in
a field stays text. Here the rest is taken care of: one line, no invisible characters, no fences, no
control token, no more than so many tokens. Orders in plain words cannot be told from text: what
they may do is bounded by the schema of the answer, which decoding is limited to.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_SPACE = re.compile(r"\s+")
# Openings and closings of the control tokens of widespread chat templates: ChatML and Llama 3
# (<|...|>), DeepSeek (the same in full width), Llama 2, Gemma, Mistral, thinking models.
_MARKS = re.compile(
    r"<[|｜]|[|｜]>|</?s>|<</?SYS>>|\[/?(?:INST|AVAILABLE_TOOLS|TOOL_\w+)\]"
    r"|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk|mask)>|</?(?:think|tool_call|tool_response)>",
    re.IGNORECASE,
)
_NO_WORD = re.compile(r"[^\w\s]|_")
_FENCES = re.compile(r"`{3,}|~{3,}")
_MAX_CHARACTERS = 20_000  # of a field: what is longer is never tokenised whole
_CHARACTERS_A_TOKEN = 3  # where nobody knows the tokens

CutText = Callable[[str, int], str]
"""(text, most tokens) to the text, cut where it is longer."""


@dataclass
class Fields:
    """Cleans the fields of a row, and counts."""

    cut: CutText
    max_tokens: int
    controls: tuple[str, ...] = ()
    """Texts of the tokenizer's control tokens."""
    words_only: bool = False
    """Nothing but letters, digits and blanks is left: for what is read as a control token after
    all, such as by a tokenizer that takes one character for another."""
    num_cut: int = 0
    num_controls: int = 0
    """Fields that held a control token."""
    _breaks: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self._breaks = {text: _broken(text) for text in self.controls}

    def clean(self, value: Any) -> Any:
        """A field as a template gets it: texts cleaned, also those in lists and mappings."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self._text(str(key)): self.clean(inner) for key, inner in value.items()}
        if isinstance(value, Iterable):
            return [self.clean(inner) for inner in value]
        return value

    def _text(self, text: str) -> str:
        text = one_line(text[:_MAX_CHARACTERS])
        if self.words_only:
            text = one_line(_NO_WORD.sub(" ", text))
        broken = self.without_controls(text)
        self.num_controls += broken != text
        short = self.cut(broken, self.max_tokens)
        self.num_cut += short != broken
        # A cut may end within what was one token and make another.
        return self.without_controls(short)

    def without_controls(self, text: str) -> str:
        """With a space inside of whatever would become a control token."""
        text = _MARKS.sub(lambda found: _broken(found[0]), text)
        for control, broken in self._breaks.items():
            text = text.replace(control, broken)
        return text


def one_line(text: str) -> str:
    """Composed, without line breaks, control and invisible characters, and fences."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    text = _FENCES.sub(" ", text)
    return _SPACE.sub(" ", text).strip()


def whole_characters(text: str) -> str:
    """With half a character (a lone surrogate, which no file can hold) as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def cut_by_length(text: str, max_tokens: int) -> str:
    """Where the tokenizer is elsewhere: three bytes a token, which is too few for most texts."""
    data = text.encode()
    limit = max_tokens * _CHARACTERS_A_TOKEN
    return text if len(data) <= limit else data[:limit].decode(errors="ignore").rstrip()


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """{text: id} of what a tokenizer takes out of the text before it looks at words: those that a
    chat template is made of, and others; not runs of spaces, nor what stands for unknown words."""
    added = {text: int(number) for text, number in tokenizer.get_added_vocab().items()}
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    unknown = getattr(tokenizer, "unk_token_id", None)
    found = {**added, **special}.items()
    return {text: number for text, number in found if text.strip() and number != unknown}


def cut_by_tokens(tokenizer: Any) -> CutText:
    """Cuts at the end of a token of this tokenizer, which is a fast one."""

    def cut(text: str, max_tokens: int) -> str:
        if len(text.encode()) <= max_tokens:  # no token without a byte
            return text
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = offsets["offset_mapping"]
        if len(spans) <= max_tokens:
            return text
        # Of a character of several tokens all or none.
        return text[: min(spans[max_tokens - 1][1], spans[max_tokens][0])].rstrip()

    return cut


def _broken(control: str) -> str:
    return f"{control[0]} {control[1:]}" if len(control) > 1 else " "
