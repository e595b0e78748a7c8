"""Does one law hold? What it leaves unexplained after the best clock and the best starts, and whether that has a trend."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution

from ufm.compare.exponent import Profile, profile

DEGREE = 2  # of the trend looked for: a slope and a bend in time of every singular value, a slope alone in few epochs
ROUNDING = 1e-9  # of log omega: smaller errors are the arithmetic's
RANK = 1e-9  # relative eigenvalue below which a shift of the clock counts as taken up by the other terms


@dataclass(frozen=True)
class Fit:
    """Of one law: rms of log omega left unexplained (degrees of freedom counted), and the p-value of "no trend".

    The p-value is NaN where there are too few epochs to tell a trend from noise.
    """

    rms: float
    no_trend: float


def fit_law(x: np.ndarray, p: float) -> Fit:
    """The errors of log omega of the best a_j and b_t, and the F test of slopes and bends in time of every one of them.

    White relative errors of omega, and nothing else, make no_trend uniform on (0, 1). x = log u (T, K), K >= 2 and T >= 3
    """
    found = profile(x, p)
    plain, free = _left_over(found, 0)
    for degree in range(min(DEGREE, len(x) - 2), 0, -1):
        bent, free_bent = _left_over(found, degree)
        if free_bent >= free - free_bent and bent > 0:  # enough is left to measure the noise by
            ratio = (max(plain - bent, 0.0) / (free - free_bent)) / (bent / free_bent)
            return Fit(found.rms, float(f_distribution.sf(ratio, free - free_bent, free_bent)))
    return Fit(found.rms, float("nan"))


def motion(logs: Sequence[np.ndarray], p: float) -> float:
    """How far the common motion of all runs stands out, in units of the largest pattern that white noise of its size has.

    The noise of a (T, K) run with its starts and clock fitted has a largest singular value of sqrt(T-1) + sqrt(K-1) standard
    deviations (Marchenko & Pastur): near 1 or below, the fitted clock is noise, and an exponent fitted to it says nothing.
    """
    moved, noise = 0.0, 0.0
    for x in logs:
        found = profile(x, p)
        moved += float(((x - x.mean(0)) ** 2).sum()) / 4 - found.squares
        noise += (np.sqrt(len(x) - 1) + np.sqrt(x.shape[1] - 1)) ** 2 * max(found.rms, ROUNDING) ** 2
    return float(np.sqrt(max(moved, 0.0) / noise))


def _left_over(found: Profile, degree: int) -> tuple[float, int]:
    """Squared errors of log omega after one more linear fit of a_j, b_t and polynomials in time of every j, and its freedoms."""
    T, K = found.x.shape
    weight = found.sensitivity
    unit = 1 / np.sqrt((weight**2).sum(1))  # of b_t: the sensitivities of a law run over many decades
    trend = np.vander(np.linspace(-1, 1, T), degree + 1, increasing=True)[:, 1:]
    matrix, right, squares = np.zeros((T, T)), np.zeros(T), 0.0
    for j in range(K):
        own = np.linalg.qr(np.column_stack([weight[:, j] / np.linalg.norm(weight[:, j]), trend]))[0]
        y, shared = found.error[:, j], np.diag(weight[:, j] * unit)
        y = y - own @ (own.T @ y)
        shared = shared - own @ (own.T @ shared)
        matrix += shared.T @ shared
        right += shared.T @ y
        squares += float(y @ y)
    values, vectors = np.linalg.eigh(matrix)
    kept = values > RANK * values[-1]
    explained = float((((vectors.T @ right)[kept]) ** 2 / values[kept]).sum())
    return max(squares - explained, 0.0), T * K - K * (1 + degree) - int(kept.sum())
