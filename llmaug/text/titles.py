"""Which items of the catalogue a sentence names, by their titles.

`Shawshank Redemption, The (1994)` is named by "Shawshank Redemption" with or without article and
year. Short titles are words like others ("Big", "Speed", "The Game"): fewer than three words count
in quotes, or where they begin with a capital, as no word but the first of a sentence does without
reason. So do short Chinese titles, of which a character is a word, in quotes or in title marks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmaug.text.filters import WORD

_BEHIND = re.compile(r"(?:\s*[(\[][^()\[\]]*[)\]])+\s*$")  # year, title in another language
_ARTICLE_BEHIND = re.compile(r",\s*(?:the|an?|il|la|le|les|el|der|die|das)\s*$", re.IGNORECASE)
_ARTICLES = {"the", "a", "an"}
_QUOTED = re.compile("[\"\u201c]([^\"\u201c\u201d]+)[\"\u201d]|\u300a([^\u300a\u300b]+)\u300b"
                     "|\u300c([^\u300c\u300d]+)\u300d")  # fmt: skip
_PLAIN_WORDS = 3  # a title of so many words is no phrase that happens to be one

Name = tuple[str, ...]


def name_of(title: str) -> Name:
    """Words that name an item: of its title without what stands behind it in brackets, and
    without article. Empty where there is no word."""
    short = _ARTICLE_BEHIND.sub("", _BEHIND.sub("", title)) or title
    words = [word.lower() for word in WORD.findall(short)]
    return tuple(words[1:] if len(words) > 1 and words[0] in _ARTICLES else words)


@dataclass(frozen=True)
class Found:
    """A title in a sentence."""

    name: Name
    start: int
    end: int


class Titles:
    """The names of a catalogue."""

    def __init__(self, titles: Iterable[str]) -> None:
        self._by_first: dict[str, set[Name]] = defaultdict(set)
        for name in filter(None, map(name_of, titles)):
            self._by_first[name[0]].add(name)

    def named(self, sentence: str, expected: Iterable[Name] = ()) -> list[Found]:
        """The titles in a sentence, the longest one at each place; expected: names that count
        however they are written."""
        spans = list(WORD.finditer(sentence))
        words = [span[0].lower() for span in spans]
        quoted = [found.span() for found in _QUOTED.finditer(sentence)]
        wanted, found, place = set(expected), [], 0
        while place < len(words):
            there = [
                name
                for name in self._by_first.get(words[place], ())
                if words[place : place + len(name)] == list(name)
                and (name in wanted or _is_name(spans[place : place + len(name)], place, quoted))
            ]
            name = max(there, key=len, default=())
            if name:
                end = spans[place + len(name) - 1].end()
                found.append(Found(name, spans[place].start(), end))
            place += max(1, len(name))
        return found


def others(sentence: str, expected: set[Name], titles: Titles) -> list[str]:
    """Titles in a sentence that are none of the `expected`: of the catalogue, or in quotes."""
    found = [sentence[own.start : own.end] for own in titles.named(sentence, expected)
             if own.name not in expected]  # fmt: skip
    for quote in _QUOTED.finditer(sentence):
        text = next(filter(None, quote.groups()))
        if not any(_within(name_of(text), name) for name in expected):
            found.append(text)
    return found


def _is_name(spans: Sequence[re.Match[str]], place: int, quoted: list[tuple[int, int]]) -> bool:
    """Whether words that are a title are meant as one. place: of the first in the sentence."""
    if len(spans) >= _PLAIN_WORDS:
        return True
    if any(start <= spans[0].start() and spans[-1].end() <= end for start, end in quoted):
        return True
    capitals = [span[0][0].isupper() for span in spans]
    return capitals[0] if place else len(spans) > 1 and all(capitals)


def _within(one: Name, other: Name) -> bool:
    """Whether one name is a run of words of the other, or the other of it."""
    short, long = sorted((one, other), key=len)
    size = len(short)
    return any(long[n : n + size] == short for n in range(len(long) - size + 1)) if short else False
