"""Least squares where Sigma_W + lambda I is the identity, from centred class means: no digits are lost if means are large."""

from typing import Generic, NamedTuple

from manifolds.linalg import ArrayT, identity_like, namespace
from ufm.arrays import ClassMeans, FeatureVector, PerClass, Weights


class LeastSquares(NamedTuple, Generic[ArrayT]):
    """W_LS (C, P), b_LS (C,), and the residuals of the class means, W_LS mu_c + b_LS - e_c by columns. (C, C)"""

    W: Weights[ArrayT]
    b: PerClass[ArrayT]
    residuals: ArrayT


def whitened_least_squares(
    M: ClassMeans[ArrayT], mean: FeatureVector[ArrayT], priors: PerClass[ArrayT], lam: float
) -> LeastSquares[ArrayT]:
    """The minimiser of 1/2 ||W||_F^2 + 1/2 sum_c pi_c ||W (m_c + mu) + b - e_c||^2 + lambda/2 ||b||^2, sum_c pi_c m_c = 0.

    With M diag(pi)^{1/2} = U diag(s) V^T and a free bias, W_0 = diag(pi)^{1/2} V diag(s / (1 + s^2)) U^T, b_0 = pi - W_0 mu.
    The decay of b adds one rank: v = (I + M diag(pi) M^T)^{-1} mu, b = b_0 / (1 + lambda (1 + mu^T v)), W = W_0 + lambda b v^T.
    """
    root = priors**0.5
    U, s, V = _singular_triplets(M * root, root)
    left, shrunk = root[:, None] * V, s / (1 + s * s)
    inside = U.mT @ mean
    outside = _outside(U, mean)
    W = (left * shrunk) @ U.mT
    v = outside + U @ (inside / (1 + s * s))
    b = (priors - W @ mean) / (1 + lam * (1 + outside @ outside + (inside * inside / (1 + s * s)).sum()))
    if len(s) == len(priors) - 1:
        missed = (left / (1 + s * s)) @ V.mT
    else:  # directions between classes that no feature has are missed whole
        missed = root[:, None] * (identity_like(M, len(priors)) - root[:, None] * root) - (left * (s * shrunk)) @ V.mT
    residuals = (lam * b)[:, None] * (V @ (shrunk * inside) / root - 1) - missed / root
    return LeastSquares(W + (lam * b)[:, None] * v, b, residuals)


def _singular_triplets(G: ArrayT, root: PerClass[ArrayT]) -> tuple[ArrayT, ArrayT, ArrayT]:
    """U, s, V of G (P, C) with G q = 0 for the unit vector q = `root`, K = min(P, C - 1) of them, V orthogonal to q to round-off.

    In the coordinates of the reflection of e_1 onto -q, without the first, where rounding would leave a value that is not 0.
    """
    xp, rest, scale = namespace(G), root[1:], 1 + root[0]
    U, s, Vt = xp.linalg.svd(G[:, 1:] - G[:, :1] * (rest / scale), full_matrices=False)
    along = Vt @ rest
    return U, s, xp.concatenate([-along[None, :], Vt.mT - rest[:, None] * (along / scale)])


def _outside(U: ArrayT, mean: FeatureVector[ArrayT]) -> FeatureVector[ArrayT]:
    """What the columns of U (P, K) leave of a vector, subtracted twice so that it is orthogonal to them."""
    if U.shape[1] == len(U):
        return 0 * mean
    once = mean - U @ (U.mT @ mean)
    return once - U @ (U.mT @ once)
