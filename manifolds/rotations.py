"""The orbits {Q X : Q in O(P)}, seen by each metric: which Omega X, Omega skew, is the part of a tangent vector along the orbit.

What is left, Z - Omega X, is horizontal: it represents a tangent vector of the quotient by O(P). On the manifold
A = X X^T = n I + M M^T, M the class means in orthonormal coordinates (P x C), whose singular vectors keep every digit.
"""

from manifolds.bundle.connection import rate_of_product
from manifolds.column_split import Centering
from manifolds.linalg import ArrayT, gram, identity_like, namespace, skew
from manifolds.precision import at_least_float32
from manifolds.roots import records


@at_least_float32
def rotation_rate(X: ArrayT, Z: ArrayT, layout: Centering) -> ArrayT:
    """The skew Omega with <Omega' X, Z - Omega X>_F = 0 for every skew Omega'. (..., P, P)

    Omega A + A Omega = Z X^T - X Z^T: Z - Omega X is horizontal where Z X^T - Omega A is symmetric.
    """
    return rate_of_product(X, Z, layout, skew, -1)


@at_least_float32
def bundle_rotation_rate(X: ArrayT, Z: ArrayT, layout: Centering) -> ArrayT:
    """The same for the bundle metric: skew(Z X^T A^{-1}), of which the S X of a symmetric S has none. (..., P, P)

    Hor(Z - Omega X) X^T = 0 for a tangent Z: it is orthogonal to the whole of {S X : S any P x P matrix}, fibre and orbit.
    """
    xp = namespace(X)
    (D, M), (D_Z, M_Z) = layout.parts(X), layout.parts(Z)
    W = D_Z @ D.mT
    if records(M):
        A = layout.n * identity_like(W, W.shape[-1]) + gram(M)
        return skew(xp.linalg.solve(A, (W + M_Z @ M.mT).mT).mT)
    E, s, Ft = xp.linalg.svd(M, full_matrices=False)
    s = s[..., None, :]
    WE = W @ E
    inside = WE / (layout.n + s * s) + (M_Z @ Ft.mT) * (s / (layout.n + s * s))
    return skew((W - WE @ E.mT) / layout.n + inside @ E.mT)
