"""Why an answer is refused: rules for all text tasks, each a function of what was said.

A reason is a word: it becomes the name of a count. The first that holds is told.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from llmaug.ingest.pii import masked
from llmaug.text.cleaning import one_line
from llmaug.text.safety import unsafe
from llmaug.text.task import Answer, Row, Task

UNPARSABLE, TOO_LONG = "unparsable", "too_long"
EMPTY, MARKUP = "empty_text", "markup"
PERSONAL = "personal_data"
WRONG_LANGUAGE, COPIED, REPETITIVE = "wrong_language", "copied_from_prompt", "repetitive"

_HAN = re.compile(r"[\u3400-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")
WORD = re.compile(r"[\u3400-\u9fff]|[^\W_]+")
_MARKUP = re.compile(
    r"```|~~~|<\s?[|/a-z]|https?://|www\.|\{\{|\{%|\[/?INST"
    r"|\{\w[\w ]*\}|\[(?:your|insert)\b",  # a place that nobody filled
    re.IGNORECASE,
)
_SHORT = 20  # letters: of fewer no language can be told
_RUN = 3  # words: a run of so many that stands in the question was copied
_MAX_COPIED, _MIN_DISTINCT = 0.7, 0.5


def verdict(task: Task, row: Row, said: str, num_tokens: int) -> tuple[Answer | None, Any]:
    """(answer, None), or (answer or None, (reason, detail)) for one that is refused.

    num_tokens: of what was said; as many as may be said mean that it was cut.
    """
    try:
        answer = task.parse(said)
    except ValueError as error:
        if num_tokens >= task.max_new_tokens:
            return None, (TOO_LONG, f"cut after {num_tokens} tokens")
        return None, (UNPARSABLE, f"{one_line(str(error))}: {said}"[:300])
    texts = [one_line(text) for text in task.texts(answer)]
    for text in texts:
        reason = _of_text(text, task, row)
        if reason:
            return answer, (reason, text[:200])
    reason = task.accepts(row, answer)
    return answer, (reason, json.dumps(answer, ensure_ascii=False)[:200]) if reason else None


def _of_text(text: str, task: Task, row: Row) -> str | None:
    if not _LETTER.search(text):
        return EMPTY
    if task.safety == "health" and (found := unsafe(text)):
        return found
    if _MARKUP.search(text):
        return MARKUP
    if masked(text, Counter()) != text:
        return PERSONAL
    if not is_in_language(text, task.language):
        return WRONG_LANGUAGE
    words = words_of(text)
    if repeats_itself(words):
        return REPETITIVE
    fields = json.dumps(dict(row.fields), ensure_ascii=False, default=str)
    copied = share_within(words, words_of(f"{task.template} {fields}"))
    return COPIED if copied > _MAX_COPIED else None


def is_in_language(text: str, language: str) -> bool:
    """By its script: English in Latin letters, Chinese in Han characters (names may be in others).
    What has few letters is in any language."""
    letters = _LETTER.findall(text)
    han = len(_HAN.findall(text))
    if language == "zh":
        return han >= 0.3 * len(letters) if len(letters) >= _SHORT // 4 else True
    latin = sum(letter < "\u0250" for letter in letters)
    return latin >= 0.6 * len(letters) if len(letters) >= _SHORT or han else True


def words_of(text: str) -> list[str]:
    """Words in lower case; each Han character is one."""
    return [word.lower() for word in WORD.findall(text)]


def repeats_itself(words: Sequence[str]) -> bool:
    """Of the runs of three words fewer than half differ: small models get caught in a loop."""
    runs = Counter(_runs(words, 3))
    return runs.total() >= 6 and len(runs) < _MIN_DISTINCT * runs.total()


def share_within(words: Sequence[str], others: Sequence[str]) -> float:
    """Share of the words that stand in a run of three which the others have, too; of shorter texts
    1 where all of it is a run of theirs."""
    size = min(_RUN, len(words))
    known = set(_runs(others, size))
    covered: set[int] = set()
    for place, run in enumerate(_runs(words, size)):
        if run in known:
            covered.update(range(place, place + size))
    return len(covered) / len(words) if words else 0.0


def _runs(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[n : n + size]) for n in range(len(words) - size + 1)] if size else []
