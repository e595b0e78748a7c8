"""The three laws as one family: d log u / dt = (2 / (C^2 N)) (1 + u)^{-p}, with p = 0 unnormalized, 1 renormalized, 2 embedded.

Every member keeps Phi_p(u_j) - Phi_p(u_k), Phi_p(u) = int (1 + u)^p du / u, whatever the clock: Phi_p(u_j(t)) = a_j + b(t). So p
is measured without a clock: it is the exponent that leaves the smallest error of log omega, all starts a_j and the clock b free.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from scipy.stats import t as student_t

from manifolds.representation import short_repr
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED, UNNORMALIZED, Law

EXPONENTS: dict[Law, float] = {RENORMALIZED: 1.0, EMBEDDED: 2.0, UNNORMALIZED: 0.0}
SEARCHED = np.arange(-1.0, 3.01, 0.5)  # the laws and one unit around them
NODES, PANEL_LENGTH = 8, 1.0  # Gauss-Legendre nodes on panels of length at most 1 in log u: relative error below 1e-14
ROUNDS, HALVINGS, NEWTON = 50, 12, 50
LAST_NEWTON_STEP = 1e-6  # last step of Newton's method in log u: the error left is below 1.5 of its square
LEAST_GAIN = 1e-7  # relative gain of the sum of squares in a round that ends a fit: it moves p by less than 1e-4 of its interval
RANGE = (-100.0, 100.0)  # of log u: omega of 1e-22 to 1e22
RESAMPLES_AT_ONCE = 64  # resamples solved at once


def phi_between(x0: np.ndarray, x1: np.ndarray, p: float) -> np.ndarray:
    """Phi_p(e^x1) - Phi_p(e^x0) = int_{x0}^{x1} (1 + e^y)^p dy, by Gauss-Legendre quadrature. Any (common) shape."""
    return _integral(x0, x1, lambda log1p: np.exp(p * log1p))


@dataclass(frozen=True, eq=False, repr=False)
class Profile:
    """The least-squares fit of one member of the family, (T, K) each: log u, its Phi_p counted from log u = 0, and the errors
    and d / d Phi of log omega.
    """

    p: float
    x: np.ndarray
    phi: np.ndarray
    error: np.ndarray
    sensitivity: np.ndarray
    __repr__ = short_repr

    @property
    def squares(self) -> float:
        """Sum of the squared errors of log omega."""
        return float((self.error**2).sum())

    @property
    def rms(self) -> float:
        """Root of the squared errors over their degrees of freedom (T - 1) (K - 1)."""
        T, K = self.x.shape
        return float(np.sqrt(self.squares / ((T - 1) * (K - 1))))


def profile(x: np.ndarray, p: float) -> Profile:
    """The a_j, b_t for which log u, Phi_p(u_tj) = a_j + b_t, is nearest to x (T, K): Gauss-Newton, halved until it improves."""
    additive = x.mean(0) + (x.mean(1) - x.mean())[:, None]  # the exact answer for p = 0
    start = _profile_at(x, additive, phi_between(np.zeros_like(x), additive, p), p)
    nearest = _descend(x, _profile_at(x, *_solve_phi(start, _two_way(start)), p))
    means = np.tile(x.mean(0), (len(x), 1))
    still = _profile_at(x, means, phi_between(np.zeros_like(x), means, p), p)
    # Phi is bounded for p < 0, and the first step may end where nothing leads back: then from no motion
    return nearest if nearest.squares <= still.squares else _descend(x, still)


def refitted(x: np.ndarray, at: Profile, phi: np.ndarray) -> Profile:
    """The profile that has these values of Phi_p (T, K) instead, near those of `at`."""
    return _profile_at(x, *_solve_phi(at, phi), at.p)


def _descend(x: np.ndarray, nearest: Profile) -> Profile:
    for _ in range(ROUNDS):
        step = _two_way(nearest) - nearest.phi
        for _ in range(HALVINGS):
            trial = _profile_at(x, *_solve_phi(nearest, nearest.phi + step), nearest.p)
            if trial.squares < nearest.squares:
                break
            step = step / 2
        gain = nearest.squares - trial.squares
        if not gain > 0:
            return nearest
        nearest = trial
        if gain <= LEAST_GAIN * nearest.squares:
            return nearest
    return nearest


@dataclass(frozen=True)
class Exponent:
    """The exponent p that fits best and its bootstrap interval; `at_bound` where the family fits no better inside its range."""

    value: float
    low: float
    high: float
    at_bound: bool


def fit_exponent(logs: Sequence[np.ndarray], resamples: Sequence[np.ndarray], level: float = 0.95) -> Exponent:
    """The p with the least squared error of log omega over all runs, log u (T_r, K_r) each, and its expanded percentile interval.

    resamples[r] (B, K_r) says how often resample b takes each singular value of run r; `resample` makes them. A resample's p is
    one Gauss-Newton step from the full sample's. Raises ValueError for a run with one singular value: it has no pair.
    """
    if any(x.shape[1] < 2 for x in logs):
        raise ValueError("one singular value has no pair: an exponent needs two of them, C >= 3 and P >= 2")

    def squares(p: float) -> float:
        return sum(profile(x, float(p)).squares for x in logs)

    scanned = [squares(p) for p in SEARCHED]
    at = int(np.argmin(scanned))
    bracket = SEARCHED[max(at - 1, 0)], SEARCHED[min(at + 1, len(SEARCHED) - 1)]
    best = float(minimize_scalar(squares, bounds=bracket, method="bounded", options={"xatol": 1e-4}).x)
    score, information = np.zeros(len(resamples[0])), np.zeros(len(resamples[0]))
    for x, taken in zip(logs, resamples, strict=True):
        of_run = _score(profile(x, best), taken)
        score, information = score + of_run[0], information + of_run[1]
    informative = information > 1e-9 * information.max(initial=0.0)
    moved = best + score[informative] / information[informative]
    tail = expanded_tail(level, sum(x.shape[1] for x in logs))
    low, high = np.quantile(moved, [tail, 1 - tail]) if informative.any() else (-np.inf, np.inf)
    edge = bool(min(best - SEARCHED[0], SEARCHED[-1] - best) < 1e-3)
    return Exponent(best, float(low), float(high), edge)


def expanded_tail(level: float, count: int) -> float:
    """The tail probability of a percentile interval over `count` >= 2 values, expanded as Student's t asks of few of them.

    Phi(-sqrt(n / (n - 1)) t_{n-1}); plain percentiles are too narrow by about that factor (Hesterberg 2015, section 4.2).
    """
    return float(norm.cdf(-np.sqrt(count / (count - 1)) * student_t.ppf((1 + level) / 2, count - 1)))


def resample(sizes: Sequence[int], count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Bootstrap counts over runs, then over the singular values of each: (count, K_r) for every run r."""
    runs = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=count)
    taken = [rng.multinomial(K, np.full(K, 1 / K), size=count) for K in sizes]
    return [counts * runs[:, r, None] for r, counts in enumerate(taken)]


