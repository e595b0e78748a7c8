"""Kills, full disks and second writers: the result is bitwise that of an undisturbed run, and no half of a file is ever seen."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ufm.files.store import load_arrays

ROOT = Path(__file__).parents[2]
KILLS, PARTS = int(os.environ.get("ATTACK_KILLS", "100")), 10
FLAGS = ["--full", "--quiet", "--out", "q.npz"]
LINE = ["--C", "3", "--N", "7", "--P", "5", "--steps", "300", "--points", "50", "--growth", "3", *FLAGS]
# a state after every step, so that a kill meets every place
PROGRAM = (
    "import sys, ufm.flow.checkpoints as c; c.CHECKPOINT_SECONDS = 0; "
    "from ufm.flow.command import main; sys.exit(main(sys.argv[1:]))"
)


def begin(folder: Path, largest_file: int | None = None) -> subprocess.Popen:
    """The run, in a process that may write files of at most so many bytes."""

    def limit() -> None:
        if largest_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", PROGRAM, *LINE]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit
    )


def numbers(path: Path) -> dict[str, bytes]:
    """The arrays of a result, but for its configuration, which tells times and versions."""
    return {name: value.tobytes() for name, value in load_arrays(path).items() if value.dtype.kind in "fib"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """The numbers of the run, and how long it takes."""
    folder, began = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    _, error = (process := begin(folder)).communicate()
    assert process.returncode == 0, error
    assert [path.name for path in folder.iterdir()] == ["q.npz"]
    return numbers(folder / "q.npz"), time.monotonic() - began


def kill_and_resume(folder: Path, kills: int, seconds: float, expected: dict[str, bytes], seed: int) -> int:
    """Kill the run at random moments, finish it after every few, and return how many kills met a living process."""
    rng, met = random.Random(seed), 0
    while met < kills:
        process = begin(folder)
        time.sleep(rng.uniform(0.2, 1.0) * seconds)
        if process.poll() is None:
            process.kill()
            met += 1
        process.communicate()
        for path in folder.glob("*.npz"):
            load_arrays(path)
        if met % 5 == 0 or process.returncode == 0:
            finish(folder, expected)
    return met


def finish(folder: Path, expected: dict[str, bytes]) -> None:
    _, error = (process := begin(folder)).communicate()
    assert process.returncode == 0, error
    assert numbers(folder / "q.npz") == expected
    assert [path.name for path in folder.iterdir()] == ["q.npz"]  # no checkpoint, no temporary file
    (folder / "q.npz").unlink()


@pytest.mark.attack
@pytest.mark.parametrize("part", range(PARTS))  # for several processes
def test_a_hundred_kills(tmp_path: Path, undisturbed: tuple[dict[str, bytes], float], part: int) -> None:
    expected, seconds = undisturbed
    kills = -(-KILLS // PARTS)
    assert kill_and_resume(tmp_path, kills, seconds, expected, seed=part) == kills


@pytest.mark.attack
def test_a_disk_that_is_full_at_any_size_loses_nothing(tmp_path: Path, undisturbed: tuple[dict[str, bytes], float]) -> None:
    expected, _ = undisturbed
    for size in np.geomspace(1, 1e5, 12).astype(int):
        _, error = (process := begin(tmp_path, int(size))).communicate()
        if process.returncode:
            assert process.returncode == 2, error
            assert error.count("\n") == 1, error
            assert "cannot write" in error
            assert not (tmp_path / "q.npz").exists()
            assert not list(tmp_path.glob(".*"))
        else:
            assert numbers(tmp_path / "q.npz") == expected
            (tmp_path / "q.npz").unlink()
    finish(tmp_path, expected)


@pytest.mark.attack
def test_two_writers_of_one_result(tmp_path: Path, undisturbed: tuple[dict[str, bytes], float]) -> None:
    expected, _ = undisturbed
    for _ in range(5):
        for process in [begin(tmp_path) for _ in range(2)]:
            _, error = process.communicate()
            assert "Traceback" not in error
            assert process.returncode in (0, 2), error
        assert numbers(tmp_path / "q.npz") == expected
