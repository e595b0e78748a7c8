"""The generalized Stiefel manifold {X (..., P, n) : X B X^T = I_P} of a positive semidefinite form B = G G^T of rank at least P.

With F = X G and K the coordinates of X's part in the kernel of B, F has orthonormal rows and K is free. In the metric

    g(U, V) = s <U B, V>_F + <U_ker, V_ker>_F

the manifold is, isometrically, sqrt(s) Stiefel x a flat space: everything is the embedded geometry of the normalized features
manifold, which is the instance B = C_M, s = n (there g is the Frobenius product), carried over by that isometry. A definite B
has no kernel. An ambient gradient E becomes E M^{-1}, M = s B + the projection on the kernel, before it is projected: that is a
preconditioner where B is ill-conditioned.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from manifolds import normalized_features
from manifolds.array import Array, ArrayT, Columns, RowProducts, Scalars
from manifolds.column_split import SplitColumns, check_form_rank
from manifolds.embedded import curvature, geodesics, logarithm
from manifolds.forms import SemidefiniteForm
from manifolds.linalg import array_like, inner, namespace
from manifolds.metric import Metric
from manifolds.precision import at_least_float32
from manifolds.retractions import Move, as_retraction, nearest_point
from manifolds.rotations import rotation_rate
from manifolds.shooting import Shooting, double
from manifolds.spectral import LostDirections

MAPS = ("columns", "rank", "factors", "scale", "apply", "range_coordinates", "kernel_coordinates", "combine", "range_gradient")


@dataclass(frozen=True)
class GeneralizedStiefelMetric(Metric):
    """The metric g of the manifold of `form`, and its maps. Raises ValueError for what is no form."""

    form: SemidefiniteForm

    def __post_init__(self) -> None:
        missing = [name for name in MAPS if not hasattr(self.form, name)]
        if isinstance(self.form, type):
            raise ValueError(f"the form is the class {self.form.__name__} itself: give a value, as {self.form.__name__}(...)")
        if missing:
            raise ValueError(
                f"{type(self.form).__name__} is no SemidefiniteForm: it lacks {', '.join(missing)}; make one of a matrix by "
                "MatrixForm.of_factor(G) or MatrixForm.of_matrix(B)"
            )

    def check_shape(self, P: int, columns: int) -> None:
        """Raise ValueError where X (..., P, columns) cannot be on the manifold: another n, or rank(B) < P."""
        self._check_columns(np.empty((0, columns)))
        check_form_rank(self.form.rank, P)

    def dimension(self, P: int) -> int:
        """P (rank(B) + dim ker(B)) - P (P + 1) / 2 = P n - P (P + 1) / 2. Raises ValueError where rank(B) < P."""
        check_form_rank(self.form.rank, P)
        return P * self.form.columns - P * (P + 1) // 2

    def typical_distance(self, P: int) -> float:
        """sqrt(P s), the norm of the constrained part of a point."""
        return (P * self.form.scale) ** 0.5

    @property
    def injectivity_radius(self) -> float:
        """pi sqrt(s)."""
        return np.pi * self.form.scale**0.5

    def constraint_residual(self, X: Columns[ArrayT]) -> Scalars[ArrayT]:
        """||X B X^T - I||_F. (...)"""
        return normalized_features.constraint_residual(*self._split(X))

    def tangency_residual(self, X: Columns[ArrayT], Z: Columns[ArrayT]) -> Scalars[ArrayT]:
        """||X B Z^T + Z B X^T||_F. (...)"""
        x, split = self._split(X)
        return normalized_features.tangency_residual(x, self._coordinates(Z), split)

    @at_least_float32
    def nearest_point(self, Z: Columns[ArrayT]) -> Columns[ArrayT]:
        """The point nearest to Z in the norm of g: (Z B Z^T)^{-1/2} Z, the kernel's part unchanged. (..., P, n)"""
        self.check_shape(*Z.shape[-2:])
        with _rank_of_the_form():
            return self._point(nearest_point(*self._split(Z)))

    @at_least_float32
    def retract(self, X: Columns[ArrayT], U: Columns[ArrayT], retraction: Move[ArrayT] | str = "polar") -> Columns[ArrayT]:
        """R_X(U), by the name of a retraction or a function (z, u, split) of coordinates. (..., P, n)

        "polar" is of second order; "cholesky" of first and cheaper; "renormalisation" scales the kernel's part too.
        Raises ValueError where the step loses rank.
        """
        move = self.as_retraction(retraction)
        x, split = self._split(X)
        with _rank_of_the_form():
            return self._point(move(x, self._coordinates(U), split))

    def as_retraction(self, choice: Move[ArrayT] | str) -> Move[ArrayT]:
        """The retraction of that name, or the function itself. Raises ValueError for the horizontal renormalisation."""
        move = as_retraction(choice)
        if getattr(move, "lifts", False):
            raise ValueError("the horizontal renormalisation belongs to the bundle metric of a ClassLayout: take 'polar'")
        return move

    def random_point(self, P: int, rng: np.random.Generator, batch: tuple[int, ...] = ()) -> Columns[np.ndarray]:
        """F uniform (Haar) on its Stiefel manifold, K standard normal. (*batch, P, n)"""
        self.check_shape(P, self.form.columns)
        form = self.form
        Z = rng.standard_normal((*batch, P, form.columns))
        K = form.kernel_coordinates(Z)
        F = rng.standard_normal(form.range_coordinates(Z).shape)
        left, _, right = np.linalg.svd(form.range_coordinates(form.combine(F, 0 * K)), full_matrices=False)  # on the rows of G
        return self.nearest_point(form.combine(left @ right, K))

    @at_least_float32
    def inner(self, X: Columns[ArrayT], U: Columns[ArrayT], V: Columns[ArrayT]) -> Scalars[ArrayT]:
        """s <U B, V> + <U_ker, V_ker>. (...)"""
        del X
        u = self._coordinates(U)
        return inner(u, u if V is U else self._coordinates(V))

    @at_least_float32
    def flat(self, X: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """U M, M = s B + the projection on the kernel. (..., P, n)"""
        del X
        form, K = self.form, self.form.kernel_coordinates(U)
        return form.scale * form.apply(U) + form.combine(0 * form.range_coordinates(U), K)

    @at_least_float32
    def project(self, X: Columns[ArrayT], Z: Columns[ArrayT]) -> Columns[ArrayT]:
        """Z - sym(X B Z^T) X_ran, orthogonal in g. (..., P, n)"""
        x, split = self._split(X)
        return self._point(normalized_features.orthogonal_projection(x, self._coordinates(Z), split))

    @at_least_float32
    def gradient(self, X: Columns[ArrayT], G: Columns[ArrayT]) -> Columns[ArrayT]:
        """The projection of G M^{-1}: g(gradient, U) = <G, U>_F. (..., P, n)"""
        x, split = self._split(X)
        return self._point(normalized_features.orthogonal_projection(x, self._covector(G), split))

    @at_least_float32
    def hessian(self, X: Columns[ArrayT], G: Columns[ArrayT], H: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """Of the Levi-Civita connection of g. (..., P, n)"""
        x, split = self._split(X)
        return self._point(curvature.embedded_hessian(x, self._covector(G), self._covector(H), self._coordinates(U), split))

    @at_least_float32
    def rotation_rate(self, X: Columns[ArrayT], Z: Columns[ArrayT]) -> RowProducts[ArrayT]:
        """As for the normalized features, in the coordinates of F and K. (..., P, P)"""
        x, split = self._split(X)
        return rotation_rate(x, self._coordinates(Z), split)

    @at_least_float32
    def exp(self, X: Columns[ArrayT], U: Columns[ArrayT]) -> Columns[ArrayT]:
        """Closed form. (..., P, n)"""
        x, split = self._split(X)
        return self._point(geodesics.exp(x, normalized_features.orthogonal_projection(x, self._coordinates(U), split), split))

    @at_least_float32
    def geodesic_transport(
        self, X: Columns[ArrayT], U: Columns[ArrayT], W: Columns[ArrayT]
    ) -> tuple[Columns[ArrayT], Columns[ArrayT]]:
        """Closed form. (..., P, n) each"""
        x, split = self._split(X)
        u, w = (normalized_features.orthogonal_projection(x, self._coordinates(Z), split) for Z in (U, W))
        Y, moved = geodesics.geodesic_transport(x, u, w, split)
        return self._point(Y), self._point(moved)

    def shoot(self, X: Columns[Array], Y: Columns[Array]) -> Shooting:
        """In the span of X and Y; `gap` in the norm of g."""
        x, split = self._split(double(X))
        shooting = logarithm.shoot_log(x, self._coordinates(double(Y)), split)
        return replace(shooting, vector=array_like(self._point(shooting.vector), X))

    def _split(self, X: ArrayT) -> tuple[ArrayT, SplitColumns]:
        """The coordinates z = [sqrt(s) F, K] of X, and how they are split."""
        form = self.form
        self._check_columns(X)
        F = form.range_coordinates(X) * form.scale**0.5
        z = namespace(X).concat([F, form.kernel_coordinates(X)], -1)
        return z, SplitColumns(form.factors, form.scale, form.rank)

    def _check_columns(self, X: Array) -> None:
        if X.shape[-1] != self.form.columns:
            raise ValueError(f"X has {X.shape[-1]} columns but the form {self.form.columns}: X is (..., P, n)")

    def _coordinates(self, X: ArrayT) -> ArrayT:
        return self._split(X)[0]

    def _covector(self, G: ArrayT) -> ArrayT:
        """The gradient by the coordinates z, from the gradient by X."""
        form = self.form
        self._check_columns(G)
        return namespace(G).concat([form.range_gradient(G) / form.scale**0.5, form.kernel_coordinates(G)], -1)

    def _point(self, z: ArrayT) -> ArrayT:
        """The X of coordinates z."""
        return self.form.combine(z[..., : self.form.factors] / self.form.scale**0.5, z[..., self.form.factors :])


@contextmanager
def _rank_of_the_form() -> Iterator[None]:
    """What the whitening says of Sigma_W, said of X B X^T."""
    try:
        yield
    except LostDirections as error:
        raise ValueError(f"X B X^T is not positive definite: {error.args[1]}; take a smaller step, or another start") from None
