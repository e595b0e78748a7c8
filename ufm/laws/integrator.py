"""Integration of dS/dt = F(S) with every singular value of S held to the same relative accuracy, however small it is.

The 8(5,3) pair of Dormand and Prince (Hairer, Norsett & Wanner, Solving ODEs I, II.5; the tables are scipy's), in the clock
tau = log(1 + t / t_0), in which a flow that starts exponential and ends as a power of t takes even steps. numpy or torch.

The error of a step is taken relative to the rows of S. With S = diag(row norms) Y, an error diag(row norms) e is S Y^+ e, and by
Ostrowski's theorem it moves every singular value by a factor between 1 -+ ||e||_2 / sigma_min(Y). A step of the share x of the
clock may use the share x of the accuracy asked for: `Arc.error`, the sum of these factors, stays below it. The pair's estimate is
that of its embedded formulas of order 5 and 3, some hundred times the error of the formula of order 8 that is carried on.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from manifolds.linalg import Array, namespace

SAFETY, SLOWEST, FASTEST = 0.9, 0.2, 8.0  # factors of the step-size controller
FIRST = 0.02  # size of the first step on the clock
STAGES = 12


@dataclass(frozen=True, eq=False)
class Arc:
    """One accepted step: its times from `t` to `end`, the state at its end, the sum of the relative errors so far."""

    t: float
    end: float
    state: Array
    error: float
    at: Callable[[float], Array]


def arcs(field: Callable[[Array], Array], S: Array, t_end: float, t_0: float, accuracy: float) -> Iterator[Arc]:
    """Accepted steps of dS/dt = field(S) from t = 0 to t_end > 0. S (m, c) of full row rank; t_0 > 0 is the unit of the clock.

    `accuracy` bounds the sum of the relative errors of the singular values. Raises RuntimeError where the step size vanishes: the
    field is not smooth, or rounding is larger than the accuracy.
    """
    end = math.log1p(t_end / t_0)
    tau, error, slope = 0.0, 0.0, t_0 * field(S)
    size = min(end, FIRST)
    while tau < end:
        last = tau + size >= end * (1 - 1e-14)
        h = end - tau if last else size
        stages, new = _attempt(field, S, slope, tau, h, t_0)
        local, allowed = _local_error(stages, S, new, h), accuracy * h / end
        factor = SAFETY * (allowed / local) ** (1 / 7) if local > 0 else FASTEST
        if not local <= allowed:
            size = h * max(SLOWEST, factor if math.isfinite(factor) else 0.0)
            if size < 1e-12 * end:
                at = t_0 * math.expm1(tau)
                raise RuntimeError(
                    f"no step keeps the accuracy {accuracy:.1e} past t = {at:.6g}: ask for less, it is below rounding"
                )
            continue
        error += local
        yield Arc(
            t_0 * math.expm1(tau),
            t_end if last else t_0 * math.expm1(tau + h),
            new,
            error,
            _dense(field, S, new, stages, tau, h, t_0),
        )
        S, slope, tau, size = new, stages[-1], end if last else tau + h, h * min(FASTEST, max(SLOWEST, factor))


@cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """a (15, 15), c (15,), the error weights of third and fifth order (13,), and the dense output d (4, 16), of scipy."""
    from scipy.integrate import DOP853

    A = np.zeros((16, 16))
    A[:STAGES, :STAGES] = DOP853.A
    A[STAGES, :STAGES] = DOP853.B
    A[STAGES + 1 :, :] = DOP853.A_EXTRA
    C = np.concatenate([DOP853.C, [1.0], DOP853.C_EXTRA])
    return A, C, DOP853.E3, DOP853.E5, DOP853.D


def _stage(field: Callable, S: Array, stages: list[Array], k: int, tau: float, h: float, t_0: float) -> tuple[Array, Array]:
    """The point of stage k and the slope dS/dtau there."""
    A, C, _, _, _ = _tables()
    point = S + _combine(A[k], stages, h)
    return point, (t_0 * math.exp(tau + C[k] * h)) * field(point)


def _attempt(field: Callable, S: Array, slope: Array, tau: float, h: float, t_0: float) -> tuple[list[Array], Array]:
    stages, point = [slope], S
    for k in range(1, STAGES + 1):
        point, value = _stage(field, S, stages, k, tau, h, t_0)
        stages.append(value)
    return stages, point


def _combine(weights: np.ndarray, stages: list[Array], h: float) -> Array:
    """h sum_i weights_i stages_i."""
    total = (h * float(weights[0])) * stages[0]
    for weight, stage in zip(weights[1:].tolist(), stages[1:], strict=False):
        if weight:
            total += (h * weight) * stage
    return total


def _local_error(stages: list[Array], S: Array, new: Array, h: float) -> float:
    """A bound on the relative change of every singular value by the pair's error estimate."""
    _, _, E3, E5, _ = _tables()
    norms = ((new * new).sum(-1) ** 0.5)[:, None]
    third, fifth = (_combine(E, stages, h) / norms for E in (E3, E5))
    size = float((fifth * fifth).sum())
    share = (size / (size + 0.01 * float((third * third).sum()))) ** 0.5 if size > 0 else 0.0
    smallest = _eigenvalues(new / norms)[0]
    return share * (float(_eigenvalues(fifth)[-1]) / float(smallest)) ** 0.5 if float(smallest) > 0 else math.inf


def _eigenvalues(Y: Array) -> Array:
    """Squares of the singular values of Y, ascending. (m, c) -> (m,)"""
    values = namespace(Y).linalg.eigvalsh(Y @ Y.mT)
    return values.clip(min=0)


def _dense(
    field: Callable, S: Array, new: Array, stages: list[Array], tau: float, h: float, t_0: float
) -> Callable[[float], Array]:
    """The state at any time of the step, by the pair's interpolant of seventh order; its extra stages are made when asked."""
    parts: list[Array] = []

    def at(t: float) -> Array:
        if not parts:
            parts.extend(_interpolant(field, S, new, stages, tau, h, t_0))
        x, y = (math.log1p(t / t_0) - tau) / h, parts[-1] * 0
        for k, part in enumerate(reversed(parts)):
            y = (y + part) * (x if k % 2 == 0 else 1 - x)
        return y + S

    return at


def _interpolant(field: Callable, S: Array, new: Array, stages: list[Array], tau: float, h: float, t_0: float) -> list[Array]:
    extended = list(stages)
    for k in range(STAGES + 1, 16):
        extended.append(_stage(field, S, extended, k, tau, h, t_0)[1])
    D, delta = _tables()[4], new - S
    parts = [delta, h * stages[0] - delta, 2 * delta - h * (stages[STAGES] + stages[0])]
    return parts + [_combine(row, extended, h) for row in D]
