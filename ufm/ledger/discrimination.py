"""How well features separate their classes, as a quadratic form that no linear map can raise, whatever their rank.

For a contrast x in R^C the squared signal-to-noise ratio that a linear functional can reach is

    x^T G x = sup_w (w^T Mbar x)^2 / (w^T Sigma_W w),    G = Mbar^T Sigma_W^{-1} Mbar    (C x C),

a supremum over functionals of the features. A linear map A leaves fewer functionals, w = A^T w', so G(A Z) <= G(Z) in the Loewner
order and omega_j(A Z) <= omega_j(Z) for every j. Where Sigma_W is singular the supremum is infinite for a contrast whose signal
leaves its range: those omega are inf, the others come from the contrasts without such signal. The theorem holds in this sense
without any condition on ranks; for the pseudo-inverse alone it is false (features (noise, signal), mapped to their sum).

The deviation and the means along a direction are known only up to rounding, and an SNR hidden by rounding counts neither as
finite nor as infinite. Where the measured deviation is at most delta, the limit below which a direction is empty, the one
before rounding
is at most (1 + sqrt 2) delta, with sqrt 2 for the rounding of eigenvalues, and a signal of

    |w^T Mbar x| <= delta + (1 + sqrt 2) delta omega_1

can come from features whose largest SNR is omega_1. Only a larger one is infinite, omega_1 being the largest finite SNR of the
same features and of those that they were computed from: then no linear operation makes an infinite SNR of a finite one, however
its result is rounded. A smaller one is `unresolved`, and left out: the other values are lower bounds.

What was lost by rounding cannot come back, however exact the later numbers look: after an affine operation only contrasts
that had an
infinite SNR before it can have one, after any other only those that were not unresolved (`may_be_infinite`). And a direction
without visible signal may have had one: where a later affine operation makes a larger omega, the rows before it were lower
bounds, or rounding made it larger (`ufm.ledger.rounding`).
"""

from dataclasses import dataclass, replace

import numpy as np

from manifolds.linalg import Array, epsilon, namespace, symmetrize
from manifolds.representation import short_repr
from ufm.arrays import as_numpy
from ufm.features.ranges import empty_variance, range_of_covariance
from ufm.features.statistics import ClassStatistics

MOST_SCATTER = 1 + 2**0.5  # of an empty direction before rounding, in units of the largest deviation that counts as empty

NOT_RESOLVED = (
    "Sigma_W is not resolved in this precision: rounding alone can make a deviation {}, in every direction; compute the "
    "features in float64, or subtract their mean before they are rounded"
)


@dataclass(frozen=True, eq=False, repr=False)
class Discrimination:
    """The form G, and where it is infinite.

    gram       (C, C) numpy, Mbar^T Sigma_W^+ Mbar on the range of Sigma_W
    unbounded  (C, r) numpy, an orthonormal basis of the contrasts' part with infinite SNR, r = 0 as a rule
    whitener   (P, rank), T with T^T Sigma_W T = I; numpy, or torch on the device of the statistics
    signal     (rank, C) numpy, T^T Mbar
    counts     (C,) numpy, examples a class
    dropped    directions of the P features without any variability
    doubtful   (C, u) numpy, an orthonormal basis of the contrasts with a signal along them that rounding alone cannot make and
               that may have a finite SNR all the same
    hidden     the largest SNR that a dropped direction may have, 0 where there are none, or all examples are 0 along them
    """

    gram: np.ndarray
    unbounded: np.ndarray
    whitener: Array
    signal: np.ndarray
    counts: np.ndarray
    dropped: int
    doubtful: np.ndarray
    hidden: float
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
    def unresolved(self) -> int:
        """Directions whose SNR may be finite or infinite."""
        return self.doubtful.shape[1]

    @property
    def not_doubtful(self) -> np.ndarray:
        """(C, C - u), the contrasts without the doubtful ones."""
        return np.linalg.svd(self.doubtful)[0][:, self.unresolved :] if self.unresolved else np.eye(self.C)

    @property
    def rank(self) -> int:
        """Directions with variability: the features that estimates count."""
        return self.signal.shape[0]

    @property
    def omega(self) -> np.ndarray:
        """omega_j descending, (C - 1,): singular values of Sigma_W^{-1/2} Mbar, inf first, 0 where P < C - 1. Definition 2."""
        return signal_omega(self.signal, self.unbounded)

    @property
    def largest(self) -> float:
        """The largest finite SNR that these features have or may hide: `below` of those that are computed from them."""
        return max(self.hidden, _largest_finite(self.signal, self.unbounded))

    @property
    def weighted_omega(self) -> np.ndarray:
        """The same with class c counted sqrt(C pi_c) times, (C - 1,): square roots of C eig(Sigma_W^{-1} Sigma_B); any sizes."""
        q = np.sqrt(self.C * self.counts / self.n)
        return signal_omega(self.signal * q, np.linalg.qr(self.unbounded * q[:, None])[0])

    def without(self, rows: np.ndarray) -> "Discrimination":
        """The form of the features without the directions of some whitened rows (a, rank): those that single examples make."""
        return self.whitened_by(np.linalg.svd(rows)[2][np.linalg.matrix_rank(rows) :].T)

    def whitened_by(self, N: np.ndarray) -> "Discrimination":
        """The form with the whitener T N, N (rank, k)."""
        T, signal = self.whitener, N.T @ self.signal
        basis = N if namespace(T) is np else namespace(T).as_tensor(N, device=T.device)
        return replace(self, gram=signal.T @ signal, whitener=T @ basis, signal=signal)

    def with_doubtful(self, rows: np.ndarray) -> "Discrimination":
        """The form with more dropped directions, signals (k, C) along them in units of what rounding alone can make."""
        known = np.concatenate([self.unbounded, self.doubtful], 1)
        _, values, Vt = np.linalg.svd(rows - rows @ known @ known.T, full_matrices=False)
        doubtful = np.concatenate([self.doubtful, Vt[values > 1].T], 1)
        return replace(self, dropped=self.dropped + len(rows), doubtful=doubtful)

    def contrasts(self, E: np.ndarray) -> np.ndarray:
        """sqrt of the eigenvalues of E^T G E, descending, (k,): the SNR of k contrasts, columns of E (C, k); inf where unbounded.

        E with rows e_c - e_c' gives Mahalanobis distances of pairs, centred one-hot columns of a subset its own omega.
        """
        reached = E.T @ self.unbounded
        r = int(np.linalg.matrix_rank(reached)) if self.unbounded.size else 0
        return _with_infinite(self.signal @ E @ np.linalg.svd(reached)[0][:, r:], r)


