"""The normalized features manifold {X : X C_M X^T = I_P} as pure functions over numpy and torch, any leading batch axes.

X, Z are (..., P, n) with columns in class blocks; D = n X C_M are the deviations from the class means.
"Renormalize" moves a point, "project" maps a vector. Two projections, for two metrics (docs/mathematics.md):
Proposition 4's oblique Pi, and the Frobenius-orthogonal P.
"""

from manifolds.classes import ClassLayout
from manifolds.linalg import Array, frobenius_norm, identity_like, namespace, symmetrize


def within_covariance(X: Array, layout: ClassLayout) -> Array:
    """Sigma_W = X C_M X^T = D D^T / n. (..., P, P)"""
    D = layout.deviations(X)
    return D @ D.mT / layout.n


def constraint_residual(X: Array, layout: ClassLayout) -> Array:
    """||X C_M X^T - I||_F, zero on the manifold. (...)"""
    return frobenius_norm(within_covariance(X, layout) - identity_like(X, X.shape[-2]))


def renormalize(X: Array, layout: ClassLayout) -> Array:
    """Sigma_W^{-1/2} X, the paper's step back to the manifold along the fibre {S X : S symmetric positive definite}.

    (..., P, n) -> (..., P, n). Raises ValueError where Sigma_W is not positive definite, with its smallest eigenvalue.
    Paper: D.1, Lemma 2.
    """
    eigenvalues, E = namespace(X).linalg.eigh(within_covariance(X, layout))
    smallest, largest = float(eigenvalues.min()), float(eigenvalues.max())
    if not smallest > 0:
        raise ValueError(
            f"Sigma_W is not positive definite (eigenvalues {smallest:.3e} to {largest:.3e}): "
            "the point has no renormalisation; a smaller step or the reduction to the range of Sigma_W is needed"
        )
    return (E / namespace(X).sqrt(eigenvalues)[..., None, :]) @ (E.mT @ X)


def oblique_projection(X: Array, Z: Array, layout: ClassLayout) -> Array:
    """Pi(Z) = Z - 1/2 (X C_M Z^T + Z C_M X^T) X, along the fibre; not self-adjoint in the Frobenius product. (..., P, n)

    The differential of `renormalize` at a point of the manifold. Paper: Proposition 4, Lemma 2.
    """
    return Z - symmetrize(layout.deviations(X) @ Z.mT / layout.n) @ X


def oblique_projection_adjoint(X: Array, W: Array, layout: ClassLayout) -> Array:
    """Pi*(W) = W - 1/2 (W X^T + X W^T) X C_M, the Frobenius adjoint of `oblique_projection`. (..., P, n)"""
    return W - symmetrize(W @ X.mT) @ layout.deviations(X) / layout.n


def orthogonal_projection(X: Array, Z: Array, layout: ClassLayout) -> Array:
    """P(Z) = Z - (n/2) (X C_M Z^T + Z C_M X^T) X C_M, the Frobenius-orthogonal projection on the tangent space. (..., P, n)

    The only one of the two that turns an ambient gradient into the gradient of the embedded (Frobenius) metric.
    """
    D = layout.deviations(X)
    return Z - symmetrize(D @ Z.mT / layout.n) @ D


def tangency_residual(X: Array, Z: Array, layout: ClassLayout) -> Array:
    """||X C_M Z^T + Z C_M X^T||_F, zero for a tangent Z (corrected Proposition 3). (...)"""
    return 2 * frobenius_norm(symmetrize(layout.deviations(X) @ Z.mT / layout.n))
