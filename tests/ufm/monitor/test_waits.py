"""An update does not wait for the device: counted on a stand-in for one, whose tensors have their numbers on the CPU."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.ufm.monitor.test_metric import fed, tensors
from ufm.monitor import NeuralCollapse, watch
from ufm.monitor.watched import Watched

STAND_IN = "meta"  # a device that torch knows in every build
ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal.default", "bincount", "repeat_interleave")


class There(Tensor):
    """A tensor that says it is on another device and has its numbers on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "There":
        self = torch.Tensor._make_wrapper_subclass(
            cls, numbers.shape, numbers.stride(), numbers.storage_offset(), dtype=numbers.dtype, device=torch.device(STAND_IN)
        )
        self.numbers = numbers
        return self

    def __init__(self, numbers: Tensor) -> None:
        super().__init__()

    def tolist(self) -> Any:
        return self.numbers.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[bad-override]
        return run_there(func, args, dict(kwargs or {}))


def run_there(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the numbers; its results are there, unless they are meant to be on the CPU."""
    back = str(kwargs.get("device", STAND_IN)) == "cpu"
    kwargs |= {"device": "cpu"} if "device" in kwargs else {}
    args, kwargs = tree_map(lambda x: x.numbers if isinstance(x, There) else x, (args, kwargs))
    result = func(*args, **kwargs)
    return result if back else tree_map(lambda x: There(x) if isinstance(x, Tensor) else x, result)


class Waits(TorchDispatchMode):
    """Keeps the operations for which a program waits until the device has come so far: questions, and copies from or to it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there, device = [isinstance(x, There) for x in given], str(kwargs.get("device", ""))
        if not any(there) and device != STAND_IN:
            return func(*args, **kwargs)
        between = any(x.ndim and not isinstance(x, There) for x in given) or (any(there) and device == "cpu")
        mask = "index.Tensor" in str(func) and any(x is not None and x.dtype is torch.bool for x in args[1])
        if between or mask or any(name in str(func) for name in ASKING):
            self.seen.append(str(func))
        return run_there(func, args, kwargs)


def there(*values: Tensor) -> tuple[Tensor, ...]:
    return tuple(There(x) for x in values)


def test_the_stand_in_counts_what_a_program_waits_for() -> None:
    x = torch.arange(4.0)
    with Waits() as waits:
        y = There(x) * 2 + torch.ones(4, device=STAND_IN)
        y[1:] = y[1:].clone()
        assert waits.seen == []
        for ask in (lambda: bool((y > 0).any()), lambda: y[y > 2], lambda: y.to("cpu"), lambda: x.to(STAND_IN), y.max().item):
            before = len(waits.seen)
            ask()
            assert len(waits.seen) > before, ask
    assert torch.equal(y.numbers, 2 * x + 1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("settings", [{}, {"ignore_index": -100}])
def test_an_update_waits_for_nothing(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufm.monitor.states.MOST", 16)  # moments are taken in during the updates
    H, y, W, b = tensors(8, 0.3)
    expected = fed(NeuralCollapse(len(W), lam=0.1, stored=False, **settings), H, y, W, b, [7, 20]).compute()
    with Waits() as waits:
        metric = NeuralCollapse(len(W), lam=0.1, stored=False, **settings)
        h, t, weights, offsets = there(H, y, W, b)
        metric.update(h[:1], t[:1], classifier=(weights, offsets))  # the metric moves to the device
        waits.seen.clear()
        for rows, labels in zip(h[1:].split(9), t[1:].split(9), strict=True):
            metric.update(rows, labels, classifier=(weights, offsets))
        assert waits.seen == []
        values = metric.to("cpu").compute()
        assert waits.seen != []
    assert values == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("again", [Tensor.detach, Tensor.clone, lambda x: 1 * x])
def test_a_classifier_that_is_another_tensor_in_every_batch_is_compared_on_the_device(again: Any) -> None:
    """As that of a layer with a parametrisation is, and `head.weight.detach()`."""
    H, y, W, b = tensors(8, 0.3)
    with Waits() as waits:
        metric = NeuralCollapse(len(W))
        h, t, weights, offsets = there(H, y, W, b)
        metric.update(h[:1], t[:1], classifier=(again(weights), again(offsets)))
        waits.seen.clear()
        for rows, labels in zip(h[1:].split(9), t[1:].split(9), strict=True):
            metric.update(rows, labels, classifier=(again(weights), again(offsets)))
        assert waits.seen == []
        metric.update(h, t, classifier=(weights + 1, offsets))
        with pytest.raises(ValueError, match=r"differs from that of the features before.*call reset\(\) between passes"):
            metric.compute()


def test_a_step_of_the_optimizer_is_refused_at_once_on_a_device_too() -> None:
    H, y, W, b = tensors(8, 0.3)
    with Waits():
        metric = NeuralCollapse(len(W))
        h, t, weights, offsets = there(H, y, W, b)
        metric.update(h, t, classifier=(weights, offsets))
        weights.add_(1)
        with pytest.raises(ValueError, match=r"differs from that of the features before"):
            metric.update(h, t, classifier=(weights, offsets))


def test_tokens_and_targets_wait_for_nothing() -> None:
    H, y, W, b = tensors(5, 0.5, unequal=False)
    n = len(H) // 6 * 6
    with Waits() as waits:
        h, t, weights, offsets = there(H[:n].reshape(6, n // 6, -1), y[:n].reshape(6, -1), W, b)
        causal, regression = NeuralCollapse(len(W), shift=True), NeuralCollapse(targets="regression")
        for k in range(2):
            for tokens, labels in zip(h.split(2), t.split(2), strict=True):
                causal.update(tokens, labels, classifier=(weights, offsets))
                regression.update(tokens[:, 0], tokens[:, 1, :1])
            if not k:
                waits.seen.clear()
        assert waits.seen == []


def test_a_pass_of_ours_takes_labels_to_the_device_before_the_network_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied behind the forward pass they would wait for it. What is asked once a pass is asked of the first batch."""
    H, y, W, b = (x.float() if x.is_floating_point() else x for x in tensors(4, 0.3))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # the stand-in's device has none
    monkeypatch.setattr(Watched, "compute", lambda _: {})
    net, passes = nn.Sequential(nn.Identity(), nn.Linear(H.shape[1], len(W))), list[int]()
    with Waits() as waits:
        net[1].weight, net[1].bias = (nn.Parameter(x, requires_grad=False) for x in there(W, b))
        net.register_forward_pre_hook(lambda *_: waits.seen.clear())

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for rows, labels in zip(H.split(9), y.split(9), strict=True):
                yield rows, labels
                passes.append(len(waits.seen))

        watch(net, "1", inner="0").measure(batches())
    assert len(passes) > 2
    assert passes[1:] == [0] * (len(passes) - 1)
