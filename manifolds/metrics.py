"""The two Riemannian metrics as values: all that an optimizer may ask of either, over one ClassLayout.

    EmbeddedMetric   <U, V>_F           gradient P          the flow of the paper's Proposition 2
    BundleMetric     <Hor U, Hor V>_F   gradient Pi Pi*     the paper's scheme and Equation 5 with Proposition 4

Both are frozen and compare by structure. All arrays are (..., P, n), numpy or torch; distances have the units of X.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from manifolds import rotations
from manifolds.arguments import require_class_layout
from manifolds.array import Array, ArrayT, ClassColumns, Columns, RowProducts, Scalars
from manifolds.bundle import connection as bundle
from manifolds.bundle import geodesics as bundle_geodesics
from manifolds.class_centering import ClassLayout
from manifolds.embedded import curvature, geodesics, logarithm
from manifolds.linalg import inner
from manifolds.metric import Metric
from manifolds.normalized_features import (
    constraint_residual,
    dimension,
    oblique_projection,
    orthogonal_projection,
    tangency_residual,
)
from manifolds.retractions import Move, as_retraction
from manifolds.sampling import random_point
from manifolds.shooting import Shooting


@dataclass(frozen=True)
class LayoutMetric(Metric):
    """A metric on the normalized features manifold of `layout`."""

    layout: ClassLayout

    def __post_init__(self) -> None:
        require_class_layout(self.layout)

    def check_shape(self, P: int, columns: int) -> None:
        """Raise ValueError for another number of columns than the layout, and where n - C < P."""
        self.layout.check_columns(np.empty((0, columns)))
        self.layout.check_rank(P)

    def dimension(self, P: int) -> int:
        """P n - P (P + 1) / 2."""
        return dimension(self.layout, P)

    def typical_distance(self, P: int) -> float:
        """sqrt(P n), the Frobenius size of the deviations."""
        return math.sqrt(P * self.layout.n)

    def constraint_residual(self, X: Columns[ArrayT]) -> Scalars[ArrayT]:
        """||X C_M X^T - I||_F. (...)"""
        return constraint_residual(X, self.layout)

    def tangency_residual(self, X: Columns[ArrayT], Z: Columns[ArrayT]) -> Scalars[ArrayT]:
        """||X C_M Z^T + Z C_M X^T||_F. (...)"""
        return tangency_residual(X, Z, self.layout)

    def retract(self, X: Columns[ArrayT], U: Columns[ArrayT], retraction: Move[ArrayT] | str) -> Columns[ArrayT]:
        """retraction(X, U, layout). (..., P, n)"""
        return as_retraction(retraction)(X, U, self.layout)

    def random_point(self, P: int, rng: np.random.Generator, batch: tuple[int, ...] = ()) -> Columns[np.ndarray]:
        """`manifolds.random_point`. (*batch, P, n)"""
        return random_point(self.layout, P, rng, batch)

    @abstractmethod
    def mean_gradient(self, M: ClassColumns[ArrayT], sums: ClassColumns[ArrayT]) -> ClassColumns[ArrayT]:
        """Class means of `gradient`, from the means M of X and the class sums G Y^T of the ambient gradient. (..., P, C)"""


@dataclass(frozen=True)
class EmbeddedMetric(LayoutMetric):
    """The Frobenius metric: sqrt(n) Stiefel x class means, isometrically."""

    @property
    def injectivity_radius(self) -> float:
        """pi sqrt(n)."""
        return geodesics.injectivity_radius(self.layout)

    def inner(self, X: Columns[ArrayT], U: Columns[ArrayT], V: Columns[ArrayT]) -> Scalars[ArrayT]:
        """<U, V>_F. (...)"""
        return inner(U, V)

    def flat(self, X: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """U itself."""
        del X
        return U

    def project(self, X: Columns[ArrayT], Z: Columns[ArrayT]) -> Columns[ArrayT]:
        """P(Z), orthogonal."""
        return orthogonal_projection(X, Z, self.layout)

    def gradient(self, X: Columns[ArrayT], G: Columns[ArrayT]) -> Columns[ArrayT]:
        """P(G)."""
        return orthogonal_projection(X, G, self.layout)

    def mean_gradient(self, M: ClassColumns[ArrayT], sums: ClassColumns[ArrayT]) -> ClassColumns[ArrayT]:
        """Those of G."""
        del M
        return self.layout.per_class(sums)

    def hessian(self, X: Columns[ArrayT], G: Columns[ArrayT], H: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """P(H - n sym(G C_M X^T) U C_M)."""
        return curvature.embedded_hessian(X, G, H, U, self.layout)

    def rotation_rate(self, X: Columns[ArrayT], Z: Columns[ArrayT]) -> RowProducts[ArrayT]:
        """Omega A + A Omega = Z X^T - X Z^T, A = X X^T."""
        return rotations.rotation_rate(X, Z, self.layout)

    def exp(self, X: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """Closed form."""
        return geodesics.exp(X, self.project(X, U), self.layout)

    def geodesic_transport(
        self, X: Columns[ArrayT], U: Columns[ArrayT], W: Columns[ArrayT]
    ) -> tuple[Columns[ArrayT], Columns[ArrayT]]:
        """Closed form."""
        return geodesics.geodesic_transport(X, self.project(X, U), self.project(X, W), self.layout)

    def shoot(self, X: Columns[Array], Y: Columns[Array]) -> Shooting:
        """In the span of X and Y."""
        return logarithm.shoot_log(X, Y, self.layout)


@dataclass(frozen=True)
class BundleMetric(LayoutMetric):
    """The metric that measures across the fibres {S X}: its first-order retraction is the paper's renormalisation."""

    def inner(self, X: Columns[ArrayT], U: Columns[ArrayT], V: Columns[ArrayT]) -> Scalars[ArrayT]:
        """<Hor U, Hor V>_F. (...)"""
        return bundle.bundle_inner(X, U, V, self.layout)

    def flat(self, X: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """Hor U."""
        return bundle.horizontal(X, U, self.layout)

    def project(self, X: Columns[ArrayT], Z: Columns[ArrayT]) -> Columns[ArrayT]:
        """Proposition 4's Pi(Z), along the fibre."""
        return oblique_projection(X, Z, self.layout)

    def gradient(self, X: Columns[ArrayT], G: Columns[ArrayT]) -> Columns[ArrayT]:
        """Pi Pi* G."""
        return bundle.bundle_gradient(X, G, self.layout)

    def mean_gradient(self, M: ClassColumns[ArrayT], sums: ClassColumns[ArrayT]) -> ClassColumns[ArrayT]:
        """Those of G + sym(M (G Y^T)^T) M Y / n."""
        return self.layout.per_class(sums) + bundle.mean_part(M, sums, self.layout)

    def hessian(self, X: Columns[ArrayT], G: Columns[ArrayT], H: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """Of the Levi-Civita connection of g."""
        return bundle.bundle_hessian(X, G, H, U, self.layout)

    def rotation_rate(self, X: Columns[ArrayT], Z: Columns[ArrayT]) -> RowProducts[ArrayT]:
        """skew(Z X^T A^{-1}), A = X X^T."""
        return rotations.bundle_rotation_rate(X, Z, self.layout)

    def exp(self, X: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """Integrated to rounding."""
        return bundle_geodesics.bundle_exp(X, self.project(X, U), self.layout)

    def geodesic_transport(
        self, X: Columns[ArrayT], U: Columns[ArrayT], W: Columns[ArrayT]
    ) -> tuple[Columns[ArrayT], Columns[ArrayT]]:
        """Integrated to rounding."""
        return bundle_geodesics.bundle_geodesic_transport(X, self.project(X, U), self.project(X, W), self.layout)

    def shoot(self, X: Columns[Array], Y: Columns[Array]) -> Shooting:
        """Along integrated geodesics."""
        return bundle_geodesics.shoot_bundle_log(X, Y, self.layout)
