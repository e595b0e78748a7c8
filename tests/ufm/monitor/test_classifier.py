"""The classifier is the one whose decisions are reported: changed, broken or other than W h + b it is refused."""

import math

import pytest
import torch
from torch import nn

from tests.ufm.monitor.test_metric import fed, tensors
from ufm.monitor import NeuralCollapse


def test_weights_that_a_fused_optimizer_changes_are_another_classifier() -> None:
    H, y, W, _ = tensors(8, 0.3)
    head = nn.Linear(W.shape[1], W.shape[0]).double()
    optimizer = torch.optim.SGD(head.parameters(), 0.1, fused=True)
    metric = NeuralCollapse(len(W), lam=0.1)
    metric.update(H, y, classifier=head)
    before = metric.compute()
    head(H).square().sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="differs from that of the features before"):
        metric.update(H, y, classifier=head)
    assert metric.compute() == before


def test_one_row_of_the_weights_changed_where_no_version_says_so_is_seen() -> None:
    """Of up to `LOOKED_AT` classes every row is looked at."""
    H, y, W, b = tensors(8, 0.3)
    metric = fed(NeuralCollapse(len(W)), H, y, W, b, [])
    W.data[-1, 0] += 1
    with pytest.raises(ValueError, match="differs from that of the features before"):
        metric.update(H, y, classifier=(W, b))


def test_a_classifier_that_a_device_saw_change_is_refused_in_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    H, y, W, b = tensors(8, 0.3)
    metric = NeuralCollapse(len(W))
    with monkeypatch.context() as patched:
        patched.setattr("ufm.monitor.metric.refuse", lambda *_: None)
        metric.update(H[:9], y[:9], classifier=(W, b))
        b.data += 1
        metric.update(H[9:], y[9:], classifier=(W, b))
    with pytest.raises(ValueError, match="differs from that of the features before"):
        metric.compute()


def test_a_batch_that_is_refused_leaves_no_classifier() -> None:
    H, y, W, b = tensors(8, 0.3)
    expected = fed(NeuralCollapse(len(W), lam=0.1), H, y, W, b, []).compute()
    metric = NeuralCollapse(len(W), lam=0.1)
    with pytest.raises(ValueError, match="outside"):
        metric.update(H, y + 1, classifier=(2 * W, b))
    metric.update(H, y, classifier=(W, b))
    assert metric.compute() == expected


@pytest.mark.parametrize("size", [float("nan"), float("inf"), 1e300, 1e-300])
def test_weights_that_are_not_finite_or_out_of_scale_are_refused(size: float) -> None:
    H, y, W, b = tensors(8, 0.3)
    message = "weights W have NaN or infinite" if not size < 1e301 else "the largest of weights W is .*; rescale the weights W"
    metric = NeuralCollapse(len(W), lam=0.1)
    with pytest.raises(ValueError, match=message):
        metric.update(H, y, classifier=(size * W, b))
    metric.update(H, y)
    metric.W, metric.b = size * W, b  # as a device has them
    with pytest.raises(ValueError, match=message):
        metric.compute()


@pytest.mark.parametrize("size", [1e150, 1e200])
def test_features_whose_squares_overflow_are_refused_and_nothing_of_them_stays(size: float) -> None:
    H, y, W, b = tensors(8, 0.3)
    metric = fed(NeuralCollapse(len(W), lam=0.1), H, y, W, b, [])
    before = metric.compute()
    with pytest.raises(ValueError, match=r"1 examples have features larger than 1e\+140: their powers overflow"):
        metric.update(torch.cat([H, size * torch.ones_like(H[:1])]), torch.cat([y, y[:1]]))
    assert metric.compute() == before


@pytest.mark.parametrize("size", [1e-145, 1e-170, 1e-300])
def test_features_whose_squares_vanish_have_no_measures(size: float) -> None:
    H, y, W, b = tensors(8, 0.3)
    metric = fed(NeuralCollapse(len(W)), size * H, y, W, b, [])
    of_classifier = {"nc2_equinorm_w", "nc2_equiangular_w", "nc2_maxangle_w", "nc0"}
    known = {name for name, value in metric.compute().items() if not math.isnan(value)}
    assert known == of_classifier | {"examples", "classes_seen"}
    assert "its powers overflow or underflow; rescale the features" in metric.undefined["nc1"]


def test_double_features_after_single_ones_keep_their_digits_for_the_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufm.monitor.waiting.IN_MEMORY", 100)  # most of them on disk
    H, y = torch.zeros(40, 3, dtype=torch.float64), torch.arange(40) % 2
    H[:, 0] = y * 2e-9  # of two classes: float32 cannot tell them apart beside the 1 of the last column
    H[:, 1], H[:, 2] = torch.linspace(0, 1e-12, 40), 1.0
    H[:, 0] += 1
    metric = NeuralCollapse(2)
    metric.update(torch.tensor([[1.0, 0.0, 1.0]] * 2), torch.arange(2))  # float32
    metric.update(H, y)
    assert metric.compute()["ncc_accuracy"] == pytest.approx((40 + 1) / 42)
