"""What features tell about their classes, as a quadratic form that no linear map can raise, whatever their rank.

For a contrast x in R^C the squared signal-to-noise ratio that a linear functional can reach is

    x^T G x = sup_w (w^T Mbar x)^2 / (w^T Sigma_W w),    G = Mbar^T Sigma_W^{-1} Mbar    (C x C),

a supremum over functionals of the features. A linear map A leaves fewer functionals, w = A^T w', so G(A Z) <= G(Z) in the Loewner
order and omega_j(A Z) <= omega_j(Z) for every j. Where Sigma_W is singular the supremum is infinite for a contrast whose signal
leaves its range: those omega are inf, the others come from the contrasts without such signal. The theorem holds in this sense
without any condition on ranks; for the pseudo-inverse alone it is false (features (noise, signal), mapped to their sum).
"""

from dataclasses import dataclass, replace

import numpy as np

from manifolds.linalg import Array, epsilon, namespace, symmetrize
from manifolds.representation import short_repr
from ufm.arrays import as_numpy
from ufm.features.ranges import range_of_covariance
from ufm.features.statistics import ClassStatistics


@dataclass(frozen=True, eq=False)
class Discrimination:
    """The form G, and where it is infinite.

    gram       (C, C) numpy, Mbar^T Sigma_W^+ Mbar on the range of Sigma_W
    unbounded  (C, r) numpy, an orthonormal basis of the contrasts' part with infinite SNR, r = 0 as a rule
    whitener   (P, rank), T with T^T Sigma_W T = I; numpy, or torch on the device of the statistics
    signal     (rank, C) numpy, T^T Mbar
    counts     (C,) numpy, examples a class
    dropped    directions of the P features without any variability
    """

    gram: np.ndarray
    unbounded: np.ndarray
    whitener: Array
    signal: np.ndarray
    counts: np.ndarray
    dropped: int
    __repr__ = short_repr

    @property
    def C(self) -> int:
        """Number of classes."""
        return len(self.counts)

    @property
    def n(self) -> int:
        """Number of examples."""
        return int(self.counts.sum())

    @property
    def rank(self) -> int:
        """Directions with variability: the features that estimates count."""
        return self.signal.shape[0]

    @property
    def omega(self) -> np.ndarray:
        """omega_j descending, (C - 1,): singular values of Sigma_W^{-1/2} Mbar, inf first, 0 where P < C - 1. Definition 2."""
        return signal_omega(self.signal, self.unbounded)

    @property
    def weighted_omega(self) -> np.ndarray:
        """The same with class c counted sqrt(C pi_c) times, (C - 1,): square roots of C eig(Sigma_W^{-1} Sigma_B); any sizes."""
        q = np.sqrt(self.C * self.counts / self.n)
        return signal_omega(self.signal * q, np.linalg.qr(self.unbounded * q[:, None])[0])

    def without(self, rows: np.ndarray) -> "Discrimination":
        """The form of the features without the directions of some whitened rows (a, rank): those that single examples make."""
        N = np.linalg.svd(rows)[2][np.linalg.matrix_rank(rows) :].T
        T = self.whitener
        signal = N.T @ self.signal
        basis = N if namespace(T) is np else namespace(T).as_tensor(N, device=T.device)
        return replace(self, gram=signal.T @ signal, whitener=T @ basis, signal=signal)

    def contrasts(self, E: np.ndarray) -> np.ndarray:
        """sqrt of the eigenvalues of E^T G E, descending, (k,): the SNR of k contrasts, columns of E (C, k); inf where unbounded.

        E with rows e_c - e_c' gives Mahalanobis distances of pairs, centred one-hot columns of a subset its own omega.
        """
        reached = E.T @ self.unbounded
        r = int(np.linalg.matrix_rank(reached)) if self.unbounded.size else 0
        return _with_infinite(self.signal @ E @ np.linalg.svd(reached)[0][:, r:], r)


