"""Integration of dS/dt = F(S) with every singular value of S held to the same relative accuracy, however small it is.

The formula of order 8 of Dormand and Prince with its estimates of order 5 and 3 (Hairer, Norsett & Wanner, Solving ODEs I, II.5;
the tables are scipy's), in the clock tau = log(1 + t / t_0), in which a flow that starts exponential and ends as a power of t
takes even steps. numpy or torch, on the device of S.

The error of a step is taken relative to the rows of S. With S = diag(row norms) Y, an error diag(row norms) e is S Y^+ e, and by
Ostrowski's theorem it moves every singular value by a factor between 1 -+ ||e||_2 / sigma_min(Y). A step from tau to tau + h may
use the share (1 + tau)^{-1/2} - (1 + tau + h)^{-1/2} of the accuracy asked for: these shares never sum to more than 1, so that a
run needs no end, and a longer run repeats a shorter one. A step never has to be better than `ROUNDING_OF_STEP`:
below it the estimate is that of rounding, which more and shorter steps add up to the same. `Arc.error`, the sum of the factors,
stays below the bound asked for. The estimate is the larger of two of the same order in h: Hairer's
e_5^2 / (e_5^2 + (e_3 / 10)^2)^{1/2}, which vanishes where e_5 changes sign, and the mean over the rows of ||e_3||^2, which does
not: of many rows only a few change sign in the same step, and Hairer's sees the others. It was 1.5 to 700 times the error in
every step of 18 flows at accuracies of 1e-5 and less.
A state inside a step comes from `ufm.laws.interpolant`, or from a shorter step from the same start where its bound is too large.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Generic

import numpy as np

from manifolds.array import VectorField
from manifolds.linalg import Array, ArrayT, namespace
from manifolds.representation import short_repr
from ufm.laws.domain import keep_blocks
from ufm.laws.interpolant import Interpolant, combine, interpolant, largest_value, smallest_value

SAFETY, SLOWEST, FASTEST = 0.9, 0.2, 8.0  # factors of the step-size controller
FIRST = 0.02  # size of the first step on the clock
STAGES, MORE = 12, 3  # slopes of a step beside its first, and further ones for the states inside
ROUNDING_OF_STEP = 16 * 2.0**-52  # relative error below which a step is not made shorter
SHORTEST = 5e-3  # such step, on the clock: where rounding asks for less, the next ones would be ever more of it
LATEST = 650.0  # on the clock; the time overflows float64 soon after


@dataclass(frozen=True, eq=False)
class RescaledTime:
    """dS/dtau of dS/dt = field(S) in tau = log(1 + t / t_0)."""

    field: VectorField
    t_0: float

    def slope(self, tau: float, S: ArrayT) -> ArrayT:
        """t_0 e^tau field(S)"""
        slope = self.field(S)
        slope *= self.t_0 * math.exp(tau)
        return slope

    def time(self, tau: float) -> float:
        """t of tau."""
        return self.t_0 * math.expm1(tau)

    def tau(self, t: float) -> float:
        """tau of t."""
        return math.log1p(t / self.t_0)


@dataclass(frozen=True, eq=False, repr=False)
class Arc(Generic[ArrayT]):
    """One accepted step: the times `t` and `end`, the states `start` and `state` at them, the sum of the relative errors up to
    `end`, and any state inside.
    """

    clock: RescaledTime
    t: float
    end: float
    start: ArrayT
    state: ArrayT
    error: float
    tau: float
    h: float
    stages: ArrayT
    __repr__ = short_repr

    def at(self, t: float, accuracy: float = 0.0) -> tuple[ArrayT, float]:
        """The state at a time inside, and a bound on the relative error that it adds: at most `accuracy`."""
        if t == self.end:
            return self.state, 0.0
        h = self.clock.tau(t) - self.tau
        if accuracy > 0 and self._inside.error <= accuracy:
            return self._inside(h / self.h), self._inside.error
        return _trial_step(self.clock, self.start, self.stages[0], self.tau, h)[0], 0.0

    @cached_property
    def _inside(self) -> Interpolant[ArrayT]:
        def slope(share: float, S: Array) -> Array:
            return self.clock.slope(self.tau + share * self.h, S)

        return interpolant(slope, self.start, self.state, self.stages, self.h)


def arcs(
    field: VectorField, S: ArrayT, t_end: float, t_0: float, accuracy: float, most: float | None = None
) -> Iterator[Arc[ArrayT]]:
    """Accepted steps of dS/dt = field(S) from t = 0 to t_end > 0, which may be infinite.

    S (m, c) of full row rank; t_0 > 0 is the unit of the clock.
    `accuracy` bounds the sum of the relative errors of the singular values; with what rounding adds they may reach `most`, by
    default the same. Raises ValueError where rounding leaves no step within it, OverflowError where the time overflows float64.
    """
    most = accuracy if most is None else most
    clock = RescaledTime(field, t_0)
    keep_blocks()
    end = clock.tau(t_end)
    tau, error, slope = 0.0, 0.0, clock.slope(0.0, S)
    size = min(end, FIRST)
    while tau < end:
        last = tau + size >= end * (1 - 1e-14)
        h = end - tau if last else size
        new, stages = _trial_step(clock, S, slope, tau, h)
        local, allowed = _local_error(stages, new, h), max(accuracy * _clock_increment(tau, h), ROUNDING_OF_STEP)
        factor = SAFETY * (allowed / local) ** (1 / 7) if local > 0 else FASTEST
        if not local <= allowed:
            size = h * max(SLOWEST, factor if math.isfinite(factor) else 0.0)
            if size < (SHORTEST if allowed == ROUNDING_OF_STEP else 1e-12 * (1 + tau)):
                raise _too_inaccurate(clock.time(tau), most)
            continue
        if error + local > most:
            raise _too_inaccurate(clock.time(tau), most)
        error += local
        stop = end if last else tau + h
        if stop > LATEST:
            raise OverflowError(f"t = {clock.time(tau):.6g}: later times of this flow overflow float64")
        yield Arc(clock, clock.time(tau), t_end if last else clock.time(stop), S, new, error, tau, h, stages)
        S, slope, tau, size = new, stages[STAGES], stop, h * min(FASTEST, max(SLOWEST, factor))


def _too_inaccurate(t: float, most: float) -> ValueError:
    return ValueError(f"t = {t:.6g}: later, rounding exceeds the accuracy {most:.1e}; end there, or accept a lower accuracy")


def _clock_increment(tau: float, h: float) -> float:
    """(1 + tau)^{-1/2} - (1 + tau + h)^{-1/2}, without cancellation."""
    before, after = math.sqrt(1 + tau), math.sqrt(1 + tau + h)
    return h / (before * after * (before + after))


@cache
def _step_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a (13, 12) with the weights of the step in its last row, c (13,), and the error weights of order 5 and 3 (2, 13)."""
    from scipy.integrate import DOP853

    return np.vstack([DOP853.A, DOP853.B]), np.append(DOP853.C, 1.0), np.stack([DOP853.E5, DOP853.E3])


def _trial_step(clock: RescaledTime, S: ArrayT, slope: ArrayT, tau: float, h: float) -> tuple[ArrayT, ArrayT]:
    """The state after a step h and its 13 slopes dS/dtau, the last one at that state, then space for more. (m, c), (16, m, c)"""
    xp, (A, C, _) = namespace(S), _step_tables()
    stages, point = xp.empty((STAGES + 1 + MORE, *S.shape), dtype=S.dtype, device=S.device), S
    stages[0] = slope
    for k in range(1, STAGES + 1):
        point = combine(h * A[k, :k], stages)
        point += S
        stages[k] = clock.slope(tau + C[k] * h, point)
    return point, stages


def _local_error(stages: Array, new: Array, h: float) -> float:
    """A bound on the relative change of every singular value by the error estimate."""
    norms = ((new * new).sum(-1) ** 0.5)[:, None]
    fifth, third = (combine(h * weights, stages) / norms for weights in _step_tables()[2])
    size, slow = (float((error * error).sum()) for error in (fifth, third))
    share = (size / (size + 0.01 * slow)) ** 0.5 if size > 0 else 0.0
    smallest = smallest_value(new / norms)
    return max(share * largest_value(fifth), slow / len(third)) / smallest if smallest > 0 else math.inf
