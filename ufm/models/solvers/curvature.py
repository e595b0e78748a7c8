"""The Hessian at a point: its largest and its smallest eigenvalue, matrix-free."""

import numpy as np

from ufm.models.objective.peeled import Point, gaussian_point
from ufm.models.solvers.contract import Objective, size
from ufm.models.solvers.vectors import Flattening


def largest_curvature(objective: Objective, point: Point) -> float:
    """The largest absolute eigenvalue of the Hessian at a point, from 30 power iterations (an estimate from below)."""
    direction, value = gaussian_point(tuple(tuple(t.shape) for t in point), seed=0, device=str(point[0].device)), 1.0
    hessian = objective.curvature_at(point)
    for _ in range(30):
        length = size(direction)
        direction = hessian(tuple(t / length for t in direction))
        value = size(direction)
    return value


def smallest_curvature(objective: Objective, point: Point) -> float:
    """The smallest eigenvalue of the Hessian, by Lanczos' method: negative at a critical point that is a strict saddle."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    flattening, hessian = Flattening(point), objective.curvature_at(point)
    length = flattening.slices[-1][1]
    shift = 2 * largest_curvature(objective, point) + 1.0  # ARPACK's tolerance is relative: it misses an eigenvalue of 0

    class Hessian(LinearOperator):
        def _matvec(self, x: np.ndarray) -> np.ndarray:
            x = np.ascontiguousarray(x.reshape(-1))
            return flattening.vector(hessian(flattening.point(x))) + shift * x

    start = np.random.default_rng(0).standard_normal(length)  # ARPACK's own start would be global random state
    operator = Hessian(np.float64, (length, length))
    return float(eigsh(operator, k=1, which="SA", v0=start, tol=1e-14, return_eigenvectors=False)[0]) - shift
