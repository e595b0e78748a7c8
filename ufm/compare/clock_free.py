"""Tests of plain gradient descent on free features that need no clock, from the class statistics of several epochs.

Under dH/dt = -grad L_LS Theta, Theta 1 on deviations and r on class means, from any start and with any sizes of classes:

conservation   A = Sigma_W + S S^T / r (Sigma_T for r = 1) stays; feature decay multiplies it by one factor exp(-2 lambda_H t)
split          log omega_j grows by the class means (signal) and by what deviations shrink (noise), in known shares: r / (r + u_j)
               for the signal from r Sigma_W + M M^T / C = I with equal classes, `predicted_split` from any start
rotation       the SNR's right vectors turn, by what the flow predicts: not by nothing

Every number has a percentile interval, by the bootstrap over the values that it is the mean of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from manifolds.representation import short_repr
from ufm.compare.coordinates import Entry, factor_of, frame_of, log_gram, white_means
from ufm.compare.likelihood import at
from ufm.compare.models import PLAIN
from ufm.compare.outcome import Measured
from ufm.compare.predicted import FollowedRun

RESAMPLES = 1000
LEGENDRE_NODES, LEGENDRE_WEIGHTS = np.polynomial.legendre.leggauss(16)  # of means over the interval between two epochs
AGREE = 1e-3  # tolerance of the paths of `rotation`, of log omega


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % bootstrap interval; NaN where too few values have none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class Conservation:
    """Of A at every epoch against the first: change (T,) = ||A_t - A_0|| / ||A_0||; factor (T,), the common one, and rest (T,),
    the rms over the eigenvectors of A_0 of the logarithm of what each is multiplied by besides; both of the last epoch with
    intervals.
    """

    change: np.ndarray
    factor: np.ndarray
    rest: np.ndarray
    last_factor: Estimate
    last_rest: Estimate
    __repr__ = short_repr


@dataclass(frozen=True, eq=False, repr=False)
class GrowthSplit:
    """Growth of every log omega between neighbouring epochs by the class means and by deviations, (T - 1, K) each; the signal's
    share of all of it, that which plain descent predicts, and r, the odds of the first over those of the second: the ratio of
    a block kernel where Sigma_T is white; shares (T,), that which plain descent has from the statistics of every epoch.
    """

    signal: np.ndarray
    noise: np.ndarray
    share: Estimate
    predicted: float
    shares: np.ndarray
    r: float
    __repr__ = short_repr

    def shares_between(self, r: float = 1.0) -> np.ndarray:
        """The share under a block kernel r between neighbouring epochs (`mean_shares`). (T - 1,)"""
        return mean_shares(self.shares, r)


@dataclass(frozen=True, eq=False, repr=False)
class Rotation:
    """Y off the diagonal, (T, pairs): measured and as the unnormalized flow has it at its clock; their regression coefficient, 1
    under that flow and 0 for frozen vectors; and its predicted size, rms at the last epoch.
    """

    measured: np.ndarray
    predicted: np.ndarray
    coefficient: Estimate
    size: float
    __repr__ = short_repr


def conservation(entries: Sequence[Entry], r: float = 1.0, seed: int = 0) -> Conservation:
    """Is Sigma_W + S S^T / r conserved? Entries in one basis, one an epoch. Raises ValueError for fewer than 2 or other sizes."""
    _check_alike(entries)
    q = np.sqrt(entries[0].priors)

    def conserved(entry: Entry) -> np.ndarray:
        S = entry.M * q
        return entry.sigma_w + S @ S.T / r

    first = conserved(entries[0])
    a, E = np.linalg.eigh(first)
    kept = a > len(a) * np.finfo(np.float64).eps * a[-1]
    E, a = E[:, kept], a[kept]
    change, along = np.empty(len(entries)), np.empty((len(entries), len(a)))
    for k, entry in enumerate(entries):  # one epoch in memory at a time
        A = conserved(entry)
        change[k], along[k] = np.linalg.norm(A - first) / np.linalg.norm(first), (E * (A @ E)).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(along / a)
    last, picks = logs[-1], bootstrap_picks(len(a), seed)
    return Conservation(
        change,
        np.exp(logs.mean(1)),
        logs.std(1),
        bootstrap_estimate(float(np.exp(last.mean())), np.exp(last[picks].mean(1))),
        bootstrap_estimate(float(last.std()), last[picks].std(1)),
    )


def growth_split(entries: Sequence[Entry], seed: int = 0) -> GrowthSplit:
    """How much of the growth of omega is the class means', and how much plain descent predicts.

    Between two epochs, the mean of both orders in which M and Sigma_W may change. Raises ValueError where Sigma_W is singular.
    """
    _check_alike(entries)
    priors = entries[0].priors
    S = [entry.M * np.sqrt(priors) for entry in entries]
    white, rates, frame = list[list[np.ndarray]](), list[np.ndarray](), np.zeros((0, 0))
    for k, entry in enumerate(entries):
        factor = factor_of(entry.sigma_w)
        white.append([white_means(factor, S[j]) for j in (max(k - 1, 0), k, min(k + 1, len(S) - 1))])
        own = white[k][1]
        frame = frame if k else frame_of(own.T @ own)
        rates.append(_split_rates(factor, own, priors, frame))

    def level(of: np.ndarray) -> np.ndarray:
        return np.diagonal(log_gram(of.T @ of, frame))

    signal, noise = list[np.ndarray](), list[np.ndarray]()
    for before, after in pairwise(white):
        old, means, within, new = level(before[1]), level(before[2]), level(after[0]), level(after[1])
        signal.append((means - old + new - within) / 2)
        noise.append((within - old + new - means) / 2)
    signals, noises = np.array(signal), np.array(noise)
    by_value, all_of = signals.sum(0), (signals + noises).sum(0)
    weight = (signals + noises).sum(1)
    at_epochs = np.array(rates).sum(2)  # (T, 2)
    shares = at_epochs[:, 0] / at_epochs.sum(1)
    predicted = float((weight * mean_shares(shares)).sum() / weight.sum())
    share = float(by_value.sum() / all_of.sum())
    picks = bootstrap_picks(len(by_value), seed)
    ratio = (share / (1 - share)) / (predicted / (1 - predicted)) if 0 < share < 1 and 0 < predicted < 1 else float("nan")
    return GrowthSplit(
        signals, noises, bootstrap_estimate(share, by_value[picks].sum(1) / all_of[picks].sum(1)), predicted, shares, ratio
    )


def mean_shares(shares: np.ndarray, r: float = 1.0) -> np.ndarray:
    """Means over the growth between neighbours of r s / (r s + 1 - s), s the shares (T,) under plain descent. (T - 1,)

    Where directions do not mix, the odds of s are 1 / u, u = omega^2 / C: their logarithm is linear in the growth, which s is not
    where omega grows manyfold. Of shares that have no odds, or none that are finite, the mean of both ends.
    """
    own = r * shares / (r * shares + 1 - shares)
    ends = (own[:-1] + own[1:]) / 2
    inside = (own > 0) & (own < 1)
    log_odds = np.log(own / (1 - own), where=inside, out=np.zeros_like(own))
    middle, half = (log_odds[:-1] + log_odds[1:]) / 2, (log_odds[1:] - log_odds[:-1]) / 2
    means = LEGENDRE_WEIGHTS / 2 @ (1 / (1 + np.exp(-middle - LEGENDRE_NODES[:, None] * half)))
    return np.where(inside[:-1] & inside[1:], means, ends)


def predicted_split(entry: Entry, frame: np.ndarray) -> np.ndarray:
    """Rates at which every value of log omega grows by the class means and by the deviations under plain descent. (2, K)

    dS/dt = A^{-1} S J Pi J (I - N), A = Sigma_W + S S^T, N = S^T A^{-1} S, d Sigma_W/dt = -(dS S^T + S dS^T): from dG, on the
    diagonal of the frame. With S^T Sigma_W^{-1} dS/dt = X, dG is X + X^T by the means and X G + G X^T by the deviations.
    """
    factor = factor_of(entry.sigma_w)
    return _split_rates(factor, white_means(factor, entry.M * np.sqrt(entry.priors)), entry.priors, frame)


def _split_rates(factor: np.ndarray, white: np.ndarray, priors: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """The same from the Cholesky factor of Sigma_W and L^{-1} S."""
    from scipy.linalg import solve_triangular

    q, one = np.sqrt(priors), np.eye(len(priors))
    J = one - np.outer(q, q)
    G = white.T @ white
    twice = np.asarray(solve_triangular(factor, white, lower=True, trans="T"))  # Sigma_W^{-1} S
    rest = np.linalg.inv(one + G)  # I - N
    X = (twice.T @ twice) @ rest @ (J * priors) @ J @ rest
    Y = log_gram(G, frame)
    by_means, by_deviations = X + X.T, X @ G + G @ X.T
    return np.array([np.diagonal(log_gram(G + STEP * d, frame) - Y) / STEP for d in (by_means, by_deviations)])


STEP = 1e-6  # of flow time, of a divided difference


def rotation(run: Measured, seed: int = 0) -> Rotation:
    """Do the SNR's vectors turn as plain descent predicts from the statistics of the entry? Raises ValueError without those."""
    if run.entry is None or run.V.ndim == 2:
        raise ValueError("rotation needs the class statistics of the entry and the vectors of every epoch")
    state = FollowedRun(run, [PLAIN], AGREE)
    path = state.path_alone(state.traced[PLAIN][0])
    off = state.kinds == 1
    predicted = at(path, state.fit(path, *state.given).tau[0])[:, off]
    seen = state.y[:, off]
    predicted, seen = predicted - predicted[0], seen - seen[0]
    across, along = (seen * predicted).sum(0), (predicted**2).sum(0)
    size = float(np.sqrt((predicted[-1] ** 2).mean())) if off.any() else 0.0
    if not along.sum() > 0:
        return Rotation(seen, predicted, Estimate(np.nan, np.nan, np.nan), size)
    picks = bootstrap_picks(len(along), seed)
    resampled = across[picks].sum(1) / along[picks].sum(1)
    return Rotation(seen, predicted, bootstrap_estimate(float(across.sum() / along.sum()), resampled), size)


def _check_alike(entries: Sequence[Entry]) -> None:
    if len(entries) < 2:
        raise ValueError(f"the class statistics of {len(entries)} epochs: at least 2 are needed")
    if len({entry.M.shape for entry in entries}) > 1:
        raise ValueError("the epochs have statistics of different sizes: give them all in one basis of the features")
    if any((entry.counts != entries[0].counts).any() for entry in entries):
        raise ValueError("the epochs have other class counts than the first")


def bootstrap_picks(count: int, seed: int) -> np.ndarray:
    """Which of `count` values every resample takes. (RESAMPLES, count)"""
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def bootstrap_estimate(value: float, resampled: np.ndarray) -> Estimate:
    """The percentile interval, widened where need be to contain its estimate."""
    if not np.isfinite(resampled).any():
        return Estimate(value, np.nan, np.nan)
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return Estimate(value, float(min(low, value)), float(max(high, value)))