def discrimination(
    stats: ClassStatistics[Array], precision: float, below: float = 0.0, may_be_infinite: np.ndarray | None = None
) -> Discrimination:
    """The form G of class statistics. `precision` is the machine epsilon of the dtype that the features came in.

    below            the largest finite SNR of the features that these were computed from (`Discrimination.largest`), or 0
    may_be_infinite  (C, q) an orthonormal basis of the contrasts that can have infinite SNR, None for all; others are unresolved

    Every feature is first divided by its own deviation, which changes no omega and takes bad scaling out of the eigenvalues.
    Which directions are empty then says `range_of_covariance`. A signal along empty directions counts as infinite SNR where no
    finite one explains it (see the module), else as `unresolved`.
    Raises ValueError where no direction has a variability that rounding does not hide, and where all examples are the same.
    """
    xp = namespace(stats.sigma_w)
    M = stats.centred_means
    variances = xp.clip(stats.sigma_w.diagonal(), min=0)
    squares = variances + (stats.means**2) @ stats.priors
    still_variances = stats.P * precision**2 * squares
    moving = variances > still_variances
    if not bool(moving.any()):
        raise ValueError(_why_still(variances, squares, M, still_variances))
    scale = xp.sqrt(variances[moving])
    of_unit_deviations = stats.sigma_w[moving][:, moving] / scale[:, None] / scale
    means, size = stats.means[moving] / scale[:, None], len(scale)
    values, E, empty, deviation = range_of_covariance(of_unit_deviations, means, stats.priors, precision)
    limit = empty_variance(values, deviation) ** 0.5
    if empty == size:
        raise ValueError(NOT_RESOLVED.format(f"of {limit:.1e} times that of the features"))
    inside = E[:, empty:] / xp.sqrt(values[empty:])
    whitener = xp.zeros((stats.P, inside.shape[1]), dtype=M.dtype, **({} if xp is np else {"device": M.device}))
    whitener[moving] = inside / scale[:, None]
    signal = as_numpy(whitener.mT @ M)
    still = (~moving) & (squares > 0)
    outside = as_numpy(E[:, :empty].mT @ (M[moving] / scale[:, None])) / limit
    of_still = as_numpy(M[still] / xp.sqrt(still_variances[still])[:, None])
    hiding = empty > 0 or len(of_still) > 0
    of_still = of_still[abs(of_still).max(1, initial=0) > 1]  # the others are what rounding makes of equal numbers
    rows = np.concatenate([outside, of_still])
    unbounded, doubtful = _without_finite_snr(rows / (1 + len(of_still)) ** 0.5, signal, below, may_be_infinite)
    dropped = stats.P - inside.shape[1]
    counts, hidden = as_numpy(stats.counts), below if hiding else 0.0
    return Discrimination(signal.T @ signal, unbounded, whitener, signal, counts, dropped, doubtful, hidden)


def _why_still(variances: Array, squares: Array, M: Array, still_variances: Array) -> str:
    """What features are, none of which has a variance above rounding: too far from 0, all the same, or collapsed."""
    if bool((variances > len(variances) * epsilon(variances) ** 2 * squares).any()):
        return NOT_RESOLVED.format(f"up to {float(still_variances.max()) ** 0.5:.1e}, and they have none above it")
    if bool((still_variances[:, None] >= M**2).all()):
        return "all examples have the same features: there is no SNR (are all units dead?); leave this layer out"
    return "Sigma_W = 0: every example equals its class mean, all omega are infinite: collapse is complete"


def _without_finite_snr(
    rows: np.ndarray, signal: np.ndarray, below: float, possible: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Contrasts (C, r) whose SNR is infinite, and those (C, u) of which it may be finite or infinite.

    rows   (k, C) signals along empty directions, in units of the limit, which is that of all still features together: their
           rounding can add up
    """
    _, values, Vt = np.linalg.svd(rows if possible is None else rows @ possible, full_matrices=False)
    V = Vt.T if possible is None else possible @ Vt.T
    r = int((values > 1 + MOST_SCATTER * below).sum())
    while r and values[r - 1] <= 1 + MOST_SCATTER * _largest_finite(signal, V[:, :r]):
        r -= 1
    unbounded = V[:, :r]
    _, values, Vt = np.linalg.svd(rows - rows @ unbounded @ unbounded.T, full_matrices=False)
    return unbounded, Vt[values > 1].T


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


def _largest_finite(signal: np.ndarray, unbounded: np.ndarray) -> float:
    """The largest finite omega, 0 where all are infinite."""
    return float(signal_omega(signal, unbounded)[unbounded.shape[1] :].max(initial=0))
