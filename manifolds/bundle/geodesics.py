"""Geodesics of the bundle metric, integrated: exp, parallel transport, and log by shooting.

No closed form is known, so the geodesic equation of `bundle.bundle_connection` is solved by extrapolated midpoint steps (Gragg,
Bulirsch and Stoer), doubled until the last two orders agree. A geodesic stays in the row space of the deviations of X and U plus
the class means: it is integrated there, on matrices with 2P + C columns at most and the same metric, whatever n is.
X, U, W, Y are (..., P, n); U and W tangent at X.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifolds.array import VectorField
from manifolds.bundle.connection import bundle_inner, connection_of_scales, fibre_scale
from manifolds.class_centering import ClassLayout
from manifolds.linalg import Array, ArrayT, array_like, epsilon, frobenius_norm, gram, namespace
from manifolds.matrix_functions import inverse_sqrt
from manifolds.normalized_features import oblique_projection, renormalize
from manifolds.precision import at_least_float32
from manifolds.representation import short_repr
from manifolds.shooting import SHOTS, Shooting, ShootingResult, Shot, apart, approach, in_two_components, shoot_pairs

EXTRAPOLATIONS = 7  # midpoint solutions with 2, 4, .., 14 substeps are extrapolated: order 14
MOST_SUBSTEPS = 64
AGREEMENT = 4096  # times eps: the relative agreement asked of the last two orders
BEST_AGREEMENT = 16  # times eps: an agreement that no further order betters
AIMING = 1e-3  # of the gap of the shot before: the error of a geodesic that only aims

RUNAWAY = 1e3  # growth of a point within one step that no geodesic of a sensible step has


class IntegrationError(ValueError):
    """A geodesic that the integrator could not follow to rounding."""


@dataclass(frozen=True, repr=False)
class RowSpace:
    """Coordinates Z -> [D_Z B, M_Z diag(sqrt(n_c))] for deviations in the span of the orthonormal columns B (..., n, k).

    An isometry of the Frobenius product that keeps the deviations apart: itself a Centering.
    """

    layout: ClassLayout
    basis: Array
    __repr__ = short_repr

    @classmethod
    def spanned_by(cls, layout: ClassLayout, *parts: Array) -> "RowSpace":
        """The row space of the deviations of `parts`."""
        xp = namespace(parts[0])
        stacked = xp.concat([layout.deviations(part).mT for part in parts], -1)
        return cls(layout, xp.linalg.qr(stacked)[0])

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.layout.n

    def reduce(self, Z: ArrayT) -> ArrayT:
        """Coordinates of Z. (..., P, n) -> (..., P, k + C)"""
        weights = self._weights(Z)
        return namespace(Z).concat([self.layout.deviations(Z) @ self.basis, self.layout.means(Z) * weights], -1)

    def lift(self, z: ArrayT) -> ArrayT:
        """The Z of these coordinates. (..., P, k + C) -> (..., P, n)"""
        k = self.basis.shape[-1]
        return z[..., :k] @ self.basis.mT + self.layout.spread(z[..., k:] / self._weights(z))

    def deviations(self, X: ArrayT) -> ArrayT:
        """X with its mean coordinates set to zero. (..., P, k + C)"""
        k = self.basis.shape[-1]
        return namespace(X).concat([X[..., :k], 0 * X[..., k:]], -1)

    def rest(self, X: ArrayT) -> ArrayT:
        """X with its deviation coordinates set to zero. (..., P, k + C)"""
        k = self.basis.shape[-1]
        return namespace(X).concat([0 * X[..., :k], X[..., k:]], -1)

    def rest_coordinates(self, X: ArrayT) -> ArrayT:
        """The mean coordinates, orthonormal already. (..., P, C)"""
        return X[..., self.basis.shape[-1] :]

    def parts(self, X: ArrayT) -> tuple[ArrayT, ArrayT]:
        """`deviations` and `rest_coordinates`."""
        return self.deviations(X), self.rest_coordinates(X)

    def _weights(self, Z: ArrayT) -> ArrayT:
        return array_like(np.sqrt(np.asarray(self.layout.sizes, dtype=np.float64)), Z)


@at_least_float32
def bundle_exp(X: ArrayT, U: ArrayT, layout: ClassLayout) -> ArrayT:
    """The point at time 1 of the geodesic that leaves X with velocity U. (..., P, n)

    Raises ValueError where the integrator cannot follow it, with the error that is left.
    """
    X, U = _broadcast(X, U)
    rows = RowSpace.spanned_by(layout, X, U)
    end = _flow(rows, rows.reduce(X), rows.reduce(U)[None])
    return renormalize(rows.lift(end[0]), layout)


@at_least_float32
def bundle_geodesic_transport(X: ArrayT, U: ArrayT, W: ArrayT, layout: ClassLayout) -> tuple[ArrayT, ArrayT]:
    """(bundle_exp(X, U), W carried parallel along that geodesic): an isometry of g. (..., P, n) each"""
    X, U, W = _broadcast(X, U, W)
    rows = RowSpace.spanned_by(layout, X, U, W)
    end = _flow(rows, rows.reduce(X), namespace(X).stack([rows.reduce(U), rows.reduce(W)]))
    Y = renormalize(rows.lift(end[0]), layout)
    return Y, oblique_projection(Y, rows.lift(end[2]), layout)


def _broadcast(*parts: ArrayT) -> tuple[ArrayT, ...]:
    """The arrays with the leading axes of all of them."""
    xp = namespace(parts[0])
    shape = xp.broadcast_shapes(*(part.shape for part in parts))
    return tuple(xp.broadcast_to(part, shape) for part in parts)


def _flow(rows: RowSpace, X: ArrayT, velocities: ArrayT, allowed: float = 0.0) -> ArrayT:
    """X and its velocities (1 + m, ..., P, k + C), the first of them the geodesic's own, at time 1, to rounding or `allowed`."""
    xp = namespace(X)

    def field(state: Array) -> Array:
        if not abs(state[0]).max().item() <= RUNAWAY * size:
            raise IntegrationError("the step was too long")
        scales = fibre_scale(state[0], state[1:], rows)
        carried = connection_of_scales(state[0], state[1], state[1:], scales[0], scales, rows)
        return xp.concat([state[1:2], carried], 0)

    if 0 in X.shape:
        return xp.concat([X[None], velocities], 0)
    size = abs(X).max().item()
    speed = frobenius_norm(velocities[0]).max().item() / rows.n**0.5
    if not math.isfinite(speed + size):
        raise ValueError("a point or a velocity has NaN or infinite entries: there is no such geodesic")
    state = xp.concat([X[None], velocities], 0)
    allowed = max(allowed, AGREEMENT * epsilon(state))
    end, error = integrate(field, state, 1 << max(0, math.ceil(speed) - 1).bit_length(), allowed)
    if not error <= allowed:
        raise IntegrationError(
            f"a bundle geodesic could not be integrated: error {error:.1e} > {AGREEMENT * epsilon(state):.1e} "
            f"in {MOST_SUBSTEPS} steps; take a shorter velocity"
        )
    return end


