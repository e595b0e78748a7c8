"""What every solver of the models shares: the objective that it is given, its signature, and when it has to raise.

A solver takes an objective, the feasible set, a start and an observer, and returns the last point. One that stops before the
point is stationary raises RuntimeError with the gradient that is left: there are no status codes. Stationary is meant relative
to the objective (all of them are positive), so that it means the same where the loss is 1e-40.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ufm.models.objective.feasible import Feasible
from ufm.models.objective.peeled import Point

GRADIENT = 1e-9  # solvers aim at this size of grad f / f, the gradient of log f ...
ACCEPTED = 1e-6  # ... and raise above this one: log f is then known to about ACCEPTED^2 / curvature
SMALLEST = float(torch.finfo(torch.float64).tiny)
Observe = Callable[[Point], None]


class Potential(Protocol):
    """A smooth function of a point with its Euclidean gradient: what a gradient flow and a projected gradient need."""

    def value_and_gradient(self, point: Point) -> tuple[Tensor, Point]:
        """f and its gradient."""
        ...


class Objective(Potential, Protocol):
    """A potential with its curvature: what every other minimisation needs."""

    def curvature_at(self, point: Point) -> Callable[[Point], Point]:
        """The Hessian at a point, as a map of directions."""
        ...


Solver = Callable[[Objective, Feasible, Point, Observe | None], Point]


def size(tensors: Point) -> float:
    """Euclidean norm of a point or gradient."""
    return float(torch.stack([t.norm() for t in tensors]).norm())


def positive(value: float) -> float:
    """The value of an objective. Raises RuntimeError below the smallest normal float64: a loss that low has underflowed."""
    if not value >= SMALLEST:
        raise RuntimeError(
            f"the objective is {value:.3g}, below the smallest normal float64: a loss that has underflowed cannot be minimised; "
            "use a lower temperature or lower energies"
        )
    return value


def relative(objective: Potential, point: Point) -> tuple[Tensor, Point]:
    """f and grad f / f, the gradient of log f."""
    value, gradient = objective.value_and_gradient(point)
    positive(float(value))
    return value, tuple(g / value for g in gradient)


def toward(feasible: Feasible, point: Point, gradient: Point, step: float) -> Point:
    """onto(x - step g) - x: the feasible move that a gradient step makes."""
    return tuple(s.onto(x - step * g) - x for s, x, g in zip(feasible, point, gradient, strict=True))


def projected_move(objective: Potential, feasible: Feasible, point: Point) -> Point:
    """The move of a unit gradient step on log f: zero exactly at stationary points; minus the gradient on flat space."""
    return toward(feasible, point, relative(objective, point)[1], 1.0)


def tangent_gradient(objective: Potential, feasible: Feasible, point: Point) -> Point:
    """The Riemannian gradient of log f: the Euclidean one without its part along every unit vector."""
    gradient = relative(objective, point)[1]
    return tuple(s.tangent(t, g) for s, t, g in zip(feasible, point, gradient, strict=True))


def euclidean_inner(a: Point, b: Point) -> float:
    """Euclidean inner product of two points or gradients."""
    return float(torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum())


def check_stationary(gradient: Point, solver: str) -> None:
    """Raise RuntimeError where a solver stopped with a gradient of log f above ACCEPTED."""
    left = size(gradient)
    if not left <= ACCEPTED:
        raise RuntimeError(
            f"{solver} stopped at a gradient of {left:.2e} times the objective, above {ACCEPTED:.0e}: not a stationary point"
        )
