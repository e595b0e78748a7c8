"""Geodesics of the embedded (Frobenius) metric: exp, velocity, parallel transport.

The manifold is isometric to sqrt(n) Stiefel (the rows of D, Euclidean metric) x R^{P x C} (class means, free and flat). So a
geodesic is a straight line on the means and, with Q = D / sqrt(n), V = U_D / sqrt(n), A = Q V^T and S = V V^T, the curve

    Q(t)^T = [Q^T V^T] exp(t [[A, -S], [I, A]]) [I; 0] exp(-t A)          Edelman, Arias and Smith 1998, Eq. 2.42

on the deviations. X, U, W are (..., P, n); U and W must be tangent at X (project first).
"""

import math

from manifolds.column_split import MeanSplit
from manifolds.linalg import ArrayT, block, gram, identity_like, namespace, skew
from manifolds.matrix_functions import matrix_exp
from manifolds.precision import at_least_float32
from manifolds.spectral import concrete

TAYLOR_TERMS = 19  # 1/20! is below the rounding of float64 for steps of norm at most 1


def injectivity_radius(layout: MeanSplit) -> float:
    """pi sqrt(n): shorter geodesics are minimising and unique. Embedded metric, in units of X.

    The Stiefel manifold's pi (Zimmermann and Stoye 2024), scaled by sqrt(n).
    """
    return math.pi * math.sqrt(layout.n)


@at_least_float32
def exp(X: ArrayT, U: ArrayT, layout: MeanSplit) -> ArrayT:
    """The point at time 1 of the geodesic that leaves X with velocity U. (..., P, n)

    Exact for every length. The rounding of X off the manifold is removed as well, so that long walks do not drift.
    """
    D_X, D_U = layout.deviations(X), layout.deviations(U)
    alpha, beta = _coefficients(gram(D_X) / layout.n, D_X @ D_U.mT / layout.n, gram(D_U) / layout.n)
    return alpha @ D_X + beta @ D_U + layout.spread(layout.means(X) + layout.means(U))


def stiefel_exp(Q: ArrayT, V: ArrayT) -> ArrayT:
    """The geodesic at time 1 on matrices with orthonormal rows Q (..., P, n), Euclidean metric, V tangent at Q. (..., P, n)"""
    alpha, beta = _coefficients(gram(Q), Q @ V.mT, gram(V))
    return alpha @ Q + beta @ V


def _coefficients(G: ArrayT, QV: ArrayT, S: ArrayT) -> tuple[ArrayT, ArrayT]:
    """alpha, beta (..., P, P) of Q(1) = alpha Q + beta V from Q Q^T, Q V^T, V V^T; orthonormal to rounding, whatever Q's is."""
    P = G.shape[-1]
    A, identity = skew(QV), identity_like(G, P)
    frame = matrix_exp(block([[A, -S], [identity + 0 * A, A]]))[..., :, :P] @ matrix_exp(-A)
    alpha, beta = frame[..., :P, :].mT, frame[..., P:, :].mT
    product = alpha @ (G @ alpha.mT + QV @ beta.mT) + beta @ (QV.mT @ alpha.mT + S @ beta.mT)
    correction = (3 * identity - product) / 2  # Newton's step for product^{-1/2}, product = I up to rounding
    return correction @ alpha, correction @ beta


@at_least_float32
def geodesic_transport(X: ArrayT, U: ArrayT, W: ArrayT, layout: MeanSplit) -> tuple[ArrayT, ArrayT]:
    """(exp(X, U), W transported parallel along that geodesic). (..., P, n) each

    In the moving frame of the two one-parameter groups that make the geodesic, the equation of parallel transport has constant
    coefficients (Nguyen and Sommer 2024); its exponential acts on two P x P matrices, summed to rounding.
    Class means are flat: their part of W does not change. An isometry of tangent spaces.
    """
    root, M = math.sqrt(layout.n), layout.means(W)
    Q, V = layout.deviations(X) / root, layout.deviations(U) / root
    moved = stiefel_transport(Q, V, layout.deviations(W))
    return exp(X, U, layout), moved + layout.spread(M)


