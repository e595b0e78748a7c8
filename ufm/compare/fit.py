"""Does one law hold? What it leaves after the best clock and starts, whether that is noise, and whether the clock advances."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import f as f_distribution

from ufm.compare.exponent import Profile, profile, refitted

DEGREE = 2  # of the trend looked for: a slope and a bend in time of every singular value, a slope alone in few epochs
ARITHMETIC_ERROR = 1e-9  # of log omega: smaller errors are the arithmetic's
RANK = 1e-9  # relative eigenvalue below which a shift of the clock counts as taken up by the other terms
ORDERS = 1999  # of the epochs, against which their own order is held; p-values are multiples of 1 / (ORDERS + 1)


@dataclass(frozen=True)
class Fit:
    """Of one law: what it leaves unexplained, and the p-values of what a law through any clock and white noise would satisfy.

    rms        of log omega left unexplained, degrees of freedom counted
    no_trend   p-value of "no slope and no bend in time"; NaN where there are too few epochs to tell one from noise
    no_memory  p-value of "neighbouring epochs are no more alike than any two"
    advances   p-value of "the clock never goes back", and `back`, the rms of log omega that a clock made to advance adds
    """

    rms: float
    no_trend: float
    no_memory: float = 1.0
    advances: float = 1.0
    back: float = 0.0

    @property
    def like_noise(self) -> float:
        """The smaller of the p-values of trend and memory; NaN where the first is."""
        return float(np.minimum(self.no_trend, self.no_memory))


def fit_law(x: np.ndarray, p: float) -> Fit:
    """The errors of log omega of the best a_j and b_t, the tests of whether they are noise, and of whether b_t only grows.

    F test of slopes and bends in time of every error; products of neighbouring epochs against all orders of the epochs. White
    relative errors of omega, and nothing else, make no_trend uniform on (0, 1). x = log u (T, K), K >= 2 and T >= 3
    """
    nearest = profile(x, p)
    plain, free = _left_over(nearest, 0)
    advances, back = _advance(x, nearest)
    no_trend = float("nan")
    for degree in range(min(DEGREE, len(x) - 2), 0, -1):
        bent, free_bent = _left_over(nearest, degree)
        if free_bent >= free - free_bent and bent > 0:  # enough is left to measure the noise by
            ratio = (max(plain - bent, 0.0) / (free - free_bent)) / (bent / free_bent)
            no_trend = float(f_distribution.sf(ratio, free - free_bent, free_bent))
            break
    return Fit(nearest.rms, no_trend, _no_memory(nearest.error), advances, back)


def travelled(logs: Sequence[np.ndarray]) -> float:
    """How far log omega goes: rms distance from its mean over time, over all values and runs."""
    return float(np.sqrt(np.mean([((x - x.mean(0)) ** 2).mean() / 4 for x in logs])))


def motion(logs: Sequence[np.ndarray], p: float) -> float:
    """How far the common motion of all runs stands out, in units of the largest pattern that white noise of its size has.

    The noise of a (T, K) run with its starts and clock fitted has a largest singular value of sqrt(T-1) + sqrt(K-1) standard
    deviations (Marchenko & Pastur): near 1 or below, the fitted clock is noise, and an exponent fitted to it says nothing.
    """
    moved, noise = 0.0, 0.0
    for x in logs:
        nearest = profile(x, p)
        moved += float(((x - x.mean(0)) ** 2).sum()) / 4 - nearest.squares
        noise += (np.sqrt(len(x) - 1) + np.sqrt(x.shape[1] - 1)) ** 2 * max(nearest.rms, ARITHMETIC_ERROR) ** 2
    return float(np.sqrt(max(moved, 0.0) / noise))


def _no_memory(error: np.ndarray) -> float:
    """Share of orders of the epochs whose neighbours are at least as alike as in the true one. (T, K)"""
    products = error @ error.T
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.tile(np.arange(len(error)), (ORDERS, 1)), axis=1)
    alike = products[orders[:, :-1], orders[:, 1:]].sum(1)
    own = np.diagonal(products, 1).sum()
    return float((1 + (alike >= own).sum()) / (1 + ORDERS))


def _advance(x: np.ndarray, nearest: Profile) -> tuple[float, float]:
    """The p-value of a clock that never goes back (of a standing one: less where it advances), and the rms of what that adds."""
    T, K = x.shape
    clock = nearest.phi[:, nearest.x[0].argmin()]  # of the smallest value, where Phi has the most digits
    clock = clock - clock[0]
    forward = isotonic_regression(clock, weights=(nearest.sensitivity**2).sum(1)).x
    if np.array_equal(forward, clock):
        return 1.0, 0.0
    added = max(refitted(x, nearest, nearest.phi + (forward - clock)[:, None]).squares - nearest.squares, 0.0)
    least = max(nearest.squares, nearest.error.size * ARITHMETIC_ERROR**2)
    p = float(f_distribution.sf((K - 1) * added / least, T - 1, (T - 1) * (K - 1)))
    return p, float(np.sqrt(added / ((T - 1) * (K - 1))))


def _left_over(nearest: Profile, degree: int) -> tuple[float, int]:
    """Squared errors of log omega after one more linear fit of a_j, b_t and polynomials in time of every j, and its freedoms."""
    T, K = nearest.x.shape
    weight = nearest.sensitivity
    unit = 1 / np.sqrt((weight**2).sum(1))  # of b_t: the sensitivities of a law run over many decades
    trend = np.vander(np.linspace(-1, 1, T), degree + 1, increasing=True)[:, 1:]
    matrix, right, squares = np.zeros((T, T)), np.zeros(T), 0.0
    for j in range(K):
        own = np.linalg.qr(np.column_stack([weight[:, j] / np.linalg.norm(weight[:, j]), trend]))[0]
        y, shared = nearest.error[:, j], np.diag(weight[:, j] * unit)
        y = y - own @ (own.T @ y)
        shared = shared - own @ (own.T @ shared)
        matrix += shared.T @ shared
        right += shared.T @ y
        squares += float(y @ y)
    values, vectors = np.linalg.eigh(matrix)
    kept = values > RANK * values[-1]
    explained = float((((vectors.T @ right)[kept]) ** 2 / values[kept]).sum())
    return max(squares - explained, 0.0), T * K - K * (1 + degree) - int(kept.sum())
