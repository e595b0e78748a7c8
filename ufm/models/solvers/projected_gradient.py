"""Projected gradients on convex feasible sets."""

from ufm.models.objective.feasible import Feasible
from ufm.models.objective.peeled import Point
from ufm.models.solvers.contract import (
    GRADIENT,
    Observe,
    Potential,
    check_stationary,
    euclidean_inner,
    projected_move,
    relative,
    size,
    toward,
)


def spectral_projected_gradient(objective: Potential, feasible: Feasible, start: Point, observe: Observe | None = None) -> Point:
    """Minimise log f over convex sets with a projection (`onto`): Barzilai-Borwein steps, Armijo search over 10 values.

    Birgin, Martinez & Raydan 2000, SPG2. Stops where a unit projected-gradient step moves by GRADIENT at most, or where
    round-off of f hides any descent.
    """

    point, step = start, 1.0
    value, gradient = relative(objective, point)
    recent = [float(value.log())]
    for _ in range(20_000):
        if size(toward(feasible, point, gradient, 1.0)) <= GRADIENT:
            break
        direction = toward(feasible, point, gradient, step)
        slope, share = euclidean_inner(gradient, direction), 1.0
        while True:
            trial = tuple(x + share * d for x, d in zip(point, direction, strict=True))
            value, trial_gradient = relative(objective, trial)
            level = float(value.log())
            if level <= max(recent[-10:]) + 1e-4 * share * slope or share < 1e-10:
                break
            share /= 2
        if share < 1e-10:
            break
        change = tuple(b - a for a, b in zip(gradient, trial_gradient, strict=True))
        curvature = share * euclidean_inner(direction, change)
        step = min(max(share**2 * euclidean_inner(direction, direction) / curvature, 1e-6), 1e6) if curvature > 0 else 1e6
        point, gradient = trial, trial_gradient
        recent.append(level)
        if observe is not None:
            observe(point)
    check_stationary(projected_move(objective, feasible, point), "projected gradient")
    return point
