"""The central path (Definition 1, Eqs. 4 and 7): features with their least-squares classifier at lambda = 0."""

from manifolds.linalg import ArrayT, namespace, symmetrize
from ufm.arrays import PerClass, Weights
from ufm.features.statistics import ClassStatistics


def central_path_classifier(stats: ClassStatistics[ArrayT]) -> tuple[Weights[ArrayT], PerClass[ArrayT]]:
    """W_LS = diag(pi) Mbar^T Sigma_T^{-1} (C, P) and b_LS = pi - W_LS mu_G (C,); for equal classes Eq. 7.

    Its predictions W_LS h + b_LS do not see an invertible map of the features (Eq. 8).
    Raises ValueError where Sigma_T is singular: the classifier is not unique.
    """
    W = _undecayed_weights(stats)
    return W, stats.priors - W @ stats.global_mean


def _undecayed_weights(stats: ClassStatistics[ArrayT]) -> Weights[ArrayT]:
    """diag(pi) Mbar^T Sigma_T^{-1} without inverting Sigma_T where Sigma_W can be whitened: right to round-off under collapse.

    With A Sigma_W A^T = I and A Mbar diag(pi)^{1/2} = U diag(s) V^T: W = diag(pi)^{1/2} V diag(s / (1 + s^2)) U^T A.
    """
    xp, root = namespace(stats.means), stats.priors**0.5
    values, E = xp.linalg.eigh(symmetrize(stats.sigma_w))
    smallest_trusted = stats.P * float(xp.finfo(values.dtype).eps) * float(values[-1])
    if float(values[0]) > smallest_trusted:
        A = E.mT / xp.sqrt(values)[:, None]
        U, s, Vt = xp.linalg.svd(A @ (stats.centred_means * root), full_matrices=False)
        K = min(stats.C - 1, stats.P)  # the last value is 0 but for rounding, which s / (1 + s^2) would magnify under collapse
        U, s, V = U[:, :K], s[:K], Vt.mT[:, :K]
        return (root[:, None] * (V * (s / (1 + s * s)))) @ (U.mT @ A)
    values, E = xp.linalg.eigh(symmetrize(stats.sigma_t))
    smallest_trusted = stats.P * float(xp.finfo(values.dtype).eps) * float(values[-1])
    empty = int((values <= smallest_trusted).sum())
    if empty:
        raise ValueError(
            f"Sigma_T is singular in {empty} of {stats.P} directions (smallest eigenvalue {float(values[0]):.2e}): at lambda = 0 "
            "the least-squares classifier is not unique; use lambda > 0 or drop the empty directions"
        )
    return ((stats.centred_means * stats.priors).mT @ E / values) @ E.mT
