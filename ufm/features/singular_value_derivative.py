"""The derivative of the SNR singular values by the features, at a point of the manifold (Lemma 3)."""

from manifolds.class_centering import ClassLayout
from ufm.arrays import ArrayT, Columns, LeftVectors, RightVectors, SingularValues


def singular_value_derivative(
    X: Columns[ArrayT], layout: ClassLayout, U: LeftVectors[ArrayT], omega: SingularValues[ArrayT], V: RightVectors[ArrayT]
) -> ArrayT:
    """The rows r_j = y_j / N - omega_j x_j C_M of d omega_j = <r_j, dx_j>, for any dX. (K, n)  Paper: Lemma 3

    X (P, n) on the manifold, X C_M X^T = I, in any coordinates; U (P, K), omega (K,), V (C, K) are the SVD of its class means
    less their mean, which is the SNR. x_j, dx_j and y_j are the rows of U^T X, U^T dX and V^T Y: in aligned coordinates those of
    X, dX and Y. So U_j r_j is the gradient of omega_j, where it is not 0 and apart from the others; of values that coincide,
    that of U_j^T SNR V_j for fixed vectors. Raises ValueError for unequal classes, and for an X of other columns than the layout.
    """
    N = layout.N
    return layout.add_to_means(layout.deviations((U * (omega / -layout.n)).mT @ X), V.mT / N)
