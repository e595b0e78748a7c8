"""Where a --full run keeps its state: a file, or on rows that processes share a folder from which any number of them resume.

The folder holds states `1`, `2`, ..., each written aside and named when it is whole: a kill leaves the one before. In it `flow`
and `scheme` are folders of torch.distributed.checkpoint with the columns of X as rows (n, P), in the order of the shards, and
`numbers` is an archive of what all processes have alike.
"""

import contextlib
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from ufm.distributed import OneProcess, Processes, broadcast_text, raised_in_all
from ufm.files import store
from ufm.files.archive import reason_of
from ufm.flow.held_rows import columns_of
from ufm.flow.share import ColumnShare
from ufm.flow.start import Start

CHECKPOINT_SECONDS = 10.0  # between two states, and as many times the seconds that it takes to write one
NUMBERS, STATE = "numbers", "_state"
SCHEDULE = ("times", "eta", "steps")
RunSchedule = tuple[np.ndarray, float, int]  # output times, step size and number of steps


class Checkpoint:
    """One file; does nothing without a path."""

    group: Processes = OneProcess()

    def __init__(self, path: Path | None, config: Mapping[str, object], names: Collection[str]) -> None:
        self.path, self.config, self.names = path, config, names
        self.last, self.took = time.monotonic(), 0.0
        self.saved = {} if path is None else self._load(path)

    def schedule(self, times: np.ndarray, eta: float, steps: int) -> RunSchedule:
        """That of the run that is resumed, or the given one."""
        return times, eta, steps

    def offer(self, arrays: dict[str, np.ndarray], force: bool = False) -> None:
        """Keep these arrays (beside those of earlier stages) if enough time has passed."""
        if self.path is None or not (self._is_time() or force):
            return
        self.saved |= arrays
        began = time.monotonic()
        self._save(self.path)
        self.last = time.monotonic()
        self.took = self.last - began

    def _is_time(self) -> bool:
        return time.monotonic() - self.last > CHECKPOINT_SECONDS * max(1.0, self.took)

    def _load(self, path: Path) -> dict[str, np.ndarray]:
        return store.load_checkpoint(path, self.config, self.names) or {}

    def _save(self, path: Path) -> None:
        store.save_checkpoint(path, self.config, self.saved)


