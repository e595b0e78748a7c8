"""The explorer as a reader uses it, in headless Chromium: keys, links, class means in the picture, no request elsewhere."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Route

from tests.docs.browser import opened
from ufm.laws.singular_value_dynamics import RENORMALIZED

EXPLORER = Path(__file__).parents[2] / "docs" / "explorer"
ADDRESS = (EXPLORER / "index.html").as_uri()
CONTROLS = ["C", "N", "P", "imbalance", "u", "spread", "seed", "lambda", "r", "T", "shown"]


def wait(page: Page, condition: Callable[[], bool]) -> None:
    """Until the page has reacted; asked from outside, because its policy forbids evaluated strings."""
    for _ in range(500):
        if condition():
            return
        page.wait_for_timeout(20)
    raise TimeoutError(page.url)


def settings(page: Page) -> dict[str, str]:
    """The value of every control."""
    return {name: page.locator(f"[name={name}]").input_value() for name in CONTROLS}


def focused(page: Page) -> str:
    """Name, id or text of the element with the focus."""
    return page.evaluate("(e => e.name || e.id || e.className || e.textContent)(document.activeElement)")


def test_every_control_is_reached_and_moved_with_keys(browser: Browser) -> None:
    page = opened(browser, ADDRESS)
    order = []
    while not order or order[-1] != "SUMMARY":
        page.keyboard.press("Tab")
        name = "SUMMARY" if page.evaluate("document.activeElement.tagName") == "SUMMARY" else focused(page)
        order.append(name)
        before = page.url + page.locator("#space").inner_html()
        if name in CONTROLS or name == "space":
            page.keyboard.press("ArrowRight" if name != "shown" else "ArrowDown")
            wait(page, lambda before=before: page.url + page.locator("#space").inner_html() != before)
        assert len(order) < 30
    assert order == ["skip", "Documentation", *CONTROLS, "copy", "Reset", "space", "frame", "play", "SUMMARY"]
    page.keyboard.press("Enter")
    assert page.locator("#table tr").count() > 5
    page.context.close()


def test_the_figure_plays_to_its_end_and_stops(browser: Browser) -> None:
    page = opened(browser, ADDRESS)
    page.locator("#frame").fill("150")
    first = page.locator("#space").inner_html()
    page.locator("#play").press("Enter")
    wait(page, lambda: page.locator("#frame").input_value() == "160" and page.locator("#play").inner_text() == "Play")
    assert page.locator("#space").inner_html() != first
    page.context.close()


def test_a_link_keeps_the_settings(browser: Browser) -> None:
    page = opened(browser, ADDRESS)
    for name, value in {
        "C": "5",
        "N": "31",
        "P": "3",
        "imbalance": "3.5",
        "u": "0.5",
        "lambda": "1.15",
        "r": "-0.5",
        "T": "4.2",
    }.items():
        page.locator(f"[name={name}]").fill(value)
    page.locator("[name=shown]").select_option("kernel")
    wait(page, lambda: "shown=kernel" in page.url)
    assert {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment).items()} == settings(page)
    other = opened(browser, page.url)
    assert settings(other) == settings(page)
    for part in ("#summary", "#omega", "#loss", "#nc", "#space"):
        assert other.locator(part).inner_html() == page.locator(part).inner_html()
    for tab in (page, other):
        tab.context.close()


def test_no_request_leaves_the_page_whatever_is_pressed(browser: Browser) -> None:
    context = browser.new_context()
    asked = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        name = urlsplit(route.request.url).path.lstrip("/")
        route.fulfill(path=EXPLORER / name) if (EXPLORER / name).is_file() else route.abort()

    context.route("**/*", answer)  # as from a web server: the page's own rules hold
    page = context.new_page()
    page.goto("http://explorer.example/index.html")
    for name in CONTROLS[:-1]:
        page.locator(f"[name={name}]").press("ArrowRight")
    for law in ("kernel", "embedded", "unnormalized"):
        page.locator("[name=shown]").select_option(law)
    for name in ("#copy", "[type=reset]", "#play"):
        page.locator(name).click()
    wait(page, lambda: page.locator("#frame").input_value() == "160" and page.locator("#play").inner_text() == "Play")
    assert sorted(asked) == [
        f"http://explorer.example/{name}" for name in ("explorer.css", "explorer.js", "index.html", "laws.js")
    ]
    refused = page.evaluate("fetch('http://elsewhere.example/').then(() => false, () => true)")
    assert refused
    assert len(asked) == 4  # refused by the page's policy, before it was asked
    context.close()


@pytest.mark.parametrize(
    ("C", "P"),
    [(2, 1), (3, 2), (4, 20), *(pytest.param(*shape, marks=pytest.mark.slow) for shape in ((2, 7), (3, 1), (4, 2), (12, 64)))],
)
def test_every_shape_is_drawn_without_an_error(browser: Browser, C: int, P: int) -> None:
    page = opened(browser, "about:blank")
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{ADDRESS}#C={C}&P={P}&imbalance=3")
    assert page.locator("#space circle").count() == C
    assert not errors
    for law in ("renormalized", "kernel", "embedded", "unnormalized"):
        page.locator("[name=shown]").select_option(law)
        wait(page, lambda law=law: f"shown={law}" in page.url)
        assert "NaN" not in page.content()
    assert not errors
    page.context.close()


def class_means(S0: np.ndarray, C: int, N: int, t: float) -> np.ndarray:
    """(K, C): the class means under law (a), from the package: singular values grow, directions stay."""
    U, s, Vt = np.linalg.svd(S0, full_matrices=False)
    omega = RENORMALIZED.omega(np.array([t]), np.sqrt(C) * s, C, N)[0]
    return U @ np.diag(omega / np.sqrt(C)) @ Vt * np.sqrt(C)


@pytest.mark.parametrize("C", [3, 6, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("frame", [0, 160])
def test_the_class_means_in_the_picture_are_pythons(browser: Browser, C: int, frame: int) -> None:
    page = opened(browser, f"{ADDRESS}#C={C}&N=60&P=20&T=6&u=-0.5&spread=0.6&seed=3")
    page.locator("#frame").fill(str(frame))
    S0 = np.array(page.evaluate("state.problem.S0.map((row) => [...row])"))
    last, now = (class_means(S0, C, 60, page.evaluate(f"state.times[{k}]")) for k in (160, frame))
    U, s, _ = np.linalg.svd(last)
    leading = (U[:, np.argsort(-s)].T @ now)[:3] / np.linalg.norm(now, axis=0).mean()
    coordinates = np.zeros((3, C))
    coordinates[: len(leading)] = leading
    circles = page.locator("#space circle").evaluate_all(
        "c => c.map((e) => [Number(e.getAttribute('cx')), Number(e.getAttribute('cy'))])"
    )
    width, height = page.locator("#space").evaluate("e => [e.viewBox.baseVal.width, e.viewBox.baseVal.height]")
    drawn = (np.array(circles) - [width / 2, height / 2]) / min(118, width / 4.2)
    cos, sin, cos_tilt, sin_tilt = np.cos(0.5), np.sin(0.5), np.cos(0.35), np.sin(0.35)
    turned = np.array([[cos, 0, sin], [-sin * sin_tilt, -cos_tilt, cos * sin_tilt]])
    closest = min(  # directions have a free sign; circles are sorted by depth
        max(np.linalg.norm(drawn - point, axis=1).min() for point in (turned @ np.diag(signs) @ coordinates).T)
        for signs in product([1, -1], repeat=3)
    )
    assert closest < 1e-6
    if frame == 160:  # nearly a simplex
        cosines = (now.T @ now) / np.outer(*2 * [np.linalg.norm(now, axis=0)])
        np.testing.assert_allclose(cosines, (C * np.eye(C) - 1) / (C - 1), atol=0.02)
    page.context.close()
