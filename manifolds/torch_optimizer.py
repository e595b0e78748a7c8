"""Gradient descent for torch parameters on the manifolds of `manifolds.geoopt`, each one fused step of `manifolds.steps`."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from manifolds.array import Columns
from manifolds.geoopt import EmbeddedNormalizedFeatures, NormalizedFeatures

FeatureManifold = NormalizedFeatures | EmbeddedNormalizedFeatures

StepRule = Callable[[FeatureManifold, Columns[torch.Tensor], Columns[torch.Tensor], float], Columns[torch.Tensor]]


def gradient_rule(manifold: FeatureManifold, x: torch.Tensor, gradient: torch.Tensor, lr: float) -> torch.Tensor:
    """manifold.gradient_step: what geoopt's RiemannianSGD without momentum does."""
    return manifold.gradient_step(x, gradient, lr)


def projected_rule(manifold: FeatureManifold, x: torch.Tensor, gradient: torch.Tensor, lr: float) -> torch.Tensor:
    """manifold.projected_step: the same to first order in lr, cheaper."""
    return manifold.projected_step(x, gradient, lr)


class RiemannianDescent(torch.optim.Optimizer):
    """x <- rule(manifold, x, grad f(x), lr), for features on the manifold; x - lr grad f(x) for plain parameters beside them.

    Raises ValueError for a learning rate that is not positive and for a parameter on another manifold (take geoopt's optimizers).
    """

    def __init__(self, params: Iterable[torch.Tensor], lr: float, rule: StepRule = gradient_rule) -> None:
        if not lr > 0:
            raise ValueError(f"lr = {lr}: the learning rate must be positive")
        super().__init__(params, {"lr": lr})
        self.rule = rule

    def __getstate__(self) -> dict[str, Any]:
        """With the rule, so that a copied or pickled optimizer has it."""
        return {**super().__getstate__(), "rule": self.rule}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raises ValueError for a parameter on another manifold."""
        super().add_param_group(param_group)
        for x in self.param_groups[-1]["params"]:
            manifold = getattr(x, "manifold", None)
            if not isinstance(manifold, (NormalizedFeatures, EmbeddedNormalizedFeatures, type(None))):
                self.param_groups.pop()
                raise ValueError(f"a parameter is on {manifold}: only this package's manifolds are supported, use geoopt.optim")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient; the value of `closure`, called first where given."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            for x in group["params"]:
                if x.grad is None:
                    continue
                manifold = getattr(x, "manifold", None)
                if manifold is None:
                    x.add_(x.grad, alpha=-group["lr"])
                else:
                    x.copy_(self.rule(manifold, x, x.grad, group["lr"]))
        return value
