"""Devices: one without float64, as Apple's, which a tensor of the CPU that says it lies there stands in for, and CUDA."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tests.ufm.monitor.test_metric import fed, tensors
from ufm.arrays import on_device_with_float64
from ufm.monitor import NeuralCollapse, watch
from ufm.monitor.network import measure_network

REFUSED = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use float32 instead."
STAND_IN = "meta"  # a device that torch knows in every build


class Elsewhere(Tensor):
    """A tensor that says it is on another device and has its numbers on the CPU; it refuses float64, as Apple's does."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor, device: str = STAND_IN) -> "Elsewhere":
        if numbers.dtype == torch.float64:
            raise TypeError(REFUSED)
        self = torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=numbers.dtype, device=torch.device(device))
        self.numbers = numbers
        return self

    def __init__(self, numbers: Tensor, device: str = STAND_IN) -> None:
        super().__init__()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[bad-override]
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") == torch.float64:
            raise TypeError(REFUSED)  # the dtype changes before the device does
        device = str(kwargs.get("device", STAND_IN))
        kwargs |= {"device": "cpu"} if "device" in kwargs else {}
        args, kwargs = tree_map(lambda x: x.numbers if isinstance(x, Elsewhere) else x, (args, kwargs))
        result = func(*args, **kwargs)
        if device == "cpu":
            return result.clone()
        return tree_map(lambda x: Elsewhere(x, device) if isinstance(x, Tensor) else x, result)


@pytest.fixture
def without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device of the stand-in is one without float64."""
    monkeypatch.setattr("ufm.arrays.WITHOUT_FLOAT64", ("mps", STAND_IN))


def float32(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, labels and a classifier as a network in float32 has them."""
    H, y, W, b = tensors(seed, 0.3)
    return H.float(), y, W.float(), b.float()


def test_apples_device_is_known_and_the_stand_in_refuses_what_it_refuses() -> None:
    x = Elsewhere(torch.ones(2))
    assert (x + x).device.type == STAND_IN
    assert torch.equal((x + x).to("cpu"), torch.full((2,), 2.0))
    for refused in (x.double, lambda: x.to("cpu", torch.float64), lambda: torch.zeros_like(x, dtype=torch.float64)):
        with pytest.raises(TypeError, match="float64"):
            refused()
    assert on_device_with_float64(Elsewhere(torch.ones(2), "mps")).device.type == "cpu"
    assert on_device_with_float64(torch.ones(2, device="meta")).device.type == "meta"


@pytest.mark.usefixtures("without_float64")
def test_features_of_a_device_without_float64_are_accumulated_on_the_cpu() -> None:
    H, y, W, b = float32(2)
    expected = fed(NeuralCollapse(len(W), lam=0.1), H, y, W, b, [7]).compute()
    there = fed(NeuralCollapse(len(W), lam=0.1), Elsewhere(H), Elsewhere(y), Elsewhere(W), Elsewhere(b), [7])
    assert there.compute() == expected
    assert there.device.type == there.scatter.device.type == "cpu"
    targets = torch.cat([H[:, :1], H[:, 1:2] ** 2], 1)
    for of in (targets, y):
        regression = [NeuralCollapse(targets="regression") for _ in range(2)]
        regression[0].update(H, of)
        regression[1].update(Elsewhere(H), Elsewhere(of))
        assert regression[1].compute() == pytest.approx(regression[0].compute(), nan_ok=True, rel=0, abs=0)


@pytest.mark.usefixtures("without_float64")
def test_errors_in_such_features_are_raised_at_once() -> None:
    H, y, *_ = float32(3)
    metric = NeuralCollapse(3)
    with pytest.raises(ValueError, match="label outside"):
        metric.update(Elsewhere(H), Elsewhere(y + 50))
    with pytest.raises(ValueError, match="label outside"):
        metric.check(Elsewhere(H), Elsewhere(y + 50))


@pytest.mark.usefixtures("without_float64")
def test_a_metric_that_moves_with_its_network_stays_on_the_cpu() -> None:
    metric = NeuralCollapse(3)
    metric._apply(lambda x: Elsewhere(x))
    assert metric.device.type == metric.scatter.device.type == "cpu"


def network_there(H: Tensor, W: Tensor, b: Tensor) -> nn.Sequential:
    """A network that gives its input to a classifier, on the device without float64."""
    net = nn.Sequential(nn.Identity(), nn.Linear(H.shape[1], len(W)))
    net[1].weight, net[1].bias = (nn.Parameter(Elsewhere(x), requires_grad=False) for x in (W, b))
    return net


@pytest.mark.usefixtures("without_float64")
def test_a_network_on_such_a_device_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    H, y, W, b = float32(4)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # the stand-in's device has none
    net, here = network_there(H, W, b), nn.Sequential(nn.Identity(), nn.Linear(H.shape[1], len(W)))
    here.load_state_dict({"1.weight": W, "1.bias": b})
    expected = watch(here, "1", inner="0", lam=0.1).measure([(H, y)])
    watched = watch(net, "1", inner="0", lam=0.1)
    assert watched.measure([(Elsewhere(H), y)]) == expected
    assert measure_network(net, [(Elsewhere(H), y)], "1", 0.1).scalars["nc1"] == pytest.approx(expected["nc1"], rel=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_cuda_gives_the_numbers_of_the_cpu_and_an_update_does_not_wait(
    dtype: torch.dtype, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without stored features nothing is asked of the device where rows become moments either."""
    monkeypatch.setattr("ufm.monitor.states.MOST", 10_000 if stored else 5)
    H, y, W, b = (x.to(dtype) if x.is_floating_point() else x for x in tensors(5, 1e-2))
    settings: dict[str, Any] = {"num_classes": len(W), "lam": 0.1, "stored": stored}
    expected = fed(NeuralCollapse(**settings), H, y, W, b, [7, 20]).compute()
    metric = NeuralCollapse(**settings).to("cuda")
    features, labels, weights, offsets = (x.cuda() for x in (H, y, W, b))
    metric.update(features[:1], labels[:1], classifier=(weights, offsets))  # the buffers, and P
    torch.cuda.set_sync_debug_mode("error")
    try:
        for h, t in zip(features[1:].split(9), labels[1:].split(9), strict=True):
            metric.update(h, t, classifier=(weights, offsets))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    values = metric.compute()
    assert metric.scatter.is_cuda
    assert values.keys() == expected.keys()
    assert values == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)
