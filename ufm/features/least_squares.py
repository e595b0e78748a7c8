"""The least-squares classifier of given features, and the decomposition of the MSE loss (Propositions 1, Theorems 1 and 2).

The loss is the paper's Eq. 2, L = 1/2 Ave ||W h + b - y||^2 + lambda/2 (||W||_F^2 + ||b||^2), averaged over examples, any class
sizes.
A network trained with the mean over batch AND classes and SGD weight decay wd has lambda = C wd / 2 (`lambda_of_weight_decay`).
"""

from dataclasses import dataclass

from manifolds.linalg import Array, ArrayT, identity_like, namespace, symmetrize
from ufm.arrays import PerClass, Weights
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
    mu, pi = stats.global_mean, stats.priors
    if lam == 0:
        W = _undecayed_classifier(stats)
    else:
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


def check_classifier(stats: ClassStatistics[Array], W: Weights[Array], b: PerClass[Array]) -> None:
    """Raise ValueError unless W is (C, P) and b is (C,) of the features that were measured; TypeError unless they are arrays."""
    namespace(W), namespace(b)
    if tuple(W.shape) != (stats.C, stats.P):
        raise ValueError(f"W has shape {tuple(W.shape)}, these features need (C, P) = ({stats.C}, {stats.P}): one row a class")
    if tuple(b.shape) != (stats.C,):
        raise ValueError(
            f"b has shape {tuple(b.shape)}, these features need (C,) = ({stats.C},); a network without bias has zeros"
        )


def mse_loss(stats: ClassStatistics[Array], W: Weights[Array], b: PerClass[Array], lam: float) -> float:
    """The loss of any classifier W (C, P), b (C,), from the statistics alone: exact, since it is quadratic in the features.

    Raises ValueError for other shapes.
    """
    check_classifier(stats, W, b)
    return _within_part(stats, W, lam) + 0.5 * lam * float((b * b).sum()) + _between_part(stats, W, b)


def decompose(stats: ClassStatistics[Array], W: Weights[Array], b: PerClass[Array], lam: float) -> Decomposition:
    """The loss of (W, b) split as in Theorems 1 and 2. W (C, P), b (C,), ValueError for other shapes.

    Same errors as `ls_classifier`.

    L_NC1 = 1/2 tr W_LS (Sigma_W + lambda I) W_LS^T + lambda/2 ||b_LS||^2
    L_NC2/3 = 1/2 sum_c pi_c ||W_LS mu_c + b_LS - e_c||^2
    L_perp = 1/2 tr D A D^T, D = [W - W_LS, b - b_LS], A = Sigma~_T + mu~ mu~^T + lambda I.
    """
    check_classifier(stats, W, b)
    if lam == 0:
        stats, W = _whitened(stats, W)
    W_ls, b_ls = ls_classifier(stats, lam)
    nc1 = _within_part(stats, W_ls, lam) + 0.5 * lam * float((b_ls * b_ls).sum())
    nc23 = _between_part(stats, W_ls, b_ls)
    dW, db = W - W_ls, b - b_ls
    shifts = dW @ stats.means + db[:, None]
    perp = _within_part(stats, dW, lam) + 0.5 * lam * float((db * db).sum()) + 0.5 * float((shifts * shifts * stats.priors).sum())
    return Decomposition(mse_loss(stats, W, b, lam), nc1, nc23, perp)


def _whitened(stats: ClassStatistics[ArrayT], W: Weights[ArrayT]) -> tuple[ClassStatistics[ArrayT], Weights[ArrayT]]:
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


def _undecayed_classifier(stats: ClassStatistics[ArrayT]) -> Weights[ArrayT]:
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
