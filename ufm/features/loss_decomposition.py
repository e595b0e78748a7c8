"""The MSE loss of any classifier and its decomposition L = L_NC1 + L_NC2/3 + L_perp (Theorems 1 and 2), from class statistics.

The loss is the paper's Eq. 2, L = 1/2 Ave ||W h + b - y||^2 + lambda/2 (||W||_F^2 + ||b||^2), averaged over examples, any class
sizes.
"""

from dataclasses import dataclass

import numpy as np

from manifolds.linalg import Array, ArrayT, array_like, detached, identity_like, namespace
from ufm.arrays import PerClass, Weights, as_numpy
from ufm.features.least_squares import whitened_solution
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
    weights = checked_weights(stats, W)
    namespace(b)
    if tuple(b.shape) != (stats.C,):
        raise ValueError(
            f"b has shape {tuple(b.shape)}, these features need (C,) = ({stats.C},); a network without bias has zeros"
        )
    return weights, _like_statistics(stats, b)


def checked_weights(stats: ClassStatistics[ArrayT], W: Weights[Array]) -> Weights[ArrayT]:
    """W as `checked_classifier` gives it, with the same errors."""
    namespace(W)
    if tuple(W.shape) != (stats.C, stats.P):
        raise ValueError(f"W has shape {tuple(W.shape)}, these features need (C, P) = ({stats.C}, {stats.P}): one row a class")
    return _like_statistics(stats, W)


def _like_statistics(stats: ClassStatistics[ArrayT], x: Array) -> ArrayT:
    return array_like(detached(as_numpy(x) if namespace(stats.means) is np else x), stats.means)


def mse_loss(stats: ClassStatistics[Array], W: Weights[Array], b: PerClass[Array], lam: float) -> float:
    """The loss of any classifier W (C, P), b (C,), from the statistics alone: exact, since it is quadratic in the features.

    Raises ValueError for other shapes.
    """
    W, b = checked_classifier(stats, W, b)
    return _within_part(stats, W, lam) + 0.5 * lam * float((b * b).sum()) + _between_part(stats, _residuals(stats, W, b))


def decompose(stats: ClassStatistics[Array], W: Weights[Array], b: PerClass[Array], lam: float) -> Decomposition:
    """The loss of (W, b) split as in Theorems 1 and 2. W (C, P), b (C,), ValueError for other shapes.

    Same errors as `ls_classifier`.

    L_NC1 = 1/2 tr W_LS (Sigma_W + lambda I) W_LS^T + lambda/2 ||b_LS||^2
    L_NC2/3 = 1/2 sum_c pi_c ||W_LS mu_c + b_LS - e_c||^2
    L_perp = 1/2 tr D A D^T, D = [W - W_LS, b - b_LS], A = Sigma~_T + mu~ mu~^T + lambda I.
    """
    W, b = checked_classifier(stats, W, b)
    L, best = whitened_solution(stats, lam)
    W_white, own = W @ L, _residuals(stats, W, b)

    def within(V: Weights[Array], c: PerClass[Array]) -> float:
        return 0.5 * float((V * V).sum() + lam * (c * c).sum())

    perp = within(W_white - best.W, b - best.b) + _between_part(stats, own - best.residuals)
    loss = within(W_white, b) + _between_part(stats, own)
    return Decomposition(loss, within(best.W, best.b), _between_part(stats, best.residuals), perp)


def _within_part(stats: ClassStatistics[Array], W: Weights[Array], lam: float) -> float:
    """1/2 tr W (Sigma_W + lambda I) W^T"""
    return 0.5 * float(((W @ stats.sigma_w) * W).sum() + lam * (W * W).sum())


def _residuals(stats: ClassStatistics[ArrayT], W: Weights[ArrayT], b: PerClass[ArrayT]) -> ArrayT:
    """W mu_c + b - e_c by columns. (C, C)"""
    return W @ stats.centred_means + ((W @ stats.global_mean + b)[:, None] - identity_like(W, stats.C))


def _between_part(stats: ClassStatistics[Array], residuals: Array) -> float:
    """1/2 sum_c pi_c ||r_c||^2 of the columns r_c (C, C)."""
    return 0.5 * float((residuals * residuals * stats.priors).sum())
