"""The report's page in a real headless Chromium: `make browser-test` runs these with all that they need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import hostile
from tests.stand_in import make_dataset, make_job
from tests.test_page_sentences import HEBREW, report_from_the_right
from vae_core import job
from vae_core.page import PAGE, build

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright and a browser: make browser-test"
)
pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZES = {"phone": {"width": 390, "height": 844}, "laptop": {"width": 1440, "height": 900}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """ELBORANK_CHROMIUM, a Chromium on the PATH, or the one that `playwright install chromium` fetched."""
    found = os.environ.get("ELBORANK_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with playwright.sync_playwright() as running:
        if found is None and not Path(running.chromium.executable_path).exists():
            pytest.skip("there is no Chromium here: install one, or name it in ELBORANK_CHROMIUM")
        opened = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return job.run(make_job(make_dataset(folder, rows=400), folder / "out")).folder / PAGE


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = hostile.report(tmp_path_factory.mktemp("hostile"))
    page = folder.parent / "hostile.html"
    page.write_text(build(folder, hostile.with_card(folder)), encoding="utf-8")
    return page


@pytest.fixture(params=["ordinary", "strange"])
def page(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def opened(browser: Any, page: Path, size: str, scheme: str = "light") -> tuple[Any, list[str]]:
    """The page in a tab, and a list that fills with all that it should not do: errors, dialogs, requests."""
    tab = browser.new_context(viewport=SIZES[size], color_scheme=scheme).new_page()
    tab.set_default_timeout(120_000)  # the machine may be shared
    wrong: list[str] = []
    tab.on("console", lambda message: wrong.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    tab.on("dialog", lambda dialog: (wrong.append("dialog"), dialog.dismiss()))
    address = page.as_uri()
    tab.on("request", lambda request: request.url != address and wrong.append(f"request: {request.url}"))
    tab.goto(address)
    return tab, wrong


@pytest.mark.parametrize("size", SIZES)
def test_it_opens_without_an_error_a_request_or_a_sideways_scrollbar(
    browser: Any, page: Path, size: str
) -> None:
    tab, wrong = opened(browser, page, size)
    for details in tab.locator("details").all()[:12]:
        details.locator("summary").first.click()
    width = tab.evaluate("document.documentElement.scrollWidth")
    assert width <= SIZES[size]["width"]
    smallest = tab.evaluate(
        "Math.min(...[...document.querySelectorAll('body *')].filter(e => e.innerText && !e.closest('svg'))"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 11
    assert [w for w in wrong if "data:" not in w] == []
    tab.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_no_serious_violation(browser: Any, page: Path, size: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="make browser-test")
    tab, _ = opened(browser, page, size, scheme)
    tab.locator("details summary").first.click()
    found = axe.Axe().run(tab).response["violations"]
    serious = [
        f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found if v["impact"] in ("serious", "critical")
    ]
    assert serious == []
    tab.context.close()


def test_it_searches_sorts_and_opens_by_keyboard(browser: Any, ordinary: Path) -> None:
    tab, wrong = opened(browser, ordinary, "laptop")
    rows = tab.locator(".ranking > tbody > tr")
    first = rows.first.locator(":scope > th").inner_text()
    tab.get_by_label("Search").fill(first)
    assert tab.locator(".ranking > tbody > tr:visible").count() >= 1
    assert tab.locator("#shown").inner_text().endswith("of 400 records")
    tab.get_by_label("Search").fill("")
    tab.get_by_role("button", name="Rank").focus()
    tab.keyboard.press("Enter")  # the other way round
    assert rows.last.locator(":scope > th").inner_text() == first
    assert tab.locator("th[data-sort=rank]").get_attribute("aria-sort") == "descending"
    tab.keyboard.press("Enter")
    summary = rows.first.locator("summary")
    summary.focus()
    tab.keyboard.press("Enter")
    assert rows.first.locator("details").get_attribute("open") is not None
    assert wrong == []
    tab.context.close()


def test_without_scripts_everything_is_still_there(browser: Any, ordinary: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(ordinary.as_uri())
    assert tab.locator(".ranking > tbody > tr").count() == 400
    assert not tab.get_by_label("Search").is_visible()
    context.close()


def test_a_name_from_the_right_stands_before_its_value_and_the_value_before_the_range(
    browser: Any, tmp_path: Path
) -> None:
    tab, _ = opened(browser, report_from_the_right(tmp_path) / PAGE, "laptop")
    order = tab.evaluate(
        """() => {
          const sentence = document.querySelector(".ranking summary bdi");
          const walker = document.createTreeWalker(sentence, NodeFilter.SHOW_TEXT);
          const places = [];
          for (let node; (node = walker.nextNode()); )
            for (const word of ["\u05e9\u05dc\u05d5\u05dd", "102", "expected", "(1.1", "3.5)", "-4,567"]) {
              const at = node.data.indexOf(word);
              if (at < 0 || places.length > 5) continue;
              const range = document.createRange();
              range.setStart(node, at);
              range.setEnd(node, at + word.length);
              const box = range.getBoundingClientRect();
              places.push([word, box.top, box.left]);
            }
          return places.sort((a, b) => a[1] - b[1] || a[2] - b[2]).map((place) => place[0]);
        }"""
    )
    assert order == [HEBREW, "102", "expected", "(1.1", "3.5)", "-4,567"]
    tab.context.close()
