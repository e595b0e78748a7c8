"""`--full` on features that several processes share: each carries its own columns, and all together the run of one process."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from manifolds.class_centering import ClassLayout
from manifolds.metrics import BundleMetric, EmbeddedMetric
from manifolds.normalized_features import constraint_residual, renormalize
from manifolds.renormalized_gradient_step import renormalized_step
from manifolds.sampling import random_point
from ufm.arrays import as_numpy
from ufm.distributed import OneProcess, Processes
from ufm.features.labels import class_blocks
from ufm.features.snr import snr
from ufm.flow.checkpoints import Checkpoint, SharedCheckpoint
from ufm.flow.config import FlowConfig
from ufm.flow.full_state import starting_states
from ufm.flow.result import FlowRun
from ufm.flow.run import run_flow
from ufm.flow.sharded_start import prepare_shards
from ufm.flow.share import ColumnShare
from ufm.flow.stages import FlowStage, Stage
from ufm.flow.start import Start
from ufm.interrupt import Interrupted
from ufm.tensor.renormalized_flow import ls_gradient

LIMIT = 120.0  # seconds
CONFIG = FlowConfig(features="rows", full=True, growth=3.0, points=12, steps=8)
EQUAL, UNEQUAL = (30, 30, 30), (50, 21, 30, 24)


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
    where = described = "memory"

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

    def place(self, row: int) -> str:
        return f"row {row}"

    def share(self, rank: int, size: int) -> range:
        return range(self.n) if size == 1 else range(self.cuts[rank], self.cuts[rank + 1])

    def labels(self, part: range) -> Iterator[np.ndarray]:
        for _, labels in self.blocks(part):
            yield labels

    def blocks(self, part: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(part.start, part.stop, 17):
            stop = min(first + 17, part.stop)
            yield self.rows[first:stop], self.classes[first:stop]


def cut_rows(sizes: tuple[int, ...], cuts: tuple[int, ...], shuffled: bool, P: int = 6, dead: bool = False) -> CutRows:
    """Features of these class sizes, far from the origin, in class order unless shuffled; where `dead` one is the sum of two."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = rng.permutation(labels) if shuffled else labels
    mixing = np.linalg.qr(rng.standard_normal((P, P)))[0] * np.geomspace(1, 0.1, P)
    rows = (rng.standard_normal((len(labels), P)) + 0.2 * rng.standard_normal((len(sizes), P))[labels]) @ mixing + 5
    rows = np.hstack([rows, rows[:, :1] + rows[:, 1:2]]) if dead else rows
    return CutRows(rows, labels, (0, *cuts, len(labels)))


CASES = [
    pytest.param({}, EQUAL, (40,), True, id="equal"),
    pytest.param({}, EQUAL, (60,), False, id="a class in one process alone"),
    pytest.param({}, EQUAL, (0, 60), False, id="nothing in the first process"),
    pytest.param({"ridge": 0.1, "reduce": True}, UNEQUAL, (30, 90), True, id="ridge"),
    pytest.param({"flow": "embedded"}, UNEQUAL, (55,), False, id="embedded"),
    pytest.param({"flow": "unnormalized"}, EQUAL, (11, 12), False, id="unnormalized, one column in the second"),
    pytest.param({"flow": "unnormalized", "kernel_ratio": 3.0, "feature_decay": 1e-4}, UNEQUAL, (55,), False, id="ratio, decay"),
    pytest.param({"flow": "unnormalized", "start": "raw", "t_end": 5.0}, UNEQUAL, (55,), False, id="raw"),
]


@pytest.mark.parametrize(("options", "sizes", "cuts", "shuffled"), CASES)
def test_many_processes_give_the_run_and_the_columns_of_one(options, sizes, cuts, shuffled, states):
    config = replace(CONFIG, **options)
    rows = cut_rows(sizes, cuts, shuffled, dead="reduce" in options)
    ((one, whole),) = computed(config, rows, 1, states)
    many = computed(config, rows, len(cuts) + 1, states)
    assert one.residual < 1e-7
    for run, _ in many:
        assert run.start.layout.shared
        assert abs(run.residual - one.residual) < 1e-13
        assert run.arrays.keys() == one.arrays.keys()
        for name in one.arrays.keys() - {"config", "residual"}:
            close(run.arrays[name], one.arrays[name], name)
    for stage in ("flow", "scheme"):
        parts = [split_by_class(held[stage], run) for run, held in many]
        close(np.hstack([part for of_class in zip(*parts, strict=True) for part in of_class]), whole[stage], stage)


def test_one_process_on_shards_is_that_on_the_columns_in_memory(states):
    rows = cut_rows(UNEQUAL, (55,), shuffled=True)
    changes: list[dict[str, Any]] = [{}, {"flow": "unnormalized", "start": "raw", "t_end": 5.0}]
    for options in changes:
        config = replace(CONFIG, **options)
        ((of_shards, _),) = computed(config, rows, 1, states)
        H, layout = class_blocks(rows.rows, rows.classes)
        of_columns = run_flow(config, Start(H, layout, snr(H, layout), ()))
        np.testing.assert_allclose(of_shards.flow.omega, of_columns.flow.omega, rtol=1e-11)
        np.testing.assert_allclose(of_shards.scheme.omega, of_columns.scheme.omega, rtol=1e-11)


