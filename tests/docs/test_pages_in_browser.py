"""The site in real headless Chromium: accessibility, phones, search, and no request to another machine."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.docs.browser import DESKTOP, PHONE, opened, violations

# what is cut off at the right: nothing between it and the article, which should not scroll sideways, does
CUT_OFF = """() => {
  const moves = (e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
  const scrolls = (e) => !e.matches("article, main") && (moves(e) || scrolls(e.parentElement));
  const edge = document.documentElement.clientWidth + 1;
  const wide = (e) => e.getBoundingClientRect().width && e.getBoundingClientRect().right > edge;
  return [...document.querySelectorAll("main *")].filter((e) => wide(e) && !scrolls(e)).map((e) => e.outerHTML.slice(0, 120));
}"""


LIGHT, DARK = (DESKTOP, "light"), (PHONE, "dark")
EXAMINED = {"index": LIGHT, "start": DARK, "tutorials/your-own-network": LIGHT, "explorer/index": DARK}


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [
        pytest.param(name, *window, marks=[] if EXAMINED.get(name) == window else pytest.mark.slow)
        for name in (*EXAMINED, "choose", "faq", "search")
        for window in (LIGHT, DARK)
    ],
    ids=str,
)
def test_axe_core_finds_nothing(browser: Browser, site: Path, name: str, size: tuple[int, int], scheme: str) -> None:
    page = opened(browser, (site / f"{name}.html").as_uri(), size, scheme)
    assert not violations(page)
    page.context.close()


def test_axe_core_finds_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        "<html><body><img src='x.png'><input type='range'><p style='color:#ccc'>pale</p></body></html>"
    )
    wrong = " ".join(violations(opened(browser, (tmp_path / "bad.html").as_uri())))
    assert all(rule in wrong for rule in ("image-alt", "label", "color-contrast", "html-has-lang"))


def pages(site: Path) -> list[Path]:
    """Every page that is written, and the largest of the generated reference."""
    written = [path for path in site.rglob("*.html") if not {"_static", "api"} & set(path.relative_to(site).parts)]
    return [*written, max((site / "api").rglob("*.html"), key=lambda path: path.stat().st_size)]


@pytest.mark.parametrize("largest", [20, pytest.param(None, marks=pytest.mark.slow, id="all")])
def test_no_page_is_cut_off_on_a_phone_or_asks_another_machine(browser: Browser, site: Path, largest: int | None) -> None:
    page = opened(browser, "about:blank", PHONE)
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(f"{page.url}: {error}"))
    page.on("requestfailed", lambda request: errors.append(f"{page.url} lacks {request.url}"))
    cut_off = {}
    for path in sorted(pages(site), key=lambda path: -path.stat().st_size)[:largest]:
        page.goto(path.as_uri())
        if elements := page.evaluate(CUT_OFF):
            cut_off[path.relative_to(site)] = elements[:3]
    assert len(asked) > (3 * largest if largest else 200)
    assert not cut_off
    assert not errors
    assert {address.partition(":")[0] for address in asked} <= {"file", "data"}
    page.context.close()


def hits(page: Page) -> list[str]:
    """The titles that the search page lists."""
    page.wait_for_selector("#search-results ul.search li a", timeout=20_000)
    return page.locator("#search-results ul.search li a").all_inner_texts()


@pytest.mark.parametrize(
    ("words", "title"), [("oblique_projection", "normalized_features.oblique_projection"), ("unequal classes", "Unequal classes")]
)
def test_search_leads_to_the_page(browser: Browser, site: Path, words: str, title: str) -> None:
    page = opened(browser, (site / "search.html").as_uri() + f"?q={words}")
    assert any(title in hit for hit in hits(page))
    page.context.close()
