"""Logarithm, distance and midpoint of the embedded metric, by shooting in the span of the two points.

The minimising geodesic between two Stiefel matrices stays in the span of their rows (the fixed set of the isometries that fix
both), so the shots are fired at 2P x P matrices, whatever n is. X, Y are (..., P, n).
"""

from typing import Any

import numpy as np

from manifolds import geodesics
from manifolds.classes import ClassLayout
from manifolds.geometry import orthogonal_projection
from manifolds.linalg import Array, frobenius_norm, namespace, symmetrize
from manifolds.shooting import Shooting, Shot, approach


def shoot_log(X: Array, Y: Array, layout: ClassLayout) -> Shooting:
    """The velocity at X of a geodesic that hits Y at time 1, found in float64, with its verdict. Embedded metric.

    The shortest geodesic for points within the injectivity radius pi sqrt(n); beyond it a geodesic that need not be minimising.
    Not differentiable. Leading axes of X and Y broadcast; one search for each pair.
    """
    xp = namespace(X)
    shape = xp.broadcast_shapes(X.shape, Y.shape)
    start, end = (_double(xp.broadcast_to(Z, shape)) for Z in (X, Y))
    results = [_stiefel_log(x, y, layout) for x, y in zip(_flat(start), _flat(end), strict=True)]
    batch = shape[:-2]
    D = np.stack([velocity for velocity, _, _ in results]).reshape(shape) if results else np.zeros(shape)
    vector = D + layout.spread(layout.means(end) - layout.means(start))
    gap, shots = (np.asarray([result[k] for result in results]).reshape(batch) for k in (1, 2))
    return Shooting(_like(vector, X), gap, shots, gap <= _tolerance(shape[-2]) * np.sqrt(layout.n))


def log(X: Array, Y: Array, layout: ClassLayout) -> Array:
    """Tangent U at X with exp(X, U) = Y. (..., P, n). Raises ValueError where the shooting did not converge, with its gap."""
    return shoot_log(X, Y, layout).require().vector


def dist(X: Array, Y: Array, layout: ClassLayout) -> Array:
    """Length of the geodesic of `log`, the Riemannian distance within the injectivity radius. (...). Raises as `log`."""
    return frobenius_norm(log(X, Y, layout))


def midpoint(X: Array, Y: Array, layout: ClassLayout) -> Array:
    """exp(X, log(X, Y) / 2). (..., P, n). Raises as `log`."""
    return geodesics.exp(X, orthogonal_projection(X, log(X, Y, layout), layout) / 2, layout)


def _tolerance(P: int) -> float:
    """Gap of a Stiefel shot that counts as a hit: rounding of a few P x P products."""
    return 64 * np.finfo(np.float64).eps * P


def _stiefel_log(x: np.ndarray, y: np.ndarray, layout: ClassLayout) -> tuple[np.ndarray, float, int]:
    """Deviation part of the velocity (P, n), gap and shots for one pair."""
    P, root = x.shape[-2], np.sqrt(layout.n)
    Q_x, Q_y = (_orthonormal(layout.deviations(z)) for z in (x, y))
    basis = _span(Q_x, Q_y)
    Q, target = Q_x @ basis, Q_y @ basis
    tolerance = _tolerance(P)

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
    return root * V @ basis.T, root * gap, shots


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


def _double(X: Array) -> np.ndarray:
    return np.asarray(X if isinstance(X, np.ndarray) else X.detach().double().cpu().numpy(), dtype=np.float64)


def _flat(X: np.ndarray) -> np.ndarray:
    return X.reshape(-1, *X.shape[-2:])


def _like(vector: np.ndarray, X: Array) -> Any:
    return vector.astype(X.dtype) if isinstance(X, np.ndarray) else namespace(X).as_tensor(vector, dtype=X.dtype, device=X.device)
