"""Solvers on flat space: scipy's L-BFGS-B (also with entries bounded below) and trust region, torch's SGD and Adam."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ufm.models.feasible import Feasible
from ufm.models.landscape import largest_curvature
from ufm.models.peeled import Point
from ufm.models.solvers import ACCEPTED, GRADIENT, Flattening, Objective, Observe, Solver, check_stationary, projected_step, size

RESTARTS = 5  # of L-BFGS where a line search gave up


def lbfgs(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise over flat space or non-negative entries by scipy's L-BFGS-B, to round-off of f or a gradient of GRADIENT.

    Where a line search gives up before that, the run goes on from there with a fresh memory, RESTARTS times at most.
    """
    from scipy.optimize import minimize

    flattening = Flattening(start)
    lower = np.concatenate([np.full(t.numel(), s.lower) for s, t in zip(feasible, start, strict=True)])
    bounds = None if np.isinf(lower).all() else list(zip(lower, np.full(lower.shape, np.inf), strict=True))
    options = {"gtol": GRADIENT, "ftol": 0.0, "maxcor": 8, "maxiter": 10_000, "maxfun": 20_000, "maxls": 50}
    function, callback, point = on_vectors(objective, flattening), on_vectors_observe(observe, flattening), start
    for _ in range(RESTARTS):
        x = flattening.vector(point)
        found = minimize(function, x, jac=True, method="L-BFGS-B", bounds=bounds, options=options, callback=callback)
        point = flattening.point(found.x)
        if size(projected_step(objective, feasible, point)) <= ACCEPTED:
            break
    check_stationary(projected_step(objective, feasible, point), "L-BFGS-B")
    return point


def trust_region(objective: Objective, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise over flat space by scipy's trust-ncg, which follows negative curvature out of strict saddles."""
    from scipy.optimize import minimize

    flattening = Flattening(start)
    seen: list[Any] = [None, None]  # scipy asks at one x for many directions

    def curvature(x: np.ndarray, d: np.ndarray) -> np.ndarray:
        if seen[0] is None or not np.array_equal(seen[0], x):
            seen[:] = [x.copy(), objective.curvature_at(flattening.point(x))]
        return flattening.vector(seen[1](flattening.point(d)))

    found = minimize(
        on_vectors(objective, flattening),
        flattening.vector(start),
        jac=True,
        hessp=curvature,
        method="trust-ncg",
        callback=on_vectors_observe(observe, flattening),
        options={"gtol": GRADIENT, "maxiter": 2000},
    )
    point = flattening.point(found.x)
    check_stationary(projected_step(objective, feasible, point), "trust-ncg")
    return point


def on_vectors(objective: Objective, flattening: Flattening) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Value and gradient as a function of one vector, as scipy calls it."""

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = objective.value_and_gradient(flattening.point(x))
        return float(value), flattening.vector(slope)

    return value_and_gradient


def on_vectors_observe(observe: Observe | None, flattening: Flattening) -> Callable[[np.ndarray], None] | None:
    """An observer of points as one of vectors."""
    return None if observe is None else lambda x: observe(flattening.point(x))


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
    objective: Objective, start: Point, optimizer: Callable[[Any], Any], steps: int, observe: Observe | None, halve: bool = False
) -> Point:
    parameters = [torch.nn.Parameter(t.clone()) for t in start]
    stepper = optimizer(parameters)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(stepper, factor=0.5, patience=50, threshold=0.0)
    for _ in range(steps):
        value, slope = objective.value_and_gradient(tuple(p.data for p in parameters))
        if size(slope) <= 10 * GRADIENT:
            break
        for parameter, g in zip(parameters, slope, strict=True):
            parameter.grad = g
        stepper.step()
        if halve:
            schedule.step(float(value))
        if observe is not None:
            observe(tuple(p.data for p in parameters))
    point = tuple(p.data for p in parameters)
    check_stationary(objective.value_and_gradient(point)[1], type(stepper).__name__)
    return point


FLAT_SOLVERS: dict[str, Solver] = {"lbfgs": lbfgs, "trust-region": trust_region, "sgd": sgd, "adam": adam}
