"""Outputs that cannot be written, or not everything: exit codes as documented, one line at most, and every file whole."""

import importlib
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sims import ladder, ledger_study, study
from sims.rungs import rung as rungs
from sims.training.protocol import TrainConfig
from ufm.files.store import load_arrays, save_arrays

SMALL: dict[str, Any] = {"per_class": 20, "test_per_class": 5, "width": 0.05, "batch_size": 50, "robustness": 0, "lr": 0.05}
TRAIN = ["--epochs", "1", "--per-class", "12", "--test-per-class", "2", "--width", "0.01", "--robustness", "0"]


def features(folder: Path) -> list[str]:
    """Two files of features of the same examples."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 9)
    for name in ("first", "second"):
        save_arrays(folder / f"{name}.npz", {"features": rng.standard_normal((27, 5)) + labels[:, None], "labels": labels})
    return [str(folder / "first.npz"), str(folder / "second.npz")]


def trained(folder: Path) -> list[str]:
    """The folder of a run."""
    from sims.train import train

    config = TrainConfig(**SMALL, epochs=2, decays=(1,), measured=(1, 2), save_features=())
    train(config, folder / "run")
    return [str(folder / "run")]


def simulated(folder: Path) -> list[str]:
    """A run of ufm.flow."""
    from ufm.flow.command import main

    path = str(folder / "run.npz")
    assert main(["--C", "3", "--N", "6", "--P", "4", "--points", "20", "--steps", "30", "--quiet", "--out", path]) == 0
    return [path]


def nothing(folder: Path) -> list[str]:
    """No input."""
    return []


CASES: dict[str, tuple[Callable[[Path], list[str]], list[str]]] = {
    "ufm.flow": (nothing, ["--C", "3", "--N", "6", "--P", "4", "--points", "20", "--steps", "30", "--out", "OUT/run.npz"]),
    "sims.measure": (features, ["--json", "--out", "OUT/measured.npz", "--report", "OUT/report.html"]),
    "sims.figures": (trained, ["--out", "OUT", "--format", "svg"]),
    "sims.compare": (simulated, ["--out", "OUT"]),
    "sims.models": (nothing, ["run", "central-path", "--C", "3", "--N", "4", "--P", "5", "--out", "OUT"]),
    "sims.ladder": (nothing, ["--out", "OUT", "--seeds", "1", "--json"]),
    "sims.ledger": (features, ["--out", "OUT"]),
    "sims.ledger_study": (nothing, ["--out", "OUT", "--per-class", "20", "--test-per-class", "20"]),
    "sims.study": (nothing, ["--out", "OUT", "--seeds", "1"]),
    "sims.train": (nothing, [*TRAIN, "--out", "OUT"]),
    "sims.digits_features": (nothing, ["--out", "OUT/features.npz", "--epochs", "1"]),
}


SLOW = {"sims.study", "sims.compare", "sims.ledger_study"}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in sorted(CASES)])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str], Path]:
    """A command, its arguments, and a folder of its own."""
    prepare, options = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    given = prepare(folder)
    return request.param, [*given, *options], folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies of one small network."""
    from sims.ledgers.nets import Cell

    config = TrainConfig(**SMALL, epochs=4, decays=(3,), measured=(1, 2, 3, 4), save_features=())
    monkeypatch.setattr(study, "LOSS_FUNCTIONS", ("mse",))
    monkeypatch.setattr(study, "configurations", lambda loss, seed, data_dir: iter([("tiny", replace(config, seed=seed))]))
    monkeypatch.setattr(ledger_study, "study_cells", lambda *_: [Cell(width=12, depth=2, epochs=4, seed=0)])
    monkeypatch.setattr(rungs, "RUNGS", [replace(rungs.BY_NAME["free"], steps=20)])
    assert ladder.__name__


def output_of(kind: str) -> io.TextIOWrapper | None:
    """A standard output that is full, left by its reader, closed, or of a narrow encoding."""
    if kind == "closed":
        return None
    if kind == "full":
        return open("/dev/full", "w")
    if kind == "left":
        reading, writing = os.pipe()
        os.close(reading)
        return os.fdopen(writing, "w")
    return io.TextIOWrapper(io.BytesIO(), encoding=kind)


def run(name: str, arguments: list[str], out: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command whose results go to a folder."""
    out.mkdir()
    line = [argument.replace("OUT", str(out)) for argument in arguments]
    output = output_of(kind)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        if name == "ufm.flow":
            patch.setattr(sys, "argv", ["ufm.flow", *line])
            code = importlib.import_module("ufm.flow.__main__").guarded()
        else:
            code = importlib.import_module(name).main(line)
    if output is not None:
        output.close()
    return code


def written(folder: Path) -> set[str]:
    """The files in a folder, every one of which can be read."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        assert path.stat().st_size, path
        if path.suffix == ".npz":
            load_arrays(path)
        if path.suffix == ".json":
            json.loads(path.read_text())
    return {str(path.relative_to(folder)) for path in files}


CODES = {"utf-8": 0, "full": 2, "left": 141, "closed": 0, "ascii": 0}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.usefixtures("unrendered")
def test_an_output_that_takes_nothing_loses_no_result(
    case: tuple[str, list[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    name, arguments, folder = case
    for kind, code in CODES.items():
        assert (kind, run(name, arguments, folder / kind, kind, monkeypatch)) == (kind, code)
        reasons = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
        assert len(reasons) == (code == 2), kind
        assert written(folder / kind) == written(folder / "utf-8"), kind
    assert written(folder / "utf-8")
