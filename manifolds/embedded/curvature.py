"""Second-order geometry of the embedded (Frobenius) metric: Weingarten map and Hessian. Arrays are (..., P, n)."""

from manifolds.column_split import MeanSplit
from manifolds.linalg import ArrayT, symmetrize
from manifolds.normalized_features import orthogonal_projection
from manifolds.precision import at_least_float32


@at_least_float32
def weingarten(X: ArrayT, U: ArrayT, V: ArrayT, layout: MeanSplit) -> ArrayT:
    """-P(T D_U), the derivative of P along the tangent U applied to the normal V = T D_X, T = sym(V D_X^T) / n. (..., P, n)

    [Absil, Mahony and Trumpf 2013]
    """
    T = symmetrize(layout.deviations(V) @ layout.deviations(X).mT) / layout.n
    return -orthogonal_projection(X, T @ layout.deviations(U), layout)


@at_least_float32
def embedded_hessian(X: ArrayT, G: ArrayT, H: ArrayT, U: ArrayT, layout: MeanSplit) -> ArrayT:
    """P(H - n sym(G C_M X^T) U C_M): Riemannian Hessian along U from the ambient gradient G and ambient Hessian along U, H.

    (..., P, n), tangent; self-adjoint in the Frobenius product.
    """
    T = symmetrize(layout.deviations(G) @ layout.deviations(X).mT) / layout.n
    return orthogonal_projection(X, H - T @ layout.deviations(U), layout)
