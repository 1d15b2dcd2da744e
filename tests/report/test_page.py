"""The page as a reader without eyes, without scripts or with ill-meant titles finds it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from llmaug.config import Config
from llmaug.report import stage as report
from llmaug.report.page import render
from tests.report.pages import EVIL, full_page
from tests.report.test_report import VOID, manifests, page_of, without_generator


class Elements(HTMLParser):
    """(tag, attributes, text of it and all within) of every element, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, Any], list[str]]] = []
        self._open: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        texts: list[str] = []
        self.all.append((tag, dict(attributes), texts))
        if tag not in VOID:
            self._open.append(texts)

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for texts in self._open:
            texts.append(data)

    def of(self, *tags: str) -> list[tuple[str, dict[str, Any], str]]:
        return [(tag, own, "".join(texts)) for tag, own, texts in self.all if tag in tags]


@pytest.fixture(scope="module")
def page() -> str:
    return full_page()


@pytest.fixture(scope="module")
def elements(page: str) -> Elements:
    return Elements(page)


def test_titles_and_reasons_with_tags_in_them_stay_text(page: str, elements: Elements) -> None:
    assert EVIL not in page
    scripts = elements.of("script")
    assert len(scripts) == 1 and "stolen" not in scripts[0][2]
    assert not elements.of("img")
    titles = [text for _, _, text in elements.of("td")]
    assert any(EVIL in text for text in titles)
    assert f"As {EVIL} says." in titles  # what a chat model wrote


def test_no_script_but_its_own_may_run_and_nothing_is_fetched(
    page: str, elements: Elements
) -> None:
    (policy,) = [own["content"] for _, own, _ in elements.of("meta") if "http-equiv" in own]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy and policy.count("sha256-") == 2
    for tag, own, _ in elements.of(*{tag for tag, _, _ in elements.all}):
        assert not [name for name in own if name.startswith("on") or name == "style"], (tag, own)
        assert "src" not in own, (tag, own)
        assert str(own.get("href", "#")).startswith("#"), (tag, own)
    assert not re.search(r"https?://", page)


