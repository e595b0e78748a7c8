"""Headless Chromium for the tests of the site, and the accessibility rules of axe-core."""

import shutil
from pathlib import Path
from typing import Any

import axe_playwright_python
from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
DESKTOP, PHONE = (1280, 900), (390, 844)


def opened(browser: Browser, address: str, size: tuple[int, int] = DESKTOP, scheme: Any = "light", **more: Any) -> Page:
    """A page after its scripts have run, in a context of its own: nothing stored from other pages."""
    viewport = {"width": size[0], "height": size[1]}
    page = browser.new_context(viewport=viewport, color_scheme=scheme, **more).new_page()
    page.goto(address)
    return page


def violations(page: Page) -> list[str]:
    """What axe-core says is wrong with a page: rule, impact and the first elements of each."""
    page.evaluate(AXE.read_text())
    answer = page.evaluate("axe.run({preload: false})")  # preloading asks for style sheets a second time
    return [
        f"{rule['id']} ({rule['impact']}): "
        + "; ".join(node["html"][:160] + node["failureSummary"] for node in rule["nodes"][:3])
        for rule in answer["violations"]
    ]
