"""The least-squares classifier of given features (Proposition 1, Eq. 7): it puts them on the central path (Definition 1, Eq. 4).

It minimises the paper's Eq. 2, L = 1/2 Ave ||W h + b - y||^2 + lambda/2 (||W||_F^2 + ||b||^2), averaged over examples, any class
sizes; its predictions do not change under an invertible map of the features (Eq. 8).
A network trained with the mean over batch AND classes and SGD weight decay wd has lambda = C wd / 2 (`lambda_of_weight_decay`).
"""

from manifolds.class_centering import whole_number
from manifolds.linalg import ArrayT, identity_like, namespace, solve_lower, solve_upper, symmetrize
from ufm.arrays import PerClass, Weights
from ufm.features.central_path_classifier import central_path_classifier
from ufm.features.statistics import ClassStatistics
from ufm.features.whitened_least_squares import LeastSquares, whitened_least_squares


def lambda_of_weight_decay(weight_decay: float, C: int) -> float:
    """lambda = C wd / 2 for training with torch.nn.MSELoss (mean over batch and classes) and SGD weight decay wd.

    Raises ValueError for a weight decay that is negative or not finite, and for a C that is no number of classes.
    """
    if not 0 <= weight_decay < float("inf"):
        raise ValueError(f"weight decay {weight_decay}: it must be finite and not negative")
    if whole_number(C, "C") < 2:
        raise ValueError(f"C = {C}: collapse needs at least C = 2 classes")
    return 0.5 * C * weight_decay


def ls_classifier(stats: ClassStatistics[ArrayT], lam: float) -> tuple[Weights[ArrayT], PerClass[ArrayT]]:
    """W_LS (C, P) and b_LS (C,), the minimisers of the loss for fixed features (corrected Proposition 1, unextended; Eq. 7).

    With S = Sigma_T + lambda/(1+lambda) mu mu^T + lambda I:
    W = (diag(pi) M^T - pi mu^T / (1+lambda)) S^{-1},  b = (pi - W mu) / (1+lambda),
    computed from the centred means (`ufm.features.whitened_least_squares`), so that no digits are lost where mu is large.
    Raises ValueError for lambda < 0, and at lambda = 0 where Sigma_T is singular (the minimiser is not unique).
    """
    if lam == 0:
        return central_path_classifier(stats)
    L, best = whitened_solution(stats, lam)
    return solve_upper(L.mT, best.W.mT).mT, best.b


def whitened_solution(stats: ClassStatistics[ArrayT], lam: float) -> tuple[ArrayT, LeastSquares[ArrayT]]:
    """L (P, P), lower triangular, with L L^T = Sigma_W + lambda I, and the minimisers with W_LS L in the place of W_LS.

    Same errors as `ls_classifier`.
    """
    if not lam >= 0:
        raise ValueError(f"lambda = {lam}: the weight decay cannot be negative")
    xp, M = namespace(stats.means), stats.centred_means
    try:
        L = xp.linalg.cholesky(stats.sigma_w + lam * identity_like(M, stats.P))
    except xp.linalg.LinAlgError:  # directions in which nothing varies, but for rounding that may be negative
        values, E = xp.linalg.eigh(symmetrize(stats.sigma_w))
        L = xp.linalg.qr((E * (xp.clip(values, min=0.0) + lam) ** 0.5).mT)[1].mT
        if lam == 0:
            W, b = central_path_classifier(stats)
            return L, LeastSquares(W @ L, b, W @ M + (stats.priors[:, None] - identity_like(M, stats.C)))
    white = solve_lower(L, xp.concatenate([M, stats.global_mean[:, None]], 1))
    return L, whitened_least_squares(white[:, :-1], white[:, -1], stats.priors, lam)


def extended_ls_classifier(stats: ClassStatistics[ArrayT], lam: float) -> ArrayT:
    """[W_LS, b_LS] = Ave(y h~^T) (Sigma~_T + mu~ mu~^T + lambda I)^{-1}, h~ = [h; 1] (corrected Proposition 1). (C, P+1)

    Same errors as `ls_classifier`, whose numbers these are.
    For equal classes Ave(y h~^T) = M~^T / C. The print omits mu~ mu~^T (docs/mathematics.md, erratum 1).
    """
    W, b = ls_classifier(stats, lam)
    return namespace(W).concatenate([W, b[:, None]], 1)
