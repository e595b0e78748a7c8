"""Two real processes that each see a part of the data have the numbers of one that sees all, and the same bits."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.fresh import FreshProcesses
from tests.ufm.monitor.processes import KINDS, measured, measured_alone

ROOT = Path(__file__).parents[3]


STRICT = "import runpy, sys, warnings; warnings.simplefilter('error'); runpy.run_module(sys.argv.pop(1), run_name='__main__')"


def run_two(fresh: FreshProcesses, module: str, folder: Path) -> None:
    """Run a module as two processes: rank, world, a store and where to write are its arguments. Fails where one of them does."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    script = [fresh.python, "-c", STRICT, module]
    running = [
        subprocess.Popen(
            [*script, str(rank), "2", str(folder / "store"), str(folder / "out")],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=400)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)


def test_two_processes_give_the_numbers_of_one(tmp_path: Path, fresh: FreshProcesses) -> None:
    run_two(fresh, "tests.ufm.monitor.processes", tmp_path)
    report, other = (json.loads((tmp_path / f"out-{rank}.json").read_text()) for rank in range(2))
    assert report == other
    for kind in KINDS:
        compare(kind, report[kind])
    assert json.loads((tmp_path / "out-alone.json").read_text()) == measured_alone()


def compare(kind: str, first: dict[str, float]) -> None:
    one = measured(kind, slice(None)).compute()
    assert one.keys() == first.keys()
    if kind != "regression":
        assert one["nc1"] < 1e-9
        assert 0 < one["nc4"] < 1
        assert 0 < one["train_error"] < 1
    for name, value in one.items():
        assert np.isfinite(value), name
        assert first[name] == pytest.approx(value, rel=1e-12, abs=1e-15), name
