"""Differences of points and vectors of a manifold, relative to their size."""

import numpy as np

from manifolds.array import ManifoldPoint, Vector
from manifolds.checks.views import ManifoldView, flat

ROUNDING = 1e-9  # relative residual that double precision may leave


def relative_gap(a: ManifoldPoint | Vector, b: ManifoldPoint | Vector) -> float:
    """||a - b|| relative to max(1, ||b||), over all entries."""
    return gap_norm(flat(a), flat(b)) / max(1.0, float(np.linalg.norm(flat(b))))


def gap_norm(a: np.ndarray, b: np.ndarray) -> float:
    """||a - b||."""
    return float(np.linalg.norm(a - b))


def map_rounding(x: ManifoldPoint) -> float:
    """Error that double precision leaves in a map to points the size of x."""
    return 100 * np.finfo(np.float64).eps * max(1.0, float(np.linalg.norm(flat(x))))


def geodesic_velocity(view: ManifoldView, x: ManifoldPoint, u: Vector) -> np.ndarray:
    """d/dt exp(x, t u) at t = 1 by Richardson's central differences."""
    coarse, fine = ((flat(view.exp(x, u * (1 + h))) - flat(view.exp(x, u * (1 - h)))) / (2 * h) for h in (2e-3, 1e-3))
    return (4 * fine - coarse) / 3