def test_the_start_is_on_the_manifold_to_rounding_however_ill_conditioned_the_features_are():
    rows = cut_rows(UNEQUAL, (55,), shuffled=True)
    turned = np.linalg.qr(np.random.default_rng(5).standard_normal((6, 6)))[0]
    flat = replace(rows, rows=(rows.rows - 5) @ (turned * np.geomspace(1, 1e-4, 6)) @ turned.T + 50)

    def residual(group: Processes) -> float:
        start = prepare_shards(CONFIG, flat, group)
        return float(constraint_residual(starting_states(CONFIG, start)[0], start.layout))

    assert max(residual(OneProcess()), *in_threads(2, residual)) < 1e-14


def test_what_is_sent_does_not_grow_with_the_examples():
    config = FlowConfig(features="rows", full=True, t_end=50.0, points=3, steps=2)
    shapes = []
    for scale in (1, 20):
        rows = cut_rows(tuple(scale * size for size in UNEQUAL), (55 * scale,), shuffled=True)

        def work(group: Group, rows: CutRows = rows) -> set[tuple[int, ...]]:
            start = prepare_shards(config, rows, group)
            group.sent.clear()
            run_flow(config, start)
            return set(group.sent)

        shapes.append(in_threads(2, work))
    assert shapes[0] == shapes[1] == [{(), (6, 4), (4, 4), (6, 6)}] * 2  # norms, class sums also of W^T X, products


def test_processes_that_see_different_files_are_refused():
    """As on disks of their own: each would read a share of other rows."""
    few, many = cut_rows(EQUAL, (40,), shuffled=True), cut_rows(UNEQUAL, (40,), shuffled=True)
    differing = "do not see the same memory, 90 examples of P = 6 in process 0, 125 of P = 6 in process 1: give all of them"

    def work(group: Group) -> str:
        with pytest.raises(ValueError, match=differing) as error:
            prepare_shards(CONFIG, (few, many)[group.rank], group)
        return str(error.value)

    assert len(set(in_threads(2, work))) == 1


def test_each_process_reads_its_own_rows_alone():
    rows = cut_rows(UNEQUAL, (30, 90), shuffled=True)
    config = FlowConfig(features="rows", full=True)
    starts = in_threads(3, lambda group: prepare_shards(config, rows, group))
    for start, first, stop in zip(starts, rows.cuts[:-1], rows.cuts[1:], strict=True):
        order = np.argsort(rows.classes[first:stop], kind="stable")
        np.testing.assert_array_equal(start.features, rows.rows[first:stop][order].T)
        np.testing.assert_array_equal(start.layout.labels, rows.classes[first:stop][order])


@pytest.mark.parametrize("stage", ["FlowStage", "SchemeStage"])
def test_an_interrupt_of_many_gives_no_result_of_one_alone(stage, monkeypatch):
    """The others may be at another step: what one process has computed need not be that of a run."""
    config = FlowConfig(features="rows", full=True, t_end=50.0, points=3, steps=2)
    rows = cut_rows(EQUAL, (40,), shuffled=True)

    def stop(self: object, *arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"ufm.flow.stages.{stage}.record", stop)
    with pytest.raises(KeyboardInterrupt) as error:
        in_threads(2, lambda group: run_flow(config, prepare_shards(config, rows, group)))
    assert not isinstance(error.value, Interrupted)


@pytest.mark.parametrize("late", [0, 1])
def test_the_clock_of_the_first_process_says_for_all_when_a_state_is_kept(late, tmp_path):
    rows = cut_rows(EQUAL, (40,), shuffled=True)

    def work(group: Group) -> bool:
        checkpoint = SharedCheckpoint(tmp_path / "state", {}, (), prepare_shards(CONFIG, rows, group))
        checkpoint.last -= 100.0 * (group.rank == late)
        return checkpoint._is_time()

    assert in_threads(2, work) == [late == 0] * 2


@pytest.mark.parametrize(
    ("took", "waited", "kept"), [(0.0, 9.0, False), (0.5, 11.0, True), (3.0, 29.0, False), (3.0, 31.0, True)]
)
def test_states_that_take_long_to_write_are_kept_less_often(took, waited, kept, tmp_path):
    """A tenth of the time at most."""
    checkpoint = Checkpoint(tmp_path / "state.npz", {}, ())
    checkpoint.took, checkpoint.last = took, time.monotonic() - waited
    checkpoint.offer({"flow_t": np.zeros(())})
    assert (tmp_path / "state.npz").exists() == kept