def test_headings_lead_from_part_to_part(elements: Elements) -> None:
    levels = [int(tag[1]) for tag, _, _ in elements.of("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    ids = {own["id"] for _, own, _ in elements.all if "id" in own}
    assert {own["href"][1:] for _, own, _ in elements.of("a")} <= ids


def test_ids_are_given_once(elements: Elements) -> None:
    ids = [own["id"] for _, own, _ in elements.all if "id" in own]
    assert len(ids) == len(set(ids))


def test_every_plot_has_marks_and_says_what_it_shows(page: str) -> None:
    plots = re.findall(r"<figure .*?</figure>", page, re.S)
    names = re.findall(r'<figure id="plot-(\w+)"', page)
    assert names == ["lift", "arms", "segments", "learning", "units", "events", "throughput",
                     "engines", "forecast", "popularity", "length", "action", "hour",
                     "gap"]  # fmt: skip
    for plot in plots:
        svg = Elements(plot)
        ((_, own, _),) = svg.of("svg")
        named = {found["id"]: text for _, found, text in svg.of("title", "desc") if "id" in found}
        assert own["role"] == "img" and own["aria-labelledby"].split() == list(named)
        assert all(named.values())
        assert svg.of("rect", "circle", "polyline")
        assert len([1 for _, found, _ in svg.of("text") if "name" in found.get("class", "")]) >= 1
        assert svg.of("table") and len(svg.of("tr")) > 1


def test_every_table_has_a_caption_and_headings_for_rows_and_columns(page: str) -> None:
    tables = re.findall(r"<table.*?</table>", page, re.S)
    assert len(tables) > 20
    for text in tables:
        found = Elements(text)
        ((_, _, caption),) = found.of("caption")
        assert caption
        head, *rows = re.findall(r"<tr>.*?</tr>", text, re.S)
        assert 'scope="col"' in head and '<th scope="col"></th>' not in head
        assert rows and all(row.count('<th scope="row"') == 1 for row in rows)


def test_numbers_are_sorted_as_numbers(page: str) -> None:
    assert '<td class="n" data-order="12345">12,345</td>' in page


def test_the_first_screen_answers_four_questions(elements: Elements) -> None:
    asked = [text for tag, _, text in elements.of("h3")][:4]
    assert asked == ["Did it help?", "For whom?", "Is it safe?", "What did it cost?"]


def test_a_loss_and_a_leak_are_called_so() -> None:
    found = manifests(("real", "augmented"))
    for lift in found["evaluation"]["counts"]["lifts"]:
        lift |= {"relative": -0.1, "low": -0.2, "high": -0.05}
    found["privacy"]["counts"] |= {"identifying": 8, "identifying_share": 0.2}
    page = page_of(found)
    assert '<div class="answer bad">\n<h3>Did it help?</h3>\n<p class="headline">-10.0%' in page
    assert '<div class="answer bad">\n<h3>Is it safe?</h3>\n<p class="headline">20.00%' in page


def test_the_gain_of_a_handful_of_users_may_be_chance() -> None:
    found = manifests(("real", "augmented"))
    for lift in found["evaluation"]["counts"]["lifts"]:
        lift |= {"relative": 0.465, "low": 0.465, "high": 0.465}
    assert '<div class="answer good">\n<h3>Did it help?</h3>' in page_of(found)
    found["evaluation"]["counts"]["num_users"] = 1
    page = page_of(found)
    assert '<div class="answer unclear">\n<h3>Did it help?</h3>' in page
    assert "this may be chance." in page


@pytest.mark.parametrize(("num_users", "state"), [(30, "bad"), (29, "good")])
def test_a_segment_of_few_users_is_shown_and_takes_no_side(num_users: int, state: str) -> None:
    """Of one user the interval has no width, and every difference would lie beside zero."""
    found = manifests(("real", "augmented"))
    large, small = (own for own in found["evaluation"]["counts"]["segments"] if "difference" in own)
    large["difference"] = {"mean": 0.05, "low": 0.02, "high": 0.08, "error": 0.01}
    small |= {"segment": "history >=20", "num_users": num_users}
    small["difference"] = dict.fromkeys(("mean", "low", "high"), -0.2) | {"error": 0.0}
    page = page_of(found)
    assert f'<div class="answer {state}">\n<h3>For whom?</h3>' in page
    counted = (
        "Better in 1 of 2, worse in 1" if state == "bad" else "Better in 1 of 1, worse in none"
    )
    assert f'<p class="headline">{counted}' in page
    told = "Fewer than 30 users (gate.min_segment_users) and not counted: history &gt;=20." in page
    assert told is (state == "good")
    plot = page.split('<figure id="plot-segments"')[1].split("</svg>")[0]
    marks = re.findall(r'class="mark (\w+)"', plot)
    assert marks == ["better", "worse" if state == "bad" else "unclear"]
    # With nothing but such segments there is nothing to say.
    large["num_users"] = small["num_users"] = 29
    assert '<p class="headline">Too few users' in page_of(found)


@pytest.mark.parametrize(
    ("limit", "state", "told"),
    [(0.55, "bad", "0.550"), (0.6, "good", "0.600")],  # the interval begins at 0.570
)
def test_a_model_that_gives_its_users_away_is_not_called_safe(
    limit: float, state: str, told: str
) -> None:
    found = manifests(("real", "augmented"))
    config = Config.model_validate({"gate": {"max_membership_auc": limit}})
    page = render(config, "r", report.collect(found, set()), found)
    assert f'<div class="answer {state}">\n<h3>Is it safe?</h3>' in page
    assert f"(0.570 to 0.656; chance: 0.5; its lower end may be {told} at most)" in page
    assert ("0.00% identify somebody, members can be told" in page) is (state == "bad")
    found["privacy"]["counts"]["membership"] = None
    page = render(config, "r", report.collect(found, set()), found)
    assert '<div class="answer bad">\n<h3>Is it safe?</h3>' in page
    assert "was not measured, and gate.max_membership_auc is set." in page


def test_what_was_masked_in_texts_is_counted_in_the_audit() -> None:
    found = manifests(("real",))
    found["ingest"]["counts"] |= {"items_table.masked.email": 31}
    assert "items table.masked.email" in page_of(found)


def test_what_the_generator_spent_stands_on_the_first_screen_and_in_the_audit() -> None:
    found = manifests(("real", "augmented"))
    assert "DP-SGD: epsilon" not in page_of(found)
    found["lm/causal"] = {**found["privacy"], "counts": {"private": {
        "epsilon": 7.996, "delta": 1e-5, "unit": "user", "clipping": 1.0, "noise_multiplier": 1.6,
        "sample_rate": 0.1, "steps": 500, "users": 943, "accountant": "RDP (opacus 1.6.0)",
    }}}  # fmt: skip
    page = page_of(found)
    assert "trained by DP-SGD: epsilon 8.00 at delta 1e-05 for each user" in page
    assert "generator by DP-SGD: noise multiplier" in page


def test_a_run_of_real_events_alone_has_no_part_on_generation() -> None:
    found = manifests(("real",))
    for name in ("outcomes", "filtered", "privacy"):
        del found[name]
    page = page_of(found)
    assert "What was generated" not in page and "Nothing generated" in page


def test_events_that_nobody_audited_are_not_called_safe() -> None:
    """The arm `warmed` learns what a chat model chose: no generator ran, and no audit."""
    page = page_of(without_generator("warmed"))
    assert "Arm warmed was trained on 900 real and 300 synthetic events, measured" in page
    assert '<div class="answer unclear">\n<h3>Is it safe?</h3>\n<p class="headline">Not audited' \
        in page  # fmt: skip
    assert "The 300 synthetic events of arm warmed were not looked through for copies." in page
    assert "Nothing generated" not in page


def test_the_audit_of_other_arms_says_nothing_of_one_that_saw_real_events_alone() -> None:
    found = manifests(("real", "fusion", "augmented"))
    found["gate"]["counts"]["candidate"] = "fusion"
    found["privacy"]["counts"] |= {"identifying": 8, "identifying_share": 0.2}
    page = page_of(found)
    assert "Arm fusion was trained on 900 real events, measured" in page
    assert '<h3>Is it safe?</h3>\n<p class="headline">Real events alone' in page
    assert "0 synthetic events in arm fusion." in page
