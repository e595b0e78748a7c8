"""The central path (Definition 1, Eqs. 4 and 7): features with their least-squares classifier at lambda = 0."""

from manifolds.linalg import ArrayT, namespace, symmetrize
from ufm.arrays import PerClass, Weights
from ufm.features.statistics import ClassStatistics
from ufm.features.whitened_least_squares import whitened_least_squares


def central_path_classifier(stats: ClassStatistics[ArrayT]) -> tuple[Weights[ArrayT], PerClass[ArrayT]]:
    """W_LS = diag(pi) Mbar^T Sigma_T^{-1} (C, P) and b_LS = pi - W_LS mu_G (C,); for equal classes Eq. 7.

    Its predictions W_LS h + b_LS do not change under an invertible map of the features (Eq. 8).
    Raises ValueError where Sigma_T is singular: the classifier is not unique.
    """
    W = _undecayed_weights(stats)
    return W, stats.priors - W @ stats.global_mean


def _undecayed_weights(stats: ClassStatistics[ArrayT]) -> Weights[ArrayT]:
    """diag(pi) Mbar^T Sigma_T^{-1} without inverting Sigma_T where Sigma_W can be whitened: right to round-off under collapse."""
    xp = namespace(stats.means)
    values, E = xp.linalg.eigh(symmetrize(stats.sigma_w))
    smallest_trusted = stats.P * float(xp.finfo(values.dtype).eps) * float(values[-1])
    if float(values[0]) > smallest_trusted:
        A = E.mT / xp.sqrt(values)[:, None]
        return whitened_least_squares(A @ stats.centred_means, 0 * values, stats.priors, 0.0).W @ A
    values, E = xp.linalg.eigh(symmetrize(stats.sigma_t))
    smallest_trusted = stats.P * float(xp.finfo(values.dtype).eps) * float(values[-1])
    empty = int((values <= smallest_trusted).sum())
    if empty:
        raise ValueError(
            f"Sigma_T is singular in {empty} of {stats.P} directions (smallest eigenvalue {float(values[0]):.2e}): at lambda = 0 "
            "the least-squares classifier is not unique; use lambda > 0 or drop the empty directions"
        )
    return ((stats.centred_means * stats.priors).mT @ E / values) @ E.mT
