"""Aligned SNR coordinates, in which the SNR matrix is diag(omega) (Definitions 3 to 5, Observations 1 to 3)."""

from manifolds.class_centering import ClassLayout
from manifolds.linalg import ArrayT, namespace
from ufm.arrays import FeatureMatrix, LeftVectors, RightVectors


def aligned_coordinates(X: FeatureMatrix[ArrayT], layout: ClassLayout, U: LeftVectors[ArrayT], V: RightVectors[ArrayT]) -> ArrayT:
    """U^T X (V kron I_N), in which the class means are diag(omega) (Definitions 3-5). X (P, n), U (P, K), V (C, K) -> (K, K N)

    The paper takes K = C with P = C; any K columns give the corresponding rows and blocks. Needs equal classes.
    """
    blocks = (U.mT @ X).reshape(U.shape[1], layout.C, layout.N)
    return namespace(X).einsum("kcn,cj->kjn", blocks, V).reshape(U.shape[1], V.shape[1] * layout.N)
