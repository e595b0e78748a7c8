"""Everything on the central path that the SNR singular values determine: the loss, its parts (Lemma 1), NC1-NC3 along a law.

omega is (..., K), K = min(C - 1, P); numpy or torch; leading axes (times) are a batch. Lambda is 0 here.
"""

from manifolds.linalg import Array, ArrayT, namespace
from ufm.arrays import RightVectors, Scalars, SingularValues
from ufm.features.vectors import maximal_angle, norms, pair_cosines, sample_deviation, self_duality


def spectral_loss(omega: SingularValues[ArrayT], C: int) -> Scalars[ArrayT]:
    """L_LS = 1/2 sum_j 1 / (omega_j^2 + C) over all C - 1 values, missing ones being 0. (...)  Paper: Lemma 1"""
    return 0.5 * (1 / (omega * omega + C)).sum(-1) + _missing(omega, C)


def spectral_loss_nc1(omega: SingularValues[ArrayT], C: int) -> Scalars[ArrayT]:
    """L_NC1 = 1/2 sum_j omega_j^2 / (C + omega_j^2)^2. (...)  Paper: Lemma 1"""
    return 0.5 * ((omega / (C + omega * omega)) ** 2).sum(-1)


def spectral_loss_nc23(omega: SingularValues[ArrayT], C: int) -> Scalars[ArrayT]:
    """L_NC2/3 = 1/2 sum_j (1/C) (omega_j^2 / (omega_j^2 + C) - 1)^2 = 1/2 sum_j C / (C + omega_j^2)^2. (...)  Paper: Lemma 1"""
    return 0.5 * C * ((C + omega * omega) ** -2).sum(-1) + _missing(omega, C)


def loss_slope(omega: SingularValues[ArrayT], C: int) -> SingularValues[ArrayT]:
    """f_j = omega_j / (C + omega_j^2)^2 = -dL_LS / d omega_j. (..., K)"""
    return omega / (C + omega * omega) ** 2


def spectral_nc1(omega: SingularValues[ArrayT]) -> Scalars[ArrayT]:
    """NC1 = tr(Sigma_W Sigma_B^+) / C = sum_j omega_j^{-2} over the non-zero values. (...)"""
    moving = omega > 0
    xp = namespace(omega)
    return xp.where(moving, 1 / xp.where(moving, omega, 1.0) ** 2, 0.0).sum(-1)


def spectral_equinorm(omega: SingularValues[ArrayT], V: RightVectors[ArrayT]) -> Scalars[ArrayT]:
    """NC2 equinorm of the class means U diag(omega) V^T: Std_c / Avg_c of their norms. (...)  V (C, K) or (..., C, K)"""
    lengths = norms(_means(omega, V))
    return sample_deviation(lengths) / lengths.mean(-1)


def spectral_maximal_angle(omega: SingularValues[ArrayT], V: RightVectors[ArrayT]) -> Scalars[ArrayT]:
    """NC2 maximal angle of the class means: Avg_{c != c'} |cos(mu_c, mu_c') + 1/(C-1)|. (...)  V (C, K) or (..., C, K)"""
    return maximal_angle(_means(omega, V))


def spectral_equiangular(omega: SingularValues[ArrayT], V: RightVectors[ArrayT]) -> Scalars[ArrayT]:
    """NC2 equiangularity of the class means: Std over pairs of cos(mu_c, mu_c'). (...)  V (C, K) or (..., C, K)"""
    return sample_deviation(pair_cosines(_means(omega, V)))


def spectral_nc3(omega: SingularValues[ArrayT], C: int) -> Scalars[ArrayT]:
    """NC3 = || W_LS^T/||W_LS||_F - M/||M||_F ||_F^2, with W_LS = V diag(omega / (C + omega^2)) U^T. (...)"""
    return self_duality((omega / (C + omega * omega))[..., None, :], omega[..., None, :])


def _missing(omega: SingularValues[Array], C: int) -> float:
    """1/(2C) for every singular value that P < C - 1 leaves out."""
    return max(C - 1 - omega.shape[-1], 0) / (2 * C)


def _means(omega: SingularValues[ArrayT], V: RightVectors[ArrayT]) -> RightVectors[ArrayT]:
    """diag(omega) V^T, the class means in the basis U. (..., K, C)"""
    return omega[..., :, None] * V.mT
