"""Vector transport by the differentiated retraction, W -> d/ds R_X(U + s W) at s = 0: tangent at R_X(U), linear in W.

With Z the moved point, D its deviations and S = D D^T / n, every retraction of `manifolds.retractions` is A Z, or A D plus means,
with A a function of S: its derivative is A dZ + dA Z with dS = sym(2 D dZ^T) / n and

    A = S^{-1/2}            A dA + dA A = -A^2 dS A^2
    A = L^{-1}, S = L L^T   dA = -low(A dS A^T) A, low the lower triangle with half of the diagonal

X, U, W are (..., P, n), numpy or torch. Equals parallel transport to first order, as projection at the end does.
[Absil, Mahony and Sepulchre 2008, Section 8.1.4]
"""

from collections.abc import Callable
from typing import Any

from manifolds.bundle.connection import horizontal
from manifolds.layout import ClassLayout
from manifolds.linalg import Array, namespace, symmetrize
from manifolds.matrix_functions import gram, inverse_cholesky, inverse_sqrt, lyapunov
from manifolds.precision import at_least_float32
from manifolds.retractions import cholesky_retraction, horizontal_renormalisation, polar_retraction, renormalisation


@at_least_float32
def differentiated_transport(X: Array, U: Array, W: Array, layout: ClassLayout, retraction: Callable[..., Array]) -> Array:
    """D R_X(U)[W] for R = `retraction`, one of the four of `manifolds.retractions`. (..., P, n)

    Raises ValueError for another retraction and where the step loses rank.
    """
    if retraction not in _DERIVATIVES:
        raise ValueError(
            f"the derivative of {getattr(retraction, '__name__', retraction)} is not known: give one of "
            f"{', '.join(known.__name__ for known in _DERIVATIVES)}, or transport by projection (Metric.transport)"
        )
    layout.check_rank(X.shape[-2])
    return _DERIVATIVES[retraction](X, U, W, layout)


def _along_the_fibre(X: Array, U: Array, W: Array, layout: ClassLayout) -> Array:
    Z = X + U
    A, dA = _symmetric_root(layout.deviations(Z), W, layout)
    return A @ W + dA @ Z


def _across_the_fibre(X: Array, U: Array, W: Array, layout: ClassLayout) -> Array:
    return _along_the_fibre(X, horizontal(X, U), horizontal(X, W), layout)


def _polar(X: Array, U: Array, W: Array, layout: ClassLayout) -> Array:
    D = layout.deviations(X + U)
    A, dA = _symmetric_root(D, W, layout)
    return layout.with_means(A @ layout.deviations(W) + dA @ D, layout.means(W))


def _cholesky(X: Array, U: Array, W: Array, layout: ClassLayout) -> Array:
    D, xp = layout.deviations(X + U), namespace(X)
    A = inverse_cholesky(gram(D) / layout.n)
    T = 2 * A @ symmetrize(D @ W.mT) @ A.mT / layout.n
    dA = -(xp.tril(T, -1) + (T - xp.tril(T, -1) - xp.triu(T, 1)) / 2) @ A
    return layout.with_means(A @ layout.deviations(W) + dA @ D, layout.means(W))


def _symmetric_root(D: Array, W: Array, layout: ClassLayout) -> tuple[Array, Array]:
    """A = S^{-1/2} and its derivative along W. (..., P, P) each"""
    A = inverse_sqrt(gram(D) / layout.n)
    square = A @ A
    return A, lyapunov(A, -2 * square @ symmetrize(D @ W.mT) @ square / layout.n)


_DERIVATIVES: dict[Any, Callable[[Array, Array, Array, ClassLayout], Array]] = {
    renormalisation: _along_the_fibre,
    horizontal_renormalisation: _across_the_fibre,
    polar_retraction: _polar,
    cholesky_retraction: _cholesky,
}
