"""The two Riemannian metrics as values: all that an optimizer may ask of either, over one ClassLayout.

    EmbeddedMetric   <U, V>_F           gradient P          the flow of the paper's Proposition 2
    BundleMetric     <Hor U, Hor V>_F   gradient Pi Pi*     the paper's scheme and Equation 5 with Proposition 4

Both are frozen and compare by structure. All arrays are (..., P, n), numpy or torch; distances have the units of X.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from manifolds.bundle import connection as bundle
from manifolds.bundle import geodesics as bundle_geodesics
from manifolds.embedded import curvature, geodesics, logarithm
from manifolds.geometry import oblique_projection, orthogonal_projection
from manifolds.layout import ClassLayout
from manifolds.linalg import Array, ArrayT, inner, namespace
from manifolds.shooting import Shooting


@dataclass(frozen=True)
class Metric(ABC):
    """A Riemannian metric on the normalized features manifold of `layout`."""

    layout: ClassLayout

    def __post_init__(self) -> None:
        if not isinstance(self.layout, ClassLayout):
            raise ValueError(f"layout is {self.layout!r}: give a ClassLayout, as ClassLayout((5, 7, 6)) of the class sizes")

    @abstractmethod
    def inner(self, X: ArrayT, U: ArrayT, V: ArrayT) -> ArrayT:
        """g_X(U, V). (...)"""

    @abstractmethod
    def flat(self, X: ArrayT, U: ArrayT) -> ArrayT:
        """The ambient array with <flat(U), V>_F = g_X(U, V) for every V, whose `gradient` is U. (..., P, n)"""

    @abstractmethod
    def project(self, X: ArrayT, Z: ArrayT) -> ArrayT:
        """The metric's own projection of an ambient Z on the tangent space at X. (..., P, n)"""

    @abstractmethod
    def gradient(self, X: ArrayT, G: ArrayT) -> ArrayT:
        """Riemannian from ambient gradient: g(gradient, U) = <G, U>_F for every tangent U. (..., P, n)"""

    @abstractmethod
    def mean_gradient(self, M: ArrayT, sums: ArrayT) -> ArrayT:
        """Class means of `gradient`, from the means M of X and the class sums G Y^T of the ambient gradient. (..., P, C)"""

    @abstractmethod
    def hessian(self, X: ArrayT, G: ArrayT, H: ArrayT, U: ArrayT) -> ArrayT:
        """Riemannian Hessian along U from the ambient gradient G and the ambient Hessian along U, H. (..., P, n)"""

    @abstractmethod
    def exp(self, X: ArrayT, U: ArrayT) -> ArrayT:
        """The geodesic that leaves X with velocity U (projected first), at time 1. (..., P, n)"""

    @abstractmethod
    def geodesic_transport(self, X: ArrayT, U: ArrayT, W: ArrayT) -> tuple[ArrayT, ArrayT]:
        """exp(X, U), and W carried parallel along that geodesic: an isometry. (..., P, n) each"""

    @abstractmethod
    def shoot(self, X: Array, Y: Array) -> Shooting:
        """The velocity from X to Y with its convergence verdict."""

    def norm(self, X: ArrayT, U: ArrayT) -> ArrayT:
        """sqrt(g_X(U, U)), zero where rounding makes the square negative. (...)"""
        square = self.inner(X, U, U)
        return namespace(square).sqrt(namespace(square).clip(square, 0, None))

    def log(self, X: ArrayT, Y: ArrayT) -> ArrayT:
        """Tangent U at X with exp(X, U) = Y. (..., P, n). Raises ValueError where shooting missed, and in a backward pass."""
        return logarithm.underived(self.shoot(X, Y).require().vector, X, Y)

    def dist(self, X: ArrayT, Y: ArrayT) -> ArrayT:
        """Length of log(X, Y): the distance where `shoot` says minimising, else a bound. (...)

        Raises as `log`, and in a second backward pass: torch differentiates it once.
        """
        if namespace(X) is not np:
            from manifolds.distance import Distance

            return Distance.apply(X, Y, self)[0]
        return self.norm(X, self.log(X, Y))

    def midpoint(self, X: ArrayT, Y: ArrayT) -> ArrayT:
        """Half way along the geodesic from X to Y. (..., P, n). Raises as `log`."""
        return self.exp(X, self.log(X, Y) / 2)

    def transport(self, X: ArrayT, Y: ArrayT, W: ArrayT) -> ArrayT:
        """Vector transport by projection on the tangent space at Y. (..., P, n)"""
        del X
        return self.project(Y, W)

    def parallel_transport(self, X: ArrayT, Y: ArrayT, W: ArrayT) -> ArrayT:
        """W carried parallel along the geodesic from X to Y. (..., P, n). Raises as `log`."""
        return self.geodesic_transport(X, self.log(X, Y), W)[1]


