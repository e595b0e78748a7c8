"""Solvers on flat space: a trust region, scipy's L-BFGS-B (both also with entries bounded below), torch's SGD and Adam."""

from collections.abc import Callable

import numpy as np
import torch

from ufm.models.objective.feasible import Feasible
from ufm.models.objective.peeled import Point
from ufm.models.solvers.contract import GRADIENT, Objective, Observe, Solver, check_stationary, projected_move, size
from ufm.models.solvers.curvature import largest_curvature
from ufm.models.solvers.newton import COARSE, EXACT, newton, polished
from ufm.models.solvers.vectors import Vectors

SNAP = 1e-3  # share of the largest entry below which one counts as at its bound


def trust_region(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise over flat space, spheres or non-negative entries by Newton's method with a trust region, to round-off.

    It follows negative curvature out of strict saddles.
    """
    vectors = Vectors(objective, feasible, start)
    return polished(vectors, vectors.vector(start), "the trust region", observe)


def lbfgs(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise over flat space by scipy's L-BFGS until COARSE or round-off, and from there by Newton's method."""
    vectors = Vectors(objective, feasible, start)
    return polished(vectors, quasi_newton(vectors, vectors.vector(start), COARSE, observe), "L-BFGS", observe)


def bounded_lbfgs(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise over entries bounded below by scipy's L-BFGS-B until COARSE, and from there by Newton's method in what moves.

    Entries that L-BFGS-B has left within SNAP of their bound are held there; where that ends in no stationary point of the whole
    problem, L-BFGS-B goes on, with a fresh memory, to a hundredth of the gradient.
    """
    vectors, goal = Vectors(objective, feasible, start), COARSE
    x = vectors.vector(start)
    while True:
        x = quasi_newton(vectors, x, goal, observe)
        end = vectors.point(vectors.onto(newton(vectors, vectors.snapped(x, SNAP), observe)))
        left = projected_move(objective, feasible, end)
        if size(left) <= 10 * EXACT or goal <= GRADIENT:
            check_stationary(left, "L-BFGS-B")
            return end
        goal /= 100


def quasi_newton(vectors: Vectors, x: np.ndarray, goal: float, observe: Observe | None) -> np.ndarray:
    """scipy's L-BFGS-B on log f from x until its gradient is `goal` or round-off hides any descent."""
    from scipy.optimize import Bounds, minimize

    result = minimize(
        vectors.value_and_euclidean,
        x,
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(vectors.lower, np.inf) if vectors.bounded else None,
        options={"gtol": goal, "ftol": 0.0, "maxcor": 8, "maxiter": 10_000, "maxfun": 20_000, "maxls": 50},
        callback=None if observe is None else lambda x: observe(vectors.point(x)),
    )
    return result.x


def sgd(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """torch's SGD with momentum on the full gradient; the step is 1 / the largest curvature at the start.

    The curvature is estimated from below, so the step may be a little longer than that; an end that is not stationary
    raises.
    """
    step = 1 / largest_curvature(objective, start)
    return _descent(objective, start, lambda p: torch.optim.SGD(p, lr=step, momentum=0.99, nesterov=True), 20_000, observe)


def adam(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """torch's Adam, its step halved whenever f has not fallen for 50 steps, so that it settles."""
    return _descent(objective, start, lambda p: torch.optim.Adam(p, lr=0.05), 20_000, observe, halve=True)


def _descent(
    objective: Objective,
    start: Point,
    optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
    steps: int,
    observe: Observe | None,
    halve: bool = False,
) -> Point:
    parameters = [torch.nn.Parameter(t.clone()) for t in start]
    stepper = optimizer(parameters)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(stepper, factor=0.5, patience=50, threshold=0.0)
    for _ in range(steps):
        value, slope = objective.value_and_gradient(tuple(p.data for p in parameters))
        if size(slope) <= 10 * GRADIENT * abs(float(value)):
            break
        for parameter, g in zip(parameters, slope, strict=True):
            parameter.grad = g
        stepper.step()
        if halve:
            schedule.step(float(value))
        if observe is not None:
            observe(tuple(p.data for p in parameters))
    point = tuple(p.data for p in parameters)
    value, slope = objective.value_and_gradient(point)
    check_stationary(tuple(g / abs(value) for g in slope), type(stepper).__name__)
    return point


FLAT_SOLVERS: dict[str, Solver] = {"trust-region": trust_region, "lbfgs": lbfgs, "sgd": sgd, "adam": adam}
