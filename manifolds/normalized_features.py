"""The normalized features manifold {X : X C_M X^T = I_P} as pure functions over numpy and torch, any leading batch axes.

X, Z are (..., P, n) with columns in class blocks; D = n X C_M are the deviations from the class means.
"Renormalize" moves a point, "project" maps a vector. Two projections, for two metrics (docs/mathematics.md):
Proposition 4's oblique Pi, and the Frobenius-orthogonal P. Half precision is computed in float32 inside, and so under autocast.
"""

from manifolds.arguments import require_class_layout
from manifolds.array import ArrayT, Columns, RowProducts, Scalars
from manifolds.class_centering import ClassLayout, whole_number
from manifolds.column_split import Centering, MeanSplit
from manifolds.linalg import frobenius_norm, gram, identity_like, symmetrize
from manifolds.precision import at_least_float32
from manifolds.roots import SYMMETRIC, whitened


def dimension(layout: ClassLayout, P: int) -> int:
    """P n - P (P + 1) / 2, the dimension of the manifold. Raises ValueError where it is empty: n - C < P."""
    require_class_layout(layout).check_rank(whole_number(P, "P"))
    return P * layout.n - P * (P + 1) // 2


@at_least_float32
def within_covariance(X: Columns[ArrayT], layout: MeanSplit) -> RowProducts[ArrayT]:
    """Sigma_W = X C_M X^T = D D^T / n. (..., P, P)"""
    return layout.summed(gram(layout.deviations(X))) / layout.n


@at_least_float32
def constraint_residual(X: Columns[ArrayT], layout: MeanSplit) -> Scalars[ArrayT]:
    """||X C_M X^T - I||_F, zero on the manifold. (...)"""
    return frobenius_norm(within_covariance(X, layout) - identity_like(X, X.shape[-2]))


@at_least_float32
def renormalize(X: Columns[ArrayT], layout: MeanSplit) -> Columns[ArrayT]:
    """Sigma_W^{-1/2} X, the paper's step back to the manifold along the fibre {S X : S symmetric positive definite}.

    (..., P, n) -> (..., P, n), differentiable in torch. Raises ValueError where Sigma_W is not positive definite, with the
    number of lost directions, and where n - C < P. Paper: D.1, Lemma 2.
    """
    layout.check_rank(X.shape[-2])
    # deviations and means are mapped apart: mapped together, the means' rounding, times ||A||, would land in the deviations
    return layout.with_means(*whitened(*layout.deviations_and_means(X), layout, SYMMETRIC))


@at_least_float32
def oblique_projection(X: Columns[ArrayT], Z: Columns[ArrayT], layout: Centering) -> Columns[ArrayT]:
    """Pi(Z) = Z - 1/2 (X C_M Z^T + Z C_M X^T) X, along the fibre; not self-adjoint in the Frobenius product. (..., P, n)

    The differential of `renormalize` at a point of the manifold. Paper: Proposition 4, Lemma 2.
    """
    return Z - _normal_part(layout.deviations(X), Z, layout) @ X


@at_least_float32
def oblique_projection_adjoint(X: Columns[ArrayT], W: Columns[ArrayT], layout: Centering) -> Columns[ArrayT]:
    """Pi*(W) = W - 1/2 (W X^T + X W^T) X C_M, the Frobenius adjoint of `oblique_projection`. (..., P, n)"""
    return W - symmetrize(W @ X.mT) @ layout.deviations(X) / layout.n


@at_least_float32
def orthogonal_projection(X: Columns[ArrayT], Z: Columns[ArrayT], layout: Centering) -> Columns[ArrayT]:
    """P(Z) = Z - (n/2) (X C_M Z^T + Z C_M X^T) X C_M, the Frobenius-orthogonal projection on the tangent space. (..., P, n)

    The only one of the two that turns an ambient gradient into the gradient of the embedded (Frobenius) metric.
    """
    D = layout.deviations(X)
    return Z - _normal_part(D, Z, layout) @ D


@at_least_float32
def tangency_residual(X: Columns[ArrayT], Z: Columns[ArrayT], layout: Centering) -> Scalars[ArrayT]:
    """||X C_M Z^T + Z C_M X^T||_F, zero for a tangent Z (corrected Proposition 3). (...)"""
    return 2 * frobenius_norm(_normal_part(layout.deviations(X), Z, layout))


def _normal_part(D: ArrayT, Z: ArrayT, layout: Centering) -> ArrayT:
    """sym(X C_M Z^T) from the deviations of both: class means, however large, leave no rounding in it. (..., P, P)"""
    return symmetrize(D @ layout.deviations(Z).mT, layout.n)
