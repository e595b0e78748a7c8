"""The two roots A of A S A^T = I, S = D D^T / n, that put points on the manifold: S^{-1/2} and L^{-1}, S = L L^T.

What is computed through S alone loses eps cond(S). So where cond(S) is not small the whitened deviations are whitened once more,
and where S itself is known too badly the first pass takes the QR factor of D. The result is feasible to rounding either way.
While torch traces or vectorises, no number can be looked at: there both passes are always made.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from manifolds.column_split import MeanSplit
from manifolds.linalg import Array, ArrayT, detached, epsilon, gram, inner, inverse_cholesky, namespace, symmetrize
from manifolds.matrix_functions import inverse_sqrt, lyapunov
from manifolds.spectral import (
    NEAR_CONDITION,
    check_finite,
    check_positive_definite,
    conditioned_inverse_sqrt,
    distance_from_identity,
    is_concrete,
    refuse_lost,
    root_of_spectrum,
)
from manifolds.whitening import WELL_CONDITIONED, degenerate_deviation, infinity_norm, principal_deviations

ONE_PASS = 30.0  # cond(S) up to which one pass leaves a residual of a few eps P^{1/2}


@dataclass(frozen=True)
class Root:
    """A rule S -> A (..., P, P) with A S A^T = I.

    `of_covariance` (S) -> A, raising ValueError for a singular S; `conditioned` (S) -> A or None, and cond(S) or a bound;
    `of_deviations` (D, S, n, smallest) -> A from D itself, raising where a standard deviation is at most `smallest` (...);
    `derivative` (A, dS) -> dA.
    """

    name: str
    of_covariance: Callable[[Any], Any] = field(repr=False)
    conditioned: Callable[[Any], tuple[Any, float]] = field(repr=False)
    of_deviations: Callable[[Any, Any, float, Any], Any] = field(repr=False)
    derivative: Callable[[Any, Any], Any] = field(repr=False)
    triangular: bool


def whitened(
    D: ArrayT,
    M: ArrayT,
    split: MeanSplit,
    root: Root,
    center: Callable[[ArrayT], ArrayT] | None = None,
    multiply: Callable[[ArrayT, ArrayT], ArrayT] = lambda A, D: A @ D,
) -> tuple[ArrayT, ArrayT]:
    """A D and A M for the deviations D (..., P, n) and whatever else is to be mapped with them, M (..., P, C).

    `center` (D) -> its deviations, by default those of the split, taken once more where the rounding of large means, left in D,
    would be seen in A D;
    `multiply` (A, D) -> A D. Raises ValueError where D D^T / n is singular to rounding, with the number of lost directions.
    """
    n, center = split.n, center or split.deviations
    S = split.summed(gram(D)) / n
    if 0 in S.shape:  # a batch of none
        return multiply(S, D), S @ M
    if is_concrete(S):
        check_finite(S)
        A, condition = root.conditioned(S)
        if _means_are_seen(M, S, condition):
            D = center(D)
            S = split.summed(gram(D)) / n
            A, condition = root.conditioned(S)
        if A is None or condition > WELL_CONDITIONED:
            of_all = split.gathered(D)
            A = root.of_deviations(of_all, S, n, _smallest_deviation(of_all, M, n))
        if condition <= ONE_PASS:
            return multiply(A, D), A @ M
    else:
        D = center(D)
        A = root.of_covariance(S)
    D, M = multiply(A, D), A @ M
    A = root.of_covariance(split.summed(gram(D)) / n)
    return multiply(A, D), A @ M


def _means_are_seen(M: ArrayT, S: ArrayT, condition: float) -> bool:
    """Whether eps^2 ||M||^2 / lambda_min(S), what the rounding of class means adds to A S A^T, may exceed eps / 16."""
    seen = 16 * epsilon(M) * inner(M, M) > S[..., 0, 0] / condition  # lambda_min(S) >= S_00 / cond(S)
    return bool(seen.any()) if seen.ndim else bool(seen)


def _smallest_deviation(D: ArrayT, M: ArrayT, n: float) -> ArrayT:
    """The standard deviation that rounding alone can produce in features of deviations D and class means M. (..., 1)"""
    xp, classes = namespace(D), max(M.shape[-1], 1)
    square = xp.sum(D * D, (-2, -1)) / n + xp.sum(M * M, (-2, -1)) / classes
    return degenerate_deviation(square, D.shape[-2], epsilon(D))[..., None]


def records(S: Array) -> bool:
    """Whether torch may ask for a derivative of what is made of S."""
    xp = namespace(S)
    tensor: Any = S
    return xp is not np and (tensor.requires_grad or xp.autograd.forward_ad._current_level >= 0)


def _conditioned_symmetric(S: ArrayT) -> tuple[ArrayT | None, float]:
    if not records(S):
        return conditioned_inverse_sqrt(S)
    A, condition = conditioned_inverse_sqrt(detached(S))
    return (None if A is None else inverse_sqrt(S, A)), condition


def _symmetric_of_deviations(D: ArrayT, S: ArrayT, n: float, smallest: ArrayT) -> ArrayT:
    recorded = records(S)
    E, deviations = principal_deviations(detached(D), n)
    deviations = refuse_lost(deviations, smallest, "Sigma_W", "standard deviations")
    A = symmetrize(root_of_spectrum(deviations * deviations, E))
    return inverse_sqrt(S, A) if recorded else A


def _symmetric_derivative(A: ArrayT, dS: ArrayT) -> ArrayT:
    """A dA + dA A = -A^2 dS A^2."""
    square = A @ A
    return lyapunov(A, -(square @ dS @ square))


def _checked_inverse_cholesky(S: ArrayT) -> ArrayT:
    if not distance_from_identity(S)[2]:  # else every eigenvalue is within a quarter of their mean
        check_finite(S)
        check_positive_definite(namespace(S).linalg.eigvalsh(S), "Sigma_W")
    return inverse_cholesky(S)


def _conditioned_triangular(S: ArrayT) -> tuple[ArrayT | None, float]:
    try:
        A = inverse_cholesky(S)
    except namespace(S).linalg.LinAlgError:
        return None, float("inf")
    if distance_from_identity(S)[2]:
        return A, NEAR_CONDITION
    S, absolute = detached(S), abs(detached(A))
    return A, infinity_norm(S) * float(absolute.sum(-1).max()) * float(absolute.sum(-2).max())  # >= cond(S)


def _triangular_of_deviations(D: ArrayT, S: ArrayT, n: float, smallest: ArrayT) -> ArrayT:
    del S
    xp = namespace(D)
    deviations = principal_deviations(detached(D), n)[1]
    refuse_lost(deviations, smallest, "Sigma_W", "standard deviations")
    R = xp.linalg.qr(D.mT)[1]
    sign = xp.sign(xp.linalg.diagonal(R))[..., None, :]
    return xp.tril(xp.linalg.inv(R.mT * sign)) * n**0.5


def _triangular_derivative(A: ArrayT, dS: ArrayT) -> ArrayT:
    """-low(A dS A^T) A, low the lower triangle with half of the diagonal."""
    xp, T = namespace(A), A @ dS @ A.mT
    return -(xp.tril(T, -1) + (T - xp.tril(T, -1) - xp.triu(T, 1)) / 2) @ A


SYMMETRIC = Root(
    "symmetric", inverse_sqrt, _conditioned_symmetric, _symmetric_of_deviations, _symmetric_derivative, triangular=False
)
TRIANGULAR = Root(
    "triangular",
    _checked_inverse_cholesky,
    _conditioned_triangular,
    _triangular_of_deviations,
    _triangular_derivative,
    triangular=True,
)
