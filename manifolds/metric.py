"""What an optimizer may ask of a Riemannian manifold of matrices X (..., P, n), and what follows from it."""

from abc import ABC, abstractmethod

import numpy as np

from manifolds.array import Array, ArrayT, Columns, RowProducts, Scalars
from manifolds.embedded.logarithm import underived
from manifolds.linalg import namespace
from manifolds.retractions import Move, as_retraction
from manifolds.shooting import Shooting


class Metric(ABC):
    """A Riemannian metric on a manifold of matrices X (..., P, n)."""

    @abstractmethod
    def check_shape(self, P: int, columns: int) -> None:
        """Raise ValueError where X (..., P, columns) cannot be on the manifold, with the number."""

    @abstractmethod
    def dimension(self, P: int) -> int:
        """Of the manifold for P rows. Raises ValueError where it is empty."""

    @abstractmethod
    def typical_distance(self, P: int) -> float:
        """The scale for a trust region."""

    @abstractmethod
    def constraint_residual(self, X: Columns[ArrayT]) -> Scalars[ArrayT]:
        """Distance of the constraint from the identity, zero on the manifold. (...)"""

    @abstractmethod
    def tangency_residual(self, X: Columns[ArrayT], Z: Columns[ArrayT]) -> Scalars[ArrayT]:
        """Zero for a tangent Z. (...)"""

    @abstractmethod
    def retract(self, X: Columns[ArrayT], U: Columns[ArrayT], retraction: Move[ArrayT] | str) -> Columns[ArrayT]:
        """R_X(U). (..., P, n). Raises ValueError where the step loses rank."""

    def as_retraction(self, choice: Move[ArrayT] | str) -> Move[ArrayT]:
        """The retraction of that name, or the function itself. Raises ValueError for what this metric has no use for."""
        return as_retraction(choice)

    @abstractmethod
    def random_point(self, P: int, rng: np.random.Generator, batch: tuple[int, ...] = ()) -> Columns[np.ndarray]:
        """A point drawn with `rng`. (*batch, P, n)"""

    @abstractmethod
    def inner(self, X: Columns[ArrayT], U: Columns[ArrayT], V: Columns[ArrayT]) -> Scalars[ArrayT]:
        """g_X(U, V). (...)"""

    @abstractmethod
    def flat(self, X: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """The ambient array with <flat(U), V>_F = g_X(U, V) for every V, whose `gradient` is U. (..., P, n)"""

    @abstractmethod
    def project(self, X: Columns[ArrayT], Z: Columns[ArrayT]) -> Columns[ArrayT]:
        """The metric's own projection of an ambient Z on the tangent space at X. (..., P, n)"""

    @abstractmethod
    def gradient(self, X: Columns[ArrayT], G: Columns[ArrayT]) -> Columns[ArrayT]:
        """Riemannian from ambient gradient: g(gradient, U) = <G, U>_F for every tangent U. (..., P, n)"""

    @abstractmethod
    def hessian(self, X: Columns[ArrayT], G: Columns[ArrayT], H: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """Riemannian Hessian along U from the ambient gradient G and the ambient Hessian along U, H. (..., P, n)"""

    @abstractmethod
    def rotation_rate(self, X: Columns[ArrayT], Z: Columns[ArrayT]) -> RowProducts[ArrayT]:
        """The skew Omega for which Omega X is the part along the orbit {Q X : Q in O(P)} of the projection of Z. (..., P, P)

        Of Z and of its projection it is the same, but a projection has been rounded.
        """

    @abstractmethod
    def exp(self, X: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """The geodesic that leaves X with velocity U (projected first), at time 1. (..., P, n)"""

    @abstractmethod
    def geodesic_transport(
        self, X: Columns[ArrayT], U: Columns[ArrayT], W: Columns[ArrayT]
    ) -> tuple[Columns[ArrayT], Columns[ArrayT]]:
        """exp(X, U), and W carried parallel along that geodesic: an isometry. (..., P, n) each"""

    @abstractmethod
    def shoot(self, X: Columns[Array], Y: Columns[Array]) -> Shooting:
        """The velocity from X to Y with its convergence verdict."""

    def norm(self, X: Columns[ArrayT], U: Columns[ArrayT]) -> Scalars[ArrayT]:
        """sqrt(g_X(U, U)), zero where rounding makes the square negative. (...)"""
        square = self.inner(X, U, U)
        return namespace(square).sqrt(namespace(square).clip(square, 0, None))

    def log(self, X: Columns[ArrayT], Y: Columns[ArrayT]) -> Columns[ArrayT]:
        """Tangent U at X with exp(X, U) = Y. (..., P, n). Raises ValueError where shooting missed, and in a backward pass."""
        return underived(self.shoot(X, Y).require().vector, X, Y)

    def dist(self, X: Columns[ArrayT], Y: Columns[ArrayT]) -> Scalars[ArrayT]:
        """Length of log(X, Y): the distance where `shoot` says minimising, else a bound. (...)

        Raises as `log`, and in a second backward pass: torch differentiates it once.
        """
        if namespace(X) is not np:
            from manifolds.distance import Distance

            return Distance.apply(X, Y, self)[0]
        return self.norm(X, self.log(X, Y))

    def midpoint(self, X: Columns[ArrayT], Y: Columns[ArrayT]) -> Columns[ArrayT]:
        """Half way along the geodesic from X to Y. (..., P, n). Raises as `log`."""
        return self.exp(X, self.log(X, Y) / 2)

    def transport(self, X: Columns[ArrayT], Y: Columns[ArrayT], W: Columns[ArrayT]) -> Columns[ArrayT]:
        """Vector transport by projection on the tangent space at Y. (..., P, n)"""
        del X
        return self.project(Y, W)

    def parallel_transport(self, X: Columns[ArrayT], Y: Columns[ArrayT], W: Columns[ArrayT]) -> Columns[ArrayT]:
        """W carried parallel along the geodesic from X to Y. (..., P, n). Raises as `log`."""
        return self.geodesic_transport(X, self.log(X, Y), W)[1]
