"""Two metrics are two: in a collection, among processes, in a checkpoint, and of one width of features and targets."""

import copy
import pickle
import threading
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from tests.ufm.monitor.test_metric import fed, tensors
from ufm.monitor import NeuralCollapse


def same(first: dict[str, float], second: dict[str, float]) -> bool:
    return first.keys() == second.keys() and np.array_equal(list(first.values()), list(second.values()), equal_nan=True)


@pytest.mark.parametrize("other", [{"lam": 0.1}, {"stored": False}, {}, {"classes": "seen", "ignore_index": 0}])
def test_a_collection_of_two_has_the_numbers_of_each_in_every_pass(other: dict[str, Any]) -> None:
    H, y, W, b = tensors(8, 0.3)
    metrics = {"a": NeuralCollapse(len(W)), "b": NeuralCollapse(len(W), **other), "c": NeuralCollapse(len(W))}
    metrics["d"] = copy.deepcopy(metrics["a"])
    collection = MetricCollection(dict(metrics))
    alone = {name: copy.deepcopy(metric) for name, metric in metrics.items()}
    for _ in range(2):
        for h, t in zip(H.split(10), y.split(10), strict=True):
            collection.update(h, t, classifier=(W, b))
            for metric in alone.values():
                metric.update(h, t, classifier=(W, b))
        collection.compute()
        for name, metric in alone.items():
            assert same(collection[name].compute(), metric.compute()), name
        collection.reset()
        for metric in alone.values():
            metric.reset()
    assert "instance" not in "".join(collection.state_dict())


def test_a_regression_whose_feature_equals_the_mean_in_one_process_is_undefined_in_all() -> None:
    rows = (torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    results = two_threads([(x.double(), x.double()[:, :1]) for x in rows])
    assert all(np.isnan(values["nrc1"]) for values, _ in results)
    assert "a feature equals the mean" in results[1][1]
    assert "another process" in results[0][1]


def two_threads(shares: list[tuple[Tensor, Tensor]], broken: int | None = None) -> list[Any]:
    """compute() of two metrics whose gathering is a rendezvous of threads, which fails where one comes alone."""
    barrier, board = threading.Barrier(2), [None, None]
    results: list[Any] = [None, None]

    def work(rank: int) -> None:
        def gather(value: Tensor, group: Any) -> list[Tensor]:
            barrier.wait(20)
            board[rank] = value  # type: ignore[call-overload]
            barrier.wait(20)
            both = list(board)
            barrier.wait(20)
            return both  # type: ignore[return-value]

        metric = NeuralCollapse(targets="regression", dist_sync_fn=gather, distributed_available_fn=lambda: True)
        metric.update(*shares[rank])
        if rank == broken:
            metric._take_in_waiting()
            assert metric._rows is not None
            metric._rows.sum_of = unreadable  # type: ignore[method-assign]
        try:
            results[rank] = metric.compute(), metric.undefined.get("nrc1", "")
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def unreadable(*_: Any) -> Tensor:
    raise OSError("the disk is gone")


def test_a_disk_that_fails_in_one_process_ends_compute_in_all() -> None:
    rng = np.random.default_rng(0)
    share = (torch.from_numpy(rng.standard_normal((9, 3))), torch.from_numpy(rng.standard_normal((9, 1))))
    first, second = two_threads([share, share], broken=1)
    assert isinstance(second, OSError)
    assert isinstance(first, RuntimeError)
    assert "1 other processes could not read" in str(first)


def test_processes_with_different_classifiers_are_refused() -> None:
    H, y, W, b = tensors(8, 0.3)
    for other in ((W + 1, b), (W, b + 1)):
        theirs = fed(NeuralCollapse(len(W)), H, y, *other, [])
        theirs._take_in_waiting()
        values = iter(theirs._states.values())

        def gather(value: Tensor, group: Any) -> list[Tensor]:
            return [value, next(values, value)]  # noqa: B023

        metric = NeuralCollapse(len(W), dist_sync_fn=gather, distributed_available_fn=lambda: True)
        fed(metric, H, y, W, b, [])
        with pytest.raises(ValueError, match="the processes were given different classifiers"):
            metric.compute()
        assert not metric._is_synced


def test_weights_saved_without_the_metric_leave_what_it_has_seen() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)
            self.metric = NeuralCollapse(2)

    rng = np.random.default_rng(0)
    H, y = torch.from_numpy(rng.standard_normal((5000, 3))), torch.arange(5000) % 2
    module, expected = Module(), NeuralCollapse(2)
    for metric in (module.metric, expected):
        metric.update(H, y)
    weights = {name: value for name, value in module.state_dict().items() if name.startswith("head")}
    module.load_state_dict(weights, strict=False)
    assert same(module.metric.compute(), expected.compute())
    assert module.metric.compute()["examples"] == 5000


