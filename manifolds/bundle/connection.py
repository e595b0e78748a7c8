"""The bundle metric g(U, V) = <Hor U, Hor V>_F: lengths are measured across the fibres {S X : S symmetric}, never along them.

Hor(Z) = Z - S X is the part of Z orthogonal to the fibre, with S the symmetric solution of S A + A S = Z X^T + X Z^T, A = X X^T.
Its gradient of any f is Pi Pi* grad f, with Pi of Proposition 4. Its Levi-Civita connection, from g's first variation: a curve
X(t) carries W(t) parallel along U = dX/dt iff, with the class-mean part X_M = M Y of X = X_M + D_X,

    dW/dt = ((sym(U W^T) - sym(S_U A S_W)) X_M - sym(D_U D_W^T) X) / n,

so that a geodesic has U' equal to the right side at W = U. (The first variation gives Pi Pi*(2 L^{-1}(Q) X) with
L(S) = S A + A S; on the manifold that is Q X_M / n.) All arrays are (..., P, n); U, V, W tangent at X.
"""

from manifolds.layout import ClassLayout
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

    It is P G + sym(M (G Y^T)^T) M Y / n: it differs from the gradient of the embedded metric in the class means only.
    For an f that is constant on fibres, such as L_LS, Pi* G = G and this is the paper's Pi(G).
    """
    n, D = layout.n, layout.deviations(X)
    moved = symmetrize(D @ G.mT / n) @ D
    del D
    return G - layout.with_means(moved, -mean_part(layout.means(X), layout.sums(G), layout))


def mean_part(M: Array, sums: Array, layout: ClassLayout) -> Array:
    """sym(M (G Y^T)^T) M / n, the class means by which Pi Pi* G exceeds P G, from the class sums G Y^T. (..., P, C)"""
    return symmetrize(M @ sums.mT) @ M / layout.n


@at_least_float32
def bundle_hessian(X: Array, G: Array, H: Array, U: Array, layout: ClassLayout) -> Array:
    """Riemannian Hessian along U from the ambient gradient G and the ambient Hessian along U, H. (..., P, n)

    Pi Pi*(H - sym(G X^T) U C_M + S_r U) - sym(A S_U S_r) X_M / n, r = Pi Pi* G; self-adjoint in g.
    """
    n, r = layout.n, bundle_gradient(X, G, layout)
    S_U, S_r = fibre_scale(X, U), fibre_scale(X, r)
    curved = H - symmetrize(G @ X.mT) @ layout.deviations(U) / n + S_r @ U
    return bundle_gradient(X, curved, layout) - symmetrize(gram(X) @ S_U @ S_r) @ _mean_part(X, layout) / n


@at_least_float32
def bundle_connection(X: Array, U: Array, W: Array, layout: ClassLayout) -> Array:
    """dW/dt of a W carried parallel along a curve of velocity U through X; for W = U a geodesic's acceleration. (..., P, n)"""
    return connection_of_scales(X, U, W, fibre_scale(X, U), fibre_scale(X, W), layout)


def connection_of_scales(X: Array, U: Array, W: Array, S_U: Array, S_W: Array, layout: ClassLayout) -> Array:
    """`bundle_connection` where S_U and S_W are known already. (..., P, n)"""
    across = symmetrize(U @ W.mT - S_U @ gram(X) @ S_W) @ _mean_part(X, layout)
    return (across - symmetrize(layout.deviations(U) @ layout.deviations(W).mT) @ X) / layout.n


def _mean_part(X: Array, layout: ClassLayout) -> Array:
    """X_M = M Y. (..., P, n)"""
    return X - layout.deviations(X)
