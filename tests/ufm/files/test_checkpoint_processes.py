"""Real processes write and read checkpoints of rows: 2, 1, 4 and 2 have the same bytes, and a killed one leaves nothing."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.fresh import FreshProcesses
from tests.ufm.files.checkpoint_processes import DTYPES, N, rows
from ufm.files.checkpoint import CheckpointRows, load_rows
from ufm.files.checkpoint_writer import save_rows
from ufm.files.rows import share_of

ROOT = Path(__file__).parents[3]


def run(fresh: FreshProcesses, world: int, folder: Path, *parts: str) -> list[int]:
    """Run parts of the module in so many processes; their exit codes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    call = [fresh.python, "-m", "tests.ufm.files.checkpoint_processes"]
    given = [str(world), str(folder / f"store-{world}-{parts[0]}"), str(folder), *parts]
    running = [
        subprocess.Popen([*call, str(rank), *given], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=400)[1] for process in running]
    codes = [process.returncode for process in running]
    assert set(codes) <= {0, -9}, "\n".join(errors)
    return codes


def same(got: tuple[np.ndarray, np.ndarray], part: slice, dtype: str) -> None:
    """Rows with the very bytes of these."""
    features, labels = rows(dtype)
    assert got[0].dtype == features.dtype
    assert got[0].tobytes() == features[part].tobytes()
    assert got[1].tolist() == labels[part].tolist()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, fresh: FreshProcesses) -> Path:
    """What two processes have written, one of them without an example for float64."""
    folder = tmp_path_factory.mktemp("two")
    assert run(fresh, 2, folder, "write") == [0, 0]
    return folder


def test_two_one_four_and_two_processes_have_the_same_bytes(two: Path, tmp_path: Path, fresh: FreshProcesses) -> None:
    four, last = tmp_path / "four", tmp_path / "last"
    for folder in (four, last):
        folder.mkdir()
    for dtype in DTYPES:
        got = load_rows(two / f"two-{dtype}")
        same(got, slice(None), dtype)
        save_rows(four / f"before-{dtype}", *got)
    run(fresh, 4, four, "reshare", "containers")
    for dtype in DTYPES:
        (four / f"after-{dtype}").rename(last / f"before-{dtype}")
    run(fresh, 2, last, "reshare")
    for folder, size in ((four, 4), (last, 2)):
        for dtype in DTYPES:
            for rank in range(size):
                mine = share_of(N, rank, size)
                share = np.load(folder / f"share-{dtype}-{size}-{rank}.npz")
                same((share["features"], share["labels"]), slice(mine.start, mine.stop), dtype)
            if size == 2:
                same(load_rows(folder / f"after-{dtype}"), slice(None), dtype)
    # torch has read ours into DTensors, and we read what it wrote of DTensors
    assert [(four / f"containers-{rank}.txt").read_text() for rank in range(4)] == ["[True, True]"] * 4
    same(load_rows(four / "of-torch"), slice(None), "float32")


def test_what_one_process_is_refused_is_refused_in_both(two: Path) -> None:
    first, second = ((two / f"refused-{rank}.txt").read_text().splitlines() for rank in range(2))
    assert [line.partition(":")[0] for line in first] == [
        *("there", "P", "dtype", "nobody", "labels", "nowhere", "name", "own"),
    ]
    assert f"{two / 'two-float64'} is there already: choose another name" in first[0]
    assert second[0] == first[0].replace("there: ", "there: process 0 failed: ")
    assert "features of P = 6 and 7: one dtype and one P are needed" in first[1]
    assert "features of float32 and float64" in first[2]
    assert "no process has an example" in first[3]
    assert first[1:4] == second[1:4]
    assert "process 1 failed: features must be (n, P) and labels (n,), got (217, 7) and (216,)" in first[4]
    assert "there is no folder" in first[5]
    assert (
        first[6] == f"name: process 1 failed: it is given {two}/refused-1, process 0 a folder called refused-0: give all "
        "processes the same"
    )
    assert "process 1 failed: " in first[7]
    assert f"{two / 'own'} is not the folder that process 0 writes into: give all processes the same absolute path" in first[7]
    assert not any((two / "own").iterdir())
    assert not (two / "refused").exists()
    assert sorted(path.name for path in two.iterdir() if path.is_dir()) == ["own", "two-float32", "two-float64"]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_leaves_no_checkpoint(victim: int, tmp_path: Path, fresh: FreshProcesses) -> None:
    folder = tmp_path / f"killed-{victim}"
    folder.mkdir()
    codes = run(fresh, 2, folder, "killed")
    assert codes[victim] == -9
    assert (folder / f"ended-{1 - victim}.txt").read_text() in ("LostProcess", "ValueError")
    assert not (folder / "out").exists()
    left = [path for path in folder.iterdir() if path.is_dir()]
    assert len(left) == (victim == 0)  # process 0, which would have removed it, is dead
    for path in left:
        with pytest.raises(ValueError, match=r"no \.metadata, which is written last"):
            CheckpointRows.of(path)
    save_rows(folder / "out", *rows("float32"))  # takes away what the dead process has left
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["out"]
    same(load_rows(folder / "out"), slice(None), "float32")
