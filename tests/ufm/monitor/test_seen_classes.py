"""Classes that come in any order, or alone, have the numbers of those that come together."""

import math
from typing import Any

import numpy as np
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


@pytest.mark.parametrize(("classes", "kept"), [("all", (0, 2)), ("all", (1,)), ("seen", (1,))])
def test_a_missing_class_leaves_what_needs_none_of_its_examples(classes: Any, kept: tuple[int, ...]) -> None:
    H, y, _, _ = tensors(8, 0.3)
    C = int(y.max()) + 2  # the last has no example either
    W = torch.randn(C, H.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    b = torch.arange(C) / 10
    here = torch.isin(y, torch.tensor(kept))
    H, y = H[here], y[here]
    metric = fed(NeuralCollapse(C, classes=classes, lam=0.1), H, y, W, b, [len(y) // 2])
    values = metric.compute()
    of_rows = {"nc2_equinorm_w", "nc2_equiangular_w", "nc2_maxangle_w"} if classes == "all" else set()  # one row has no angle
    defined = {"train_error", "nc0", "effective_rank", "examples", "classes_seen"} | of_rows
    assert {name for name, value in values.items() if not math.isnan(value)} == defined
    assert set(metric.undefined) == values.keys() - defined
    whole = fed(NeuralCollapse(C, lam=0.1), *whole_set(C, H.shape[1]), W, b, []).compute()
    assert values.keys() == whole.keys()
    for name in {"nc0"} | of_rows:
        assert values[name] == whole[name], name
    assert values["train_error"] == float(((H.double() @ W.mT + b).argmax(1) != y).double().mean())
    assert (values["examples"], values["classes_seen"]) == (len(y), len(kept))
    shares = np.linalg.svd(H.double().numpy() - H.double().numpy().mean(0), compute_uv=False)
    shares = shares[shares > 0] / shares.sum()
    assert values["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def whole_set(C: int, P: int) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(4 * C) % C
    return torch.randn(len(y), P, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), y


@pytest.mark.parametrize(
    ("C", "classes", "labels", "message"),
    [
        (
            3,
            "all",
            [0, 0, 2, 2],
            "class 1 has no example, and every one of the 3 classes needs one: classes='seen' measures those",
        ),
        (5, "all", [0, 0, 1, 1], "labels run from 0 to 1 only: are the layer and the number of classes the intended ones?"),
        (5, "seen", [1, 1, 1], "class 1 alone has examples: collapse needs examples of at least 2 classes"),
        (5, "all", [-1, -1], "no example has been seen: a loader"),
    ],
)
def test_a_missing_class_is_named_with_the_way_out(C: int, classes: Any, labels: list[int], message: str) -> None:
    metric = NeuralCollapse(C, classes=classes, ignore_index=-1)
    metric.update(torch.randn(len(labels), 4), torch.tensor(labels))
    assert metric.compute()["examples"] == sum(label >= 0 for label in labels)
    assert message in metric.undefined["nc1"]


def test_class_means_that_all_coincide_leave_no_nan_without_a_reason() -> None:
    _, y, W, b = tensors(8, 0.3)
    metric = fed(NeuralCollapse(len(W), lam=0.1), torch.ones(len(y), W.shape[1]), y, W, b, [])
    undefined = {name for name, value in metric.compute().items() if math.isnan(value)}
    assert undefined <= metric.undefined.keys()
    assert "class means are zero" in metric.undefined["nc3"]