def test_the_digest_is_of_the_rows_whichever_process_holds_them_and_of_nothing_else():
    rows = cut_rows(UNEQUAL, (30, 90), shuffled=True)

    def digest(rows: CutRows, size: int) -> str:
        (only,) = {start.digest for start in in_threads(size, lambda group: prepare_shards(CONFIG, rows, group))}
        return str(only)

    same = digest(rows, 1)
    assert same == digest(rows, 3)
    swapped, relabelled = rows.rows.copy(), rows.classes.copy()
    first, second = np.flatnonzero(rows.classes == 0)[:2]
    swapped[[first, second]] = swapped[[second, first]]
    other = np.flatnonzero(rows.classes == 1)[0]
    relabelled[[first, other]] = 1, 0
    nudged = rows.rows.copy()
    nudged[7, 2] = np.nextafter(nudged[7, 2], 9)
    changed = [replace(rows, rows=swapped), replace(rows, classes=relabelled), replace(rows, rows=nudged)]
    assert len({same, *(digest(each, 1) for each in changed)}) == 4


@pytest.mark.parametrize("condition", [1.0, 1e-4])
@pytest.mark.parametrize("scale", [1, 600])
def test_a_share_sums_over_the_columns_of_all(condition, scale):
    """Steps of any size, and a Sigma_W so ill-conditioned that it is taken from the deviations themselves."""
    layout, blocks = ClassLayout(tuple(scale * n for n in (9, 31, 20))), [(0, 0, 0), (9, 30, 0), (0, 1, 20)]
    rng = np.random.default_rng(1)
    turned = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    Z = (turned * np.geomspace(1, condition, 6)) @ rng.standard_normal((6, layout.n))
    G = rng.standard_normal(Z.shape)
    parts = [tuple(scale * n for n in block) for block in blocks]
    starts = np.cumsum((0, *layout.sizes[:-1]))

    def columns(rank: int) -> np.ndarray:
        before = np.sum(parts[:rank], 0, dtype=int)
        picked = zip(starts + before, parts[rank], strict=True)
        return np.concatenate([np.arange(first, first + count) for first, count in picked])

    def work(group: Group) -> list[np.ndarray]:
        mine, share = columns(group.rank), ColumnShare(layout.sizes, parts[group.rank], group)
        X = renormalize(Z[:, mine], share)
        moved = renormalized_step(X, G[:, mine], 0.1, share)
        far = renormalized_step(Z[:, mine], 0.0 * G[:, mine], 1.0, share)
        return [X, moved, far, share.means(X), ls_gradient(X, share), constraint_residual(moved, share)]

    X = renormalize(Z, layout)
    moved, far = renormalized_step(X, G, 0.1, layout), renormalized_step(Z, 0.0 * G, 1.0, layout)
    whole = [X, moved, far, layout.means(X), ls_gradient(X, layout)]
    for rank, there in enumerate(in_threads(3, work)):
        assert there[5] < 1e-13
        for k in (0, 1, 2, 4):  # rounding, times the condition of the deviations
            scale = abs(whole[k]).max()
            np.testing.assert_allclose(there[k], whole[k][:, columns(rank)], rtol=0, atol=1e-14 / condition * scale)
        np.testing.assert_allclose(there[3], whole[3], rtol=0, atol=1e-14 / condition)


def test_columns_of_another_number_are_refused():
    share = ColumnShare((5, 5), (3, 0), OneProcess())
    with pytest.raises(ValueError, match="X has 10 columns, but this process holds 3 of the 10"):
        share.means(np.zeros((2, 10)))
    assert repr(share).startswith("ColumnShare(sizes=(5, 5), held=(3, 0)")


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> threading.local:
    """The states of both stages, by name, of the run that this thread has made last."""
    seen = threading.local()

    def remembering(residual: Callable[[Stage], float]) -> Callable[[Stage], float]:
        def remembered(stage: Stage) -> float:
            seen.states[stage.name] = as_numpy(stage.state)
            return residual(stage)

        return remembered

    kinds: tuple[Any, ...] = (Stage, FlowStage)
    for kind in kinds:
        monkeypatch.setattr(kind, "residual", remembering(kind.residual))
    return seen


def computed(
    config: FlowConfig, rows: CutRows, size: int, states: threading.local
) -> list[tuple[FlowRun, dict[str, np.ndarray]]]:
    """The run of every process, with its columns at the end of flow and scheme."""

    def work(group: Processes) -> tuple[FlowRun, dict[str, np.ndarray]]:
        states.states = {}
        return run_flow(config, prepare_shards(config, rows, group)), states.states

    return [work(OneProcess())] if size == 1 else in_threads(size, work)


def split_by_class(X: np.ndarray, run: FlowRun) -> list[np.ndarray]:
    """The columns of each class."""
    return [X[:, run.start.layout.labels == c] for c in range(run.start.layout.C)]


def close(got: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Equal to 1e-13 of the largest entry."""
    scale = abs(expected).max() if expected.dtype.kind == "f" else 0
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13 * scale, err_msg=name)


def test_what_does_not_add_over_processes_refuses_a_share() -> None:
    share = ColumnShare((4, 3), (2, 3), OneProcess())
    for metric in (EmbeddedMetric, BundleMetric):
        with pytest.raises(ValueError, match="5 of 7 columns are given, but a point needs all of them"):
            metric(share)
    with pytest.raises(ValueError, match="5 of 7 columns are given"):
        random_point(share, 2, np.random.default_rng(0))
