"""What the singular values and vectors say of loss and collapse, simulated and measured alike."""

import numpy as np

from ufm.features import spectral_loss

SPECTRUM_MEASURES = ("spread", "loss", "loss_nc1", "loss_nc23", "nc1", "nc2_equinorm", "nc2_equiangular", "nc2_maxangle", "nc3")


def spectra(omega: np.ndarray, V: np.ndarray, C: int) -> dict[str, np.ndarray]:
    """max omega / min omega, L_LS and its parts, NC1 to NC3 of the renormalized features, (T,) each. omega (T, K), V (T, C, K)"""
    return {
        "spread": omega.max(-1) / omega.min(-1),
        "loss": spectral_loss.spectral_loss(omega, C),
        "loss_nc1": spectral_loss.spectral_loss_nc1(omega, C),
        "loss_nc23": spectral_loss.spectral_loss_nc23(omega, C),
        "nc1": spectral_loss.spectral_nc1(omega),
        "nc2_equinorm": spectral_loss.spectral_equinorm(omega, V),
        "nc2_equiangular": spectral_loss.spectral_equiangular(omega, V),
        "nc2_maxangle": spectral_loss.spectral_maximal_angle(omega, V),
        "nc3": spectral_loss.spectral_nc3(omega, C),
    }


def nc4_along(deviations: np.ndarray, labels: np.ndarray, omega: np.ndarray, V: np.ndarray) -> np.ndarray:
    """NC4 (T,): share of examples that W_LS and the nearest class mean class differently, along a law from measured features.

    The laws keep whitened deviations and move means: X = D + U diag(omega) V^T Y, of which only U^T X counts for either rule.
    deviations U^T D (K, n), labels (n,), omega (T, K), V (C, K)
    """
    C = len(V)
    shares = np.empty(len(omega))
    for k, values in enumerate(omega):
        means = values[:, None] * V.T  # U^T M
        x = deviations + means[:, labels]
        logits = (V * (values / (C + values**2))) @ x
        nearest = ((means * means).sum(0)[:, None] / 2 - means.T @ x).argmin(0)
        shares[k] = (logits.argmax(0) != nearest).mean()
    return shares
