"""The least-squares classifier of given features (Proposition 1, Eq. 7): it puts them on the central path (Definition 1, Eq. 4).

It minimises the paper's Eq. 2, L = 1/2 Ave ||W h + b - y||^2 + lambda/2 (||W||_F^2 + ||b||^2), averaged over examples, any class
sizes; its predictions do not see an invertible map of the features (Eq. 8).
A network trained with the mean over batch AND classes and SGD weight decay wd has lambda = C wd / 2 (`lambda_of_weight_decay`).
"""

from manifolds.linalg import ArrayT, identity_like, namespace
from ufm.arrays import PerClass, Weights
from ufm.features.central_path import central_path_classifier
from ufm.features.statistics import ClassStatistics


def lambda_of_weight_decay(weight_decay: float, C: int) -> float:
    """lambda = C wd / 2 for training with torch.nn.MSELoss (mean over batch and classes) and SGD weight decay wd."""
    return 0.5 * C * weight_decay


def ls_classifier(stats: ClassStatistics[ArrayT], lam: float) -> tuple[Weights[ArrayT], PerClass[ArrayT]]:
    """W_LS (C, P) and b_LS (C,), the minimisers of the loss for fixed features (corrected Proposition 1, unextended; Eq. 7).

    With S = Sigma_T + lambda/(1+lambda) mu mu^T + lambda I:
    W = (diag(pi) M^T - pi mu^T / (1+lambda)) S^{-1},  b = (pi - W mu) / (1+lambda).
    Raises ValueError for lambda < 0, and at lambda = 0 where Sigma_T is singular (the minimiser is not unique).
    """
    if not lam >= 0:
        raise ValueError(f"lambda = {lam}: the weight decay cannot be negative")
    if lam == 0:
        return central_path_classifier(stats)
    mu, pi = stats.global_mean, stats.priors
    S = stats.sigma_t + (lam / (1 + lam)) * mu[:, None] * mu[None, :] + lam * identity_like(stats.means, stats.P)
    cross = stats.means * pi - mu[:, None] * (pi / (1 + lam))
    W = namespace(S).linalg.solve(S, cross).mT
    return W, (pi - W @ mu) / (1 + lam)


def extended_ls_classifier(stats: ClassStatistics[ArrayT], lam: float) -> ArrayT:
    """[W_LS, b_LS] = Ave(y h~^T) (Sigma~_T + mu~ mu~^T + lambda I)^{-1}, h~ = [h; 1] (corrected Proposition 1). (C, P+1)

    Same errors as `ls_classifier`.
    For equal classes Ave(y h~^T) = M~^T / C. The print omits mu~ mu~^T (docs/mathematics.md, erratum 1).
    """
    xp = namespace(stats.means)
    if not lam > 0:  # the second moment may be singular: the unextended form knows when
        W, b = ls_classifier(stats, lam)
        return xp.concatenate([W, b[:, None]], 1) if xp.__name__ == "numpy" else xp.cat([W, b[:, None]], 1)
    ones = stats.means[:1] * 0 + 1
    means = xp.concatenate([stats.means, ones]) if xp.__name__ == "numpy" else xp.cat([stats.means, ones])
    second_moment = (means * stats.priors) @ means.mT
    second_moment[: stats.P, : stats.P] += stats.sigma_w
    S = second_moment + lam * identity_like(means, stats.P + 1)
    return xp.linalg.solve(S, means * stats.priors).mT
