"""Integration of dS/dt = F(S) with every singular value of S held to the same relative accuracy, however small it is.

The formula of order 8 of Dormand and Prince with its estimates of order 5 and 3 (Hairer, Norsett & Wanner, Solving ODEs I, II.5;
the tables are scipy's), in the clock tau = log(1 + t / t_0), in which a flow that starts exponential and ends as a power of t
takes even steps. numpy or torch, on the device of S.

The error of a step is taken relative to the rows of S. With S = diag(row norms) Y, an error diag(row norms) e is S Y^+ e, and by
Ostrowski's theorem it moves every singular value by a factor between 1 -+ ||e||_2 / sigma_min(Y). A step of the share x of the
clock may use the share x of the accuracy asked for: `Arc.error`, the sum of these factors, stays below it. The estimate is that
of the formulas of lower order, some hundred times the error of the one that is carried on. A state inside a step is made by a
shorter step from the same start, since an interpolant would be worse than the step.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from manifolds.linalg import Array, ArrayT, array_like, namespace

SAFETY, SLOWEST, FASTEST = 0.9, 0.2, 8.0  # factors of the step-size controller
FIRST = 0.02  # size of the first step on the clock
STAGES = 12

Field = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class Arc:
    """One accepted step: its times from `t` to `end`, the state at its end, the sum of the relative errors so far, and any state
    inside it by its time."""

    t: float
    end: float
    state: Any
    error: float
    at: Callable[[float], Any]


def arcs(field: Field, S: Array, t_end: float, t_0: float, accuracy: float) -> Iterator[Arc]:
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
        new, stages = _attempt(field, S, slope, tau, h, t_0)
        local, allowed = _local_error(stages, new, h), accuracy * h / end
        factor = SAFETY * (allowed / local) ** (1 / 7) if local > 0 else FASTEST
        if not local <= allowed:
            size = h * max(SLOWEST, factor if math.isfinite(factor) else 0.0)
            if size < 1e-12 * end:
                at = t_0 * math.expm1(tau)
                raise RuntimeError(f"rounding forbids the accuracy {accuracy:.1e} past t = {at:.6g}: ask for less, or end there")
            continue
        error += local
        stop, last_slope = end if last else tau + h, stages[STAGES] + 0.0
        start, until = t_0 * math.expm1(tau), t_end if last else t_0 * math.expm1(stop)
        yield Arc(start, until, new, error, _inside(field, S, slope, tau, t_0))
        S, slope, tau, size = new, last_slope, stop, h * min(FASTEST, max(SLOWEST, factor))


def _inside(field: Field, S: ArrayT, slope: ArrayT, tau: float, t_0: float) -> Callable[[float], ArrayT]:
    def at(t: float) -> ArrayT:
        return _attempt(field, S, slope, tau, math.log1p(t / t_0) - tau, t_0)[0]

    return at


@cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a (13, 12) with the weights of the step in its last row, c (13,), and the error weights of order 5 and 3 (2, 13)."""
    from scipy.integrate import DOP853

    return np.vstack([DOP853.A, DOP853.B]), np.append(DOP853.C, 1.0), np.stack([DOP853.E5, DOP853.E3])


def _attempt(field: Field, S: ArrayT, slope: ArrayT, tau: float, h: float, t_0: float) -> tuple[ArrayT, ArrayT]:
    """The state after a step h and its 13 slopes dS/dtau, the last one at that state. (m, c), (13, m, c)"""
    xp, (A, C, _) = namespace(S), _tables()
    stages, point = xp.empty((STAGES + 1, *S.shape), dtype=S.dtype, device=S.device), S
    stages[0] = slope
    for k in range(1, STAGES + 1):
        point = S + _combine(h * A[k, :k], stages)
        stages[k] = field(point)
        stages[k] *= t_0 * math.exp(tau + C[k] * h)
    return point, stages


def _combine(weights: np.ndarray, stages: ArrayT) -> ArrayT:
    """sum_i weights_i stages_i, as one product that reads every stage once."""
    k = len(weights)
    return (array_like(weights, stages) @ stages[:k].reshape(k, -1)).reshape(stages.shape[1:])


def _local_error(stages: Array, new: Array, h: float) -> float:
    """A bound on the relative change of every singular value by the error estimate."""
    norms = ((new * new).sum(-1) ** 0.5)[:, None]
    fifth, third = (_combine(h * weights, stages) / norms for weights in _tables()[2])
    size = float((fifth * fifth).sum())
    share = (size / (size + 0.01 * float((third * third).sum()))) ** 0.5 if size > 0 else 0.0
    smallest = float(_squares(new / norms)[0])
    return share * (float(_squares(fifth)[-1]) / smallest) ** 0.5 if smallest > 0 else math.inf


def _squares(Y: ArrayT) -> ArrayT:
    """Squares of the singular values of Y (m, c), ascending. (m,)"""
    return namespace(Y).linalg.eigvalsh(Y @ Y.mT).clip(min=0)
