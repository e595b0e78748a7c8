"""The law of a linear last layer H = A Z over fixed features Z (d x n): a closed system in A (P x d), any class sizes.

    dA/dt = -grad_H L_LS(A Z) Z^T = -W^T (W A S - R),   W = R A^T (A S A^T)^{-1},   S = Z Z^T / n,   R = Ybar Z^T / n,

with Z and the one-hot labels centred, and L_LS = 1/2 Ave ||W h + b - y||^2 at the least-squares classifier. As
grad_H L_LS H^T = 0, **A A^T is conserved**; L_LS falls and omega(A Z) ends at omega(Z), the bound that no linear layer
passes. On the way a single omega_j may fall.
"""

from dataclasses import dataclass

import numpy as np

from manifolds.representation import short_repr
from ufm.features.statistics import ClassStatistics
from ufm.ledger.discrimination import form_omega


@dataclass(frozen=True, eq=False, repr=False)
class LastLayer:
    """S (d, d), R (C, d) and the statistics of the features below."""

    S: np.ndarray
    R: np.ndarray
    stats: ClassStatistics[np.ndarray]
    __repr__ = short_repr

    @classmethod
    def over(cls, stats: ClassStatistics[np.ndarray]) -> "LastLayer":
        """The system over features with these (numpy) statistics. Raises ValueError for a singular Sigma_W."""
        smallest = float(np.linalg.eigvalsh(stats.sigma_w)[0])
        if not smallest > 0:
            raise ValueError(f"Sigma_W of the features has the eigenvalue {smallest:.2e}: reduce them to their range first")
        return cls(stats.sigma_t, stats.priors[:, None] * stats.centred_means.T, stats)

    def classifier(self, A: np.ndarray) -> np.ndarray:
        """W (C, P), least squares on A Z. Raises ValueError where A Z has fewer than P dimensions."""
        inner = A @ self.S @ A.T
        if np.linalg.matrix_rank(A) < len(A):
            raise ValueError(f"A {A.shape} has rank {np.linalg.matrix_rank(A)}: its rows must be independent")
        return np.linalg.solve(inner, A @ self.R.T).T

    def velocity(self, A: np.ndarray) -> np.ndarray:
        """dA/dt. (P, d)"""
        W = self.classifier(A)
        return -W.T @ (W @ A @ self.S - self.R)

    def omega(self, A: np.ndarray) -> np.ndarray:
        """omega_j of A Z. (C - 1,)"""
        M = A @ self.stats.centred_means
        return form_omega(M.T @ np.linalg.solve(A @ self.stats.sigma_w @ A.T, M))

    def bound(self) -> np.ndarray:
        """omega_j of Z. (C - 1,)"""
        return self.omega(np.eye(self.stats.P))

    def follow(self, A: np.ndarray, times: np.ndarray, rtol: float = 1e-10) -> np.ndarray:
        """A at increasing times from A at times[0]. (len(times), P, d). Raises ValueError where the integration fails."""
        from scipy.integrate import solve_ivp

        def velocity(t: float, a: np.ndarray) -> np.ndarray:
            return self.velocity(a.reshape(A.shape)).ravel()

        self.classifier(A)
        done = solve_ivp(
            velocity,
            (times[0], times[-1]),
            A.ravel(),
            method="DOP853",
            t_eval=times,
            rtol=rtol,
            atol=1e-12,
        )
        if not done.success:
            raise ValueError(f"the integration stopped at t = {done.t[-1]:.3g}: {done.message}")
        return done.y.T.reshape(-1, *A.shape)
