"""`--full` on features that several processes share: each carries its own columns, and all together the run of one process."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from manifolds.layout import ClassLayout
from manifolds.normalized_features import constraint_residual, renormalize
from ufm.distributed import OneProcess
from ufm.files import store
from ufm.flow.config import FlowConfig
from ufm.flow.result import FlowRun
from ufm.flow.run import run_flow
from ufm.flow.share import ColumnShare
from ufm.flow.sharded_start import prepare_shards
from ufm.flow.stages import Stage

LIMIT = 120.0  # seconds


class Group:
    """One of several threads that add in the order of their ranks, and count the bytes that each sends."""

    def __init__(self, rank: int, size: int, board: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self.board, self.barrier = rank, size, board, barrier
        self.sent: list[tuple[int, ...]] = []

    def _all(self, values: Any) -> list[Any]:
        self.board[self.rank] = np.array(values)
        self.barrier.wait()
        everything = [each.copy() for each in self.board]
        self.barrier.wait()
        assert len({(each.shape, each.dtype) for each in everything}) == 1, "the processes call for different sums"
        self.sent.append(everything[0].shape)
        return everything

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum, in the order of the ranks."""
        return np.asarray(sum(self._all(values)))

    def smallest(self, values: np.ndarray) -> np.ndarray:
        """The smallest."""
        return np.min(self._all(values), 0)

    def combined(self, values: np.ndarray, combine: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """One after another."""
        first, *rest = self._all(values)
        for other in rest:
            first = combine(first, other)
        return first

    def broadcast(self, values: np.ndarray, source: int) -> np.ndarray:
        """Those of one."""
        return self._all(values)[source]


def in_threads(size: int, work: Callable[[Group], Any]) -> list[Any]:
    """What `work` gives in each of so many threads; the first error where one fails, none of which waits for the others then."""
    board, barrier, results, errors = [None] * size, threading.Barrier(size), [None] * size, list[BaseException]()

    def guarded(rank: int) -> None:
        try:
            results[rank] = work(Group(rank, size, board, barrier))
        except BaseException as error:
            if not isinstance(error, threading.BrokenBarrierError):
                errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=guarded, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    if errors:
        raise errors[0]
    return results


@dataclass(frozen=True)
class CutRows:
    """Rows in memory of which process k of several gets those from cuts[k] to cuts[k + 1], and one process all."""

    rows: np.ndarray
    classes: np.ndarray
    cuts: tuple[int, ...]
    where = "memory"

    @property
    def n(self) -> int:
        return len(self.rows)

    @property
    def P(self) -> int:
        return self.rows.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.rows.dtype

    def files(self) -> tuple[str, ...]:
        return ()

    def share(self, rank: int, size: int) -> range:
        return range(self.n) if size == 1 else range(self.cuts[rank], self.cuts[rank + 1])

    def labels(self, part: range) -> Iterator[np.ndarray]:
        for _, labels in self.blocks(part):
            yield labels

    def blocks(self, part: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(part.start, part.stop, 17):
            stop = min(first + 17, part.stop)
            yield self.rows[first:stop], self.classes[first:stop]


def cut_rows(sizes: tuple[int, ...], cuts: tuple[int, ...], shuffled: bool, P: int = 6, dtype: type = np.float64) -> CutRows:
    """Features of these class sizes, far from the origin, in class order unless shuffled."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = rng.permutation(labels) if shuffled else labels
    mixing = np.linalg.qr(rng.standard_normal((P, P)))[0] * np.geomspace(1, 0.1, P)
    rows = (rng.standard_normal((len(labels), P)) + 0.2 * rng.standard_normal((len(sizes), P))[labels]) @ mixing + 5
    return CutRows(rows.astype(dtype), labels, (0, *cuts, len(labels)))


@dataclass
class Seen:
    """A run, and the state of each stage at its end with the rows of its columns, all processes together, in one order."""

    run: FlowRun
    states: dict[str, np.ndarray]


def computed(config: FlowConfig, rows: CutRows, size: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[FlowRun, dict[str, Any]]]:
    """The run of every process, with the columns at hand in the end of flow and scheme."""
    held = threading.local()
    kept = Stage.residual

    def residual(stage: Stage) -> float:
        held.states[stage.name] = stage.state
        return kept(stage)

    monkeypatch.setattr("ufm.flow.stages.Stage.residual", residual)
    unpatched = __import__("ufm.flow.stages", fromlist=["FlowStage"]).FlowStage
    of_flow = unpatched.residual

    def residual_of_flow(stage: Any) -> float:
        held.states[stage.name] = stage.state
        return of_flow(stage)

    monkeypatch.setattr(unpatched, "residual", residual_of_flow)

    def work(group: Any) -> tuple[FlowRun, dict[str, Any]]:
        held.states = {}
        run = run_flow(config, prepare_shards(config, rows, group))
        return run, held.states

    try:
        return [work(OneProcess())] if size == 1 else in_threads(size, work)
    finally:
        monkeypatch.undo()
