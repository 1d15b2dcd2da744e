"""Patterns of a config match as `re` does, and none of them can hold a worker."""

from __future__ import annotations

import re
import time

import pytest

from llmaug.errors import UserError
from llmaug.ingest import patterns
from llmaug.ingest.patterns import compile_pattern

# Each one took `re` more than a minute (most: more than the age of the universe).
_ENDLESS = {
    r"(?P<user_id>(a|aa)+)$(?P<item_id>b)": "a" * 60,
    r"(?P<user_id>(x+x+)+)y": "x" * 10_000,
    r"(?P<user_id>.*) (?P<item_id>.*)z(?P<action>.*)y": "a " * 200_000,
    r"^(?P<user_id>(\w+ ?)+)!$(?<=\1)": "word " * 40 + "?",
}


def test_a_pattern_matches_as_re_does():
    text = r"^(?P<user_id>\w+)\s(?P<item_id>商品\d+)(?: (?P<value>\d+))?\b(?!x)"
    ours, theirs = compile_pattern(text, "ingest.pattern"), re.compile(text)
    assert dict(ours.groupindex) == dict(theirs.groupindex) and ours.groups == theirs.groups
    for line in ("josé 商品12", "josé 商品12 5", "١٢ 商品٣ x", "", "nothing", "a\xa0商品1"):
        expected = theirs.search(line)
        found = ours.search(line)
        assert (found and found.groupdict()) == (expected and expected.groupdict()), line


@pytest.mark.parametrize("text", _ENDLESS)
def test_no_line_can_hold_a_worker(text, monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS_PER_LINE", 0.2)
    pattern = compile_pattern(text, "ingest.pattern")
    begun = time.process_time()
    try:
        assert pattern.search(_ENDLESS[text]) is None  # some are seen through at once
    except TimeoutError as error:
        assert "ingest.pattern: 0.2 s on" in str(error)
    assert time.process_time() - begun < 5


def test_a_pattern_that_is_slow_on_many_lines_stops_the_run_and_is_named(monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS_PER_LINE", 0.01)
    pattern = compile_pattern("(a|aa)+$b", "ingest.items.pattern")
    for _ in range(patterns.MAX_SLOW_LINES - 1):
        with pytest.raises(TimeoutError):
            pattern.search("a" * 60)
    with pytest.raises(UserError, match="ingest.items.pattern: 10 lines took longer"):
        pattern.search("a" * 60)


@pytest.mark.parametrize("text", ["(", "a{99999999999}", "(?P<1>x)", "(" * 9_000, "x" * 10_001])
def test_what_is_no_pattern_is_refused_with_the_setting(text):
    with pytest.raises(UserError, match="^ingest.pattern: "):
        compile_pattern(text, "ingest.pattern")
