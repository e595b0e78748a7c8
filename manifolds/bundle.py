"""The bundle metric g(U, V) = <Hor U, Hor V>_F: lengths are measured across the fibres {S X : S symmetric}, never along them.

Hor(Z) = Z - S X is the part of Z orthogonal to the fibre, with S the symmetric solution of S A + A S = Z X^T + X Z^T, A = X X^T.
Its gradient of any f is Pi Pi* grad f, with Pi of Proposition 4. Its Levi-Civita connection, from g's first variation: with
L(S) = S A + A S, a curve X(t) carries W(t) parallel along U = dX/dt iff

    dW/dt = -sym(U C_M W^T) X + Pi Pi*(2 L^{-1}(sym(U W^T) - sym(S_U A S_W)) X),

so that a geodesic has U' equal to the right side at W = U. All arrays are (..., P, n); U, V, W tangent at X.
"""

from manifolds.classes import ClassLayout
from manifolds.geometry import oblique_projection, oblique_projection_adjoint
from manifolds.linalg import Array, symmetrize
from manifolds.matrix_functions import gram, inner, lyapunov
from manifolds.precision import at_least_float32


@at_least_float32
def fibre_scale(X: Array, Z: Array) -> Array:
    """S_Z, symmetric, with S_Z X the part of Z along the fibre: S A + A S = Z X^T + X Z^T, A = X X^T. (..., P, P)"""
    return lyapunov(gram(X), 2 * symmetrize(Z @ X.mT))


@at_least_float32
def horizontal(X: Array, Z: Array) -> Array:
    """Hor(Z) = Z - S_Z X, the Frobenius-orthogonal projection off the fibre. (..., P, n)"""
    return Z - fibre_scale(X, Z) @ X


@at_least_float32
def bundle_inner(X: Array, U: Array, V: Array) -> Array:
    """g(U, V) = <Hor U, Hor V>_F = <U, V> - <S_U, V X^T>. (...)"""
    return inner(U, V) - inner(fibre_scale(X, U), V @ X.mT)


@at_least_float32
def bundle_gradient(X: Array, G: Array, layout: ClassLayout) -> Array:
    """Pi Pi* G, the gradient of the bundle metric from the ambient gradient G. (..., P, n)

    For an f that is constant on fibres, such as L_LS, Pi* G = G and this is the paper's Pi(G).
    """
    return oblique_projection(X, oblique_projection_adjoint(X, G, layout), layout)


@at_least_float32
def bundle_hessian(X: Array, G: Array, H: Array, U: Array, layout: ClassLayout) -> Array:
    """Riemannian Hessian along U from the ambient gradient G and the ambient Hessian along U, H. (..., P, n)

    Pi Pi*(H - sym(G X^T) U C_M + S_r U - 2 L^{-1}(sym(A S_U S_r)) X), r = Pi Pi* G; self-adjoint in g.
    """
    r = bundle_gradient(X, G, layout)
    A, S_U, S_r = gram(X), fibre_scale(X, U), fibre_scale(X, r)
    T = 2 * lyapunov(A, symmetrize(A @ S_U @ S_r))
    curved = H - symmetrize(G @ X.mT) @ layout.deviations(U) / layout.n + S_r @ U - T @ X
    return bundle_gradient(X, curved, layout)


@at_least_float32
def bundle_connection(X: Array, U: Array, W: Array, layout: ClassLayout) -> Array:
    """dW/dt of a W carried parallel along a curve of velocity U through X; for W = U a geodesic's acceleration. (..., P, n)"""
    A, S_U, S_W = gram(X), fibre_scale(X, U), fibre_scale(X, W)
    T = 2 * lyapunov(A, symmetrize(U @ W.mT - S_U @ A @ S_W))
    return bundle_gradient(X, T @ X, layout) - symmetrize(layout.deviations(U) @ layout.deviations(W).mT) @ X / layout.n
