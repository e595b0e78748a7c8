"""Checks of a cost's Riemannian gradient and Hessian along a retraction or exp, as numbers and verdicts.

`cost` (x) -> float, `gradient` (x) -> tangent vector, `hessian` (x, u) -> tangent vector: those of a pymanopt Problem, or the
ones that `torch_derivatives` makes of a cost on a geoopt manifold.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from manifolds.array import ManifoldPoint, Vector
from manifolds.checks.slopes import Bound, CheckResult, measure_slope
from manifolds.checks.support import require_support, require_view
from manifolds.checks.views import ManifoldView, flat
from manifolds.linalg import array_like
from manifolds.quotient import QuotientMetric

Cost = Callable[[ManifoldPoint], Any]  # a number, or an array of one
Gradient = Callable[[ManifoldPoint], Vector]
Hessian = Callable[[ManifoldPoint, Vector], Vector]
RetractionMap = Callable[[ManifoldPoint, Vector], ManifoldPoint]


def check_gradient(view: ManifoldView, cost: Cost, gradient: Gradient, move: RetractionMap | None = None) -> list[CheckResult]:
    """f(R(x, t u)) - f(x) - t g(grad f, u) falls with slope 2 along any retraction; the gradient is tangent.

    On a quotient by O(P) also whether the cost is one on it: f(Q x) = f(x). Raises ValueError for a manifold without its view.
    """
    require_view(view)
    move = move or view.retract
    x = view.random_point()
    require_support(view, x)
    u = view.random_tangent(x)
    grad = gradient(x)
    value, first = float(cost(x)), view.inner(x, grad, u)
    return [
        measure_slope("gradient", lambda t: abs(float(cost(move(x, u * t))) - value - t * first), 2, _noise(value)),
        _tangency(view, x, grad, "gradient is tangent"),
        *_invariance(view, cost, x, value),
    ]


def check_hessian(
    view: ManifoldView, cost: Cost, gradient: Gradient, hessian: Hessian, move: RetractionMap | None = None
) -> list[CheckResult]:
    """f minus its quadratic model falls with slope 3 along exp (or a second-order `move`); the Hessian is linear, symmetric.

    Raises ValueError for a manifold without its view.
    """
    require_view(view)
    move = move or view.exp
    x = view.random_point()
    require_support(view, x)
    u, v = view.random_tangent(x), view.random_tangent(x)
    Hu, Hv = hessian(x, u), hessian(x, v)
    value, first, second = float(cost(x)), view.inner(x, gradient(x), u), view.inner(x, Hu, u)
    combination = flat(hessian(x, u * 0.7 + v * (-1.3))) - 0.7 * flat(Hu) + 1.3 * flat(Hv)
    size = max(view.norm(x, Hu), view.norm(x, Hv))
    model = measure_slope(
        "Hessian", lambda t: abs(float(cost(move(x, u * t))) - value - t * first - t * t / 2 * second), 3, _noise(value)
    )
    return [
        model,
        _tangency(view, x, Hu, "Hessian is tangent"),
        Bound("Hessian is linear", float(np.linalg.norm(combination)) / float(np.linalg.norm(flat(Hu))), 1e-9),
        Bound("Hessian is symmetric", abs(view.inner(x, u, Hv) - view.inner(x, Hu, v)) / size, 1e-9),
    ]


def torch_derivatives(view: ManifoldView, cost: Cost) -> Gradient:
    """The Riemannian gradient of a torch cost by autograd."""

    def gradient(x: ManifoldPoint) -> Vector:
        import torch

        point = x.detach().as_subclass(torch.Tensor).requires_grad_(True)
        (G,) = torch.autograd.grad(cost(point), point)
        return view.gradient(point.detach(), G)

    return gradient


def _tangency(view: ManifoldView, x: ManifoldPoint, u: Vector, name: str) -> Bound:
    residual = float(np.linalg.norm(flat(view.project(x, u)) - flat(u)))
    return Bound(name, residual / max(1.0, float(np.linalg.norm(flat(u)))), 1e-9)


def _invariance(view: ManifoldView, cost: Cost, x: ManifoldPoint, value: float) -> list[CheckResult]:
    """On a quotient by O(P): f(Q x) = f(x) for a random Q."""
    if not isinstance(getattr(view.manifold, "metric", None), QuotientMetric):
        return []
    Q = np.linalg.qr(view.rng.standard_normal((x.shape[-2], x.shape[-2])))[0]
    change = abs(float(cost(array_like(Q, x) @ x)) - value)
    return [Bound("the cost is invariant under rotation", change / max(1.0, abs(value)), 1e-9)]


def _noise(value: float) -> float:
    """Rounding of a cost of that size."""
    return 100 * np.finfo(np.float64).eps * max(1.0, abs(value))
