"""The design as a test: imports go one way, files and figures and command lines have their homes, modules stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("manifolds", "ufm", "sims")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
COMMANDS = {"ufm/flow/command.py"}
FIGURES = {"ufm/files/plot.py"}
FILES = {"ufm/files/store.py"}
LONGEST = 260


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_one_way(path: Path) -> None:
    package = PACKAGES.index(path.relative_to(ROOT).parts[0])
    later = set(PACKAGES[package + 1 :]) | {"tests", "benchmarks"}
    assert not {module for module in imported(path) if module.split(".")[0] in later}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_command_lines_figures_and_files_have_their_homes(path: Path) -> None:
    in_sims = path.relative_to(ROOT).parts[0] == "sims"
    tops = {module.split(".")[0] for module in imported(path)}
    if "argparse" in tops:
        assert name(path) in COMMANDS or in_sims
    if "matplotlib" in tops:
        assert name(path) in FIGURES or in_sims
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "open" not in calls or name(path) in FILES


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_are_short_and_public_names_are_documented(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_") and node in tree.body:
            assert ast.get_docstring(node), f"{name(path)}: {node.name} has no docstring"


def test_the_plain_command_imports_no_heavy_library() -> None:
    code = (
        "import sys; from ufm.flow.command import main; main(['--C', '4', '--N', '20', '--P', '6']);"
        "print([m for m in ('torch', 'scipy', 'geoopt', 'pymanopt', 'matplotlib', 'sklearn', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


TYPES = ["pyrefly", "check", "--python-interpreter-path", sys.executable]


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], TYPES], ids=lambda command: command[0]
)
def test_linter_formatter_and_type_checker_are_content(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
