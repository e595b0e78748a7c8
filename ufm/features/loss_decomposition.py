"""The MSE loss of any classifier and its decomposition L = L_NC1 + L_NC2/3 + L_perp (Theorems 1 and 2), from class statistics.

The loss is the paper's Eq. 2, L = 1/2 Ave ||W h + b - y||^2 + lambda/2 (||W||_F^2 + ||b||^2), averaged over examples, any class
sizes.
"""

from dataclasses import dataclass

import numpy as np

from manifolds.linalg import Array, ArrayT, array_like, detached, identity_like, namespace, symmetrize
from ufm.arrays import PerClass, Weights, as_numpy
from ufm.features.least_squares import ls_classifier
from ufm.features.statistics import ClassStatistics


@dataclass(frozen=True)
class Decomposition:
    """L = L_NC1 + L_NC2/3 + L_perp, each with its share of the weight decay; `ls` is L_LS = L_NC1 + L_NC2/3."""

    loss: float
    nc1: float
    nc23: float
    perp: float

    @property
    def ls(self) -> float:
        """L_LS, the loss on the central path."""
        return self.nc1 + self.nc23


def checked_classifier(
    stats: ClassStatistics[ArrayT], W: Weights[Array], b: PerClass[Array]
) -> tuple[Weights[ArrayT], PerClass[ArrayT]]:
    """W and b as the statistics are: numpy or torch, dtype, device, without torch's record for derivatives.

    Raises ValueError unless W is (C, P) and b is (C,) of the features that were measured; TypeError unless they are arrays.
    """
    namespace(W), namespace(b)
    if tuple(W.shape) != (stats.C, stats.P):
        raise ValueError(f"W has shape {tuple(W.shape)}, these features need (C, P) = ({stats.C}, {stats.P}): one row a class")
    if tuple(b.shape) != (stats.C,):
        raise ValueError(
            f"b has shape {tuple(b.shape)}, these features need (C,) = ({stats.C},); a network without bias has zeros"
        )
    if namespace(stats.means) is np:
        W, b = as_numpy(W), as_numpy(b)
    return array_like(detached(W), stats.means), array_like(detached(b), stats.means)


def mse_loss(stats: ClassStatistics[Array], W: Weights[Array], b: PerClass[Array], lam: float) -> float:
    """The loss of any classifier W (C, P), b (C,), from the statistics alone: exact, since it is quadratic in the features.

    Raises ValueError for other shapes.
    """
    W, b = checked_classifier(stats, W, b)
    return _within_part(stats, W, lam) + 0.5 * lam * float((b * b).sum()) + _between_part(stats, W, b)


def decompose(stats: ClassStatistics[Array], W: Weights[Array], b: PerClass[Array], lam: float) -> Decomposition:
    """The loss of (W, b) split as in Theorems 1 and 2. W (C, P), b (C,), ValueError for other shapes.

    Same errors as `ls_classifier`.

    L_NC1 = 1/2 tr W_LS (Sigma_W + lambda I) W_LS^T + lambda/2 ||b_LS||^2
    L_NC2/3 = 1/2 sum_c pi_c ||W_LS mu_c + b_LS - e_c||^2
    L_perp = 1/2 tr D A D^T, D = [W - W_LS, b - b_LS], A = Sigma~_T + mu~ mu~^T + lambda I.
    """
    W, b = checked_classifier(stats, W, b)
    if lam == 0:
        stats, W = _whitened_problem(stats, W)
    W_ls, b_ls = ls_classifier(stats, lam)
    nc1 = _within_part(stats, W_ls, lam) + 0.5 * lam * float((b_ls * b_ls).sum())
    nc23 = _between_part(stats, W_ls, b_ls)
    dW, db = W - W_ls, b - b_ls
    shifts = dW @ stats.means + db[:, None]
    perp = _within_part(stats, dW, lam) + 0.5 * lam * float((db * db).sum()) + 0.5 * float((shifts * shifts * stats.priors).sum())
    return Decomposition(mse_loss(stats, W, b, lam), nc1, nc23, perp)


def _whitened_problem(stats: ClassStatistics[ArrayT], W: Weights[ArrayT]) -> tuple[ClassStatistics[ArrayT], Weights[ArrayT]]:
    """The same loss (at lambda = 0) in coordinates where Sigma_W = I, so that its condition number does not enter."""
    xp = namespace(stats.means)
    try:
        L = xp.linalg.cholesky(symmetrize(stats.sigma_w))
    except xp.linalg.LinAlgError:
        return stats, W
    means = xp.linalg.solve(L, stats.means)
    return ClassStatistics(stats.counts, means, identity_like(L, stats.P), stats.class_variances), W @ L


def _within_part(stats: ClassStatistics[Array], W: Weights[Array], lam: float) -> float:
    """1/2 tr W (Sigma_W + lambda I) W^T"""
    return 0.5 * float(((W @ stats.sigma_w) * W).sum() + lam * (W * W).sum())


def _between_part(stats: ClassStatistics[Array], W: Weights[Array], b: PerClass[Array]) -> float:
    """1/2 sum_c pi_c ||W mu_c + b - e_c||^2"""
    residual = W @ stats.means + b[:, None] - identity_like(W, stats.C)
    return 0.5 * float((residual * residual * stats.priors).sum())
