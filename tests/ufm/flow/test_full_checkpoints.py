"""A stopped --full run on shards goes on in any number of processes: 2, 1 and 4 real ones."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from manifolds.class_centering import ClassLayout
from tests.fresh import FreshProcesses
from tests.ufm.flow import full_processes
from tests.ufm.flow.full_processes import RUNS
from tests.ufm.flow.test_command import ROOT
from tests.ufm.flow.test_shards_of_a_run import free_port
from ufm.distributed import OneProcess
from ufm.files import checkpoint_writer, store
from ufm.files.checkpoint import load_rows
from ufm.files.checkpoint_writer import save_rows
from ufm.files.store import save_arrays
from ufm.flow.checkpoints import SharedCheckpoint, remove_checkpoint
from ufm.flow.held_rows import HeldRows
from ufm.flow.start import Start

REPEATED = ("embedded", "raw")


def launch(fresh: FreshProcesses, size: int, folder: Path, *orders: str) -> None:
    """So many processes make runs one after another."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size), "GLOO_SOCKET_IFNAME": "lo"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **address}
    call = [fresh.python, "-W", "error", "-m", "tests.ufm.flow.full_processes", str(folder), *orders]
    running = [
        subprocess.Popen(call, cwd=ROOT, env={**environment, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0] * size, "\n".join(errors)


def write_shards(folder: Path, name: str) -> None:
    """Unequal classes far from the origin, in shards of unequal size; to be reduced, a feature is the sum of two."""
    rng = np.random.default_rng(7)
    labels = rng.permutation(np.repeat(np.arange(3), (41, 30, 22)))
    mixing = np.linalg.qr(rng.standard_normal((5, 5)))[0] * np.geomspace(1, 0.1, 5)
    rows = (rng.standard_normal((len(labels), 5)) + 0.3 * rng.standard_normal((3, 5))[labels]) @ mixing + 20
    rows = np.hstack([rows, rows[:, :1] + rows[:, 1:2]]) if "reduce" in RUNS[name] else rows
    for k, part in enumerate(np.split(np.arange(len(labels)), [11, 80])):
        np.savez(folder / f"{name}-{k}.npz", features=rows[part], labels=labels[part])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, fresh: FreshProcesses) -> Path:
    """What two processes have computed, stopped and computed again, and have left for one."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "shards").mkdir()
    orders = list[str]()
    for name in RUNS:
        write_shards(folder / "shards", name)
        orders += [f"{name},handed,in flow,stopped"]
        if name in REPEATED:
            orders += [f"{name},whole,end,complete"]
            orders += [f"{name},again,in flow,stopped", f"{name},again,in scheme,stopped", f"{name},again,end,complete"]
    launch(fresh, 2, folder, *orders)
    return folder


def result(folder: Path, run: str, size: int) -> dict[str, np.ndarray]:
    """The arrays of a run, and the columns of all processes, in the order of the rows."""
    parts = [dict(np.load(folder / f"{run}-{size}-{rank}.npz")) for rank in range(size)]
    arrays = parts[0] | {name: np.concatenate([part[name] for part in parts]) for name in ("X_flow", "X_scheme")}
    return {name: value for name, value in arrays.items() if name not in ("config", "residual")}


@pytest.mark.parametrize("name", REPEATED)
def test_as_many_processes_give_every_bit_of_an_undisturbed_run(folder, name):
    whole, again = result(folder, f"{name}.whole", 2), result(folder, f"{name}.again", 2)
    for array in whole:
        np.testing.assert_array_equal(again[array], whole[array], err_msg=array)


def test_two_one_and_four_processes_continue_one_run(folder, fresh):
    names = [name for name in RUNS if "reduce" not in RUNS[name]]
    for name in names:
        state = folder / f"{name}.handed"
        before = newest(state)
        assert full_processes.run(folder, name, "handed", "in scheme", OneProcess()) == "stopped"
        assert newest(state) > before
        rows, labels = load_rows(state / str(newest(state)) / "scheme")
        assert rows.shape == (93, 5)
        np.testing.assert_array_equal(labels, labels_of(folder, name))
        assert full_processes.run(folder, name, "one", "end", OneProcess()) == "complete"
    launch(fresh, 4, folder, *[f"{name},handed,end,complete" for name in names])
    for name in names:
        whole, four = result(folder, f"{name}.one", 1), result(folder, f"{name}.handed", 4)
        assert whole.keys() == four.keys()
        for array in whole:
            scale = abs(whole[array]).max() if whole[array].dtype.kind == "f" else 0
            np.testing.assert_allclose(four[array], whole[array], rtol=0, atol=1e-13 * scale, err_msg=array)


def test_the_basis_of_a_range_binds_a_state_to_its_number_of_processes(folder):
    """Eigenvectors of close eigenvalues are any, and the columns of a state are coordinates in them."""
    said = full_processes.run(folder, "embedded", "handed", "end", OneProcess())
    assert said.startswith(f"{folder / 'embedded.handed'} belongs to another run (processes = 2, now 1)")


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The folder of a run that one process has stopped in the scheme."""
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", "renormalized")
    assert full_processes.run(tmp_path, "renormalized", "state", "in scheme", OneProcess()) == "stopped"
    return tmp_path


def resumed(folder: Path) -> str:
    """What becomes of the run."""
    return full_processes.run(folder, "renormalized", "state", "end", OneProcess())


def test_other_rows_and_damage_are_refused_with_what_to_delete(stopped):
    state = stopped / "renormalized.state"
    shard, inside = stopped / "shards" / "renormalized-1.npz", state / str(newest(state))
    arrays, kept = dict(np.load(shard)), (inside / "numbers").read_bytes()
    np.savez(shard, features=arrays["features"][::-1], labels=arrays["labels"][::-1])
    assert resumed(stopped).startswith(f"{state} belongs to another run (digest of the rows = ")
    np.savez(shard, **arrays)
    for name, value in (("times", np.zeros(3)), ("eta", np.array(-1.0)), ("scheme_count", np.array(99)), ("flow_V", np.zeros(2))):
        numbers = dict(np.load(inside / "numbers")) | {name: value}
        with (inside / "numbers").open("wb") as file:
            np.savez(file, **numbers)
        assert str(state) in (said := resumed(stopped))
        assert "damaged" in said, said
        assert "delete" in said, said
    (inside / "numbers").write_bytes(kept[:200])
    assert "cannot read" in resumed(stopped)
    (inside / "numbers").unlink()
    assert f"there is no {inside / 'numbers'}" in resumed(stopped)
    (inside / "numbers").write_bytes(kept)
    data = next(path for path in (inside / "scheme").iterdir() if path.suffix == ".distcp")
    data.write_bytes(data.read_bytes()[:100])
    assert "cannot read" in resumed(stopped)


def test_a_state_without_its_schedule_or_with_other_labels_is_refused(stopped):
    state = stopped / "renormalized.state"
    inside = state / str(newest(state))
    kept = (inside / "numbers").read_bytes()
    for missing in ("times", "eta", "steps"):
        save_arrays(inside / "numbers", {name: value for name, value in np.load(inside / "numbers").items() if name != missing})
        assert "it has no times, eta and steps of a run; delete" in resumed(stopped)
        (inside / "numbers").write_bytes(kept)
    rows, labels = load_rows(inside / "scheme")
    remove_checkpoint(inside / "scheme")
    save_rows(inside / "scheme", rows, np.roll(labels, 1))
    assert "its labels are not those of the run; delete" in resumed(stopped)
    remove_checkpoint(inside / "scheme")
    save_rows(inside / "scheme", rows[:-1], labels[:-1])
    assert "its rows are 92 x 5, not 93 x 5; delete" in resumed(stopped)


def test_an_unfinished_state_is_removed_and_of_the_others_the_newest_resumed(stopped, monkeypatch):
    state = stopped / "renormalized.state"
    (state / str(newest(state))).rename(state / "40")
    for older in range(1, 40):  # a process that was killed while it removed them
        (state / str(older)).mkdir()
    dead = subprocess.run(
        [sys.executable, "-c", "import ufm.files.store as s; print(s.temporary_name())"], capture_output=True, cwd=ROOT
    )
    (state / dead.stdout.decode().strip() / "flow").mkdir(parents=True)
    monkeypatch.setattr(full_processes, "OFFERS", 1)
    assert resumed(stopped) == "complete"
    assert newest(state) == 43  # after each of the three steps that were left


@pytest.mark.parametrize("moment", ["rows", "numbers"])
def test_two_runs_of_one_command_do_not_mix_their_states(tmp_path, monkeypatch, moment):
    """A scheduler may start a command again that still runs: each writes whole states aside, and the newest is of one of them."""
    held = HeldRows(range(6), np.arange(6))
    start = Start(np.zeros((2, 6)), ClassLayout((3, 3)), None, (), statistics=SimpleNamespace(P=2), held=held)  # type: ignore[arg-type]
    names = ("flow_state", "flow_count")
    first, second = (SharedCheckpoint(tmp_path / "partial", {}, names, start) for _ in range(2))
    for count, run in enumerate((first, second), 1):
        run.schedule(np.array([0.0, 1.0]), 0.1, 5)
        run.saved = {"flow_state": np.full((2, 6), float(count)), "flow_count": np.array(count)}
    home, name = (checkpoint_writer, "save_rows") if moment == "rows" else (store, "save_checkpoint")
    write, meanwhile = getattr(home, name), [lambda: second.offer({}, force=True)]

    def disturbed(*arguments: Any) -> None:
        write(*arguments)
        if meanwhile:
            meanwhile.pop()()

    monkeypatch.setattr(home, name, disturbed)
    first.offer({}, force=True)
    assert [path.name for path in (tmp_path / "partial").iterdir()] == ["2"]
    again = SharedCheckpoint(tmp_path / "partial", {}, names, start).saved
    np.testing.assert_array_equal(again["flow_state"], np.full((2, 6), float(again["flow_count"])))


def test_what_cannot_be_written_names_the_folder_of_the_state_and_leaves_the_one_before(stopped, monkeypatch):
    state = stopped / "renormalized.state"
    before = newest(state)

    def full(folder: Path, *arguments: Any) -> None:
        raise ValueError(f"cannot write {folder}: process 0 failed: No space left on device")

    monkeypatch.setattr(checkpoint_writer, "save_rows", full)
    monkeypatch.setattr(full_processes, "OFFERS", 1)
    assert resumed(stopped) == f"cannot write {state / 'flow'}: process 0 failed: No space left on device"
    assert newest(state) == before


def test_a_run_keeps_the_schedule_that_it_began_with(stopped):
    """Another number of processes computes it with another rounding, by which two moments may become one."""
    inside = stopped / "renormalized.state" / str(newest(stopped / "renormalized.state"))
    numbers = dict(np.load(inside / "numbers"))
    numbers["times"][1] = np.nextafter(numbers["times"][1], 0)
    save_arrays(inside / "numbers", numbers)
    assert resumed(stopped) == "complete"
    assert np.load(stopped / "renormalized.state-1-0.npz")["t"][1] == numbers["times"][1]


def newest(state: Path) -> int:
    """The number of the newest state, the only one that is kept."""
    (only,) = state.iterdir()
    return int(only.name)


def labels_of(folder: Path, name: str) -> np.ndarray:
    """The labels of all shards, in order."""
    return np.concatenate([np.load(folder / "shards" / f"{name}-{k}.npz")["labels"] for k in range(3)])
