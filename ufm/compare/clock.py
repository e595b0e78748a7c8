"""The best monotone clock from measured epochs to flow time, and the residual of log omega under it."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from manifolds.representation import short_repr
from ufm.laws.singular_value_dynamics import Law
from ufm.laws.trajectory import Trajectory

SIMULATED_POINTS = 4000  # of a simulated trajectory: interpolating log omega between them costs 1e-7 of it
SHARING_VALUES = 5  # singular values among which the points are shared
SAME_TIME = 1e-6  # relative distance of two times that are one
LOG_OMEGA_MARGIN = 0.5  # how far past the measured values a law is followed, in log omega
GAUSS_NEWTON_STEPS, STEP_HALVINGS = 20, 5  # Gauss-Newton steps after the search on the points, halved until they improve


@dataclass(frozen=True, eq=False, repr=False)
class Clock:
    """tau (T,): the flow time of every epoch, never decreasing; predicted log omega and error = measured - predicted, (T, K)."""

    tau: np.ndarray
    predicted: np.ndarray
    error: np.ndarray
    exhausted: bool
    __repr__ = short_repr

    @property
    def rms(self) -> float:
        """Root of the mean squared error of log omega after the entry, where it is 0 by construction."""
        return float(np.sqrt((self.error[1:] ** 2).mean()))


def law_from(law: Law, entry: np.ndarray, reach: float, C: int, N: int, points: int = SIMULATED_POINTS) -> Trajectory:
    """The trajectory of a law from omega `entry` (K,) until every value is past `reach`.

    Its times are even in log omega of five values, from the smallest to the largest: under laws (a) and (b) the small ones have
    arrived before the largest has moved, and under law (c) the largest would be alone.
    """
    end = max(reach, float(entry.max())) * np.exp(LOG_OMEGA_MARGIN)
    starts = np.unique(np.quantile(entry, np.linspace(0, 1, SHARING_VALUES), method="nearest"))
    count = max(points // len(starts), 2)
    paths = [np.exp(np.linspace(np.log(start), np.log(end), count))[1:] for start in starts]
    times = [law.time(path, np.full(count - 1, start), C, N) for start, path in zip(starts, paths, strict=True)]
    t = np.sort(np.concatenate([[0.0], *times]))
    t = t[np.r_[True, np.diff(t) > SAME_TIME * t[1:]]]
    return Trajectory(t, np.exp(law.log_omega(t, entry, C, N)), np.zeros((C, len(entry))), C, N)


def fit_clock(simulated: Trajectory, log_omega: np.ndarray) -> Clock:
    """The monotone tau that minimises sum_tj (log omega_tj - log omega_sim_j(tau_t))^2, tau = 0 at the first epoch.

    Global minimum over the simulated times by dynamic programming, then Gauss-Newton steps, each an isotonic regression.
    log_omega (T, K), in the columns of `simulated`. Raises ValueError for another number of columns, or fewer than 4 times.
    """
    t, path = simulated.t, np.log(simulated.omega)
    if path.shape[1] != log_omega.shape[1] or len(t) < 4:
        raise ValueError(f"{path.shape[1]} simulated singular values at {len(t)} times, {log_omega.shape[1]} measured ones")
    motion = PchipInterpolator(t, path)
    rate = motion.derivative()
    start = _monotone_match(path, log_omega)
    low, high = t[np.maximum(start - 2, 0)], t[np.minimum(start + 2, len(t) - 1)]
    tau = t[start]
    best = _squares(motion, tau, log_omega)
    for _ in range(GAUSS_NEWTON_STEPS):
        slope = rate(tau)
        weight = (slope**2).sum(1)
        if not (weight[1:] > 0).all():
            break  # the simulated values stand still: no time is better than its neighbours
        step = (slope * (log_omega - motion(tau))).sum(1) / np.where(weight > 0, weight, 1.0)
        wanted = tau.copy()
        wanted[1:] = isotonic_regression((tau + step)[1:], weights=weight[1:]).x
        wanted = np.clip(wanted, low, high)
        for _ in range(STEP_HALVINGS):
            squares = _squares(motion, wanted, log_omega)
            if squares < best:
                break
            wanted = (tau + wanted) / 2
        if not squares < best:
            break
        tau, best = wanted, squares
    predicted = motion(tau)
    return Clock(tau, predicted, log_omega - predicted, bool(tau[-1] >= t[-1] * (1 - 1e-9)))


def slopes_by_rate(epochs: np.ndarray, tau: np.ndarray, rates: np.ndarray) -> list[tuple[float, float, int]]:
    """(learning rate, flow time an epoch, epochs) of every stretch of constant learning rate with at least 3 epochs."""
    stretches = []
    edges = [0, *(np.flatnonzero(np.diff(rates)) + 1), len(rates)]
    for first, last in pairwise(edges):
        if last - first >= 3:
            slope = np.polyfit(epochs[first:last], tau[first:last], 1)[0]
            stretches.append((float(rates[first]), float(slope), int(last - first)))
    return stretches


def _squares(motion: PchipInterpolator, tau: np.ndarray, log_omega: np.ndarray) -> float:
    return float(((log_omega - motion(tau)) ** 2).sum())


def _monotone_match(path: np.ndarray, log_omega: np.ndarray) -> np.ndarray:
    """Indices (T,), never decreasing, 0 at first, with the least sum of squared distances between rows of both. (G, K), (T, K)"""
    centre = log_omega.mean(0)
    a, b = log_omega - centre, path - centre
    cost = (a * a).sum(1)[:, None] - 2 * (a @ b.T) + (b * b).sum(1)
    total = np.full(len(path), np.inf)
    total[0] = 0.0
    came_from = np.zeros(cost.shape, dtype=np.int64)
    for k in range(1, len(cost)):
        least = np.minimum.accumulate(total)
        came_from[k] = np.maximum.accumulate(np.where(total == least, np.arange(len(total)), 0))
        total = least + cost[k]
    index = np.zeros(len(cost), dtype=np.int64)
    index[-1] = total.argmin()
    for k in range(len(cost) - 1, 0, -1):
        index[k - 1] = came_from[k][index[k]]
    return index
