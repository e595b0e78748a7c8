"""The unnormalized flow from any start, as its exact closed system for the class means.

H H^T / n = A = E diag(a) E^T is conserved, so that in the frame diag(a)^{-1/2} E^T the class means B (P, C) obey
    dB/dt = a^{-1} (I - B B^T / C) B / (C^2 N).
The state carried is Z = (I - B B^T / C)^{-1} B = frame^{-T} Sigma_W^{-1} M, which obeys
    dZ/dt = (a^{-1} B + (Z (B^T a^{-1} B) + B (B^T a^{-1} Z)) / C) / (C^2 N):
omega^2 is the product of the singular values of B and Z, and nothing cancels however far the collapse has gone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from manifolds.layout import ClassLayout
from manifolds.whitening import principal_deviations
from ufm.features.snr import Snr
from ufm.laws.trajectory import Trajectory, follow

IMPLICIT_UP_TO = 6000  # unknowns for which LSODA may hold its dense Jacobian


@dataclass(frozen=True, eq=False)
class MeanSystem:
    """a (P,), the whitened frame diag(a)^{-1/2} E^T (P, P), and the state at the start, Z (P, C)."""

    a: np.ndarray
    frame: np.ndarray
    Z: np.ndarray
    C: int
    N: int

    @property
    def K(self) -> int:
        """Number of singular values, min(C - 1, P)."""
        return min(self.C - 1, len(self.a))

    def velocity(self, Z: np.ndarray) -> np.ndarray:
        """dZ/dt. (P, C)"""
        B = self._means(*np.linalg.svd(Z, full_matrices=False))
        scaled = B / self.a[:, None]
        inner = scaled.T @ B
        return (scaled + (Z @ inner + B @ (scaled.T @ Z)) / self.C) / (self.C * self.C * self.N)

    def snr(self, Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """omega (K,) and V (C, K). omega^2 = b z with z = b / (1 - b^2 / C)"""
        _, z, Vt = np.linalg.svd(Z, full_matrices=False)
        return np.sqrt(self._shrunk(z) * z)[: self.K], Vt[: self.K].T

    def state_of(self, M: np.ndarray) -> np.ndarray:
        """Z of class means M (P, C) of the same flow, to what 1 - q leaves of float64."""
        B = self.frame @ M
        return np.linalg.solve(np.eye(len(B)) - B @ B.T / self.C, B)

    def _means(self, U: np.ndarray, z: np.ndarray, Vt: np.ndarray) -> np.ndarray:
        return (U * self._shrunk(z)) @ Vt

    def _shrunk(self, z: np.ndarray) -> np.ndarray:
        """The b >= 0 with b / (1 - b^2 / C) = z."""
        return 2 * z / (1 + np.sqrt(1 + 4 * z * z / self.C))


def mean_system(H: np.ndarray, layout: ClassLayout, found: Snr) -> MeanSystem:
    """The system of features H (P, n) with SNR `found`. Raises ValueError for unequal classes."""
    H = np.asarray(H, dtype=np.float64)
    M = layout.means(H) - H.mean(-1, keepdims=True)
    E, deviations = principal_deviations(H - H.mean(-1, keepdims=True))
    solved = found.whitening.apply_transposed(found.whitening.apply(M))  # Sigma_W^{-1} M
    return MeanSystem(deviations**2, E.T / deviations[:, None], deviations[:, None] * (E.T @ solved), layout.C, layout.N)


def run_raw(
    system: MeanSystem, times: np.ndarray, tolerance: float = 1e-11, progress: Callable[[float], None] | None = None
) -> Trajectory:
    """omega at `times` (T,), times[0] the start; every value follows its vector from one step of the solver to the next.

    V is that of the start. KeyboardInterrupt returns the times reached. Raises RuntimeError where the solver fails.
    """
    from scipy.integrate import DOP853, LSODA

    shape, end = system.Z.shape, float(times[-1])
    scale = tolerance * float(abs(system.Z).max())
    omega, V = system.snr(system.Z)
    V0, rows, count = V, np.tile(omega, (len(times), 1)), 1
    solver = (LSODA if system.Z.size <= IMPLICIT_UP_TO else DOP853)(
        lambda t, z: system.velocity(z.reshape(shape)).reshape(-1),
        float(times[0]),
        system.Z.reshape(-1),
        end,
        rtol=tolerance,
        atol=scale,
    )
    message = None
    try:
        while solver.status == "running":
            message = solver.step()
            inside = solver.dense_output()
            while count < len(times) and times[count] <= solver.t:
                rows[count], V = follow(V, *system.snr(inside(times[count]).reshape(shape)))
                count += 1
            _, V = follow(V, *system.snr(solver.y.reshape(shape)))
            if progress is not None:
                progress(solver.t / end)
        if solver.status == "failed":
            raise RuntimeError(f"the class-mean system could not be integrated past t = {solver.t:.6g}: {message}")
    except KeyboardInterrupt:
        pass
    return Trajectory(times[:count], rows[:count], V0, system.C, system.N)


def growth_time(system: MeanSystem, growth: float) -> float:
    """A time by which the smallest omega has grown `growth`-fold: doubling, then bisection, of the integrated flow."""
    start, _ = system.snr(system.Z)
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