def shoot_bundle_log(X: Array, Y: Array, layout: ClassLayout) -> Shooting:
    """The velocity at X of a bundle geodesic that hits Y at time 1, in float64, with its verdict. Not differentiable."""
    return shoot_pairs(lambda x, y: _bundle_log(x, y, layout), X, Y)


def _bundle_log(x: np.ndarray, y: np.ndarray, layout: ClassLayout) -> ShootingResult:
    """The velocity (P, n) for one pair, with its verdict; whether it is minimising is not known."""
    given, x, y = y, renormalize(x, layout), renormalize(y, layout)
    if in_two_components(layout.deviations(x), layout.deviations(y), layout):
        return apart(x)
    rows = RowSpace.spanned_by(layout, x, y)
    X, target = rows.reduce(x), rows.reduce(y)
    tolerance = AGREEMENT * np.finfo(np.float64).eps * float(np.linalg.norm(target))
    longest = 4 * np.pi * np.sqrt(layout.n * len(x)) + 4 * float(np.linalg.norm(target - X))
    allowed = AIMING  # relative to the points

    def aim(U: np.ndarray, end: np.ndarray) -> Shot:
        nonlocal allowed
        U = oblique_projection(X, U, rows)
        if np.sqrt(bundle_inner(X, U, U, rows)) > longest:
            return Shot(U, np.inf, U)
        try:
            hit = _flow(rows, X, U[None], allowed)
            if np.linalg.norm(end - hit[0]) <= tolerance:  # a hit is believed to rounding only
                hit = _flow(rows, X, U[None])
            missed = end - hit[0]
            allowed = AIMING * float(np.linalg.norm(missed) / np.linalg.norm(end))
            gap = oblique_projection(hit[0], missed, rows)
            back = _flow(rows, hit[0], np.stack([-hit[1], gap]), AIMING)[2]
        except IntegrationError:  # a wild velocity: the search has diverged
            return Shot(U, np.inf, U)
        return Shot(U, float(np.linalg.norm(missed)), oblique_projection(X, back, rows))

    def waypoint(t: float) -> np.ndarray:
        between = (1 - t) * X + t * target
        return target if t == 1.0 else inverse_sqrt(gram(rows.deviations(between)) / layout.n) @ between

    try:
        U, gap, shots = approach(aim, waypoint, lambda end: oblique_projection(X, end - X, rows), tolerance)
    except ValueError:  # antipodal ends: half way between them Sigma_W is singular
        return np.zeros_like(x), np.inf, SHOTS, False, False
    left = math.hypot(gap, float(np.linalg.norm(given - y)))
    return rows.lift(U), left, shots, bool(gap <= tolerance), False


