"""The bundle metric g(U, V) = <Hor U, Hor V>_F: lengths are measured across the fibres {S X : S symmetric}, never along them.

Hor(Z) = Z - S X is the part of Z orthogonal to the fibre, with S the symmetric solution of S A + A S = Z X^T + X Z^T, A = X X^T.
Its gradient of any f is Pi Pi* grad f, with Pi of Proposition 4. Its Levi-Civita connection, from g's first variation: a curve
X(t) carries W(t) parallel along U = dX/dt iff, with the class-mean part X_M = M Y of X = X_M + D_X,

    dW/dt = ((sym(U W^T) - sym(S_U A S_W)) X_M - sym(D_U D_W^T) X) / n,

so that a geodesic has U' equal to the right side at W = U. (The first variation gives Pi Pi*(2 L^{-1}(Q) X) with
L(S) = S A + A S; on the manifold that is Q X_M / n.)

On the manifold A = n I + M_w M_w^T, M_w the class means in orthonormal coordinates (P x C): S comes from the singular vectors of
M_w, with no P x P decomposition, right to rounding however large the means are. All arrays are (..., P, n); U, V, W tangent at X.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np

from manifolds.class_centering import ClassLayout
from manifolds.column_split import Centering
from manifolds.embedded.curvature import embedded_hessian
from manifolds.linalg import ArrayT, gram, identity_like, inner, namespace, symmetrize
from manifolds.matrix_functions import lyapunov
from manifolds.precision import at_least_float32
from manifolds.roots import records
from manifolds.spectral import svd_of_few_rows

FEW_ROWS = 32  # of M up to which all P left singular vectors cost less than the calls that do without most of them


@at_least_float32
def fibre_scale(X: ArrayT, Z: ArrayT, layout: Centering) -> ArrayT:
    """S_Z, symmetric, with S_Z X the part of Z along the fibre: S A + A S = Z X^T + X Z^T, A = X X^T. (..., P, P)

    X is on the manifold.
    """
    return rate_of_product(X, Z, layout, symmetrize, 1)


def rate_of_product(X: ArrayT, Z: ArrayT, layout: Centering, part: Callable[[ArrayT], ArrayT], sign: Literal[1, -1]) -> ArrayT:
    """S with S A + A S = Z X^T + sign X Z^T, A = X X^T: symmetric with `part` symmetrize and sign 1, else skew. (..., P, P)"""
    (D, M), (D_Z, M_Z) = layout.parts(X), layout.parts(Z)
    return _rate_of_parts(M, 2 * part(D_Z @ D.mT), M_Z, layout, part, sign)


def _rate_of_parts(
    M: ArrayT, W: ArrayT, M_Z: ArrayT, layout: Centering, part: Callable[[ArrayT], ArrayT], sign: Literal[1, -1]
) -> ArrayT:
    """S with S A + A S = W + M_Z M^T + sign M M_Z^T, A = n I + M M^T. (..., P, P)"""
    if records(M) or records(W):  # singular vectors of equal singular values have no derivative
        return lyapunov(layout.n * identity_like(W, W.shape[-1]) + gram(M), W + 2 * part(M_Z @ M.mT))
    return structured_lyapunov(layout.n, M, W, M_Z, sign)


def structured_lyapunov(n: float, M: ArrayT, W: ArrayT, Z: ArrayT, sign: int = 1) -> ArrayT:
    """The symmetric S with S A + A S = W + Z M^T + M Z^T, A = n I + M M^T; for `sign` -1 the skew one of W + Z M^T - M Z^T.

    M, Z are (..., P, C), W (..., P, P) is symmetric, or skew.
    With M = E diag(s) F^T, E (P, K): S is W / 2n off the range of E, and a correction of rank 2K.
    """
    xp = namespace(M)
    if _are_few_rows(M):
        return _lyapunov_of_few_rows(n, M, W, Z, sign)
    E, s, Ft = xp.linalg.svd(M, full_matrices=False)
    rest = (Z @ Ft.mT) * s[..., None, :]  # Z M^T = rest E^T
    WE = W @ E
    BE = WE + rest + sign * (E @ (rest.mT @ E))  # the right side times E
    inside = E.mT @ BE
    squares = s * s
    across = (BE - E @ inside) / (2 * n + squares[..., None, :])
    corner = inside / (2 * n + squares[..., :, None] + squares[..., None, :])
    # off the range of E: (I - E E^T) W (I - E E^T) / 2n
    half = (E @ (E.mT @ WE) / 2 - WE) / (2 * n) + across + E @ corner / 2
    S = half @ E.mT
    return W / (2 * n) + (S + sign * S.mT)


def _are_few_rows(M: Any) -> bool:
    return isinstance(M, np.ndarray) and M.shape[-2] <= FEW_ROWS


def _left_basis(n: float, M: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """E (..., P, P), s (..., 1, K), F^T of M = E diag(s) F^T, and a_i + a_j of the eigenvalues a of n I + M M^T (..., P, P)."""
    E, s, Ft = svd_of_few_rows(M)
    a = np.full(M.shape[:-1], n, M.dtype)
    a[..., : s.shape[-1]] += s * s
    return E, s[..., None, :], Ft, a[..., :, None] + a[..., None, :]


def _lyapunov_of_few_rows(n: float, M: Any, W: Any, Z: Any, sign: int) -> Any:
    """`structured_lyapunov` in the basis of all left singular vectors, zero singular values included: fewer calls."""
    E, s, Ft, sums = _left_basis(n, M)
    K = s.shape[-1]
    right = E.mT @ (W / 2) @ E
    right[..., :K] += E.mT @ (Z @ Ft.mT[..., :K]) * s
    half = E @ (right / sums) @ E.mT
    return half + sign * half.mT


@at_least_float32
def horizontal(X: ArrayT, Z: ArrayT, layout: Centering) -> ArrayT:
    """Hor(Z) = Z - S_Z X, the Frobenius-orthogonal projection off the fibre. (..., P, n)"""
    return Z - fibre_scale(X, Z, layout) @ X


@at_least_float32
def bundle_inner(X: ArrayT, U: ArrayT, V: ArrayT, layout: Centering) -> ArrayT:
    """g(U, V) = <Hor U, Hor V>_F, without forming Hor: of M, the class means in orthonormal coordinates, and R_U = sym(D_U D^T),

        <D_U, D_V> - <S_U, R_V> - <S_V, R_U> + n <S_U, S_V> + <M_U - S_U M, M_V - S_V M>        (...)

    R vanishes for tangent vectors, and nothing else cancels: <U, V> - <S_U, V X^T>, equal too, leaves eps |U| |V| of what runs
    along the fibre.
    """
    D, M = layout.parts(X)
    lift = _lift_of_few_rows(D, M, layout) if _are_few_rows(M) else partial(_lift_parts, D, M, layout)
    D_U, S_U, R_U, H_U = lift(U)
    if V is U:
        return inner(D_U, D_U) + inner(S_U, layout.n * S_U - 2 * R_U) + inner(H_U, H_U)
    D_V, S_V, R_V, H_V = lift(V)
    return inner(D_U, D_V) + (inner(S_U, layout.n * S_V - R_V) - inner(S_V, R_U)) + inner(H_U, H_V)


def _lift_parts(D: ArrayT, M: ArrayT, layout: Centering, U: ArrayT) -> tuple[ArrayT, ArrayT, ArrayT, ArrayT]:
    """D_U, S_U, sym(D_U D^T) and M_U - S_U M."""
    D_U, M_U = layout.parts(U)
    R = symmetrize(D_U @ D.mT)
    S = _rate_of_parts(M, 2 * R, M_U, layout, symmetrize, 1)
    return D_U, S, R, M_U - S @ M


def _lift_of_few_rows(D: Any, M: Any, layout: Centering) -> Callable[[Any], tuple[Any, Any, Any, Any]]:
    """`_lift_parts` of the U given to it, turned by the left singular vectors E of M: E^T S E, E^T D_U D^T E and E^T (M_U - S M).

    Inner products of these are the same, and no product leads back. S comes from singular values, but M_U - S M from M itself:
    it is least at the S of M, so that the rounding of S hardly shows.
    """
    E, s, Ft, sums = _left_basis(layout.n, M)
    right, turned = Ft.mT[..., : s.shape[-1]] * s, E.mT @ M

    def lift(U: Any) -> tuple[Any, Any, Any, Any]:
        D_U, M_U = layout.parts(U)
        R, H = E.mT @ (D_U @ D.mT) @ E, E.mT @ M_U
        half = R.copy()
        half[..., : right.shape[-1]] += H @ right
        S = (half + half.mT) / sums
        return D_U, S, R, H - S @ turned

    return lift


@at_least_float32
def bundle_gradient(X: ArrayT, G: ArrayT, layout: ClassLayout) -> ArrayT:
    """Pi Pi* G, the gradient of the bundle metric from the ambient gradient G. (..., P, n)

    It is P G + sym(M (G Y^T)^T) M Y / n: it differs from the gradient of the embedded metric in the class means only.
    For an f that is constant on fibres, such as L_LS, Pi* G = G and this is the paper's Pi(G).
    """
    (D, M), (D_G, M_G) = layout.deviations_and_means(X), layout.deviations_and_means(G)
    K = symmetrize(D @ D_G.mT, layout.n)
    del D_G
    return layout.with_means(G - K @ D, mean_part(M, layout.total(M_G), layout))


def mean_part(M: ArrayT, sums: ArrayT, layout: ClassLayout) -> ArrayT:
    """sym(M (G Y^T)^T) M / n, the class means by which Pi Pi* G exceeds P G, from the class sums G Y^T. (..., P, C)"""
    return symmetrize(M @ sums.mT, layout.n) @ M


@at_least_float32
def bundle_hessian(X: ArrayT, G: ArrayT, H: ArrayT, U: ArrayT, layout: ClassLayout) -> ArrayT:
    """Riemannian Hessian along U from the ambient gradient G and the ambient Hessian along U, H. (..., P, n)

    Pi Pi*(H - sym(G X^T) U C_M + S_r U) - sym(A S_U S_r) X_M / n, r = Pi Pi* G; self-adjoint in g. As S_r = sym(M (G Y^T)^T) / n,
    what large class means would cancel is left out: it is the embedded Hessian but for the class means

        S_r M_U + sym(M (H Y^T)^T + M (N Y Y^T)^T S_r - n S_U S_r) M / n,    N = M_U - S_U M
    """
    n, M, M_U = layout.n, layout.means(X), layout.means(U)
    S_r, S_U = symmetrize(M @ layout.sums(G).mT, n), fibre_scale(X, U, layout)
    across = layout.total(M_U - S_U @ M)
    K = symmetrize(M @ (layout.sums(H).mT + across.mT @ S_r) - n * (S_U @ S_r), n)
    return embedded_hessian(X, G, H, U, layout) + layout.spread(S_r @ M_U + K @ M)


@at_least_float32
def bundle_connection(X: ArrayT, U: ArrayT, W: ArrayT, layout: Centering) -> ArrayT:
    """dW/dt of a W carried parallel along a curve of velocity U through X; for W = U a geodesic's acceleration. (..., P, n)"""
    return connection_of_scales(X, U, W, fibre_scale(X, U, layout), fibre_scale(X, W, layout), layout)


def connection_of_scales(X: ArrayT, U: ArrayT, W: ArrayT, S_U: ArrayT, S_W: ArrayT, layout: Centering) -> ArrayT:
    """`bundle_connection` where S_U and S_W are known already. (..., P, n)"""
    across = symmetrize(U @ W.mT - S_U @ _fibre_operator(X, S_W, layout)) @ layout.rest(X)
    return (across - symmetrize(layout.deviations(U) @ layout.deviations(W).mT) @ X) / layout.n


def _fibre_operator(X: ArrayT, S: ArrayT, layout: Centering) -> ArrayT:
    """A S = X X^T S at X on the manifold. (..., P, P)"""
    M = layout.rest_coordinates(X)
    return layout.n * S + M @ (M.mT @ S)
