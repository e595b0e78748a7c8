"""The second pass over features: what every example tells about itself, from which leave-one-out and the jackknife are exact.

With A = n Sigma_W the scatter, d_i the deviation of example i from its class mean, and M the centred means:

    h_i = d_i^T A^{-1} d_i  (its leverage),    r_i = M^T A^{-1} d_i  (C,).

Leaving example i out changes A and its class mean by rank one, so every quadratic form without it is a formula in h_i and r_i.
"""

from dataclasses import dataclass

import numpy as np

from manifolds.linalg import Array, detached, epsilon, namespace, symmetrize
from manifolds.representation import short_repr
from ufm.arrays import as_numpy
from ufm.features.statistics import ClassStatistics
from ufm.ledger.discrimination import Discrimination

ALONE = 1e-2  # an example with more than 1 - this of the variance of some direction is alone in it
FOREIGN = 1e-2  # relative distance of the second pass's covariance from the first's above which the data cannot be the same


@dataclass(frozen=True, eq=False, repr=False)
class LeaveOneOutRows:
    """Per example: labels (n,), leverages h (n,), r (n, C); and whitened means (rank, C) with the second pass's digits."""

    labels: np.ndarray
    leverages: np.ndarray
    r: np.ndarray
    signal: np.ndarray
    __repr__ = short_repr

    @property
    def gram(self) -> np.ndarray:
        """The form G. (C, C)"""
        return self.signal.T @ self.signal


class SecondPass:
    """Collects `Rows` in batches: `update` with the features that the statistics were made of, `merge`, `compute`.

    Memory is rank^2 and C + 2 numbers an example. The covariance of the whitened deviations, which is I but for the rounding of
    the first whitening, is accumulated beside them: with it G is right to eps sqrt(cond(Sigma_W)) instead of eps cond(Sigma_W).
    """

    def __init__(self, stats: ClassStatistics[Array], discrimination: Discrimination) -> None:
        self._stats, self._discrimination = stats, discrimination
        self._second = np.zeros((discrimination.rank, discrimination.rank))
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._alone: list[np.ndarray] = []

    def update(self, features: Array, labels: Array) -> "SecondPass":
        """Take in a batch: features (b, P), labels (b,). Returns self."""
        xp, T = namespace(features), self._discrimination.whitener
        wide = xp.asarray(detached(features), dtype=T.dtype, device=features.device)
        deviations = wide - self._stats.means.mT[labels]
        if self._stats.rounding is not None:
            deviations = deviations - self._stats.rounding.mT[labels]
        Y, y = as_numpy(deviations @ T), as_numpy(labels)
        self._second += Y.T @ Y
        n, size = self._discrimination.n, self._discrimination.counts[y]
        single = size / np.maximum(size - 1, 1) * (Y * Y).sum(1) / n > 1 - ALONE
        self._alone.append(Y[single & (size > 1)])
        self._parts.append((np.asarray(y), (Y * Y).sum(1) / n, Y @ self._discrimination.signal / n))
        return self

    def merge(self, other: "SecondPass") -> "SecondPass":
        """Take in everything that another pass over the same statistics has seen. Returns self."""
        self._second = self._second + other._second
        self._parts = [*self._parts, *other._parts]
        self._alone = [*self._alone, *other._alone]
        return self

    @property
    def alone(self) -> np.ndarray:
        """Whitened deviations (a, rank) of examples alone in a direction: n_c / (n_c - 1) h_i > 1 - ALONE."""
        return np.concatenate([np.zeros((0, self._discrimination.rank)), *self._alone])

    @property
    def rewhitened(self) -> Discrimination:
        """The form, whitened by the covariance of this pass where rounding spoiled the first whitening, else as it was.

        A sum of n products is rounded to n eps of the largest variance: much, relative to the smallest. Where this pass has no
        variance either, the direction is empty.
        """
        form, gaps, T = self._discrimination, abs(self._gaps), self._discrimination.whitener
        smallness = as_numpy((self._stats.sigma_w.diagonal()[:, None] * T**2).sum(0)) ** 0.5  # 1 / deviation
        rounding = form.n * epsilon(gaps)
        if gaps.max() <= FOREIGN or (gaps > FOREIGN + rounding * np.outer(smallness, smallness) / smallness.min() ** 2).any():
            return form
        values, E = np.linalg.eigh(symmetrize(self._second / form.n))
        empty = values <= rounding * values[-1]
        lost = E[:, empty].T @ form.signal / (rounding * values[-1]) ** 0.5
        return form.whitened_by(E[:, ~empty] / values[~empty] ** 0.5).with_doubtful(lost)

    def compute(self) -> LeaveOneOutRows:
        """The rows. Raises ValueError where the second pass saw other data than the first."""
        labels, h, r = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        n, counts = self._discrimination.n, np.bincount(labels, minlength=self._discrimination.C)
        if not np.array_equal(counts, self._discrimination.counts):
            raise ValueError(f"the second pass saw {len(labels)} examples, classes {counts.tolist()}, the first {n}: {WAY_OUT}")
        gap = float(abs(self._gaps).max())
        if gap > FOREIGN:
            raise ValueError(f"the second pass saw other features than the first (covariances differ by {gap:.1e}): {WAY_OUT}")
        whitening = np.linalg.cholesky(symmetrize(self._second / n))
        return LeaveOneOutRows(labels, h, r, np.linalg.solve(whitening, self._discrimination.signal))

    @property
    def _gaps(self) -> np.ndarray:
        return self._second / self._discrimination.n - np.eye(len(self._second))


WAY_OUT = "give a loader without random augmentation and without drop_last, in whatever order"


def left_out_forms(rows: LeaveOneOutRows, counts: np.ndarray, V: np.ndarray) -> np.ndarray:
    """v_k^T M_{-i}^T A_{-i}^{-1} M_{-i} v_k for the columns of V (C, k), without example i, for every i. (n, k)"""
    size, h = counts[rows.labels], rows.leverages[:, None]
    e = V[rows.labels] / (size - 1)[:, None]
    r = rows.r @ V
    kappa = (size / (size - 1))[:, None]
    full = np.einsum("ab,ak,bk->k", rows.gram / len(size), V, V)
    return full - 2 * r * e + h * e**2 + kappa / (1 - kappa * h) * (r - h * e) ** 2


def left_out_readout(rows: LeaveOneOutRows, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T and Q (C, C): signal and noise on examples left out, of the linear functionals made without them.

    The functionals are A_{-i}^{-1} (mu_{c',-i} - mu). T_cc' is the average over i in class c of their values on x_i - mu, and
    Q their covariance within classes on what was left out, sqrt((n_c - 1) / n_c) (x_i - mu_{c,-i}).
    """
    n, C = rows.r.shape
    size = counts[rows.labels]
    kappa, h, r = size / (size - 1), rows.leverages, rows.r
    one_hot = np.eye(C)[rows.labels]
    own = one_hot / (size - 1)[:, None]
    toward = r - own * h[:, None]
    of_class = r[np.arange(n), rows.labels]
    first = rows.gram[rows.labels] / n + r - own * (of_class + h)[:, None]
    s = first + (kappa / (1 - kappa * h) * (of_class + h))[:, None] * toward
    noise = toward * (np.sqrt(kappa) / (1 - kappa * h))[:, None]
    return (one_hot.T @ s) / counts[:, None], noise.T @ noise / n