def integrate(field: VectorField, state: ArrayT, steps: int, allowed: float = 0.0) -> tuple[ArrayT, float]:
    """d state/dt = field(state) from 0 to 1: the state there, and the error estimate relative to each part state[i].

    `steps` to begin with, doubled until the error is `allowed`, or rounding where that is larger, or MOST_SUBSTEPS is passed;
    field may raise IntegrationError.
    """
    rounding = AGREEMENT * epsilon(state)
    enough = allowed if allowed > rounding else BEST_AGREEMENT * epsilon(state)
    while True:
        current, worst = state, 0.0
        try:
            for _ in range(steps):
                current, change = _extrapolated(field, current, 1 / steps, enough)
                worst = max(worst, change)
                if not worst <= max(allowed, rounding):
                    break
            else:
                return current, worst
        except IntegrationError:
            worst = float("inf")
        steps *= 2
        if steps > MOST_SUBSTEPS:
            return current, worst


def _relative(change: Array, state: Array) -> float:
    """Largest entry of a part of `change` over the largest entry of that part of `state`; a part that is zero counts in full."""
    sizes = [(abs(a).max().item(), abs(b).max().item()) for a, b in zip(change, state, strict=True)]
    return max(a / (b or 1.0) for a, b in sizes)


def _extrapolated(field: VectorField, state: ArrayT, h: float, enough: float) -> tuple[ArrayT, float]:
    """One step of length h by Aitken-Neville on Gragg's midpoint rule, of order 14 at most, and its last relative change."""
    row: list[Any] = []
    change = float("inf")
    for j in range(1, EXTRAPOLATIONS + 1):
        new = [_midpoint(field, state, h, 2 * j)]
        for k in range(1, j):
            new.append(new[k - 1] + (new[k - 1] - row[k - 1]) / ((j / (j - k)) ** 2 - 1))
        row = new
        if j > 1:
            change = _relative(row[-1] - row[-2], row[-1])
        if change <= enough:
            break
    return row[-1], change


def _midpoint(field: VectorField, state: ArrayT, h: float, substeps: int) -> ArrayT:
    """Gragg's smoothed midpoint rule."""
    step = h / substeps
    before, now = state, state + step * field(state)
    for _ in range(substeps - 1):
        before, now = now, before + 2 * step * field(now)
    return (before + now + step * field(now)) / 2
