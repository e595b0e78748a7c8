"""The unnormalized flow from any start, for any class sizes and class-block kernel, as its closed system for the class means.

dH/dt = -grad L_LS(H) Theta at lambda = 0, with Theta 1 on the deviations and r on the class means, conserves H Theta^{-1} H^T: in
S = M diag(q), q = sqrt(pi), Pi = diag(pi), J = I - q q^T, A = Sigma_W + S S^T / r = E diag(a) E^T is constant. In the frame
F = diag(a)^{-1/2} E^T, with B = F S / sqrt(r) and T = I + (r - 1) B B^T,

    dB/dt = (r/n) a^{-1} T^{-1} B Pi (J - r B^T T^{-1} B).

The state carried is Z = (I - B B^T)^{-1} B = F^{-T} Sigma_W^{-1} S / sqrt(r), which obeys, with Bt = T^{-1} B and
X = a^{-1} Bt Pi (J - (r - 1) B^T Bt),

    dZ/dt = (r/n) (X + Z (B^T X) + Bt Pi (Bt^T a^{-1} Z)):

G = S^T Sigma_W^{-1} S = r B^T Z, whose eigenvalues are r times the product of the singular values of B and Z, and nothing cancels
however far the collapse has gone.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from manifolds.class_centering import ClassLayout
from manifolds.representation import short_repr
from manifolds.whitening import principal_deviations
from ufm.features.sharded import FactoredStatistics
from ufm.features.snr import Snr
from ufm.laws.general import GeneralLaw


@dataclass(frozen=True, eq=False, repr=False)
class MeanSystem:
    """a (P,), the whitened frame diag(a)^{-1/2} E^T (P, P), the state at the start Z (P, C), class sizes, and r."""

    a: np.ndarray
    frame: np.ndarray
    Z: np.ndarray
    counts: tuple[int, ...]
    kernel_ratio: float = 1.0
    __repr__ = short_repr

    @property
    def C(self) -> int:
        """Number of classes."""
        return len(self.counts)

    @property
    def n(self) -> int:
        """Number of examples."""
        return sum(self.counts)

    @property
    def K(self) -> int:
        """Number of singular values, min(C - 1, P)."""
        return min(self.C - 1, len(self.a))

    @cached_property
    def moving(self) -> int:
        """How many singular values of Z at the start are not rounding of zeros; their number is the rank of Z at every time."""
        z = np.linalg.svdvals(self.Z)
        return int((z[: self.K] > max(self.Z.shape) * np.finfo(np.float64).eps * z[0]).sum())

    @cached_property
    def _pi(self) -> np.ndarray:
        return np.asarray(self.counts, dtype=np.float64) / self.n

    @cached_property
    def _q(self) -> np.ndarray:
        return np.sqrt(self._pi)

    @property
    def sigma_t(self) -> np.ndarray:
        """The conserved A = H Theta^{-1} H^T / n, in its eigenvectors: Sigma_T for r = 1. (P,)"""
        return self.a

    def velocity(self, Z: np.ndarray) -> np.ndarray:
        """dZ/dt. (P, C)

        Of the values that move alone: an error of Z in the others, however small beside Z, would count as one of order 1 in b.
        """
        U, z, Vt = np.linalg.svd(Z, full_matrices=False)
        U, z, Vt = U[:, : self.moving], z[: self.moving], Vt[: self.moving]
        b, r = _shrunk(z), self.kernel_ratio
        damping = (1 - b * b) + r * b * b
        B, Bt = (U * b) @ Vt, (U * (b / damping)) @ Vt
        X = (Bt * self._pi) / self.a[:, None]
        if r != 1:
            X = X - ((X @ Vt.T) * ((r - 1) * b * b / damping)) @ Vt
        X = X - np.outer(X @ self._q, self._q)
        return (r / self.n) * (X + Z @ (B.T @ X) + (Bt * self._pi) @ (Bt.T @ (Z / self.a[:, None])))

    def snr(self, Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """omega (K,) and V (C, K) of Eq. 9's Sigma_W^{-1/2} (M - mu_G 1^T)."""
        u, Vt = self.gram_spectrum(Z)
        if min(self.counts) == max(self.counts):
            return np.sqrt(self.C * u), Vt.T
        _, omega, Vt = np.linalg.svd(np.sqrt(u)[:, None] * Vt / self._q, full_matrices=False)
        return omega, Vt.T

    def gram_spectrum(self, Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues u (K,) of G = S^T Sigma_W^{-1} S and their vectors, in rows (K, C). u = r b z with z = b / (1 - b^2)"""
        _, z, Vt = np.linalg.svd(Z, full_matrices=False)
        return (self.kernel_ratio * _shrunk(z) * z)[: self.K], Vt[: self.K]

    def left_vectors(self, Z: np.ndarray, omega: np.ndarray, V: np.ndarray) -> np.ndarray:
        """The left vectors (P, K) of Eq. 9's matrix that go with omega (K,) and V (C, K); columns of zeros where omega = 0.

        Sigma_W = R R^T with R = F^{-1} (I - B B^T)^{1/2}, whose polar factor Q has Sigma_W^{-1/2} S = Q R^{-1} S.
        """
        U, z, Vt = np.linalg.svd(Z, full_matrices=False)
        b, moving = _shrunk(z), omega > 0
        shrunk = np.sqrt(np.divide(b, z, out=np.ones_like(z), where=z > 0))  # sqrt(1 - b^2)
        left, _, right = np.linalg.svd(self.frame.T * self.a @ (np.eye(len(U)) + (U * (shrunk - 1)) @ U.T))
        inner = (np.sqrt(self.kernel_ratio * b * z)[:, None] * Vt) @ (V / self._q[:, None])
        return left @ (right @ (U @ (inner / np.where(moving, omega, 1.0)))) * moving

    def losses(self, Z: np.ndarray) -> tuple[float, float]:
        """L_NC1 and L_NC2/3 at lambda = 0."""
        u, Vt = self.gram_spectrum(Z)
        p = (Vt * Vt) @ self._pi
        rest = 1 - float(self._pi @ self._pi) - float(p.sum()) if self.K < self.C - 1 else 0.0
        nc1, nc23 = GeneralLaw(self.counts).parts_of(u, p, np.asarray(rest))
        return float(nc1), float(nc23)

    def state_of(self, M: np.ndarray) -> np.ndarray:
        """Z of class means M (P, C) less mu_G of the same flow, to what 1 - b^2 leaves of float64."""
        B = self.frame @ (M * self._q) / math.sqrt(self.kernel_ratio)
        return np.linalg.solve(np.eye(len(B)) - B @ B.T, B)


def mean_system(H: np.ndarray, layout: ClassLayout, measured: Snr[np.ndarray], kernel_ratio: float = 1.0) -> MeanSystem:
    """The system of features H (P, n) with SNR `measured`, any class sizes. Raises ValueError for kernel_ratio <= 0."""
    if not 0 < kernel_ratio < math.inf:
        raise ValueError(f"kernel_ratio = {kernel_ratio}: r must be positive and finite")
    H = np.asarray(H, dtype=np.float64)
    H = H - H.mean(-1, keepdims=True)
    M = layout.means(H)
    S, scaled = M * np.sqrt(layout.priors), layout.add_to_means(H.copy(), M * (kernel_ratio**-0.5 - 1))
    E, deviations = principal_deviations(scaled)
    return _system(E, deviations, S, layout, measured, kernel_ratio)


def factored_mean_system(statistics: FactoredStatistics, measured: Snr[np.ndarray], kernel_ratio: float = 1.0) -> MeanSystem:
    """`mean_system` of features known by their statistics alone, with their SNR. Raises ValueError for kernel_ratio <= 0."""
    if not 0 < kernel_ratio < math.inf:
        raise ValueError(f"kernel_ratio = {kernel_ratio}: r must be positive and finite")
    S = statistics.centred_means * np.sqrt(statistics.layout.priors)
    E, deviations = principal_deviations(np.hstack([statistics.root, S / math.sqrt(kernel_ratio)]), 1.0)
    return _system(E, deviations, S, statistics.layout, measured, kernel_ratio)


def _system(
    E: np.ndarray, deviations: np.ndarray, S: np.ndarray, layout: ClassLayout, measured: Snr[np.ndarray], kernel_ratio: float
) -> MeanSystem:
    solved = measured.whitening.apply_transposed(measured.whitening.apply(S)) / math.sqrt(kernel_ratio)  # Sigma_W^{-1} S
    Z = deviations[:, None] * (E.T @ solved)
    return MeanSystem(deviations**2, E.T / deviations[:, None], Z, layout.sizes, float(kernel_ratio))


def decayed_clock(t: np.ndarray, feature_decay: float) -> np.ndarray:
    """tau = (exp(2 lambda_H t) - 1) / (2 lambda_H): with feature decay lambda_H, omega(t) is the undecayed omega(tau).

    dH/dt = -grad L_LS(H) Theta - lambda_H H has H(t) = exp(-lambda_H t) H_undecayed(tau). t in any shape. Raises ValueError for a
    negative decay, OverflowError where tau overflows float64.
    """
    if not feature_decay >= 0:
        raise ValueError(f"feature_decay = {feature_decay}: lambda_H cannot be negative")
    t = np.asarray(t, dtype=np.float64)
    if feature_decay == 0:
        return t
    if t.size and 2 * feature_decay * float(t.max()) > 700:
        raise OverflowError(
            f"t = {float(t.max()):g} with feature_decay = {feature_decay:g}: the time without decay overflows float64"
        )
    return np.expm1(2 * feature_decay * t) / (2 * feature_decay)


def _shrunk(z: np.ndarray) -> np.ndarray:
    """The b >= 0 with b / (1 - b^2) = z."""
    return 2 * z / (1 + np.sqrt(1 + 4 * z * z))