def discrimination(stats: ClassStatistics[Array], precision: float) -> Discrimination:
    """The form G of class statistics. `precision` is the machine epsilon of the dtype that the features came in.

    Every feature is first divided by its own deviation, which changes no omega and takes bad scaling out of the eigenvalues.
    Which directions are empty then says `range_of_covariance`. A signal along empty directions counts as infinite SNR where it
    is larger than what rounding can produce.
    Raises ValueError where no direction has any variability.
    """
    xp = namespace(stats.sigma_w)
    M = stats.centred_means
    variances = xp.clip(stats.sigma_w.diagonal(), min=0)
    squares = variances + (stats.means**2) @ stats.priors
    moving = variances > stats.P * precision**2 * squares
    if not bool(moving.any()):
        raise ValueError("Sigma_W = 0: every example equals its class mean, all omega are infinite: collapse is complete")
    scale = xp.sqrt(variances[moving])
    of_unit_deviations = stats.sigma_w[moving][:, moving] / scale[:, None] / scale
    means, size = stats.means[moving] / scale[:, None], len(scale)
    values, E, empty, deviation = range_of_covariance(of_unit_deviations, means, stats.priors, precision)
    inside = E[:, empty:] / xp.sqrt(values[empty:])
    whitener = xp.zeros((stats.P, inside.shape[1]), dtype=M.dtype, **({} if xp is np else {"device": M.device}))
    whitener[moving] = inside / scale[:, None]
    still = (~moving) & (abs(M).max(-1) if xp is np else abs(M).amax(-1)).__gt__(xp.sqrt(stats.P * precision**2 * squares))
    scaled = M[moving] / scale[:, None]
    outside = E[:, :empty].mT @ scaled  # signal where nothing varies, in units of the deviations
    # a vector of the empty space is known up to a tilt of rounding over the smallest eigenvalue kept
    tilt = size * epsilon(values) * float(values[-1]) / float(values[empty])
    outside = outside * (abs(outside) > deviation + tilt * float(abs(scaled).max()) * size**0.5)
    lost = [as_numpy(outside), as_numpy(M[still] / _largest(M[still]))]
    signal = as_numpy(whitener.mT @ M)
    return Discrimination(
        signal.T @ signal, _row_space(np.concatenate(lost)), whitener, signal, as_numpy(stats.counts), stats.P - inside.shape[1]
    )


def signal_omega(signal: np.ndarray, unbounded: np.ndarray) -> np.ndarray:
    """omega (C - 1,) of whitened means (rank, C), inf on the span of `unbounded` (C, r); the infinite ones first."""
    r = unbounded.shape[1]
    rest = np.linalg.svd(unbounded)[0][:, r:] if r else np.eye(len(unbounded))
    return _with_infinite(signal @ rest, r)[:-1]


def form_omega(form: np.ndarray) -> np.ndarray:
    """The square roots of the C - 1 largest eigenvalues of a form (C, C), 0 where they are negative."""
    return np.sqrt(np.clip(np.linalg.eigvalsh(symmetrize(form))[:0:-1], 0, None))


def _with_infinite(signal: np.ndarray, r: int) -> np.ndarray:
    """r times inf, then the singular values of a signal (rank, k), filled with zeros to k. (r + k,)"""
    values = np.linalg.svd(signal, compute_uv=False)
    return np.concatenate([np.full(r, np.inf), values, np.zeros(signal.shape[1] - len(values))])


def _largest(M: Array) -> float:
    return float(abs(M).max()) if len(M) else 1.0


def _row_space(rows: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the space that rows (k, C) span. (C, r)"""
    if not rows.any():
        return np.zeros((rows.shape[1], 0))
    _, values, Vt = np.linalg.svd(rows, full_matrices=False)
    return Vt[values > len(Vt) * np.finfo(np.float64).eps * values[0] * max(rows.shape)].T
