"""Ways from a tangent vector back to the manifold, and one way home.

A retraction is a function (X, U, layout) -> point, so that any of these can be handed to an adapter:

    renormalisation       (Z C_M Z^T)^{-1/2} Z        first order; Z = X + U
    horizontal_renormalisation   the same of X + Hor U    first order; with the bundle gradient exactly the scheme of D.1
    polar_retraction      polar factor of deviations  second order for the embedded metric; the nearest point
    cholesky_retraction   L^{-1} on deviations        first order; the cheapest

In the first two the class means are scaled with the deviations, in the others they are free and simply add.
X, U are (..., P, n). All raise ValueError where a step loses rank, with the number of lost directions.
"""

from manifolds.bundle.connection import horizontal
from manifolds.geometry import renormalize
from manifolds.layout import ClassLayout
from manifolds.linalg import Array, identity_like, namespace
from manifolds.matrix_functions import check_positive_definite, gram, inverse_sqrt, sylvester_congruence
from manifolds.precision import at_least_float32


@at_least_float32
def renormalisation(X: Array, U: Array, layout: ClassLayout) -> Array:
    """Sigma_W(X + U)^{-1/2} (X + U), defined for every ambient U. (..., P, n)  [paper, D.1]"""
    return renormalize(X + U, layout)


@at_least_float32
def horizontal_renormalisation(X: Array, U: Array, layout: ClassLayout) -> Array:
    """Renormalisation of X + Hor U: across the fibres, then back along the one that was reached. (..., P, n)

    With U = -eta Pi Pi* G of a loss that is constant on fibres, Hor U = -eta G: the discrete scheme of D.1, exactly.
    """
    return renormalize(X + horizontal(X, U), layout)


@at_least_float32
def nearest_point(Z: Array, layout: ClassLayout) -> Array:
    """The point nearest to Z in the Frobenius norm: S^{-1/2} D on the deviations D of Z, S = D D^T / n, and Z's means.

    (..., P, n) -> (..., P, n). Raises ValueError where S is singular (the nearest point is not unique) and where n - C < P.
    """
    layout.check_rank(Z.shape[-2])
    M = layout.means(Z)
    D = layout.deviations(Z)
    nearest = inverse_sqrt(gram(D) / layout.n) @ D
    del D
    return layout.with_means(nearest, M)


@at_least_float32
def polar_retraction(X: Array, U: Array, layout: ClassLayout) -> Array:
    """Nearest point to X + U: the polar factor of its deviations and its own means. (..., P, n)  [Absil-Malick 2012]"""
    return nearest_point(X + U, layout)


@at_least_float32
def cholesky_retraction(X: Array, U: Array, layout: ClassLayout) -> Array:
    """L^{-1} D with D D^T / n = L L^T on the deviations D of X + U, and its means. (..., P, n)  [Sato-Aihara 2019]"""
    layout.check_rank(X.shape[-2])
    Z = X + U
    M, D = layout.means(Z), layout.deviations(Z)
    S = gram(D) / layout.n
    check_positive_definite(namespace(S).linalg.eigvalsh(S), "Sigma_W")
    return layout.with_means(namespace(S).linalg.solve(namespace(S).linalg.cholesky(S), D), M)


@at_least_float32
def inverse_renormalisation(X: Array, Y: Array, layout: ClassLayout) -> Array:
    """The tangent U at X with renormalisation(X, U) = Y: U = S Y - X, S K + K^T S = 2 I, K = Y C_M X^T. (..., P, n)

    Exists for Y near X; raises ValueError where S is not positive definite, with its smallest eigenvalue.
    """
    return _inverse_scale(layout.deviations(X), layout.deviations(Y), layout) @ Y - X


@at_least_float32
def inverse_polar_retraction(X: Array, Y: Array, layout: ClassLayout) -> Array:
    """The tangent U at X with polar_retraction(X, U) = Y: S D_Y - D_X on deviations, the difference on means. (..., P, n)

    S K + K^T S = 2 I with K = D_Y D_X^T / n. Exists for Y near X; raises ValueError where S is not positive definite.
    """
    D_X, D_Y = layout.deviations(X), layout.deviations(Y)
    return layout.with_means(_inverse_scale(D_X, D_Y, layout) @ D_Y - D_X, layout.means(Y) - layout.means(X))


def _inverse_scale(D_X: Array, D_Y: Array, layout: ClassLayout) -> Array:
    """The symmetric positive definite S that puts S D_Y - D_X into the tangent space at X. (..., P, P)"""
    K = D_Y @ D_X.mT / layout.n
    S = sylvester_congruence(K, 2 * identity_like(K, K.shape[-1]))
    eigenvalues = namespace(S).linalg.eigvalsh(S)
    check_positive_definite(eigenvalues, "the scale S of the inverse retraction (the points are too far apart)")
    return S
