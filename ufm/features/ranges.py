"""Features that do not fill their space (dead units of a ReLU): the SNR and the loss on the directions that are there.

Nothing is dropped silently: what was left out is counted and returned.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from manifolds.linalg import epsilon, symmetrize
from manifolds.whitening import degenerate_deviation
from ufm.features.least_squares import Decomposition, decompose
from ufm.features.statistics import ClassStatistics


@dataclass(frozen=True, eq=False)
class Classifier:
    """The last layer in float64: W (C, P), b (C,), zero where the layer has no bias."""

    W: Tensor
    b: Tensor

    @classmethod
    def of(cls, layer: nn.Linear) -> "Classifier":
        """The weights of a linear layer."""
        W = layer.weight.detach().double()
        return cls(W, torch.zeros_like(W[:, 0]) if layer.bias is None else layer.bias.detach().double())


@dataclass(frozen=True, eq=False)
class RangeSnr:
    """The SNR on the range of Sigma_W: omega (K,), V (C, K), U (P, K), K = min(C-1, P), zeros where the range has fewer.

    `dropped` counts the directions without variability; `lost_signal` is the share of ||Mbar||_F^2 along them (its SNR is
    infinite): 0 for dead features, near 1 where the class means live outside what varies.
    """

    omega: np.ndarray
    V: np.ndarray
    U: np.ndarray
    dropped: int
    lost_signal: float


def snr_in_range(stats: ClassStatistics, precision: float) -> RangeSnr:
    """The SNR restricted to the range of Sigma_W, from the statistics alone. Raises ValueError for Sigma_W = 0.

    Dropped are directions whose standard deviation rounding can produce: at most sqrt(P) eps sqrt(Ave ||h||^2) with the eps of
    the features (as `ufm.features.snr.reduce_to_range`), or sqrt(P eps) of the largest deviation, below which the
    eigenvalues of a float64 Sigma_W are noise.
    """
    values, E = torch.linalg.eigh(symmetrize(stats.sigma_w))
    mean_square = float(stats.sigma_w.diagonal().sum()) + float((stats.means**2 * stats.priors).sum())
    empty = degenerate_deviation(mean_square, stats.P, precision) ** 2
    dropped = int((values <= max(empty, stats.P * epsilon(values) * float(values[-1]))).sum())  # ascending: the first ones
    if dropped == stats.P:
        raise ValueError("Sigma_W = 0: every example equals its class mean, the SNR is infinite")
    basis, M = E[:, dropped:], stats.centred_means
    inside = basis.T @ M
    U, omega, Vt = torch.linalg.svd(inside / values[dropped:].sqrt()[:, None], full_matrices=False)
    K, full = min(stats.C - 1, basis.shape[1]), min(stats.C - 1, stats.P)
    U, omega, V = basis @ U[:, :K], omega[:K], Vt.T[:, :K]
    sign = V.gather(0, V.abs().argmax(0, keepdim=True)).sign()
    missing = (0, full - K)
    U, V = (nn.functional.pad(vectors * sign, missing).cpu().numpy() for vectors in (U, V))
    total = float((M * M).sum())
    lost = max(total - float((inside * inside).sum()), 0.0) / total if total else 0.0
    return RangeSnr(nn.functional.pad(omega, missing).cpu().numpy(), V, U, dropped, lost)


def decomposition(stats: ClassStatistics, classifier: Classifier, lam: float) -> Decomposition:
    """The loss and its parts. At lambda = 0 on the range of Sigma_T, where they stay unique whatever features are dead.

    Along an empty direction all features are equal, so the classifier acts on it as a bias.
    """
    W, b = classifier.W, classifier.b
    if lam > 0:
        return decompose(stats, W, b, lam)
    values, E = torch.linalg.eigh(symmetrize(stats.sigma_t))
    kept = values > stats.P * epsilon(values) * float(values[-1])
    if bool(kept.all()):
        return decompose(stats, W, b, lam)
    basis = E[:, kept]
    mu = stats.global_mean
    b = b + W @ (mu - basis @ (basis.T @ mu))
    inside = ClassStatistics(stats.counts, basis.T @ stats.means, basis.T @ stats.sigma_w @ basis, stats.class_variances)
    return decompose(inside, W @ basis, b, lam)