class SharedCheckpoint(Checkpoint):
    """A folder; all processes call `offer` together, and process 0 says whether it is time."""

    def __init__(self, path: Path | None, config: Mapping[str, object], names: Collection[str], start: Start) -> None:
        assert start.held is not None
        self.held, self.layout, self.P = start.held, start.layout, start.P
        self.group = start.layout.group if isinstance(start.layout, ColumnShare) else OneProcess()
        self.number = 0
        super().__init__(path, config, (*names, *SCHEDULE))

    def schedule(self, times: np.ndarray, eta: float, steps: int) -> RunSchedule:
        """That of the run that is resumed, which another number of processes computes with another rounding, or the given one."""
        if self.saved:
            times, eta, steps = self.saved["times"], float(self.saved["eta"]), int(self.saved["steps"])
        self.common = {"times": times, "eta": np.array(eta), "steps": np.array(steps)}
        return times, eta, steps

    def _is_time(self) -> bool:
        return bool(self.group.broadcast(np.array([super()._is_time()], dtype=np.int64), 0)[0])

    def _load(self, path: Path) -> dict[str, np.ndarray]:
        """The newest whole state. Raises ValueError, in every process, for one of another run and for a damaged one."""
        with raised_in_all(self.group):
            numbers = [0] if self.group.rank else [0, *_whole_states(path)]
        self.number = int(self.group.broadcast(np.array([max(numbers)]), 0)[0])
        if not self.number:
            return {}
        folder = path / str(self.number)
        with raised_in_all(self.group):
            saved = self._numbers(folder)
            if saved is None:
                raise ValueError(f"there is no {folder / NUMBERS}: give all processes the same folder, on a disk that they share")
            _check_schedule(saved, folder)
            stages = sorted(name.removesuffix("_count") for name in saved if name.endswith("_count"))
            return saved | {stage + STATE: self._columns(folder / stage) for stage in stages}

    def _numbers(self, folder: Path) -> dict[str, np.ndarray] | None:
        try:
            return store.load_checkpoint(folder / NUMBERS, self.config, self.names)
        except ValueError as error:  # of which the user need not know the parts
            raise ValueError(str(error).replace(str(folder / NUMBERS), str(folder.parent))) from error

    def _columns(self, folder: Path) -> np.ndarray:
        """The columns at hand of a state, in class blocks. (P, columns)"""
        from ufm.files.checkpoint import CheckpointRows

        rows, way_out = CheckpointRows.of(folder), f"delete {folder.parent.parent} to start again"
        if (rows.n, rows.P) != (self.layout.n, self.P):
            raise ValueError(f"{folder} is damaged: its rows are {rows.n} x {rows.P}, not {self.layout.n} x {self.P}; {way_out}")
        X, _, held = columns_of(rows, self.held.part, self.layout.C)
        if not np.array_equal(held.numbers, self.held.numbers):
            raise ValueError(f"{folder} is damaged: its labels are not those of the run; {way_out}")
        return X

    def _save(self, path: Path) -> None:
        """Write a state aside, give it its name, and remove the others. Raises ValueError, in every process, where that fails."""
        from ufm.files.checkpoint_writer import save_rows

        aside, first = path / self._name_aside(), self.group.rank == 0
        labels = self.held.as_rows(self.layout.labels)
        try:
            with raised_in_all(self.group):
                if first:
                    aside.mkdir(parents=True)
                    store.remove_stale(path)  # of processes that were killed
            for name, X in sorted(self.saved.items()):  # in one order: a state that was read need not have that of this run
                if name.endswith(STATE):
                    save_rows(aside / name.removesuffix(STATE), self.held.as_rows(X.T), labels, self.group)
            with raised_in_all(self.group):
                if first:
                    small = {name: value for name, value in self.saved.items() if not name.endswith(STATE)}
                    store.save_checkpoint(aside / NUMBERS, self.config, small | self.common)
                    there = _whole_states(path)  # another run of the same command may have added one
                    self.number = max([self.number, *there]) + 1
                    aside.rename(path / str(self.number))
                    for number in there:
                        shutil.rmtree(path / str(number), ignore_errors=True)
        except OSError as error:
            raise ValueError(f"cannot write {path}: {reason_of(error)}") from error
        except ValueError as error:  # of what lies aside, and is removed
            raise ValueError(str(error).replace(str(aside), str(path))) from error
        finally:
            if first:
                shutil.rmtree(aside, ignore_errors=True)
                with contextlib.suppress(OSError):  # it holds states
                    path.rmdir()

    def _name_aside(self) -> str:
        """A name that process 0 makes up, which tells whether it lives: a second run of the command has its own."""
        return broadcast_text(self.group, store.temporary_name())


def _whole_states(path: Path) -> list[int]:
    """The numbers of the states in a folder."""
    if not path.exists():
        return []
    return [int(state.name) for state in path.iterdir() if state.name.isascii() and state.name.isdigit()]


def _check_schedule(saved: dict[str, np.ndarray], folder: Path) -> None:
    """Raise ValueError unless times, eta and steps are there and can be those of a run."""
    times, eta, steps = (saved.get(name, np.zeros((0, 0))) for name in SCHEDULE)
    kinds = (times.dtype.kind, eta.dtype.kind, steps.dtype.kind)
    shapes = (times.ndim, eta.shape, steps.shape)
    if kinds != ("f", "f", "i") or shapes != (1, (), ()) or len(times) < 2 or times[0] != 0:
        raise ValueError(f"{folder} is damaged: it has no times, eta and steps of a run; delete {folder.parent}")
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all() and 0 < eta < np.inf and steps > 0):
        raise ValueError(f"{folder} is damaged: its times, eta and steps are not those of a run; delete {folder.parent}")


def remove_checkpoint(path: Path) -> None:
    """Remove a file or a folder of states, if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
