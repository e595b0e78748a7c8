"""One type for every trajectory of the singular values, simulated or measured, so that they compare as equals."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ufm import spectrum


@dataclass(frozen=True, eq=False)
class Trajectory:
    """omega (T, K) at clock values t (T,), K = min(C-1, P), each column one singular value followed in time, descending at first.

    V (C, K) and U (P, K) are the singular vectors at the start; laws (a)-(d) keep them. N is the number of examples a class.
    """

    t: np.ndarray
    omega: np.ndarray
    V: np.ndarray
    C: int
    N: int
    U: np.ndarray | None = None

    @cached_property
    def loss(self) -> np.ndarray:
        """L_LS (T,), Lemma 1."""
        return spectrum.spectral_loss(self.omega, self.C)

    @cached_property
    def loss_nc1(self) -> np.ndarray:
        """L_NC1 (T,), Lemma 1."""
        return spectrum.spectral_loss_nc1(self.omega, self.C)

    @cached_property
    def loss_nc23(self) -> np.ndarray:
        """L_NC2/3 (T,), Lemma 1."""
        return spectrum.spectral_loss_nc23(self.omega, self.C)

    def rows(self, indices: np.ndarray) -> "Trajectory":
        """The same trajectory at some of its times."""
        return Trajectory(self.t[indices], self.omega[indices], self.V, self.C, self.N, self.U)


def follow(previous: np.ndarray, omega: np.ndarray, V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """omega (K,) and V (C, K) reordered so that every singular value follows its right vector from `previous` (C, K).

    Singular values come sorted; where two cross, the order swaps but the vectors do not. Matching: the assignment with the
    largest total |overlap|.
    """
    from scipy.optimize import linear_sum_assignment

    _, order = linear_sum_assignment(-abs(previous.T @ V))
    return omega[order], V[:, order]
