"""Logarithm, distance and midpoint of the embedded metric, by shooting in the span of the two points.

The minimising geodesic between two Stiefel matrices stays in the span of their rows (the fixed set of the isometries that fix
both), so the shots are fired at 2P x P matrices, whatever n is. X, Y are (..., P, n).
"""

import math
from typing import Any

import numpy as np

from manifolds.column_split import MeanSplit
from manifolds.embedded import geodesics
from manifolds.linalg import Array, ArrayT, frobenius_norm, namespace, symmetrize
from manifolds.normalized_features import orthogonal_projection
from manifolds.shooting import Shooting, ShootingResult, Shot, apart, approach, in_two_components, shoot_pairs

HIT_GAP = 64  # times eps and P: gap of a Stiefel shot that counts as a hit, the rounding of a few P x P products


def shoot_log(X: Array, Y: Array, layout: MeanSplit) -> Shooting:
    """The velocity at X of a geodesic that hits Y at time 1, in float64, with its verdict. Embedded metric.

    The shortest geodesic for points within the injectivity radius pi sqrt(n); beyond it a geodesic that need not be minimising.
    Not differentiable. Leading axes of X and Y broadcast; one search for each pair.
    """
    return shoot_pairs(lambda x, y: _log(x, y, layout), X, Y)


def log(X: ArrayT, Y: ArrayT, layout: MeanSplit) -> ArrayT:
    """Tangent U at X with exp(X, U) = Y. (..., P, n). Raises ValueError where the shooting did not converge, with its gap.

    Not differentiable: torch raises ValueError in the backward pass.
    """
    return underived(shoot_log(X, Y, layout).require().vector, X, Y)


def underived(vector: ArrayT, X: ArrayT, Y: ArrayT) -> ArrayT:
    """`vector`, with a derivative by X and Y that raises ValueError in torch. (..., P, n)"""
    if namespace(X) is np:
        return vector
    from manifolds import distance

    refuse_derivative: Any = distance.refuse_derivative
    return refuse_derivative(vector, X, Y)


def dist(X: ArrayT, Y: ArrayT, layout: MeanSplit) -> ArrayT:
    """Length of the geodesic of `log`: the distance where `shoot_log` says minimising, else a bound. (...). Raises as `log`.

    EmbeddedMetric(layout).dist is the same with a derivative.
    """
    return frobenius_norm(log(X, Y, layout))


def midpoint(X: ArrayT, Y: ArrayT, layout: MeanSplit) -> ArrayT:
    """exp(X, log(X, Y) / 2). (..., P, n). Raises as `log`."""
    return geodesics.exp(X, orthogonal_projection(X, log(X, Y, layout), layout) / 2, layout)


def _log(x: np.ndarray, y: np.ndarray, layout: MeanSplit) -> ShootingResult:
    """The velocity (P, n) for one pair, with its verdict."""
    P, root = x.shape[-2], np.sqrt(layout.n)
    D_x, D_y = layout.deviations(x), layout.deviations(y)
    Q_x, Q_y = _orthonormal(D_x), _orthonormal(D_y)
    if in_two_components(Q_x, Q_y, layout):
        return apart(x)
    basis = _span(Q_x, Q_y)
    Q, target = Q_x @ basis, Q_y @ basis
    tolerance = HIT_GAP * np.finfo(np.float64).eps * P

    def aim(V: np.ndarray, end: np.ndarray) -> Shot:
        V = _stiefel_projection(Q, V)
        if np.linalg.norm(V) > 2 * np.pi * np.sqrt(P):  # around the manifold: the search has diverged
            return Shot(V, np.inf, V)
        hit = geodesics.stiefel_exp(Q, V)
        missed = end - hit
        back = geodesics.stiefel_transport_back(Q, V, _stiefel_projection(hit, missed))
        return Shot(V, float(np.linalg.norm(missed)), _stiefel_projection(Q, back))

    def waypoint(t: float) -> np.ndarray:
        return target if t == 1.0 else _orthonormal((1 - t) * Q + t * target)

    V, gap, shots = approach(aim, waypoint, lambda end: _stiefel_projection(Q, end - Q), tolerance)
    velocity = root * V @ basis.T + layout.spread(layout.means(y) - layout.means(x))
    converged = bool(gap <= tolerance)
    left = math.hypot(root * gap, float(np.linalg.norm(D_y - root * Q_y)))
    return velocity, left, shots, converged, converged and bool(np.linalg.norm(V) < np.pi)  # class means are flat


def _span(Q_x: np.ndarray, Q_y: np.ndarray) -> np.ndarray:
    """Orthonormal columns (n, r) for the rows of both, r the rank: P for equal spans, at most 2P."""
    rest = Q_y - (Q_y @ Q_x.T) @ Q_x
    _, values, Vt = np.linalg.svd(rest - (rest @ Q_x.T) @ Q_x, full_matrices=False)
    return np.concatenate([Q_x, Vt[values > 1e3 * np.finfo(np.float64).eps]]).T


def _stiefel_projection(Q: np.ndarray, Z: np.ndarray) -> np.ndarray:
    return Z - symmetrize(Q @ Z.T) @ Q


def _orthonormal(D: np.ndarray) -> np.ndarray:
    """Polar factor of D, by its singular values."""
    left, _, right = np.linalg.svd(D, full_matrices=False)
    return left @ right
