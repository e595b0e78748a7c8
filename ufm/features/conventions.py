"""Conventions for unequal classes, and measures of the whole feature matrix, each named after who uses it.

`ufm.features.measures` weighs classes by their shares pi_c (Sigma_T = Sigma_W + Sigma_B, mu_G the mean over examples). The
notebook of Papyan, Han & Donoho and the package `neural-collapse` (rhubarbwu) weigh every class the same in mu_G and Sigma_B, and
so in NC1, NC3 and NC2 of the class means, and every example the same in Sigma_W. On equal classes both agree; on unequal ones
they do not, and neither follows from the other.
"""

from dataclasses import replace

import numpy as np

from manifolds.class_centering import whole_number
from manifolds.linalg import Array, ArrayT, namespace
from ufm.arrays import Rows, SingularValues, at_least_single, check_matrix
from ufm.features.measures import phd_nc1
from ufm.features.statistics import ClassStatistics


def notebook_statistics(stats: ClassStatistics[ArrayT]) -> ClassStatistics[ArrayT]:
    """The statistics with classes of equal shares, n / C examples each: every measure of them is the notebook's.

    mu_G is the mean of the class means, Sigma_B their covariance; Sigma_W stays the average over examples.
    """
    return replace(stats, counts=0 * stats.counts + stats.counts.sum() / stats.C)


def notebook_nc1(stats: ClassStatistics[Array]) -> float:
    """tr(Sigma_W Sigma_B^+) / C with mu_G and Sigma_B averages over classes, Sigma_W over examples: on equal classes `phd_nc1`.

    The authors' notebook plots it without 1/C; rhubarbwu's package divides as here. Raises ValueError where Sigma_B loses rank.
    """
    return phd_nc1(notebook_statistics(stats))


def xu_vci(omega: SingularValues[ArrayT], rank: int | None = None) -> ArrayT:
    """VCI = 1 - tr(Sigma_T^+ Sigma_B) / rank(Sigma_B), variability collapse index (Xu & Liu 2023, arXiv 2306.03440).

    From the singular values of Eq. 9's SNR, equal classes: 1 - (1/K) sum_j u_j/(1 + u_j), u = omega^2/C, K = their number, with
    C = K + 1 unless `rank` says how many classes less one there are. Invariant under every invertible map; 0 at full collapse.
    omega (..., K), infinite where there is no spread, -> (...). Raises ValueError for a rank below K, no singular values, and
    negative ones or NaN.
    """
    xp = namespace(omega)
    K = omega.shape[-1] if omega.ndim else 0
    if not K:
        raise ValueError(f"omega has shape {tuple(omega.shape)}: at least one singular value is needed, (..., K)")
    if not bool((omega >= 0).all()):
        raise ValueError(f"the smallest omega is {float(omega.min()):.3g}: singular values are not negative, nor NaN")
    rank = K if rank is None else whole_number(rank, "rank")
    if rank < K:
        raise ValueError(f"rank = {rank} < {K} singular values: C - 1 is at least their number")
    root = omega / (rank + 1) ** 0.5
    return (xp.hypot(root, xp.ones_like(root)) ** -2).sum(-1) / K  # u itself may overflow


def xu_vci_of(stats: ClassStatistics[Array]) -> float:
    """1 - tr(Sigma_T^+ Sigma_B) / rank(Sigma_B) of class statistics for any sizes, with class shares (Xu & Liu 2023).

    Class means that coincide or are dependent take their directions out of the rank, as in the paper: a network that merges
    classes and is otherwise collapsed has 0. Raises ValueError where Sigma_T is singular or all class means coincide.
    """
    xp = namespace(stats.means)
    values, E = xp.linalg.eigh(stats.sigma_t)
    trusted = stats.P * float(xp.finfo(values.dtype).eps) * float(values[-1])
    if not float(values[0]) > trusted:
        raise ValueError(
            f"Sigma_T has rank {int((values > trusted).sum())} < {stats.P}: reduce to its range (`ufm.features.ranges`) first"
        )
    weighted = stats.centred_means * stats.priors**0.5
    mean_square = float(stats.sigma_t.diagonal().sum() + (stats.global_mean * stats.global_mean).sum())
    least = max(stats.P, stats.C) * float(xp.finfo(values.dtype).eps) * mean_square**0.5  # rounding of the features themselves
    rank = int((xp.linalg.svdvals(weighted) > least).sum())
    if not rank:
        raise ValueError("all class means coincide: Sigma_B = 0 has rank 0, and VCI is undefined")
    white = (E.mT @ weighted) / values[:, None] ** 0.5
    return 1 - float((white * white).sum()) / rank


def roy_effective_rank(features: Rows[Array]) -> float:
    """exp(-sum p_j log p_j), p = singular values of features (n, P) as shares: effective rank (Roy & Vetterli 2007).

    Between 1 and min(n, P). Not centred: centre them first if the mean should not count. Raises ValueError for zero features and
    what is no finite matrix.
    """
    check_matrix(features, "features")
    xp = namespace(features)
    s = xp.linalg.svd(at_least_single(features), full_matrices=False)[1]
    if not float(s[0]) > 0:
        raise ValueError("all features are zero: they have no rank")
    p = s / s.sum()
    p = p[p > 0]
    return float(np.exp(-float((p * xp.log(p)).sum())))
