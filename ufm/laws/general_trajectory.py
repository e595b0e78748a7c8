"""A whole trajectory of the general law: closed for equal classes, integrated with a reported error bound otherwise."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from manifolds.linalg import Array, epsilon, namespace
from ufm.features import central_path
from ufm.laws.domain import wide
from ufm.laws.general import GeneralLaw
from ufm.laws.integrator import arcs
from ufm.laws.kernel_ratio import RenormalizedKernelRatio
from ufm.laws.trajectory import Trajectory

ACCURACY = 1e-10  # largest relative error bound of a singular value
SHARE = 0.01  # of it, that a single step may make at first
FINEST = 1e-15  # error of one step below which rounding decides
CLOSED_ERROR = 1e-13  # of the closed law (tests/ufm/laws)


@dataclass(frozen=True, eq=False)
class GeneralTrajectory:
    """omega, u and the singular vectors at times t (T,), all descending at every time; K = min(C - 1, P).

    omega (T, K)  singular values of Eq. 9's Sigma_W^{-1/2} (M - mu_G 1^T), mu_G the mean over examples
    u (T, K)      eigenvalues of G = S^T S; omega^2 / C for equal classes
    error         bound on the relative error of every omega and sqrt(u), made up of the integrator's local errors
    Z (T, m, C)   S_t = U_0 Z_t, where U_0 (P, m) holds the m left vectors of the start that move; (m, C) if V is frozen
    """

    law: GeneralLaw
    t: Array
    omega: Array
    u: Array
    error: float
    U_0: Array
    Z: Array

    @property
    def K(self) -> int:
        """Number of singular values."""
        return self.omega.shape[-1]

    def S(self, index: int) -> Array:
        """S = M diag(sqrt(pi)) at one of the times. (P, C)"""
        if self.Z.ndim == 3:
            return self.U_0 @ self.Z[index]
        m = self.Z.shape[0]
        return (self.U_0 * self.u[index, :m] ** 0.5) @ self.Z

    def class_means(self, index: int) -> Array:
        """Class means of the renormalized features at one of the times. (P, C)"""
        return self.law.class_means(self.S(index))