@dataclass(frozen=True)
class EmbeddedMetric(Metric):
    """The Frobenius metric: sqrt(n) Stiefel x class means, isometrically."""

    @property
    def injectivity_radius(self) -> float:
        """pi sqrt(n)."""
        return geodesics.injectivity_radius(self.layout)

    def inner(self, X: ArrayT, U: ArrayT, V: ArrayT) -> ArrayT:
        """<U, V>_F. (...)"""
        return inner(U, V)

    def flat(self, X: ArrayT, U: ArrayT) -> ArrayT:
        """U itself."""
        del X
        return U

    def project(self, X: ArrayT, Z: ArrayT) -> ArrayT:
        """P(Z), orthogonal."""
        return orthogonal_projection(X, Z, self.layout)

    def gradient(self, X: ArrayT, G: ArrayT) -> ArrayT:
        """P(G)."""
        return orthogonal_projection(X, G, self.layout)

    def mean_gradient(self, M: ArrayT, sums: ArrayT) -> ArrayT:
        """Those of G."""
        del M
        return self.layout.per_class(sums)

    def hessian(self, X: ArrayT, G: ArrayT, H: ArrayT, U: ArrayT) -> ArrayT:
        """P(H - n sym(G C_M X^T) U C_M)."""
        return curvature.embedded_hessian(X, G, H, U, self.layout)

    def exp(self, X: ArrayT, U: ArrayT) -> ArrayT:
        """Closed form."""
        return geodesics.exp(X, self.project(X, U), self.layout)

    def geodesic_transport(self, X: ArrayT, U: ArrayT, W: ArrayT) -> tuple[ArrayT, ArrayT]:
        """Closed form."""
        return geodesics.geodesic_transport(X, self.project(X, U), self.project(X, W), self.layout)

    def shoot(self, X: Array, Y: Array) -> Shooting:
        """In the span of X and Y."""
        return logarithm.shoot_log(X, Y, self.layout)


@dataclass(frozen=True)
class BundleMetric(Metric):
    """The metric that measures across the fibres {S X}: its first-order retraction is the paper's renormalisation."""

    def inner(self, X: ArrayT, U: ArrayT, V: ArrayT) -> ArrayT:
        """<Hor U, Hor V>_F. (...)"""
        return bundle.bundle_inner(X, U, V, self.layout)

    def flat(self, X: ArrayT, U: ArrayT) -> ArrayT:
        """Hor U."""
        return bundle.horizontal(X, U, self.layout)

    def project(self, X: ArrayT, Z: ArrayT) -> ArrayT:
        """Proposition 4's Pi(Z), along the fibre."""
        return oblique_projection(X, Z, self.layout)

    def gradient(self, X: ArrayT, G: ArrayT) -> ArrayT:
        """Pi Pi* G."""
        return bundle.bundle_gradient(X, G, self.layout)

    def mean_gradient(self, M: ArrayT, sums: ArrayT) -> ArrayT:
        """Those of G + sym(M (G Y^T)^T) M Y / n."""
        return self.layout.per_class(sums) + bundle.mean_part(M, sums, self.layout)

    def hessian(self, X: ArrayT, G: ArrayT, H: ArrayT, U: ArrayT) -> ArrayT:
        """Of the Levi-Civita connection of g."""
        return bundle.bundle_hessian(X, G, H, U, self.layout)

    def exp(self, X: ArrayT, U: ArrayT) -> ArrayT:
        """Integrated to rounding."""
        return bundle_geodesics.bundle_exp(X, self.project(X, U), self.layout)

    def geodesic_transport(self, X: ArrayT, U: ArrayT, W: ArrayT) -> tuple[ArrayT, ArrayT]:
        """Integrated to rounding."""
        return bundle_geodesics.bundle_geodesic_transport(X, self.project(X, U), self.project(X, W), self.layout)

    def shoot(self, X: Array, Y: Array) -> Shooting:
        """Along integrated geodesics."""
        return bundle_geodesics.shoot_bundle_log(X, Y, self.layout)


def typical_distance(layout: ClassLayout, P: int) -> float:
    """sqrt(P n), the Frobenius size of the deviations: the scale for a trust region."""
    return math.sqrt(P * layout.n)
