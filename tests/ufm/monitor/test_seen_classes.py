"""Classes that come in any order, or alone, have the numbers of those that come together."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ufm.monitor.test_metric import fed, tensors
from ufm.monitor import NeuralCollapse


@given(st.integers(0, 2**32 - 1), st.booleans(), st.data())
def test_classes_may_come_in_any_order(seed: int, merged: bool, data: st.DataObject) -> None:
    H, y, W, b = tensors(seed, 0.3)
    C = len(W)
    expected = fed(NeuralCollapse(C, lam=0.1), H, y, W, b, []).compute()
    lazy = NeuralCollapse(C, classes="seen", lam=0.1)
    for c in data.draw(st.permutations(range(C))):
        part = fed(NeuralCollapse(C, classes="seen", lam=0.1) if merged else lazy, H[y == c], y[y == c], W, b, [])
        part.compute()  # takes in what waits
        if merged:
            lazy.merge_state(part)
    values = lazy.compute()
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, rel=1e-9, abs=1e-11), name
    assert lazy.measurement.counts.tolist() == torch.bincount(y).tolist()


def test_one_class_alone_leaves_everything_undefined_with_the_reason() -> None:
    H, y, W, b = tensors(8, 0.3)
    metric = fed(NeuralCollapse(len(W), classes="seen", lam=0.1), H[y == 1], y[y == 1], W, b, [])
    assert all(math.isnan(value) for value in metric.compute().values())
    assert set(metric.undefined.values()) == {"class 1 alone has examples: collapse needs those of at least 2 classes"}


def test_class_means_that_all_coincide_leave_no_nan_without_a_reason() -> None:
    _, y, W, b = tensors(8, 0.3)
    metric = fed(NeuralCollapse(len(W), lam=0.1), torch.ones(len(y), W.shape[1]), y, W, b, [])
    undefined = {name for name, value in metric.compute().items() if math.isnan(value)}
    assert undefined <= metric.undefined.keys()
    assert "all class means are equal" in metric.undefined["nc3"]
