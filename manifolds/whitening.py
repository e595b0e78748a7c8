"""Whitening of deviations D (P, n): maps A with A Sigma_W A^T = I, Sigma_W = D D^T / n, accurate for ill-conditioned Sigma_W.

Anything computed through Sigma_W alone loses eps cond(Sigma_W). So a well-conditioned Sigma_W is factorised directly, and any
other goes through the singular values of D itself, then through a second pass on the whitened deviations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from manifolds.linalg import (
    Array,
    ArrayT,
    ArrayT_co,
    RankDeficient,
    congruence_residual,
    frobenius_norm,
    inverse_cholesky,
    namespace,
    root_of_spectrum,
    symmetrize,
)
from manifolds.representation import short_repr

MeanSquare = TypeVar("MeanSquare", float, Array)  # of one set of features, or of each of a batch
WELL_CONDITIONED = 1e4  # bound on magnitude / lambda_min(Sigma_W) below which one pass leaves a residual under 1e-12


@dataclass(frozen=True, eq=False, repr=False)
class Whitening(Generic[ArrayT_co]):
    """A = factors[-1] ... factors[0] with A Sigma_W A^T = I; apply the factors one after another, never their product."""

    factors: tuple[ArrayT_co, ...]
    covariance: ArrayT_co  # the covariance that the last factor whitens (P, P)
    condition: float  # upper bound on cond(Sigma_W) after one pass, its value after two
    triangular: bool = False  # whether the last factor is lower triangular
    __repr__ = short_repr

    def apply(self, B: ArrayT) -> ArrayT:
        """A B. (P, k) -> (P, k)"""
        for factor in self.factors:
            B = factor @ B
        return B

    def apply_transposed(self, B: ArrayT) -> ArrayT:
        """A^T B. (P, k) -> (P, k)"""
        for factor in reversed(self.factors):
            B = factor.mT @ B
        return B

    @property
    def norm(self) -> float:
        """An upper bound on ||A||_2 = 1 / the smallest within-class standard deviation: sqrt(||A||_1 ||A||_inf)."""
        entries = abs(self.factors[0])  # those that follow correct it by rounding
        return (float(entries.sum(-1).max()) * float(entries.sum(-2).max())) ** 0.5

    @cached_property
    def residual(self) -> float:
        """||A Sigma_W A^T - I||_F, the distance of the renormalized features from the manifold."""
        A = self.factors[-1]
        if self.triangular:
            return congruence_residual(A, self.covariance)
        gap = A @ self.covariance @ A.mT
        gap.reshape(-1)[:: gap.shape[-1] + 1] -= 1
        return float(frobenius_norm(gap))


def degenerate_deviation(mean_square: MeanSquare, P: int, precision: float) -> MeanSquare:
    """sqrt(P) eps sqrt(Ave ||h||^2): a standard deviation that rounding alone can produce in features stored with that eps."""
    return P**0.5 * precision * mean_square**0.5


def triangular_root(S: ArrayT, inverse: ArrayT) -> ArrayT:
    """L^{-1} of S = L L^T: the cheapest A with A S A^T = I, enough for the singular values and right vectors of the SNR."""
    del S
    return inverse


def symmetric_root(S: ArrayT, inverse: ArrayT) -> ArrayT:
    """S^{-1/2}, the paper's renormalisation: needed for the left vectors U of the SNR and for X itself."""
    del inverse
    return symmetrize(root_of_spectrum(*namespace(S).linalg.eigh(S)))


def whiten_once(
    S: ArrayT, magnitude: float, degenerate: float, root: Callable[[ArrayT, ArrayT], ArrayT]
) -> Whitening[ArrayT] | None:
    """The whitening of S = Sigma_W (P, P) by one factorisation, or None where that could cost more than about 1e-12.

    `magnitude` is ||.||_inf of what S was computed from, S itself or the larger second moment that the means were taken out of:
    rounding it costs eps magnitude / lambda_min, which a bound computed from the factor holds below 1e4 eps.
    """
    try:
        inverse = inverse_cholesky(S)
    except namespace(S).linalg.LinAlgError:
        return None
    absolute = abs(inverse)
    largest_of_inverse = float(absolute.sum(-1).max()) * float(absolute.sum(-2).max())  # >= 1 / lambda_min(S)
    condition = magnitude * largest_of_inverse
    if not condition <= WELL_CONDITIONED or largest_of_inverse**-0.5 <= degenerate:
        return None
    return Whitening((root(S, inverse),), S, condition, triangular=root is triangular_root)


def whiten(D: ArrayT, degenerate: float, root: Callable[[ArrayT, ArrayT], ArrayT]) -> Whitening[ArrayT]:
    """A with A Sigma_W A^T = I for deviations D (P, n), of the kind that `root` makes; symmetric wherever two passes are needed.

    `degenerate` is the standard deviation at and below which a direction counts as empty.
    Raises ValueError for a rank-deficient Sigma_W, with the number of empty directions.
    """
    S = D @ D.mT / D.shape[-1]
    once = whiten_once(S, infinity_norm(S), degenerate, root)
    return _two_passes(D, degenerate) if once is None else once


def infinity_norm(S: Array) -> float:
    """||S||_inf, the largest absolute row sum."""
    return float(abs(S).sum(-1).max())


def principal_deviations(D: ArrayT, n: float | None = None) -> tuple[ArrayT, ArrayT]:
    """Left singular vectors E (..., P, r) and singular values / sqrt(n) (..., r) of D (..., P, k), r = min(P, k), descending.

    n is k unless given. By QR and SVD of D itself, so that every value is right to eps times the largest (through Sigma_W: to
    sqrt(eps) times it).
    """
    xp = namespace(D)
    R = xp.linalg.qr(D.mT, mode="r")[1] if xp.__name__ == "torch" else xp.linalg.qr(D.mT, mode="r")
    E, values, _ = xp.linalg.svd(R.mT, full_matrices=False)
    return E, values / (n or D.shape[-1]) ** 0.5


def _two_passes(D: ArrayT, degenerate: float) -> Whitening[ArrayT]:
    E, deviations = principal_deviations(D)
    P, empty = D.shape[-2], int((deviations <= degenerate).sum()) + max(D.shape[-2] - deviations.shape[-1], 0)
    if empty == P:
        raise ValueError(
            "Sigma_W = 0 but for rounding: every example equals its class mean, so omega is infinite: collapse is complete"
        )
    if empty:
        raise RankDeficient(
            f"Sigma_W is rank-deficient: {empty} of {P} directions have a standard deviation of at most {degenerate:.2e} "
            f"(the largest has {float(deviations[0]):.2e}). Choose the reduction to the range of Sigma_W explicitly"
        )
    first = symmetrize((E / deviations) @ E.mT)
    X = first @ D
    S = X @ X.mT / D.shape[-1]
    return Whitening((first, symmetric_root(S, S)), S, float(deviations[0] / deviations[-1]) ** 2)
