"""Newton's method with a trust region on vectors: Steihaug's conjugate gradients inside, round-off the only place to stop.

Near a minimum the values of f agree to round-off long before the point is known, so there the gradient decides.
"""

import numpy as np

from ufm.models.objective.peeled import Point
from ufm.models.solvers.contract import Observe, check_stationary
from ufm.models.solvers.vectors import Curvature, Vectors

ROUND_OFF = float(np.finfo(np.float64).eps)
NOISE = 1e3 * ROUND_OFF  # of log f: smaller gains cannot be told from round-off
EXACT = 1e-12  # size of the relative gradient at which there is nothing left to do
COARSE = 1e-5  # gradient of log f at which other methods hand over to Newton's
ENOUGH = 1e-4  # shrinking of the inner residual beyond which conjugate gradients only stir round-off


def newton(vectors: Vectors, x: np.ndarray, observe: Observe | None = None, most: int = 5000) -> np.ndarray:
    """Follow log f down from a feasible x until its Riemannian gradient is EXACT or round-off.

    Steps of relative gain below 1/4 shorten the radius, ones above 3/4 at the radius double it (Conn, Gould & Toint 2000).
    Raises nothing: the caller checks what is left of the gradient.
    """
    radius = max(float(np.linalg.norm(x)), 1.0) / 4
    value, gradient = vectors.value_and_gradient(x)
    for _ in range(most):
        left = float(np.linalg.norm(gradient))
        if left <= EXACT:
            break
        step, predicted = truncated(vectors.hessian(x), gradient, radius, min(0.1, max(left, ENOUGH)))
        trial = vectors.onto(x + step)
        trial_value, trial_gradient = vectors.value_and_gradient(trial)
        if predicted <= NOISE * max(1.0, abs(value)):
            if np.linalg.norm(trial_gradient) > left / 2:
                break
            gain = 1.0
        else:
            gain, length = (value - trial_value) / predicted, float(np.linalg.norm(step))
            if gain < 0.25:
                radius = length / 4
            elif gain > 0.75 and length > 0.99 * radius:
                radius *= 2
        if gain > 0.01:
            x, value, gradient = trial, trial_value, trial_gradient
            if observe is not None:
                observe(vectors.point(x.copy()))
    return x


def polished(vectors: Vectors, x: np.ndarray, solver: str, observe: Observe | None) -> Point:
    """The point to which Newton's method leads from x. Raises RuntimeError where it is not stationary."""
    end = newton(vectors, x, observe)
    check_stationary(vectors.point(vectors.value_and_gradient(end)[1]), solver)
    return vectors.point(end)


def truncated(hessian: Curvature, gradient: np.ndarray, radius: float, forcing: float) -> tuple[np.ndarray, float]:
    """A step within the radius and the descent that the quadratic model predicts for it.

    Conjugate gradients until the residual has shrunk by `forcing`; to the radius along a direction that leaves it or curves down.
    A direction whose curvature is round-off ends the step where it is: minimisers here come in whole orbits of rotations.
    """
    step, residual, direction = np.zeros_like(gradient), gradient, -gradient
    squared, largest = float(gradient @ gradient), 0.0
    goal = max(forcing**2 * squared, (EXACT / 10) ** 2)
    for _ in range(len(gradient)):
        bent, length = hessian(direction), float(direction @ direction)
        curvature = float(direction @ bent) / length
        largest = max(largest, float(np.sqrt(bent @ bent / length)))
        if abs(curvature) <= 10 * ROUND_OFF * largest:
            break
        share = squared / (curvature * length)
        if curvature < 0 or np.linalg.norm(step + share * direction) >= radius:
            along = float(step @ direction)
            share = (np.sqrt(along**2 + length * (radius**2 - float(step @ step))) - along) / length
            step, residual = step + share * direction, residual + share * bent
            break
        step, residual = step + share * direction, residual + share * bent
        before, squared = squared, float(residual @ residual)
        if squared <= goal:
            break
        direction = -residual + (squared / before) * direction
    return step, -float(step @ (gradient + residual)) / 2
