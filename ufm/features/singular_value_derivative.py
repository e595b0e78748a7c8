"""The derivative of the SNR singular values by the features, at a point of the manifold (Lemma 3)."""

from manifolds.class_centering import ClassLayout
from ufm.arrays import ArrayT, FeatureMatrix, LeftVectors, RightVectors, SingularValues


def singular_value_derivative(
    X: FeatureMatrix[ArrayT], layout: ClassLayout, U: LeftVectors[ArrayT], omega: SingularValues[ArrayT], V: RightVectors[ArrayT]
) -> ArrayT:
    """The rows r_j = y_j / N - omega_j x_j C_M of d omega_j = <r_j, dx_j>, for any dX. (K, n)  Paper: Lemma 3

    X (P, n) on the manifold, X C_M X^T = I, in any coordinates; U (P, K), omega (K,), V (C, K) are the SVD of its class means
    less their mean, which is the SNR. x_j, dx_j and y_j are the rows of U^T X, U^T dX and V^T Y: in aligned coordinates those of
    X, dX and Y. So U_j r_j is the gradient of omega_j, where it is not 0 and apart from the others; of values that coincide,
    that of U_j^T SNR V_j for fixed vectors. Raises ValueError for unequal classes, an X of other columns than the layout, and
    vectors that are not as many as values. A batch has further axes before these.
    """
    N, K = layout.N, omega.shape[-1]
    if U.shape[-1] != K or V.shape[-2:] != (layout.C, K):
        shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in (("U", U), ("omega", omega), ("V", V)))
        raise ValueError(f"{shapes}: columns of U and V and entries of omega belong together, and V has C = {layout.C} rows")
    return layout.add_to_means(layout.deviations((U * (omega[..., None, :] / -layout.n)).mT @ X), V.mT / N)
