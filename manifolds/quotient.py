"""The quotient of a manifold by O(P), for losses that do not see a rotation of the features: f(Q X) = f(X).

Its points are orbits {Q X}, each given by any of its X; its tangent vectors by the horizontal ones at X, orthogonal to the orbit.
O(P) acts by isometries, so lengths, gradients and geodesics are those of the manifold, and the Hessian is the horizontal part of
the manifold's. On the manifold itself such a loss has a singular Hessian at every minimum: P (P - 1) / 2 directions of its orbit.

Of the bundle metric this is the quotient of {X : Sigma_W positive definite} by all of GL(P), the fibres {S X} included: each of
them meets the manifold in one point, so that the manifold itself is the quotient by the fibres.
[Absil, Mahony and Sepulchre 2008, 3.6 and 5.3.4]
"""

from dataclasses import dataclass

import numpy as np

from manifolds.array import Array, ArrayT, Columns, RowProducts, Scalars
from manifolds.linalg import frobenius_norm
from manifolds.metric import Metric
from manifolds.retractions import Move, Retraction
from manifolds.shooting import Shooting


@dataclass(frozen=True)
class QuotientMetric(Metric):
    """`metric` on the quotient of its manifold by O(P). Raises ValueError for what is no metric, or a quotient already.

    The loss is not looked at: `check_gradient` tells whether it sees rotations. No logarithm, distance or parallel transport:
    those of a quotient are others, and NotImplementedError says so.
    """

    metric: Metric

    def __post_init__(self) -> None:
        if not isinstance(self.metric, Metric) or isinstance(self.metric, QuotientMetric):
            raise ValueError(
                f"{self.metric!r} is no metric to take the quotient of: give an EmbeddedMetric, BundleMetric or "
                "GeneralizedStiefelMetric"
            )

    def check_shape(self, P: int, columns: int) -> None:
        """As the manifold."""
        self.metric.check_shape(P, columns)

    def dimension(self, P: int) -> int:
        """P (P - 1) / 2 less than the manifold."""
        return self.metric.dimension(P) - P * (P - 1) // 2

    def typical_distance(self, P: int) -> float:
        """That of the manifold."""
        return self.metric.typical_distance(P)

    def constraint_residual(self, X: Columns[ArrayT]) -> Scalars[ArrayT]:
        """That of the manifold. (...)"""
        return self.metric.constraint_residual(X)

    def tangency_residual(self, X: Columns[ArrayT], Z: Columns[ArrayT]) -> Scalars[ArrayT]:
        """That of the manifold and ||Omega||_F of the part Omega X along the orbit: zero for a horizontal Z. (...)"""
        return self.metric.tangency_residual(X, Z) + frobenius_norm(self.rotation_rate(X, Z))

    def as_retraction(self, choice: Move[ArrayT] | str) -> Move[ArrayT]:
        """The manifold's, where it goes with rotations, R_QX(Q U) = Q R_X(U). Raises ValueError for the Cholesky one."""
        move = self.metric.as_retraction(choice)
        if isinstance(move, Retraction) and move.root.triangular:
            raise ValueError(
                f"the {move.name} retraction does not commute with rotations X -> Q X: take 'polar' or 'renormalisation'"
            )
        return move

    def retract(self, X: Columns[ArrayT], U: Columns[ArrayT], retraction: Move[ArrayT] | str) -> Columns[ArrayT]:
        """That of the manifold. (..., P, n). Raises ValueError where the step loses rank."""
        return self.metric.retract(X, U, self.as_retraction(retraction))

    def random_point(self, P: int, rng: np.random.Generator, batch: tuple[int, ...] = ()) -> Columns[np.ndarray]:
        """One of the manifold. (*batch, P, n)"""
        return self.metric.random_point(P, rng, batch)

    def rotation_rate(self, X: Columns[ArrayT], Z: Columns[ArrayT]) -> RowProducts[ArrayT]:
        """That of the manifold. (..., P, P)"""
        return self.metric.rotation_rate(X, Z)

    def inner(self, X: Columns[ArrayT], U: Columns[ArrayT], V: Columns[ArrayT]) -> Scalars[ArrayT]:
        """That of the manifold. (...)"""
        return self.metric.inner(X, U, V)

    def flat(self, X: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """That of the manifold. (..., P, n)"""
        return self.metric.flat(X, U)

    def project(self, X: Columns[ArrayT], Z: Columns[ArrayT]) -> Columns[ArrayT]:
        """The manifold's projection of Z, less its part along the orbit. (..., P, n)"""
        # of Z itself: Z less its projection has no part along the orbit, and the projection is rounded to eps |U|, where the
        # fibre's S X has the size of the class means; times X that rounding would grow to eps |U| |X|, without U's cancelling
        return self.metric.project(X, Z) - self.rotation_rate(X, Z) @ X

    def gradient(self, X: Columns[ArrayT], G: Columns[ArrayT]) -> Columns[ArrayT]:
        """The horizontal part of the manifold's, which for a loss that sees no rotation is the whole. (..., P, n)"""
        return self.project(X, self.metric.gradient(X, G))

    def hessian(self, X: Columns[ArrayT], G: Columns[ArrayT], H: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """The horizontal part of the manifold's along the horizontal U. (..., P, n)"""
        return self.project(X, self.metric.hessian(X, G, H, U))

    def exp(self, X: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """The geodesic of the horizontal part of U, horizontal all along. (..., P, n)"""
        return self.metric.exp(X, self.project(X, U))

    def geodesic_transport(
        self, X: Columns[ArrayT], U: Columns[ArrayT], W: Columns[ArrayT]
    ) -> tuple[Columns[ArrayT], Columns[ArrayT]]:
        """Raises NotImplementedError."""
        raise NotImplementedError("parallel transport of a quotient is not the manifold's: take `transport`, by projection")

    def shoot(self, X: Columns[Array], Y: Columns[Array]) -> Shooting:
        """Raises NotImplementedError."""
        raise NotImplementedError(
            "log and dist between orbits are not implemented; dist before the quotient, on the manifold, is an upper bound"
        )