def stiefel_transport(Q: ArrayT, V: ArrayT, W: ArrayT) -> ArrayT:
    """Parallel transport of W along the geodesic of V on matrices with orthonormal rows, from time 0 to 1. (..., P, n)"""
    frame, A, R = _moving_frame(Q, V)
    P = Q.shape[-2]
    coordinates = frame.mT @ W.mT
    rest = W.mT - frame @ coordinates  # outside the span of Q and V nothing moves
    a, b = _transport_equation(A, R, skew(coordinates[..., :P, :]), coordinates[..., P:, :], 1.0)
    turned = _rotation(A, R) @ namespace(Q).concat([a, b], -2) @ matrix_exp(-A)
    return (frame @ turned + rest).mT


def stiefel_transport_back(Q: ArrayT, V: ArrayT, W: ArrayT) -> ArrayT:
    """Parallel transport of W, tangent at the end of the geodesic of V, back to its start Q. (..., P, n)"""
    frame, A, R = _moving_frame(Q, V)
    P = Q.shape[-2]
    coordinates = frame.mT @ W.mT
    rest = W.mT - frame @ coordinates
    turned = _rotation(A, R).mT @ coordinates @ matrix_exp(A)
    a, b = _transport_equation(A, R, skew(turned[..., :P, :]), turned[..., P:, :], -1.0)
    return (frame @ namespace(Q).concat([a, b], -2) + rest).mT


def _moving_frame(Q: ArrayT, V: ArrayT) -> tuple[ArrayT, ArrayT, ArrayT]:
    """Orthonormal columns [Q^T B] whose span holds V^T, A = Q V^T and R = B^T V^T. (..., n, r), (..., P, P), (..., r - P, P)"""
    xp, P = namespace(Q), Q.shape[-2]
    A = skew(Q @ V.mT)
    B = xp.linalg.qr(xp.concat([Q.mT, V.mT - Q.mT @ A], -1))[0][..., P:]
    return xp.concat([Q.mT, B], -1), A, B.mT @ V.mT


def _rotation(A: ArrayT, R: ArrayT) -> ArrayT:
    """exp([[2A, -R^T], [R, 0]]), the orthogonal factor that carries the frame to the end of the geodesic."""
    corner = R @ R.mT
    return matrix_exp(block([[2 * A, -R.mT], [R, 0 * corner]]))


def _transport_equation(A: ArrayT, R: ArrayT, a: ArrayT, b: ArrayT, time: float) -> tuple[ArrayT, ArrayT]:
    """Solve a' = 3/2 [a, A] + skew(R^T b), b' = b A - R a, whose operator is skew-adjoint, from 0 to `time` by Taylor steps."""
    xp = namespace(A)
    bound = 3 * _norm_bound(A) + 2 * _norm_bound(R)
    steps = max(1, math.ceil(float(concrete(xp.max(bound)) or 0)))
    for _ in range(steps):
        term_a, term_b = a, b
        for k in range(1, TAYLOR_TERMS + 1):
            h = time / (steps * k)
            term_a, term_b = h * (1.5 * (term_a @ A - A @ term_a) + skew(R.mT @ term_b)), h * (term_b @ A - R @ term_a)
            a, b = a + term_a, b + term_b
    return a, b


def _norm_bound(a: ArrayT) -> ArrayT:
    """sqrt(||a||_1 ||a||_inf) >= ||a||_2. (...)"""
    xp = namespace(a)
    if a.shape[-2] == 0:
        return xp.sum(a, (-2, -1))
    absolute = abs(a)
    return xp.sqrt(xp.amax(absolute.sum(-1), -1) * xp.amax(absolute.sum(-2), -1))
