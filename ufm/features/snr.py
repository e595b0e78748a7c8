"""The signal-to-noise ratio matrix SNR = Sigma_W^{-1/2} Mbar, its SVD and the renormalized features (Eq. 9, Definition 2)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, cast

import numpy as np

from manifolds.class_centering import ClassLayout
from manifolds.linalg import ArrayT, ArrayT_co, array_like, epsilon, namespace
from manifolds.representation import short_repr
from manifolds.whitening import (
    Whitening,
    degenerate_deviation,
    infinity_norm,
    symmetric_root,
    triangular_root,
    whiten,
    whiten_once,
)
from ufm.arrays import ClassMeans, FeatureMatrix, LeftVectors, RightVectors, SingularValues, as_numpy, check_real, check_scale


@dataclass(frozen=True, eq=False, repr=False)
class Snr(Generic[ArrayT_co]):
    """omega (K,) descending, K = min(C-1, P), right vectors V (C, K), left vectors U (P, K), and the whitening behind them.

    SNR = U diag(omega) V^T (Definition 2). U is None where only the spectrum was asked for.
    The sign of a pair (u_j, v_j) is fixed by a positive largest entry of v_j.
    `relative_error` estimates the uncertainty of omega due to the rounding of the stored features: eps sqrt(Ave ||h||^2) over
    the smallest within-class standard deviation. For the features exactly as they are stored, omega is accurate to far more
    digits.
    """

    omega: SingularValues[ArrayT_co]
    V: RightVectors[ArrayT_co]
    U: LeftVectors[ArrayT_co] | None
    whitening: Whitening[ArrayT_co]
    precision: float  # machine epsilon of the dtype that the features came in
    relative_error: float
    __repr__ = short_repr

    @property
    def left_vectors(self) -> LeftVectors[ArrayT_co]:
        """U. Raises ValueError where only the spectrum was measured."""
        if self.U is None:
            raise ValueError("the left vectors U were not computed: measure with ufm.features.snr.snr, not snr_spectrum")
        return self.U

    @property
    def rounding(self) -> float:
        """64 eps omega_1: a singular value that is no larger may be rounding of a zero."""
        return 64 * self.precision * float(self.omega[0])

    def to_numpy(self) -> "Snr[np.ndarray]":
        """The same with omega, V and U as numpy arrays (they come off a device); the whitening stays where it is."""
        U = None if self.U is None else as_numpy(self.U)
        whitening = cast("Whitening[Any]", self.whitening)
        return Snr(as_numpy(self.omega), as_numpy(self.V), U, whitening, self.precision, self.relative_error)


def informative_error(precision: float) -> float:
    """The relative error of omega beyond which a table would show wrong digits: 1e-6, or half the digits of the dtype."""
    return max(1e-6, precision**0.5)


def snr_spectrum(H: FeatureMatrix[ArrayT], layout: ClassLayout) -> Snr[ArrayT]:
    """omega and V of features H (P, n) in class blocks, at the cost of one Sigma_W.

    Raises ValueError for a rank-deficient Sigma_W, with the number of empty directions.
    """
    return _decompose(H, layout, triangular_root)


def snr(H: FeatureMatrix[ArrayT], layout: ClassLayout) -> Snr[ArrayT]:
    """omega, V and U of features H (P, n) in class blocks. Paper: Definition 2.

    Raises ValueError for a rank-deficient Sigma_W, with the number of empty directions.
    """
    return _decompose(H, layout, symmetric_root)


def renormalized_features(H: FeatureMatrix[ArrayT], layout: ClassLayout) -> tuple[FeatureMatrix[ArrayT], Snr[ArrayT]]:
    """X = Sigma_W^{-1/2} (H - mu_G 1^T), on the manifold and with zero global mean (assumptions A2, A3), and its SNR. (P, n)"""
    measured = snr(H, layout)
    return renormalized_by(measured.whitening, *deviations_and_means(_float64(H), layout), layout), measured


def renormalized_by(
    whitening: Whitening[ArrayT], D: FeatureMatrix[ArrayT], M: ClassMeans[ArrayT], layout: ClassLayout
) -> FeatureMatrix[ArrayT]:
    """A (D + M Y), A the whitening of the deviations D; M (P, C) less their mean mu_G. (P, n)"""
    # deviations and means are mapped apart: mapped together, the means' rounding, times ||A||, would land in the deviations
    X = whitening.apply(D)
    return layout.add_to_means(X, whitening.apply(M))


def check_layout(layout: object) -> None:
    """Raise TypeError for labels, or anything else, in the place of a ClassLayout."""
    if not isinstance(layout, ClassLayout):
        given = f"a {type(layout).__name__} was given where a ClassLayout is needed"
        raise TypeError(
            f"{given}: H, layout = ufm.class_blocks(features, labels) makes both from features (n, P) and labels (n,)"
        )


def _decompose(H: FeatureMatrix[ArrayT], layout: ClassLayout, root: Callable[[ArrayT, ArrayT], ArrayT]) -> Snr[ArrayT]:
    check_layout(layout)
    check_real(H, "features")
    precision = epsilon(H)
    layout.check_columns(H)
    P = H.shape[-2]
    layout.check_rank(P)
    H = _float64(H)
    whitening, M, mean_square = _whiten(H, layout, precision, root)
    measured = snr_of_whitened(whitening, M, precision, mean_square)
    return measured if root is symmetric_root else replace(measured, U=None)


def snr_of_whitened(whitening: Whitening[ArrayT], M: ClassMeans[ArrayT], precision: float, mean_square: float) -> Snr[ArrayT]:
    """The SVD of the whitened M = (mu_c - mu_G) (P, C), signs fixed; U is the paper's for a symmetric whitening only.

    `mean_square` is Ave ||h||^2, not centred.
    """
    P, C = M.shape
    K = min(C - 1, P)
    U, omega, Vt = namespace(M).linalg.svd(whitening.apply(M), full_matrices=False)
    U, omega, V = U[:, :K], omega[:K], Vt.mT[:, :K]
    sign = _signs(V)
    return Snr(omega, V * sign, U * sign, whitening, precision, precision * mean_square**0.5 * whitening.norm)


def deviations_and_means(
    H: FeatureMatrix[ArrayT], layout: ClassLayout, near: ClassMeans[ArrayT] | None = None
) -> tuple[FeatureMatrix[ArrayT], ClassMeans[ArrayT]]:
    """D = H - M Y and M - mu_G 1^T, to rounding of the spread of a class and of the distance of two, not of that from the origin.

    `near` (P, C) lies near the class means, by default an example of each. (P, n) -> (P, n), (P, C)
    """
    if near is None:  # the others are far less far from an example of their class than from the origin
        near = H[:, [0, *np.cumsum(layout.sizes)[:-1].tolist()]]
    D = layout.add_to_means(H + 0.0, -near)
    rest = layout.means(D)
    M = (near - near[:, :1]) + rest
    return layout.add_to_means(D, -rest), M - (M @ _priors(M, layout))[:, None]


def _whiten(
    H: FeatureMatrix[ArrayT], layout: ClassLayout, precision: float, root: Callable[[ArrayT, ArrayT], ArrayT]
) -> tuple[Whitening[ArrayT], ClassMeans[ArrayT], float]:
    """The whitening, M - mu_G 1^T and Ave ||h||^2: through Ave h h^T where that costs no digits, else through the deviations."""
    means = layout.means(H)
    priors = _priors(means, layout)
    with np.errstate(over="ignore", invalid="ignore"):
        S = H @ H.mT
    S /= layout.n
    magnitude, mean_square = infinity_norm(S), float(S.diagonal().sum())
    # squares that have overflowed, or vanished, do not tell the scale
    check_scale(mean_square**0.5 if 0 < mean_square < float("inf") else float(abs(H).max()), "features")
    degenerate = degenerate_deviation(mean_square, H.shape[-2], precision)
    S -= (means * priors) @ means.mT
    once = whiten_once(S, magnitude, degenerate, root)
    if once is not None:
        return once, means - (means @ priors)[:, None], mean_square
    D, M = deviations_and_means(H, layout)
    return whiten(D, degenerate, root), M, mean_square


def _priors(like: ArrayT, layout: ClassLayout) -> ArrayT:
    return array_like(layout.priors, like)


def _float64(H: ArrayT) -> ArrayT:
    xp, array = namespace(H), cast("Any", H)
    return array.astype(np.float64, copy=False) if xp is np else array.to(xp.float64)


def _signs(V: ArrayT) -> ArrayT:
    """+-1 for every column, the sign of its entry of largest modulus. (K,)"""
    xp = namespace(V)
    largest = abs(V).argmax(-2)
    return xp.where(V[largest, xp.arange(V.shape[1])] < 0, -1.0, 1.0)
