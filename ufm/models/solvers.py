"""The solvers that the models share: L-BFGS and trust regions on flat space, pymanopt and geoopt on manifolds, and projections.

All take an objective with `value_and_gradient` (and `curvature`), start from a given point and return the last one. A solver
that stops before its gradient is small raises RuntimeError with the gradient that is left: no status codes.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ufm.models.feasible import Feasible
from ufm.models.peeled import Point

GRADIENT = 1e-9  # solvers aim at this size of the gradient ...
ACCEPTED = 1e-6  # ... and raise above this one: the minimum is then known to about ACCEPTED^2 / curvature
Observe = Callable[[Point], None]


class Objective(Protocol):
    """A smooth function of a point with its Euclidean gradient and curvature."""

    def value_and_gradient(self, point: Point) -> tuple[Tensor, Point]:
        """f and its gradient."""
        ...

    def curvature(self, point: Point, direction: Point) -> Point:
        """The Hessian applied to a direction."""
        ...


def size(tensors: Point) -> float:
    """Euclidean norm of a point or gradient."""
    return float(torch.stack([t.norm() for t in tensors]).norm())


class Flattening:
    """Between a point on any device and one float64 vector on the host."""

    def __init__(self, point: Point) -> None:
        self.shapes = [t.shape for t in point]
        self.lengths = [t.numel() for t in point]
        self.device = point[0].device

    def vector(self, point: Point) -> np.ndarray:
        """All entries in order. (sum of sizes,)"""
        return torch.cat([t.reshape(-1) for t in point]).cpu().numpy()

    def point(self, vector: np.ndarray) -> Point:
        """The tensors back, on the device of the first point."""
        parts = torch.from_numpy(vector).to(self.device).split(self.lengths)
        return tuple(part.view(shape) for part, shape in zip(parts, self.shapes, strict=True))


def flat_minimum(
    objective: Objective, start: Point, method: str = "L-BFGS-B", observe: Observe | None = None, gradient: float = GRADIENT
) -> Point:
    """Minimise over flat space by scipy's `method`: L-BFGS-B, or trust-krylov, which follows negative curvature out of saddles.

    Raises RuntimeError where the gradient that is left exceeds ACCEPTED.
    """
    from scipy.optimize import minimize

    flattening = Flattening(start)

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = objective.value_and_gradient(flattening.point(x))
        return float(value), flattening.vector(slope)

    def curvature(x: np.ndarray, d: np.ndarray) -> np.ndarray:
        return flattening.vector(objective.curvature(flattening.point(x), flattening.point(d)))

    options: dict[str, Any] = {"gtol": gradient, "maxiter": 20_000}
    if method == "L-BFGS-B":
        options |= {"maxcor": 20, "ftol": 0.0, "maxfun": 100_000, "maxls": 50}
    result = minimize(
        value_and_gradient,
        flattening.vector(start),
        jac=True,
        method=method,
        hessp=None if method == "L-BFGS-B" else curvature,
        callback=None if observe is None else lambda x: observe(flattening.point(x.copy())),
        options=options,
    )
    point = flattening.point(result.x)
    check_stationary(objective.value_and_gradient(point)[1], method)
    return point


def descent(objective: Objective, start: Point, optimizer: Callable[[Any], Any], steps: int, observe: Observe | None = None) -> Point:
    """`steps` steps of a torch optimizer (built by `optimizer(parameters)`) with the objective's own gradients."""
    parameters = [torch.nn.Parameter(t.clone()) for t in start]
    stepper = optimizer(parameters)
    for _ in range(steps):
        slope = objective.value_and_gradient(tuple(p.data for p in parameters))[1]
        for parameter, g in zip(parameters, slope, strict=True):
            parameter.grad = g
        stepper.step()
        if observe is not None:
            observe(tuple(p.data.clone() for p in parameters))
    point = tuple(p.data for p in parameters)
    check_stationary(objective.value_and_gradient(point)[1], type(stepper).__name__)
    return point


def pymanopt_minimum(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise over a product of spheres and flat spaces by pymanopt's Riemannian trust regions.

    Raises RuntimeError where the Riemannian gradient that is left exceeds ACCEPTED.
    """
    import pymanopt
    from pymanopt.manifolds import Product
    from pymanopt.optimizers import TrustRegions

    shapes, device = [t.shape for t in start], start[0].device
    manifold = Product([s.pymanopt(shape) for s, shape in zip(feasible, shapes, strict=True)])

    def host(point: Point) -> list[np.ndarray]:
        return [s.lay(t).mT.cpu().numpy() for s, t in zip(feasible, point, strict=True)]

    def back(arrays: tuple[np.ndarray, ...]) -> Point:
        laid = (torch.from_numpy(a).to(device).mT for a in arrays)
        return tuple(s.unlay(t, shape) for s, t, shape in zip(feasible, laid, shapes, strict=True))

    cost = pymanopt.function.numpy(manifold)(lambda *x: float(objective.value_and_gradient(back(x))[0]))
    gradient = pymanopt.function.numpy(manifold)(lambda *x: host(objective.value_and_gradient(back(x))[1]))
    half = len(start)
    hessian = pymanopt.function.numpy(manifold)(lambda *xd: host(objective.curvature(back(xd[:half]), back(xd[half:]))))
    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian)
    optimizer = TrustRegions(verbosity=0, min_gradient_norm=GRADIENT, max_iterations=500)
    result = optimizer.run(problem, initial_point=host(start))
    return back(tuple(result.point))


def check_stationary(gradient: Point, solver: str) -> None:
    """Raise RuntimeError where a solver stopped with a gradient above ACCEPTED."""
    left = size(gradient)
    if not left <= ACCEPTED:
        raise RuntimeError(f"{solver} stopped at a gradient of {left:.2e}, above {ACCEPTED:.0e}: not a stationary point")
