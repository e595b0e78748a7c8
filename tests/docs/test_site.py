"""The site builds without a warning, its links lead somewhere, its tutorials run, and it asks no other machine for anything."""

import re
import runpy
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from tests.fresh import FreshProcesses

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TUTORIALS = [page for page in sorted((DOCS / "tutorials").glob("*.md")) if page.name != "index.md"]
CELL = re.compile(r"^```\{code-cell\} python\n(.*?)^```", re.M | re.S)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_runs_top_to_bottom(page: Path, tmp_path: Path, fresh: FreshProcesses) -> None:
    if page.stem == "pretrained":
        pytest.importorskip("magika")
        pytest.importorskip("onnx")
    cells = CELL.findall(page.read_text())
    assert len(cells) >= 3
    script = tmp_path / "page.py"
    script.write_text("\n".join(cells))
    code, output = fresh.run(script)
    assert code == 0, output


class Page(HTMLParser):
    """The anchors of a page, what it links to and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        if tag in ("script", "img", "iframe") and "src" in given:
            self.loads.add(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon"):
            self.loads.add(given.get("href", ""))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every page of the site by its path."""
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


@cache
def target_of(folder: Path, target: str) -> Path | None:
    """The file that a link from a folder leads to; None where there is none. Most pages of a folder have the same links."""
    there = (folder / target).resolve()
    there = there / "index.html" if there.is_dir() else there
    return there if there.exists() else None


def test_the_site_builds_and_every_link_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    assert len(pages) > 60
    dead = []
    for path, page in pages.items():
        if "_static" in path.parts:
            continue
        for link in page.links | page.loads:
            target, anchor = urldefrag(unquote(link))
            target = target.partition("?")[0]
            if re.match(r"[a-z]+:", target):
                continue
            there = target_of(path.parent, target) if target else path
            place = "" if "=" in anchor else anchor  # settings of the explorer are no place in a page
            if there is None or (place and there in pages and place not in pages[there].anchors):
                dead.append(f"{path.relative_to(site)} -> {link}")
    assert not dead


def test_options_and_formulas_are_shown_as_written(site: Path) -> None:
    for path in site.glob("*.html"):
        text = path.read_text()
        assert not re.search(r"–[a-z]", text), path.name  # an option whose hyphens became a dash
        assert "<wbr>span" not in text  # a break inside a tag
    assert "sqrt(lw lh))_+ V^T" in (site / "models.html").read_text()  # not the beginning of an emphasis
    start = (site / "choose.html").read_text()
    assert "ufm.<wbr>laws.<wbr>mean_<wbr>system.<wbr>decayed_<wbr>clock" in start
    assert '<span class="pre option">--kernel-ratio</span>' in start


def test_pages_load_nothing_from_other_machines(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        outside = {address for address in page.loads if re.match(r"(https?:)?//", address)}
        assert not outside, (path.name, outside)


def test_search_knows_the_public_names(site: Path) -> None:
    index = (site / "searchindex.js").read_text()
    for name in ("oblique_projection", "StreamingStatistics", "lambda_of_weight_decay"):
        assert name.lower() in index.lower()


@pytest.mark.parametrize("script", sorted((DOCS / "gallery").glob("plot_*.py")), ids=lambda path: path.stem)
def test_a_script_of_the_gallery_draws(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from matplotlib import pyplot as plt

    plt.close("all")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        runpy.run_path(str(script))  # in this process: the libraries are imported once
    (number,) = plt.get_fignums()
    axes = plt.figure(number).axes
    plt.close("all")
    assert not list(tmp_path.iterdir())
    assert all(ax.get_xlabel() or ax.get_ylabel() for ax in axes)
    assert all(ax.lines or ax.patches for ax in axes)