def _profile_at(x: np.ndarray, fitted: np.ndarray, phi: np.ndarray, p: float) -> Profile:
    return Profile(p, fitted, phi, (x - fitted) / 2, 0.5 * np.exp(-p * np.logaddexp(0.0, fitted)))


def _two_way(at: Profile) -> np.ndarray:
    """a_j + b_t, as a value of Phi_p counted from log u = 0, nearest to the data to first order in the errors. (T, K)"""
    weight = at.sensitivity**2
    weight = weight / weight.max()
    aim = at.phi + at.error / at.sensitivity
    # b_t = (sum_j w_tj (aim_tj - a_j)) / sum_j w_tj put into the equations of a leaves a K x K system, singular along 1
    of_time, of_value = weight.sum(1), weight.sum(0)
    unit = 1 / np.sqrt(of_value)
    matrix = np.diag(of_value) - weight.T @ (weight / of_time[:, None])
    mean = (weight * aim).sum(1) / of_time
    right = (weight * (aim - mean[:, None])).sum(0)
    a = unit * np.linalg.lstsq(unit[:, None] * matrix * unit, unit * right, rcond=None)[0]
    return a + (mean - (weight @ a) / of_time)[:, None]


def _solve_phi(at: Profile, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log u where Phi_p is `wanted`, or the end of RANGE next to it, and Phi_p there, by Newton's method."""
    nodes, values = _phi_table(at.p)
    near = np.searchsorted(values, wanted).clip(max=len(nodes) - 1)
    far = abs(nodes[near] - at.x) > 2 * PANEL_LENGTH
    x, phi = np.where(far, nodes[near], at.x), np.where(far, values[near], at.phi)
    for _ in range(NEWTON):
        step = np.clip((wanted - phi) * np.exp(-at.p * np.logaddexp(0.0, x)), -PANEL_LENGTH, PANEL_LENGTH)
        moved = np.clip(x + step, *RANGE)
        last = abs(moved - x).max()
        x, phi = moved, phi + phi_between(x, moved, at.p)
        if last < LAST_NEWTON_STEP:
            break
    return x, phi


def _score(at: Profile, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score and information of p of every resample (B,), starts and clock eliminated."""
    center = np.full_like(at.x, at.x.mean())
    column = -_integral(center, at.x, lambda log1p: log1p * np.exp(at.p * log1p)) * at.sensitivity
    w = at.sensitivity / np.sqrt((at.sensitivity**2).sum(1))[:, None]  # of b_t, in units that suit it
    own = at.sensitivity / np.sqrt((at.sensitivity**2).sum(0))

    def centred(values: np.ndarray) -> np.ndarray:
        return values - own * (own * values).sum(0)

    c, e = centred(column), centred(at.error)
    score, information = (taken @ (c * e).sum(0)).astype(float), (taken @ (c * c).sum(0)).astype(float)
    several = np.flatnonzero((taken > 0).sum(1) > 1)  # one value alone says nothing of p: its clock takes up everything
    informed = np.zeros(len(taken), dtype=bool)
    informed[several] = True
    diagonal, shared = np.arange(len(w) - 1), (w * own)[1:]  # b of the first time is taken up by the a_j
    for first in range(0, len(several), RESAMPLES_AT_ONCE):
        rows = several[first : first + RESAMPLES_AT_ONCE]
        m = taken[rows].astype(float)
        N = -((m[:, None, :] * shared) @ shared.T)
        N[:, diagonal, diagonal] += m @ (w * w)[1:].T
        right = np.stack([m @ (w * c)[1:].T, m @ (w * e)[1:].T], axis=-1)
        solved = np.linalg.solve(N, right[..., :1])[..., 0]
        score[rows] -= (solved * right[..., 1]).sum(1)
        information[rows] -= (solved * right[..., 0]).sum(1)
    return np.where(informed, score, 0.0), np.where(informed, information, 0.0)


def _integral(x0: np.ndarray, x1: np.ndarray, of_log1p: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """int_{x0}^{x1} f(log(1 + e^y)) dy. Any (common) shape."""
    nodes, weights = _panels(max(1, int(np.ceil(abs(x1 - x0).max(initial=0.0) / PANEL_LENGTH))))
    y = x0[..., None] + (x1 - x0)[..., None] * nodes
    return (of_log1p(np.logaddexp(0.0, y)) @ weights) * (x1 - x0)


@lru_cache(maxsize=64)
def _phi_table(p: float) -> tuple[np.ndarray, np.ndarray]:
    """log u at every half over RANGE, and Phi_p there."""
    nodes = np.arange(RANGE[0], RANGE[1] + 0.5, 0.5)
    values = np.concatenate([[0.0], phi_between(nodes[:-1], nodes[1:], p).cumsum()])
    middle = int(-2 * RANGE[0])
    above = phi_between(nodes[middle:-1], nodes[middle + 1 :], p).cumsum()
    return nodes, np.concatenate([values[: middle + 1] - values[middle], above])


@cache
def _panels(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1] cut into `count` panels."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    edges = np.arange(count)[:, None] / count
    return (edges + (nodes + 1) / (2 * count)).ravel(), np.tile(weights / (2 * count), count)
