"""A browser and a built site for the tests of the documentation."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.docs.browser import CHROMIUM, FLAGS

ROOT = Path(__file__).parents[2]
SPHINX = """
import gc, sys
from functools import cache
from sphinx.cmd.build import main
from sphinx.search.en import SearchEnglish
gc.disable()  # a fifth faster
SearchEnglish.stem = cache(SearchEnglish.stem)  # of each word once
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium, for one module of tests: its event loop would be in the way of other tests."""
    if CHROMIUM is None:
        pytest.skip("no Chromium or Chrome on this machine")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, warnings as errors, built once for all workers, without the pages of source code; notebooks and gallery are
    executed by tests of their own.
    """
    here = tmp_path_factory.getbasetemp()
    out = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / "site"
    out.mkdir(exist_ok=True)
    with (out / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "whole").exists():
            build(out)
            (out / "whole").touch()
    return out / "html"


def build(out: Path) -> None:
    """Sphinx as in `make docs`, without executing anything."""
    options = [
        "-D",
        "extensions=myst_nb,sphinx_gallery.gen_gallery",
        "-D",
        "nb_execution_mode=off",
        "-D",
        "sphinx_gallery_conf.plot_gallery=0",
        "-d",
        str(out / "trees"),
    ]
    docs = ROOT / "docs"
    command = [sys.executable, "-c", SPHINX, "-W", "--keep-going", "-q", "-b", "html", *options, str(docs), str(out / "html")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-6000:]
