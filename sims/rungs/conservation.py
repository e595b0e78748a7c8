"""Two tests that need no clock: is Sigma_T conserved, and does omega grow by signal or by noise as the plain flow has it?"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ufm.compare.coordinates import Entry, frame_of, gram_of, log_gram
from ufm.compare.motions import trace
from ufm.compare.unnormalized_motion import unnormalized_motion
from ufm.features.ranges import range_of_covariance
from ufm.monitor.epoch_statistics import load_statistics

SHARE_SPACING = 0.02  # of log omega between two points of a traced plain flow


@dataclass(frozen=True, eq=False)
class EpochMoments:
    """Counts (C,), class means with zero mean over examples M (P, C), Sigma_W (P, P), and an orthonormal basis (P, r) of its
    range.
    """

    counts: np.ndarray
    M: np.ndarray
    sigma_w: np.ndarray
    basis: np.ndarray

    @classmethod
    def load(cls, path: Path) -> "EpochMoments":
        """Of a file of `ufm.monitor.epoch_statistics`."""
        arrays = load_statistics(path)
        priors = arrays["counts"] / arrays["counts"].sum()
        M, sigma_w = arrays["class_means"], (arrays["sigma_w"] + arrays["sigma_w"].T) / 2
        _, E, dropped, _ = range_of_covariance(sigma_w, M, priors, float(arrays["precision"]))
        return cls(arrays["counts"], M - (M @ priors)[:, None], sigma_w, E[:, dropped:])

    @property
    def priors(self) -> np.ndarray:
        """pi_c = n_c / n. (C,)"""
        return self.counts / self.counts.sum()

    @property
    def sigma_t(self) -> np.ndarray:
        """Sigma_W + sum_c pi_c mu_c mu_c^T. (P, P)"""
        return self.sigma_w + (self.M * self.priors) @ self.M.T


def sigma_t_change(first: EpochMoments, last: EpochMoments) -> tuple[float, float, float]:
    """|T1 - T0| / |T0| of Sigma_T, the common factor c that is nearest to the change, and |T1 - c T0| / |c T0|, which is left.

    Plain gradient flow of free features with W at least squares has 0, 1, 0; their weight decay has c < 1 and leaves 0.
    """
    T0, T1 = first.sigma_t, last.sigma_t
    c = float((T0 * T1).sum() / (T0 * T0).sum())
    size = float(np.linalg.norm(T0))
    return float(np.linalg.norm(T1 - T0)) / size, c, float(np.linalg.norm(T1 - c * T0)) / (c * size)


def common(first: EpochMoments, last: EpochMoments) -> np.ndarray:
    """An orthonormal basis of the directions that vary at both moments. (P, r)"""
    empty = [np.eye(len(one.M)) - one.basis @ one.basis.T for one in (first, last)]
    values, E = np.linalg.eigh(empty[0] + empty[1])
    return E[:, values < 0.5]


def mean_log_omega(M: np.ndarray, sigma_w: np.ndarray, priors: np.ndarray) -> float:
    """The mean over j of log of the singular values of Sigma_W^{-1/2} M diag(sqrt(pi)), those that are not zero."""
    values = np.linalg.eigvalsh(gram_of(M, sigma_w, priors))[::-1]
    return 0.5 * float(np.log(values[: min(len(priors) - 1, len(M))]).mean())


def growth_parts(first: EpochMoments, last: EpochMoments) -> tuple[float, float]:
    """Of the growth of mean log omega, what the class means make and what Sigma_W makes, each a mean over both orders of change.

    They add up to the growth. Features seen in another fixed basis have the same parts.
    """
    basis, priors = common(first, last), first.priors
    M, W = ([basis.T @ one.M for one in (first, last)], [basis.T @ one.sigma_w @ basis for one in (first, last)])
    at = [[mean_log_omega(m, w, priors) for w in W] for m in M]
    return (at[1][0] - at[0][0] + at[1][1] - at[0][1]) / 2, (at[0][1] - at[0][0] + at[1][1] - at[1][0]) / 2


def signal_share(path: list[EpochMoments]) -> float:
    """The share of the class means in the growth of mean log omega along neighbouring moments; NaN where nothing grows."""
    parts = np.array([growth_parts(*pair) for pair in itertools.pairwise(path)]).sum(0)
    return float(parts[0] / parts.sum()) if abs(parts.sum()) > 0 else float("nan")


def plain_flow_share(first: EpochMoments, growth: float) -> float:
    """The same share of the plain flow from these moments, when its mean log omega has grown by `growth`.

    Sigma_T = I in its coordinates, where the class means have singular values b and omega^2 ~ b^2 / (1 - b^2): the signal is the
    growth of log b. Raises ValueError where the flow does not grow so far.
    """
    from scipy.interpolate import CubicSpline

    M, sigma_w = first.basis.T @ first.M, first.basis.T @ first.sigma_w @ first.basis
    entry = Entry(first.counts, M, sigma_w)
    frame = frame_of(entry.gram())
    start = float(np.diagonal(log_gram(entry.gram(), frame)).mean())
    Y, _ = trace(unnormalized_motion(entry), frame, np.inf, start + growth, SHARE_SPACING)
    y = np.linalg.eigvalsh(Y)  # log of b / sqrt(1 - b^2)
    level = y.mean(1)
    if not level[-1] >= start + growth:
        raise ValueError(f"the plain flow does not grow by a factor {np.exp(growth):.3g}, but by {np.exp(level[-1] - start):.3g}")
    log_b = (y - 0.5 * np.logaddexp(0, 2 * y)).mean(1)
    return (float(CubicSpline(level, log_b)(start + growth)) - float(log_b[0])) / growth
