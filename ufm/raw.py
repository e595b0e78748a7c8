"""The unnormalized flow from any start, as its exact closed system for the class means.

H H^T / n = A is conserved, so that with B = A^{-1/2} M (P, C) the flow dH/dt = -grad L_LS(H) is
    dB/dt = A^{-1} (I - B B^T / C) B / (C^2 N),
a P x C system, and omega^2 = C q / (1 - q) with q the squared singular values of B / sqrt(C).
"""

from dataclasses import dataclass

import numpy as np

from manifolds.classes import ClassLayout
from ufm.trajectory import Trajectory, follow

RESOLVED = 1e-10  # 1 - q below which omega cannot be told from B in float64
IMPLICIT_UP_TO = 6000  # unknowns for which LSODA may hold its dense Jacobian


@dataclass(frozen=True)
class MeanSystem:
    """A = E diag(a) E^T, the whitened frame diag(a)^{-1/2} E^T (P, P), and the class means in it, B = frame M (P, C)."""

    a: np.ndarray
    frame: np.ndarray
    B: np.ndarray
    C: int
    N: int

    def velocity(self, B: np.ndarray) -> np.ndarray:
        """dB/dt. (P, C)"""
        return (B - B @ (B.T @ B) / self.C) / (self.C * self.C * self.N * self.a[:, None])


def mean_system(H: np.ndarray, layout: ClassLayout) -> MeanSystem:
    """The system of centred features H (P, n). Raises ValueError for unequal classes and for a singular total covariance."""
    H = np.asarray(H, dtype=np.float64)
    H = H - H.mean(-1, keepdims=True)
    values, E = np.linalg.eigh(H @ H.T / layout.n)
    if not values[0] > len(H) * np.finfo(np.float64).eps * values[-1]:
        raise ValueError(f"Sigma_T is singular (eigenvalues {values[0]:.2e} to {values[-1]:.2e}): use the reduction (--reduce)")
    frame = E.T / np.sqrt(values)[:, None]
    return MeanSystem(values, frame, frame @ layout.means(H), layout.C, layout.N)


def snr_of_means(B: np.ndarray, C: int) -> tuple[np.ndarray, np.ndarray]:
    """omega (K,) and V (C, K) from B (P, C), means whitened by the total covariance. Raises ValueError past resolution."""
    K = min(C - 1, len(B))
    _, b, Vt = np.linalg.svd(B, full_matrices=False)
    q = b[:K] ** 2 / C
    if not 1 - q[0] > RESOLVED:
        raise ValueError(f"1 - q = {1 - q[0]:.1e}: the flow has collapsed past what float64 resolves; end it earlier")
    return np.sqrt(C * q / (1 - q)), Vt[:K].T


def run_raw(system: MeanSystem, times: np.ndarray, tolerance: float = 1e-11) -> Trajectory:
    """omega at `times` (T,), times[0] the start; V is that of the start.

    Raises ValueError past float64's resolution, RuntimeError where the solver fails.
    """
    from scipy.integrate import solve_ivp

    shape = system.B.shape
    found = solve_ivp(
        lambda t, x: system.velocity(x.reshape(shape)).reshape(-1),
        (float(times[0]), float(times[-1])),
        system.B.reshape(-1),
        method="LSODA" if system.B.size <= IMPLICIT_UP_TO else "DOP853",
        t_eval=times,
        rtol=tolerance,
        atol=tolerance * float(abs(system.B).max()),
    )
    if not found.success:
        raise RuntimeError(f"the class-mean system could not be integrated: {found.message}")
    first, V0 = snr_of_means(system.B, system.C)
    omega, V = np.empty((len(times), len(first))), V0
    for i, B in enumerate(found.y.T.reshape(-1, *shape)):
        omega[i], V = follow(V, *snr_of_means(B, system.C))
    return Trajectory(times, omega, V0, system.C, system.N)


def growth_time(system: MeanSystem, growth: float) -> float:
    """A time by which the smallest omega has grown `growth`-fold: found by doubling and bisection of the integrated flow.

    Raises ValueError where the flow cannot be followed that far.
    """
    start, _ = snr_of_means(system.B, system.C)
    target = start[-1] * growth

    def smallest(t: float) -> float:
        return float(run_raw(system, np.array([0.0, t]), 1e-8).omega[-1].min())

    high = system.C**2 * system.N * np.log(growth) * float(system.a.min())
    while smallest(high) < target:
        high *= 2
    low = high / 2 if smallest(high / 2) < target else 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if smallest(middle) < target else (low, middle)
        if high - low < 1e-9 * high:
            break
    return high
