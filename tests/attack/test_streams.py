"""Standard output and error that are closed, full or a terminal: what is computed stays, and a terminal obeys no name."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.attack.commands import run
from tests.attack.folders import labelled
from tests.fresh import FreshProcesses
from ufm.files.store import load_arrays, save_arrays

ROOT = Path(__file__).parents[2]
ODD = "\x1b[2J\u202eevil\x07\nwrote everything"  # clears the screen, turns the direction, rings, and begins a line of its own
DRAWN = """
import sys, ufm.flow.progress
ufm.flow.progress.PROGRESS_SECONDS = 0.0
sys.argv = ["ufm.flow", *sys.argv[1:]]
from ufm.flow.__main__ import guarded
sys.exit(guarded())
"""
FULL_RUN = ["--C", "3", "--N", "6", "--P", "4", "--points", "20", "--steps", "30", "--full"]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {"PYTHONPATH": str(ROOT)}
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def drawn(*options: str, **how: object) -> subprocess.CompletedProcess:
    """A full run in a process of its own that draws its progress at every step."""
    settings = {"env": BUFFERED, "stdout": subprocess.PIPE, "text": True, "check": False} | how
    return subprocess.run([sys.executable, "-c", DRAWN, *FULL_RUN, *options], **settings)  # type: ignore[call-overload]


@needs_full
def test_a_standard_error_that_takes_nothing_ends_no_run(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        assert drawn("--out", str(tmp_path / "run.npz"), stderr=full).returncode == 0
    assert load_arrays(tmp_path / "run.npz")["complete"]


def test_without_standard_error_the_output_holds_results_alone() -> None:
    done = drawn("--json", preexec_fn=lambda: os.close(2))
    assert done.returncode == 0
    assert json.loads(done.stdout)


@needs_full
@pytest.mark.parametrize("module", ["ufm.flow", pytest.param("sims.measure", marks=pytest.mark.slow)])
def test_an_error_that_nobody_can_read_keeps_its_exit_code(module: str, tmp_path: Path) -> None:
    absent = [*(["--features"] if module == "ufm.flow" else []), "absent.npz"]
    for line, code in ((["--nothing"], 2), (["--version"], 0), (absent, 2)):
        with open("/dev/full", "w") as full:
            done = subprocess.run([sys.executable, "-m", module, *line], env=BUFFERED, stderr=full, check=False, cwd=tmp_path)
        assert done.returncode == code, line


@needs_full
def test_a_training_goes_on_where_its_progress_cannot_be_drawn(tmp_path: Path, fresh: FreshProcesses) -> None:
    line = ["--epochs", "1", "--per-class", "12", "--test-per-class", "2", "--width", "0.01", "--robustness", "0"]
    call = [fresh.python, "-m", "sims.train", *line, "--json", "--out", str(tmp_path / "run")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(call, env=BUFFERED, stdout=subprocess.PIPE, stderr=full, text=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["epoch"] == 1


def test_an_interrupt_among_the_imports_without_standard_error_keeps_its_exit_code() -> None:
    code = "import os; os.close(2); import sims; sims.leave_importing(2, None)"
    assert subprocess.run([sys.executable, "-c", code], env=BUFFERED, check=False).returncode == 130


def odd_folder(folder: Path) -> Path:
    """A folder whose name a terminal would obey, with features in a file of such a name."""
    odd = folder / ODD
    odd.mkdir()
    save_arrays(odd / f"{ODD}.npz", labelled(0))
    for epoch in range(3):
        save_arrays(odd / f"features-{epoch:04d}.npz", labelled(epoch))
    return odd


LINES = {
    "flow": ["ufm.flow", "--C", "3", "--N", "6", "--P", "4", "--points", "20", "--steps", "30", "--out", "ODD/out.npz"],
    "measure": ["sims.measure", f"ODD/{ODD}.npz", "--out", "ODD/out.npz", "--report", "ODD/out.html"],
    "undefined": ["sims.measure", f"ODD/undefined{ODD}.npz"],
    "compare": ["sims.compare", "ODD", "--out", "ODD/report", "--from-epoch", "0"],
    "ledger": ["sims.ledger", f"ODD/{ODD}.npz", "ODD/features-0001.npz"],
    "digits": ["sims.digits_features", "--epochs", "1", "--width", "3", "--out", "ODD/out.npz"],
    "figures": ["sims.figures", "ODD/log.csv", "--out", "ODD/figures", "--format", "svg"],
}


@pytest.mark.parametrize("name", sorted(LINES))
def test_what_is_told_of_a_name_is_no_command_and_no_line_of_its_own(name: str, tmp_path: Path) -> None:
    odd = odd_folder(tmp_path)
    (odd / "log.csv").write_text("epoch,nc1\n1,0.5\n2,0.25\n")
    same = labelled(0) | {"features": np.repeat(np.random.default_rng(0).standard_normal((10, 5)), 3, 0)}
    save_arrays(odd / f"undefined{ODD}.npz", same)
    command, *line = LINES[name]
    outcome = run(command, [argument.replace("ODD/", f"{odd}/").replace("ODD", str(odd)) for argument in line])
    assert outcome.code == 0, outcome
    told = (outcome.out + outcome.err).splitlines()
    assert "evil" in outcome.out + outcome.err
    assert all(part.isprintable() for part in told), told
    assert not [part for part in told if part.startswith("wrote everything")]


def test_every_line_of_a_command_is_told_by_the_one_function_that_escapes_it() -> None:
    printing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("ufm", "sims")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != ROOT / "ufm" / "output.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printing == []
