"""Every code block of README and docs runs; every statement's test exists; every link and figure is there."""

import re
from pathlib import Path

import pytest

from tests.fresh import FreshProcesses

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


def test_every_block_says_what_it_is() -> None:
    for page in PAGES:
        assert {language for language, _ in blocks(page)} <= {"python", "bash", "text"}, page.name


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_blocks_run_top_to_bottom(page: Path, tmp_path: Path, fresh: FreshProcesses) -> None:
    script = ["import subprocess, sys"]
    for language, code in blocks(page):
        if language == "python":
            script.append(code)
        elif language == "bash":
            script.append(f"subprocess.run(['bash', '-euo', 'pipefail', '-c', {code!r}], check=True)")
    (tmp_path / "page.py").write_text("\n".join(script))
    code, output = fresh.run(tmp_path / "page.py")
    assert code == 0, output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_figures_exist(page: Path) -> None:
    for target in re.findall(r"(?:\]\(|<img [^>]*src=\")([^)#\"]+)[)#\"]", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_what_has_moved_is_where_the_changelog_says() -> None:
    table = re.findall(r"^\| `.*", (ROOT / "docs" / "changelog.md").read_text(), re.M)
    homes = []
    for row in table:
        prefix = ""
        for name in re.findall(r"`([\w.]+)`", row.split("|")[2]):
            if name.endswith("."):  # of the names that follow
                prefix = name
            else:
                homes.append(name if "." in name else prefix + name)
    assert len(homes) >= 60
    assert [home for home in homes if not (is_module(home) or defines(*home.rpartition(".")[::2]))] == []


def is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def defines(module: str, name: str) -> bool:
    """Whether a file of ours has a name at its top."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return path.exists() and re.search(rf"^(class |def |(?:\w+, )*){name}\b", path.read_text(), re.M) is not None


def test_every_statement_names_a_file_and_a_test_that_exist() -> None:
    rows = [line.split("|")[1:-1] for line in (ROOT / "docs" / "statements.md").read_text().splitlines() if line.startswith("| ")]
    count = 0
    for row in rows[1:]:
        for test in re.findall(r"`(test_\w+)`", row[3]):
            path = re.search(r"`(tests/[\w/]+\.py)`", row[3])
            assert path, row
            assert f"def {test}(" in (ROOT / path.group(1)).read_text(), test
            count += 1
        for code in re.findall(r"`((?:ufm|manifolds|sims)/[\w/]+\.py)`", row[2]):
            assert (ROOT / code).exists(), code
    assert count >= 30
