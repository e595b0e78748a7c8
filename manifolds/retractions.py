"""Retractions and their inverses, each retraction a frozen value.

A retraction is a function (X, U, layout) -> point; these four are also usable by name where an adapter takes one:

    "renormalisation"              (Z C_M Z^T)^{-1/2} Z         first order; Z = X + U
    "horizontal renormalisation"   the same of X + Hor U        first order; with the bundle gradient exactly the scheme of D.1
    "polar"                        polar factor of deviations   second order for the embedded metric; the nearest point
    "cholesky"                     L^{-1} on deviations         first order; the cheapest

In the first two the class means are scaled with the deviations, in the others they are free and simply add.
X, U are (..., P, n). All raise ValueError where a step loses rank, with the number of lost directions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from manifolds.array import ArrayT, Columns
from manifolds.bundle.connection import horizontal
from manifolds.column_split import MeanSplit
from manifolds.linalg import gram, identity_like, namespace, symmetrize
from manifolds.matrix_functions import sylvester_congruence
from manifolds.precision import at_least_float32
from manifolds.roots import SYMMETRIC, TRIANGULAR, Root, whitened
from manifolds.spectral import check_positive_definite

Move = Callable[[Columns[ArrayT], Columns[ArrayT], MeanSplit], Columns[ArrayT]]  # (X, U, layout) -> point
Inverse = Callable[[Columns[Any], Columns[Any], MeanSplit], Columns[Any]]  # (X, Y, layout) -> the U that goes from X to Y


@dataclass(frozen=True)
class Retraction:
    """R_X(U) = A Z for Z = X + U or X + Hor U, or A on the deviations of Z and its means; `root` makes A from D_Z D_Z^T / n."""

    name: str
    root: Root
    scales_means: bool  # whether A is applied to the class means too
    lifts: bool = False  # whether U is replaced by Hor U
    _inverse: Inverse | None = field(default=None, repr=False)

    def __call__(self, X: Columns[ArrayT], U: Columns[ArrayT], layout: MeanSplit) -> Columns[ArrayT]:
        """The point R_X(U). (..., P, n). Raises ValueError where the step loses rank and where n - C < P."""
        return _move(X, U, layout, self)

    def derivative(self, X: Columns[ArrayT], U: Columns[ArrayT], W: Columns[ArrayT], layout: MeanSplit) -> Columns[ArrayT]:
        """d/ds R_X(U + s W) at s = 0, tangent at R_X(U), linear in W. (..., P, n). Raises ValueError where the step loses rank.

        A dZ + dA Z with dS = 2 sym(D dZ^T) / n.  [Absil, Mahony and Sepulchre 2008, Section 8.1.4]
        """
        return _retraction_derivative(X, U, W, layout, self)

    def inverse(self, X: Columns[ArrayT], Y: Columns[ArrayT], layout: MeanSplit) -> Columns[ArrayT]:
        """The tangent U at X with R_X(U) = Y. (..., P, n). Raises ValueError where no closed form is known or Y is too far."""
        if self._inverse is None:
            raise ValueError(f"the inverse of {self.name} has no closed form here: take that of polar or renormalisation, or log")
        return self._inverse(X, Y, layout)


@at_least_float32
def _move(X: ArrayT, U: ArrayT, layout: MeanSplit, retraction: Retraction) -> ArrayT:
    layout.check_rank(X.shape[-2])
    return _onto(X + (horizontal(X, U, layout) if retraction.lifts else U), layout, retraction)


def _onto(Z: ArrayT, layout: MeanSplit, retraction: Retraction) -> ArrayT:
    """A Z, or A on the deviations of Z and its own means. (..., P, n)"""
    D, M = layout.deviations_and_means(Z)
    D, scaled = whitened(D, M, layout, retraction.root)
    return layout.with_means(D, scaled if retraction.scales_means else M)


@at_least_float32
def _retraction_derivative(X: ArrayT, U: ArrayT, W: ArrayT, layout: MeanSplit, retraction: Retraction) -> ArrayT:
    layout.check_rank(X.shape[-2])
    if retraction.lifts:
        U, W = horizontal(X, U, layout), horizontal(X, W, layout)
    Z = X + U
    (D, M), (dD, dM) = layout.deviations_and_means(Z), layout.deviations_and_means(W)
    A = retraction.root.of_covariance(gram(D) / layout.n)
    dA = retraction.root.derivative(A, 2 * symmetrize(D @ dD.mT) / layout.n)
    return layout.with_means(A @ dD + dA @ D, A @ dM + dA @ M if retraction.scales_means else dM)


@at_least_float32
def nearest_point(Z: Columns[ArrayT], layout: MeanSplit) -> Columns[ArrayT]:
    """The point nearest to Z in the Frobenius norm: S^{-1/2} D on the deviations D of Z, S = D D^T / n, and Z's means.

    (..., P, n) -> (..., P, n). Raises ValueError where S is singular (the nearest point is not unique) and where n - C < P.
    """
    layout.check_rank(Z.shape[-2])
    return _onto(Z, layout, polar_retraction)


@at_least_float32
def inverse_renormalisation(X: Columns[ArrayT], Y: Columns[ArrayT], layout: MeanSplit) -> Columns[ArrayT]:
    """The tangent U at X with renormalisation(X, U) = Y: U = S Y - X, S K + K^T S = 2 I, K = Y C_M X^T. (..., P, n)

    Exists for Y near X; raises ValueError where S is not positive definite, with its smallest eigenvalue.
    """
    return _inverse_scale(layout.deviations(X), layout.deviations(Y), layout) @ Y - X


@at_least_float32
def inverse_polar_retraction(X: Columns[ArrayT], Y: Columns[ArrayT], layout: MeanSplit) -> Columns[ArrayT]:
    """The tangent U at X with polar_retraction(X, U) = Y: S D_Y - D_X on deviations, the difference on means. (..., P, n)

    S K + K^T S = 2 I with K = D_Y D_X^T / n. Exists for Y near X; raises ValueError where S is not positive definite.
    """
    (D_X, M_X), (D_Y, M_Y) = layout.deviations_and_means(X), layout.deviations_and_means(Y)
    return layout.with_means(_inverse_scale(D_X, D_Y, layout) @ D_Y - D_X, M_Y - M_X)


def _inverse_scale(D_X: ArrayT, D_Y: ArrayT, layout: MeanSplit) -> ArrayT:
    """The symmetric positive definite S that puts S D_Y - D_X into the tangent space at X. (..., P, P)"""
    K = D_Y @ D_X.mT / layout.n
    try:
        S = sylvester_congruence(K, 2 * identity_like(K, K.shape[-1]))
    except ValueError as error:
        raise ValueError(
            f"the inverse retraction does not exist, the points are too far apart: of K = D_Y D_X^T / n {error}; "
            "use points in between"
        ) from error
    eigenvalues = namespace(S).linalg.eigvalsh(S)
    check_positive_definite(eigenvalues, "the scale S of the inverse retraction (the points are too far apart)")
    return S


renormalisation = Retraction("renormalisation", SYMMETRIC, scales_means=True, _inverse=inverse_renormalisation)
horizontal_renormalisation = Retraction("horizontal renormalisation", SYMMETRIC, scales_means=True, lifts=True)
polar_retraction = Retraction("polar", SYMMETRIC, scales_means=False, _inverse=inverse_polar_retraction)
cholesky_retraction = Retraction("cholesky", TRIANGULAR, scales_means=False)

RETRACTIONS = {
    retraction.name: retraction
    for retraction in (renormalisation, horizontal_renormalisation, polar_retraction, cholesky_retraction)
}


def as_retraction(choice: Move[ArrayT] | str) -> Move[ArrayT]:
    """A retraction of this module by its name, or any function (X, U, layout) -> point as it is.

    Raises ValueError for another name and TypeError for what is not callable.
    """
    if isinstance(choice, str):
        if choice not in RETRACTIONS:
            raise ValueError(f"retraction {choice!r} is none of {', '.join(map(repr, RETRACTIONS))}; a function is accepted too")
        return RETRACTIONS[choice]
    if not callable(choice):
        raise TypeError(f"a retraction is a name or a function (X, U, layout) -> point, got {type(choice).__name__}")
    return choice
