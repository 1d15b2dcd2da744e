"""The page in a real browser: nothing in the console, nothing out of place, no barrier.

Needs Chromium (`apt-get install chromium`, or CHROMIUM with its path) and the extra `browser`
(`pip install -e '.[browser]'`); skipped without. Screenshots of what fails are kept in the
test's folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.pages import full_page

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = (390, 768, 1280)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium"),
]

OUT_OF_PLACE = """() => {
  const width = document.documentElement.clientWidth;
  const inBox = (e) => e.parentElement.closest(".scroll, svg, pre, .skip");
  const out = [...document.querySelectorAll("body *")].filter((e) => {
    const box = e.getBoundingClientRect();
    const outside = box.right > width + 1 || box.left < -1;
    return outside && box.width && !e.matches(".skip") && !inBox(e);
  });
  return out.map((e) => e.outerHTML.slice(0, 80));
}"""
OUT_OF_PLOT = """() => [...document.querySelectorAll("figure svg")].flatMap((svg) => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text, rect, circle, line, polyline")].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.right > frame.right + 1 || box.left < frame.left - 1 || box.top < frame.top - 1;
  }).map((e) => svg.parentElement.id + ": " + e.outerHTML.slice(0, 90));
})"""


@pytest.fixture(scope="module")
def page_at(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(full_page(), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Shown:
    """The page in a window, and what its console says."""

    def __init__(self, browser: Any, address: str, width: int, scheme: str = "light") -> None:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.page, self.said = context.new_page(), list[str]()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda sent: self.said.append(sent.url))
        self.page.goto(address)
        assert self.said == [address]  # the one request

    def is_fine(self, found: list[Any], screenshot: Path) -> None:
        if found:
            self.page.screenshot(path=screenshot, full_page=True)
        assert not found, f"{found}; see {screenshot}"


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_out_of_place(browser: Any, page_at: str, width: int, tmp_path: Path) -> None:
    shown = Shown(browser, page_at, width)
    assert shown.page.evaluate("document.documentElement.scrollWidth") == width
    shown.page.evaluate("document.querySelectorAll('details').forEach((d) => d.open = true)")
    shown.is_fine(shown.page.evaluate(OUT_OF_PLACE), tmp_path / f"{width}.png")
    shown.is_fine(shown.page.evaluate(OUT_OF_PLOT), tmp_path / f"plots-{width}.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(browser: Any, page_at: str, scheme: str, tmp_path: Path) -> None:
    """Contrast, names, roles, headings, what the keyboard reaches: axe-core's rules."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    shown = Shown(browser, page_at, 390, scheme)
    shown.page.evaluate("document.querySelectorAll('details').forEach((d) => d.open = true)")
    # axe is put in past the page's own policy, which lets no other script in.
    found = axe.Axe().run(shown.page).response["violations"]
    told = [(own["id"], own["nodes"][0]["html"][:100]) for own in found]
    shown.is_fine(told, tmp_path / f"axe-{scheme}.png")


def test_tables_are_sorted_and_filtered_by_keyboard(browser: Any, page_at: str) -> None:
    page = Shown(browser, page_at, 1280).page
    heading = page.locator("#fates thead th", has_text="count")
    heading.locator("button").focus()
    column = "[...document.querySelectorAll('#fates tbody tr:not([hidden]) td:nth-child(2)')]"
    numbers = f"{column}.filter((e) => e.dataset.order).map((e) => +e.dataset.order)"
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert page.evaluate(numbers) == sorted(page.evaluate(numbers))
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert page.evaluate(numbers) == sorted(page.evaluate(numbers), reverse=True)
    page.locator(".filter:has(+ [aria-labelledby=fates-caption]) input").focus()
    page.keyboard.type("engine")
    shown = page.locator("#fates tbody tr:visible")
    assert shown.count() >= 3
    assert all("engine" in text for text in shown.all_inner_texts())


def test_what_titles_say_does_not_run(browser: Any, page_at: str) -> None:
    page = Shown(browser, page_at, 1280).page
    assert page.title().startswith("llmaug: night </title>")
    assert page.evaluate("document.querySelectorAll('img').length") == 0


def test_the_skip_link_is_the_first_stop_and_leads_to_the_answers(
    browser: Any, page_at: str
) -> None:
    page = Shown(browser, page_at, 390).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the answers"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "glance"
