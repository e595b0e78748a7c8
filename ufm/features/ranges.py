"""Features that do not span R^P (dead units of a ReLU): the SNR and the loss on the directions that vary.

Nothing is dropped silently: what was left out is counted and returned. numpy or torch; torch is not imported for it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from manifolds.class_centering import ClassLayout
from manifolds.linalg import Array, epsilon, namespace, symmetrize
from manifolds.representation import short_repr
from manifolds.whitening import degenerate_deviation, principal_deviations
from ufm.arrays import (
    ArrayT,
    ClassMeans,
    Covariance,
    FeatureMatrix,
    PerClass,
    Weights,
    as_numpy,
    check_scale,
    on_device_with_float64,
)
from ufm.features.loss_decomposition import Decomposition, decompose
from ufm.features.snr import check_layout, deviations_and_means
from ufm.features.statistics import ClassStatistics

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Linear


@dataclass(frozen=True, eq=False, repr=False)
class Reduction:
    """The restriction to the range of Sigma_W: basis (P, r), directions dropped, and the share of ||Mbar||_F^2 along them."""

    basis: Annotated[np.ndarray, "P r"]
    dropped: int
    lost_signal: float
    __repr__ = short_repr

    @property
    def note(self) -> str:
        """What was left out, in one line."""
        P, r = self.basis.shape
        return (
            f"reduced to the range of Sigma_W: {P - r} of {P} directions dropped, "
            f"which held {self.lost_signal:.2%} of the between-class signal"
        )


def reduce_to_range(H: FeatureMatrix[Array], layout: ClassLayout) -> tuple[Annotated[np.ndarray, "r n"], Reduction]:
    """H in an orthonormal basis of the range of Sigma_W: (P, n) -> (r, n), and what was dropped.

    Where the empty directions are rows of H (dead units), the others are taken as they are, to the last bit; any other basis
    rounds the features anew, `Snr.relative_error`.
    Directions whose within-class standard deviation is at most sqrt(P) eps sqrt(Ave ||h||^2), eps of the dtype of H, are dropped.
    Signal between classes along them has infinite SNR; its share is reported. Raises ValueError where no direction is left.
    """
    check_layout(layout)
    wide = np.asarray(H, dtype=np.float64)
    D, M = deviations_and_means(wide, layout)
    E, deviations = principal_deviations(D)
    degenerate = degenerate_deviation(float((wide * wide).sum()) / layout.n, len(H), epsilon(H))
    kept = deviations > degenerate
    if not kept.any():
        raise ValueError("Sigma_W = 0: every example equals its class mean, no direction has any variability left")
    if len(kept) == len(H) and kept.all():  # a change of basis would only cost digits
        return wide, Reduction(np.eye(len(H)), 0, 0.0)
    alive = np.einsum("pn,pn->p", D, D) / layout.n > degenerate**2
    axes = int(alive.sum()) == int(kept.sum())
    basis = np.eye(len(H))[:, alive] if axes else E[:, kept]
    total = float((M * M).sum())
    lost = max(total - float(((basis.T @ M) ** 2).sum()), 0.0)
    if axes:
        return wide[alive], Reduction(basis, int((~alive).sum()), lost / total if total else 0.0)
    # deviations and means are mapped apart: mapped together, the rounding of far means would land in the deviations
    inside = layout.add_to_means(basis.T @ D, basis.T @ layout.means(wide))
    return inside, Reduction(basis, len(H) - basis.shape[1], lost / total if total else 0.0)


@dataclass(frozen=True, eq=False, repr=False)
class Classifier:
    """The last layer in float64: W (C, P), b (C,), zero where the layer has no bias."""

    W: Weights["Tensor"]
    b: PerClass["Tensor"]
    __repr__ = short_repr

    @classmethod
    def of(cls, layer: "Linear") -> "Classifier":
        """The weights of a torch.nn.Linear."""
        W = on_device_with_float64(layer.weight.detach()).double()
        return cls(W, W.new_zeros(len(W)) if layer.bias is None else on_device_with_float64(layer.bias.detach()).double())

    def check(self) -> None:
        """Raise ValueError for NaN and infinite numbers, and where the largest is so large that its powers are.

        A W so small that its squares vanish has no direction and is refused too; small offsets b are what zeros are.
        """
        check_scale(float(abs(self.W).max()), "weights W")
        offset = float(abs(self.b).max())
        check_scale(0.0 if offset < 1 else offset, "offsets b")


@dataclass(frozen=True, eq=False, repr=False)
class RangeSnr:
    """The SNR on the range of Sigma_W: omega (K,), V (C, K), U (P, K), K = min(C-1, P), zeros where the range has fewer.

    `dropped` counts the directions without variability; `lost_signal` is the share of ||Mbar||_F^2 along them (its SNR is
    infinite): 0 for dead features, near 1 where the class means differ mostly along directions that do not vary. `rounding`
    estimates the relative error
    of omega, eps cond(Sigma_W) over the directions kept, as a Sigma_W in float64 knows its small eigenvalues no better, plus what
    the features themselves do not hold (`ufm.features.snr.Snr.relative_error`).
    """

    omega: np.ndarray
    V: np.ndarray
    U: np.ndarray
    dropped: int
    lost_signal: float
    rounding: float = 0.0
    __repr__ = short_repr


def range_of_covariance(
    sigma_w: Covariance[ArrayT], means: ClassMeans[ArrayT], priors: PerClass[ArrayT], precision: float
) -> tuple[ArrayT, ArrayT, int, float]:
    """Eigenvalues of Sigma_W (P,) ascending, eigenvectors (P, P), how many of them, the first, are empty, and an empty deviation.

    Empty are directions whose standard deviation rounding can produce: at most sqrt(P) eps sqrt(Ave ||h||^2) with the eps of
    the features (as `reduce_to_range`), the deviation returned, or sqrt(P eps) of the largest, below which the eigenvalues of
    a float64 Sigma_W are noise.
    """
    values, E = namespace(sigma_w).linalg.eigh(symmetrize(sigma_w))
    mean_square, P = float(sigma_w.diagonal().sum()) + float((means**2 * priors).sum()), len(means)
    deviation = degenerate_deviation(mean_square, P, precision)
    return values, E, int((values <= empty_variance(values, deviation)).sum()), deviation


def empty_variance(values: ArrayT, deviation: float) -> float:
    """The largest variance of a direction that counts as empty: `range_of_covariance` of its eigenvalues (P,) and deviation."""
    return max(deviation**2, len(values) * epsilon(values) * float(values[-1]))


def snr_in_range(stats: ClassStatistics[Array], precision: float) -> RangeSnr:
    """The SNR restricted to the range of Sigma_W (`range_of_covariance`), from the statistics alone.

    Raises ValueError for Sigma_W = 0.
    """
    xp = namespace(stats.sigma_w)
    values, E, dropped, empty = range_of_covariance(stats.sigma_w, stats.means, stats.priors, precision)
    if dropped == stats.P:
        raise ValueError("Sigma_W = 0: every example equals its class mean, the SNR is infinite")
    basis, M = E[:, dropped:], stats.centred_means
    inside = basis.mT @ M
    U, omega, Vt = xp.linalg.svd(inside / xp.sqrt(values[dropped:])[:, None], full_matrices=False)
    K, full = min(stats.C - 1, basis.shape[1]), min(stats.C - 1, stats.P)
    missing = ((0, 0), (0, full - K))
    U, omega, V = as_numpy(basis @ U[:, :K]), as_numpy(omega[:K]), as_numpy(Vt.mT[:, :K])
    sign = np.sign(V[abs(V).argmax(0), np.arange(K)])
    total = float((M * M).sum())
    lost = max(total - float((inside * inside).sum()), 0.0) / total if total else 0.0
    smallest = float(values[dropped])
    rounding = epsilon(values) * float(values[-1]) / smallest + empty / (stats.P * smallest) ** 0.5  # precision rms / deviation
    return RangeSnr(np.pad(omega, missing[1]), np.pad(V * sign, missing), np.pad(U * sign, missing), dropped, lost, rounding)


def decomposition(stats: ClassStatistics[Array], classifier: Classifier, lam: float) -> Decomposition:
    """The loss and its parts. At lambda = 0 on the directions that vary, where they stay unique whatever features are dead.

    Along an empty direction all features are equal, so the classifier acts on it as a bias.
    Raises ValueError at lambda = 0 where all features are equal.
    """
    W, b = classifier.W, classifier.b
    basis = None if lam > 0 else _directions_that_vary(stats)
    if basis is None:
        return decompose(stats, W, b, lam)
    M, sigma_w = basis.mT @ stats.centred_means, basis.mT @ stats.sigma_w @ basis
    about_mean = ClassStatistics(stats.counts, M, sigma_w, stats.class_variances)
    return decompose(about_mean, W @ basis, b + W @ stats.global_mean, lam)


def _directions_that_vary(stats: ClassStatistics[Array]) -> Array | None:
    """An orthonormal basis (P, r) of them, None where all do: those of Sigma_W, or of Sigma_T where class means leave its range.

    Sigma_W first, since beside far means Sigma_T rounds away all variability of a collapsed class.
    """
    _, E, dropped, _ = range_of_covariance(stats.sigma_w, stats.means, stats.priors, epsilon(stats.means))
    outside, rounding = E[:, :dropped].mT @ stats.centred_means, stats.P * epsilon(stats.means)
    if dropped < stats.P and float((outside**2).sum()) <= rounding**2 * float((stats.centred_means**2).sum()):
        return E[:, dropped:] if dropped else None
    values, E = namespace(stats.sigma_w).linalg.eigh(symmetrize(stats.sigma_t))
    kept = values > stats.P * epsilon(values) * float(values[-1])
    if not bool(kept.any()):
        raise ValueError("Sigma_T = 0: all features are equal, no classifier of them is the best at lambda = 0")
    return None if bool(kept.all()) else E[:, kept]
