"""`scripts/sizing.py`: its arithmetic by hand, and docs/sizing.md shows what it prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from scripts.sizing import (
    CORE_TOKENS_PER_S,
    EXTRAPOLATED,
    INGEST_ROWS_PER_S,
    MEASURED,
    RANKED,
    Night,
    lines,
    main,
    ranked_per_s,
)

PAGE = Path(__file__).parents[2] / "docs" / "sizing.md"


def test_hours_are_those_of_the_rates() -> None:
    night = Night(events=3600 * INGEST_ROWS_PER_S, users=1000, items=1400, models=2)
    ingest, _, generation, recommenders, evaluation, recommendations = lines(night)
    assert ingest.core_hours == pytest.approx(1)
    tokens = night.events * night.synthetic
    assert generation.core_hours == pytest.approx(tokens / CORE_TOKENS_PER_S / 3600)
    # Twice as many models, twice the hours; one list a user.
    assert evaluation.core_hours == pytest.approx(2 * recommendations.core_hours)
    one = lines(Night(night.events, 1000, 1400, models=1))[3]
    assert recommenders.core_hours == pytest.approx(2 * one.core_hours)


def test_what_nobody_measured_says_so() -> None:
    small, large = (lines(Night(events, 1e4, items)) for events, items in ((1e6, 1400), (1e9, 1e6)))
    assert {line.kind for line in small} == {MEASURED}
    assert {line.kind for line in large} == {EXTRAPOLATED}
    on_gpus = lines(Night(1e6, 1e4, 1400, gpu_tokens_per_s=20_000))[2]
    assert (on_gpus.core_hours, on_gpus.kind) == (0, EXTRAPOLATED) and on_gpus.gpu_hours > 0


def test_ranking_costs_more_for_more_items() -> None:
    for items, rate in RANKED.items():
        assert ranked_per_s(items) == pytest.approx(rate)
    rates = [ranked_per_s(items) for items in (1e3, 5e3, 5e4, 2e5, 1e6)]
    assert rates == sorted(rates, reverse=True)
    assert ranked_per_s(1e6) == pytest.approx(RANKED[100_000] / 10)


def test_the_page_shows_what_the_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.findall(
        r"^    python scripts/sizing\.py (.*)\n\n(\|(?:.*\n)+?)\n", PAGE.read_text(), re.M
    )
    assert len(shown) == 3
    for arguments, table in shown:
        main(shlex.split(arguments))
        assert capsys.readouterr().out == table