def test_states_of_two_counts_of_faults_are_read() -> None:
    H, y, W, b = tensors(8, 0.3)
    expected = fed(NeuralCollapse(len(W), lam=0.1, stored=False), H, y, W, b, []).compute()
    states = fed(NeuralCollapse(len(W)), H, y, W, b, []).state_dict()
    states["faults"] = states["faults"][:2]
    loaded, merged = NeuralCollapse(len(W), lam=0.1, stored=False), NeuralCollapse(len(W), lam=0.1, stored=False)
    fed(loaded, H, y, 2 * W, b, []).compute()  # which is forgotten, what was computed of it too
    loaded.load_state_dict(states)
    merged.merge_state(dict(states))
    assert same(loaded.compute(), expected)
    assert same(merged.compute(), expected)
    old = fed(NeuralCollapse(len(W), lam=0.1, stored=False), H, y, W, b, [])
    old.faults = old.faults[:2]
    old._defaults["faults"] = old.faults
    assert same(pickle.loads(pickle.dumps(old)).compute(), expected)


def test_features_and_targets_of_other_widths_are_refused_though_their_sum_is_the_same() -> None:
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.standard_normal((60, 5)))
    metric = NeuralCollapse(targets="regression")
    metric.update(X, X[:, :2])
    for _ in range(2):
        with pytest.raises(ValueError, match="features of P = 4 cannot be added to those before them, of P = 5"):
            metric.update(X[:, :4], X[:, :3])
        metric.compute()
    other = NeuralCollapse(targets="regression")
    other.update(X[:, :4], X[:, :3])
    with pytest.raises(ValueError, match="P = 4 cannot be added to those before them, of P = 5"):
        metric.merge_state(other)
    loaded = NeuralCollapse(targets="regression")
    loaded.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="P = 5 cannot be added to those before them, of P = 4"):
        loaded.update(X, X[:, :2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_integer_targets_are_taken_exactly(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    H = torch.from_numpy(rng.standard_normal((70, 4))).to(dtype)
    years = torch.from_numpy(rng.integers(1990, 2025, (70, 2)))
    W, b = torch.from_numpy(rng.standard_normal((2, 4))), torch.full((2,), 2007.0, dtype=torch.float64)
    metric = NeuralCollapse(targets="regression")
    metric.update(H, years, classifier=(W, b))
    residual = H.double() @ W.mT + b - years
    assert metric.compute()["mse"] == pytest.approx(float((residual**2).sum(1).mean()), rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, H, y: m.merge_state(m), "cannot be merged into itself"),
        (lambda m, H, y: m.update(H, y, classifier="fc"), "the classifier is str: a torch.nn.Linear or a pair"),
        (lambda m, H, y: m.update(H, y, classifier=H), "the classifier is Tensor"),
        (lambda m, H, y: m.update(H, y, classifier=nn.Conv2d(1, 1, 1)), "the classifier is Conv2d"),
        (lambda m, H, y: m.update(H, y, classifier=(H.numpy(), None)), "the classifier is tuple: .* of tensors"),
        (lambda m, H, y: m.update(H, y[:, None]), r"of a column of labels take labels\[\.\.\., 0\]"),
        (lambda m, H, y: m.merge_state(NeuralCollapse(5, ignore_index=3)), "ignore_index = 3 cannot be merged"),
        (lambda m, H, y: NeuralCollapse(5, lam=cast(Any, "0.001")), "lam = '0.001': it must be a number"),
        (lambda m, H, y: NeuralCollapse(targets="regression", ignore_index=0), "leave them out for targets='regression'"),
        (lambda m, H, y: NeuralCollapse(targets="regression", shift=True), "leave them out for targets='regression'"),
    ],
)
def test_a_call_that_cannot_be_meant_says_what_is_needed(call: Any, message: str) -> None:
    H, y = torch.eye(5), torch.arange(5)
    with pytest.raises(ValueError, match=message):
        call(NeuralCollapse(5), H, y)


@pytest.mark.parametrize("size", [1e-150, 1e-300, 0.0])
def test_small_offsets_are_what_zeros_are(size: float) -> None:
    H, y, W, b = tensors(8, 0.3)
    values = fed(NeuralCollapse(len(W), lam=0.1), H, y, W, size * b, []).compute()
    assert values["loss"] == pytest.approx(fed(NeuralCollapse(len(W), lam=0.1), H, y, W, 0 * b, []).compute()["loss"], rel=1e-12)
    with pytest.raises(ValueError, match="offsets b"):
        fed(NeuralCollapse(len(W)), H, y, W, b + float("nan"), [])
