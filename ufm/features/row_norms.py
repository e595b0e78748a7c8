"""The within-class variance of features relative to their own norms."""

from collections.abc import Callable

import numpy as np

from manifolds.linalg import Array, epsilon
from ufm.arrays import Rows, as_numpy, check_matrix
from ufm.features.statistics import ClassStatistics


def within_over_square(stats: ClassStatistics[Array], features: Rows[Array], of: Callable[[np.ndarray], np.floating]) -> float:
    """tr Sigma_W / of(||h_i||)^2 of the rows (n, P) of the statistics, `of` their largest or their mean norm.

    Raises ValueError for features of another shape or mean square norm than those rows have, and where all are zero.
    """
    within, squares = float(stats.sigma_w.diagonal().sum()), square_norms(stats, features)
    theirs = within + float(((stats.means**2).sum(0) * stats.priors).sum())
    rounding = stats.P * epsilon(features) + stats.n * epsilon(stats.means)  # of both sums of squares, relative
    if not abs(squares.mean() - theirs) <= rounding * theirs:
        raise ValueError(
            f"the features have a mean square norm of {squares.mean():.6g}, the rows of these statistics {theirs:.6g}: "
            "give the features that the statistics were computed from"
        )
    if not theirs > 0:
        raise ValueError("all features are zero: they have no scale to divide by")
    return within / float(of(squares**0.5)) ** 2


def square_norms(stats: ClassStatistics[Array], features: Rows[Array]) -> np.ndarray:
    """||h_i||^2 of features of the shape of the statistics' rows. (n,)"""
    check_matrix(features, "features")
    if tuple(features.shape) != (stats.n, stats.P):
        raise ValueError(f"features {tuple(features.shape)} are not the ({stats.n}, {stats.P}) rows of these statistics")
    return as_numpy((features * features).sum(-1)).astype(np.float64)
