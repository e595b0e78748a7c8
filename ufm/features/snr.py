"""The signal-to-noise ratio matrix SNR = Sigma_W^{-1/2} Mbar, its SVD, renormalized features and aligned coordinates."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from manifolds.layout import ClassLayout
from manifolds.linalg import Array, epsilon, namespace
from manifolds.whitening import (
    Whitening,
    degenerate_deviation,
    infinity_norm,
    principal_deviations,
    symmetric_root,
    triangular_root,
    whiten,
    whiten_once,
)


@dataclass(frozen=True, eq=False)
class Snr:
    """omega (K,) descending, K = min(C-1, P), right vectors V (C, K), left vectors U (P, K), and the whitening behind them.

    SNR = U diag(omega) V^T (Definition 2). U is None where only the spectrum was asked for.
    The sign of a pair (u_j, v_j) is fixed by a positive largest entry of v_j.
    """

    omega: Array
    V: Array
    U: Array | None
    whitening: Whitening
    precision: float  # machine epsilon of the dtype that the features came in

    @property
    def left_vectors(self) -> Array:
        """U. Raises ValueError where only the spectrum was measured."""
        if self.U is None:
            raise ValueError("the left vectors U were not computed: measure with ufm.features.snr.snr, not snr_spectrum")
        return self.U

    @property
    def rounding(self) -> float:
        """64 eps omega_1: a singular value that is no larger may be rounding of a zero."""
        return 64 * self.precision * float(self.omega[0])

    def to_numpy(self) -> "Snr":
        """The same with omega, V and U as numpy arrays (they come off a device); the whitening stays where it is."""
        if namespace(self.omega) is np:
            return self
        omega, V = self.omega.cpu().numpy(), self.V.cpu().numpy()
        U = None if self.U is None else self.U.cpu().numpy()
        return Snr(omega, V, U, self.whitening, self.precision)


@dataclass(frozen=True, eq=False)
class Reduction:
    """The restriction to the range of Sigma_W: basis (P, r), directions dropped, and the share of ||Mbar||_F^2 along them."""

    basis: np.ndarray
    dropped: int
    lost_signal: float


def snr_spectrum(H: Array, layout: ClassLayout) -> Snr:
    """omega and V of features H (P, n) in class blocks, at the cost of one Sigma_W.

    Raises ValueError for a rank-deficient Sigma_W, with the number of empty directions.
    """
    return _decompose(H, layout, triangular_root)


def snr(H: Array, layout: ClassLayout) -> Snr:
    """omega, V and U of features H (P, n) in class blocks. Paper: Definition 2.

    Raises ValueError for a rank-deficient Sigma_W, with the number of empty directions.
    """
    return _decompose(H, layout, symmetric_root)


def renormalized_features(H: Array, layout: ClassLayout) -> tuple[Array, Snr]:
    """X = Sigma_W^{-1/2} (H - mu_G 1^T), on the manifold and with zero global mean (assumptions A2, A3), and its SNR. (P, n)"""
    found = snr(H, layout)
    H = _float64(H)
    means = layout.means(H)
    M = means - (means @ _priors(means, layout))[:, None]
    # deviations and means are mapped apart: mapped together, the means' rounding, times ||A||, would land in the deviations
    X = found.whitening.apply(layout.deviations(H))
    return layout.add_to_means(X, found.whitening.apply(M)), found


def aligned_coordinates(X: Array, layout: ClassLayout, U: Array, V: Array) -> Array:
    """U^T X (V kron I_N), in which the class means are diag(omega) (Definitions 3-5). X (P, n), U (P, K), V (C, K) -> (K, K N)

    The paper takes K = C with P = C; any K columns give the corresponding rows and blocks. Needs equal classes.
    """
    blocks = (U.mT @ X).reshape(U.shape[1], layout.C, layout.N)
    return namespace(X).einsum("kcn,cj->kjn", blocks, V).reshape(U.shape[1], V.shape[1] * layout.N)


def reduce_to_range(H: np.ndarray, layout: ClassLayout) -> tuple[np.ndarray, Reduction]:
    """H in an orthonormal basis of the range of Sigma_W: (P, n) -> (r, n), and what was dropped.

    Directions whose within-class standard deviation is at most sqrt(P) eps sqrt(Ave ||h||^2), eps of the dtype of H, are dropped.
    Signal between classes along them has infinite SNR; its share is reported. Raises ValueError where no direction is left.
    """
    wide = _float64(H)
    E, deviations = principal_deviations(layout.deviations(wide))
    mean_square = float((wide * wide).sum()) / layout.n
    kept = deviations > degenerate_deviation(mean_square, len(H), epsilon(H))
    if not kept.any():
        raise ValueError("Sigma_W = 0: every example equals its class mean, no direction has any variability left")
    basis = E[:, kept]
    means = layout.means(wide)
    M = means - (means @ layout.priors)[:, None]
    total = float((M * M).sum())
    lost = max(total - float(((basis.T @ M) ** 2).sum()), 0.0)
    return basis.T @ wide, Reduction(basis, H.shape[0] - basis.shape[1], lost / total if total else 0.0)


def _decompose(H: Array, layout: ClassLayout, root: Callable[[Array, Array], Array]) -> Snr:
    precision = epsilon(H)
    layout.check_columns(H)
    P = H.shape[-2]
    layout.check_rank(P)
    H = _float64(H)
    means = layout.means(H)
    whitening = _whiten(H, means, layout, precision, root)
    K = min(layout.C - 1, P)
    M = means - (means @ _priors(means, layout))[:, None]
    U, omega, Vt = namespace(M).linalg.svd(whitening.apply(M), full_matrices=False)
    U, omega, V = U[:, :K], omega[:K], Vt.mT[:, :K]
    sign = _signs(V)
    return Snr(omega, V * sign, U * sign if root is symmetric_root else None, whitening, precision)


def _whiten(H: Array, means: Array, layout: ClassLayout, precision: float, root: Callable[[Array, Array], Array]) -> Whitening:
    """From Ave h h^T minus the class means where that provably costs nothing, else from the deviations."""
    S = H @ H.mT
    S /= layout.n
    magnitude, mean_square = infinity_norm(S), float(S.diagonal().sum())
    degenerate = degenerate_deviation(mean_square, H.shape[-2], precision)
    S -= (means * _priors(means, layout)) @ means.mT
    found = whiten_once(S, magnitude, degenerate, root)
    return whiten(layout.deviations(H), degenerate, root) if found is None else found


def _priors(like: Array, layout: ClassLayout) -> Array:
    xp = namespace(like)
    return layout.priors if xp is np else xp.as_tensor(layout.priors, device=like.device)


def _float64(H: Array) -> Array:
    xp = namespace(H)
    return H.astype(np.float64, copy=False) if xp is np else H.to(xp.float64)


def _signs(V: Array) -> Array:
    """+-1 for every column, the sign of its entry of largest modulus. (K,)"""
    xp = namespace(V)
    largest = abs(V).argmax(-2)
    return xp.where(V[largest, xp.arange(V.shape[1])] < 0, -1.0, 1.0)
