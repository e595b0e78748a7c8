"""Stochastic variance-reduced gradient for every manifold of geoopt: an optimizer of geoopt.

For f the mean of f_1 .. f_N: at an anchor x_0 the whole gradient is formed, and each step takes that of one batch B,

    v = grad f_B(x) - T(grad f_B(x_0) - grad f(x_0)),    x <- R_x(-lr v)

T the vector transport from x_0 to x. v has the mean grad f(x), and its variance goes to zero as x and x_0 go to a minimum: a
fixed lr converges linearly where stochastic gradient descent stalls.
[Zhang, Reddi and Sra 2016; Sato, Kasai and Mishra 2019]
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from geoopt.optim.mixin import OptimMixin

Value = TypeVar("Value")  # of the loss

_Mixin: Any = OptimMixin  # untyped


class RiemannianSVRG(_Mixin, torch.optim.Optimizer):
    """Variance-reduced descent: `anchor(closure)` with the mean of all losses from time to time, `step(closure)` with a batch's.

        optimizer = RiemannianSVRG(parameters, lr=0.1)
        for _ in range(epochs):
            optimizer.anchor(whole)      # whole(): backward of the mean of all losses; in parts, as memory asks
            for batch in batches:
                optimizer.step(lambda: loss(batch).backward())

    `step` calls its closure twice, at the anchor and at the point, with the same random numbers of torch; `anchor` once.
    Gradients are cleared before each call. Plain parameters beside those on manifolds are Euclidean. Two tensors of the size of a
    parameter are kept with it. `stabilize`: projx every so many steps. Raises ValueError for a rate that is not positive.
    """

    def __init__(
        self, params: Iterable[torch.Tensor] | Iterable[dict[str, Any]], lr: float, stabilize: int | None = None
    ) -> None:
        if not lr > 0:
            raise ValueError(f"lr = {lr}: the learning rate must be positive")
        super().__init__(params, {"lr": lr}, stabilize=stabilize)  # type: ignore[unexpected-keyword]

    def anchor(self, closure: Callable[[], Value]) -> Value:
        """Take the present point as the anchor, with the gradient that `closure` leaves; its value, the mean of all losses."""
        value = self._evaluate(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for x in group["params"]:
                    if x.grad is None:
                        self.state.pop(x, None)
                        continue
                    self.state[x] = {"anchor": x.detach().clone(), "gradient": _gradient(x).detach().clone()}
        return value

    def step(self, closure: Callable[[], Value]) -> Value:  # type: ignore[override]
        """One step with the loss of a batch; its value at the point before it. Raises RuntimeError before the first anchor."""
        if not self.state:
            raise RuntimeError("there is no anchor: call anchor(closure) with the mean of all losses first")
        corrections = self._corrections(closure)
        value = self._evaluate(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for x in group["params"]:
                    if x in corrections:
                        manifold = _manifold(x)
                        moved = manifold.transp(self.state[x]["anchor"], x, corrections[x])
                        x.copy_(manifold.retr(x, -group["lr"] * (_gradient(x) - moved)))
                    elif x.grad is not None:
                        raise RuntimeError(
                            f"a parameter {tuple(x.shape)} has a gradient, but had none at the anchor: anchor again"
                        )
                group["step"] = group.get("step", 0) + 1
                if group["stabilize"] is not None and group["step"] % group["stabilize"] == 0:
                    self.stabilize_group(group)
        return value

    @torch.no_grad()
    def stabilize_group(self, group: dict[str, Any]) -> None:
        """Put the parameters of a group back on their manifolds."""
        for x in group["params"]:
            x.copy_(_manifold(x).projx(x))

    def _corrections(self, closure: Callable[[], object]) -> dict[torch.Tensor, torch.Tensor]:
        """grad f_B - grad f at the anchor, of every parameter that has one. The parameters are put back, whatever happens."""
        anchored = [x for group in self.param_groups for x in group["params"] if x in self.state]
        present = [x.detach().clone() for x in anchored]
        devices = sorted({x.device.index for x in anchored if x.device.type == "cuda"})
        try:
            _assign(anchored, [self.state[x]["anchor"] for x in anchored])
            with torch.random.fork_rng(devices):
                self._evaluate(closure)
            with torch.no_grad():
                return {x: _gradient(x) - self.state[x]["gradient"] for x in anchored}
        finally:
            _assign(anchored, present)

    def _evaluate(self, closure: Callable[[], Value]) -> Value:
        self.zero_grad()
        with torch.enable_grad():
            return closure()


def _manifold(x: torch.Tensor) -> Any:
    return getattr(x, "manifold", OptimMixin._default_manifold)


def _gradient(x: torch.Tensor) -> torch.Tensor:
    """The Riemannian gradient; zero where a batch does not see the parameter."""
    return torch.zeros_like(x) if x.grad is None else _manifold(x).egrad2rgrad(x, x.grad)


@torch.no_grad()
def _assign(parameters: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    for x, value in zip(parameters, values, strict=True):
        x.copy_(value)
