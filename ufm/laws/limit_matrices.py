"""Where the renormalized flow ends (Theorem 3, Corollary 2, Eqs. 11 and 12): the limits of the SNR matrix and of the features.

How fast omega diverges (Corollary 1) is `Law.asymptote` of `ufm.laws.singular_value_dynamics`.
"""

from manifolds.class_centering import ClassLayout
from ufm.arrays import ArrayT, ClassMeans, FeatureMatrix, LeftVectors, RightVectors


def snr_limit(U: LeftVectors[ArrayT], V: RightVectors[ArrayT]) -> ClassMeans[ArrayT]:
    """lim SNR_t / omega_max(t) = U V^T, with the singular vectors of the start. U (P, K), V (C, K) -> (P, C)

    With K = C - 1 its columns are a simplex ETF: (U V^T)^T (U V^T) = I - 11^T/C (NC2). Source: Eq. 11.
    Raises ValueError where U and V have different numbers of columns, or fewer than C - 1: with P < C - 1 no ETF fits.
    """
    if U.shape[-1] != V.shape[-1]:
        raise ValueError(f"U has {U.shape[-1]} columns, V {V.shape[-1]}: a left and a right one a singular value are needed")
    C, K = V.shape[-2:]
    if K < C - 1:
        raise ValueError(f"{K} singular vectors for C = {C} classes: the limit needs C - 1 = {C - 1}, so P >= C - 1")
    return U @ V.mT


def renormalized_features_limit(U: LeftVectors[ArrayT], V: RightVectors[ArrayT], layout: ClassLayout) -> FeatureMatrix[ArrayT]:
    """lim X_t / omega_max(t) = (U V^T) kron 1_N^T: every example at its class mean (NC1). (P, n) in class order

    Source: Eq. 12, for equal classes. Raises as `snr_limit`, and ValueError for unequal classes, whose limit is another one.
    """
    if not layout.balanced:
        raise ValueError(f"class sizes {layout.sizes}: Eq. 12 is for equal classes; the general law has the limit of others")
    return layout.spread(snr_limit(U, V))
