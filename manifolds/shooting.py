"""Shooting: the initial velocity whose geodesic hits a given point, for any exp; with a verdict, never a silent failure.

One shot corrects the velocity by the gap at the end, carried back to the start. That converges linearly; Anderson's acceleration
(1965; Walker and Ni 2011) makes it superlinear in practice. Where it fails from afar, the target is approached in shorter moves.
Small matrices in numpy float64: the callers reduce the problem to the span of its two ends first.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifolds.array import Array, Columns, Scalars
from manifolds.column_split import MeanSplit
from manifolds.linalg import array_like, as_numpy, namespace
from manifolds.representation import short_repr

MEMORY = 6  # velocities that Anderson's acceleration looks back on
SHOTS = 60  # shots at one target before the verdict
SHORTEST_MOVE = 1 / 64  # of the way to the target, before giving up


@dataclass(frozen=True, repr=False)
class Shooting:
    """Initial velocities `vector` (..., P, n), and for each its `gap` ||exp(X, vector) - Y||_F, `shots` and `converged` (...).

    X and Y are put on the manifold first, and `converged` says that the geodesic hits the point that Y is put on: what Y was off
    the manifold is in the gap.
    `minimising` (...) is True where no shorter geodesic exists: the length of `vector` is the distance. False is unknown: then
    it bounds the distance from above. No shots were fired where the ends lie in two components: there the gap is infinite.
    """

    vector: Columns[Any]
    gap: Scalars[np.ndarray]
    shots: Scalars[np.ndarray]
    converged: Scalars[np.ndarray]
    minimising: Scalars[np.ndarray]
    __repr__ = short_repr

    def require(self) -> "Shooting":
        """Itself; raises ValueError where a shot missed, with the largest gap."""
        apart = int((self.shots == 0).sum())
        if apart:
            raise ValueError(
                f"no geodesic found between {apart} of {self.converged.size} pairs of points: they lie in "
                "the two components that the manifold has when n - C = P, or rank(B) = P (opposite signs of det D_Y D_X^T)"
            )
        if not self.converged.all():
            missed = int((~self.converged).sum())
            raise ValueError(
                f"no geodesic found between {missed} of {self.converged.size} pairs of points: the largest gap is "
                f"{self.gap.max():.3e} after {int(self.shots.max())} shots; are they further apart than the injectivity radius?"
            )
        return self


@dataclass(frozen=True, repr=False)
class Shot:
    """One velocity u, the gap at its end, and the correction of u that the gap asks for."""

    velocity: np.ndarray
    gap: float
    correction: np.ndarray
    __repr__ = short_repr


ShootingResult = tuple[np.ndarray, float, int, bool, bool]  # vector, gap, shots, converged, minimising
Search = Callable[[np.ndarray, np.ndarray], ShootingResult]  # (x, y) -> Result


def in_two_components(D_x: np.ndarray, D_y: np.ndarray, layout: MeanSplit) -> bool:
    """Whether no curve on the manifold joins points of deviations D_x and D_y (P, n): n - C = P and det D_y D_x^T < 0."""
    return layout.rank == len(D_x) and np.linalg.slogdet(D_y @ D_x.T)[0] < 0


def apart(x: np.ndarray) -> ShootingResult:
    """The result for points of two components: not a shot is fired."""
    return np.zeros_like(x), np.inf, 0, False, False


def shoot_pairs(search: Search, X: Array, Y: Array) -> Shooting:
    """`search` (x, y) in float64 for every pair of the broadcast batches X, Y (..., P, n)."""
    if X.shape[-2:] != Y.shape[-2:]:
        raise ValueError(f"X has {tuple(X.shape)}, Y has {tuple(Y.shape)}: each is (..., P, n), leading axes may differ")
    shape = namespace(X).broadcast_shapes(X.shape, Y.shape)
    starts, ends = (np.broadcast_to(double(Z), shape).reshape(-1, *shape[-2:]) for Z in (X, Y))
    results = [search(x, y) for x, y in zip(starts, ends, strict=True)]
    vector = np.asarray([result[0] for result in results]).reshape(shape)
    rest = (np.asarray([result[k] for result in results]).reshape(shape[:-2]) for k in (1, 2, 3, 4))
    return Shooting(array_like(vector, X), *rest)


def double(X: Array) -> np.ndarray:
    """X in numpy's float64, without a record for derivatives. Raises ValueError where it is not finite."""
    numbers = np.asarray(as_numpy(X), dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("a point has NaN or infinite entries: no geodesic leads to it")
    return numbers


Aim = Callable[[np.ndarray, np.ndarray], Shot]  # (velocity, target) -> Shot


def shoot(aim: Aim, target: np.ndarray, start: np.ndarray, tolerance: float) -> tuple[np.ndarray, float, int]:
    """Velocity, gap and number of shots at one target, from the velocity `start`, until the gap is at most `tolerance`."""
    velocity, best = start, None
    past: deque[Shot] = deque(maxlen=MEMORY)
    for count in range(1, SHOTS + 1):
        shot = aim(velocity, target)
        if not np.isfinite(shot.gap):
            break
        best = shot if best is None or shot.gap < best.gap else best
        if shot.gap <= tolerance:
            return velocity, shot.gap, count
        past.append(shot)
        velocity = _accelerated(past)
    return (start, np.inf, SHOTS) if best is None else (best.velocity, best.gap, SHOTS)


def approach(
    aim: Aim, waypoint: Callable[[float], np.ndarray], guess: Callable[[np.ndarray], np.ndarray], tolerance: float
) -> tuple[np.ndarray, float, int]:
    """Shoot at waypoint(1); where that fails, at waypoints 0 < t < 1 on the way, each from the velocity before it."""
    velocity, reached, move, total = None, 0.0, 1.0, 0
    while True:
        t = min(reached + move, 1.0)
        target = waypoint(t)
        start = guess(target) if velocity is None else velocity * (t / reached)
        hit, gap, shots = shoot(aim, target, start, tolerance)
        total += shots
        if gap <= tolerance:
            if t == 1.0:
                return hit, gap, total
            velocity, reached = hit, t
        elif move / 2 < SHORTEST_MOVE:
            return hit, gap if t == 1.0 else float(np.linalg.norm(waypoint(1.0) - target)) + gap, total
        else:
            move /= 2


def _accelerated(past: deque[Shot]) -> np.ndarray:
    """The combination of past velocities whose corrections cancel best, corrected."""
    last = past[-1]
    if len(past) == 1:
        return last.velocity + last.correction
    corrections = np.stack([shot.correction.ravel() for shot in past])
    velocities = np.stack([shot.velocity.ravel() for shot in past])
    changes = np.diff(corrections, axis=0)
    weights = np.linalg.lstsq(changes.T, last.correction.ravel(), rcond=1e-10)[0]
    change = weights @ (np.diff(velocities, axis=0) + changes)
    return last.velocity + last.correction - change.reshape(last.velocity.shape)
