"""The renormalized law for any class sizes, any ridge on the classifier and any class-block kernel.

n_c examples in class c, pi_c = n_c / n, q = sqrt(pi), Pi = diag(pi), J = I - q q^T, s = 1 + lambda. With features renormalized
(Sigma_W = I) and of global mean zero, S = M diag(q) (P x C), G = S^T S and K = (s I + G)^{-1}, the flow
dX/dt = -Pi(grad L_LS Theta), Theta = 1 on the deviations and r on the class means, freezes the deviations and obeys

    dS/dt = (1/n) S K Pi K (r s I + G) J.

S q = 0 throughout. The eigenvalues u_j of G are omega_j^2 / C for equal classes, where the law is closed (`ufm.laws.closed`,
`ufm.laws.kernel_ratio`). r = infinity is the limit of the flow on the clock t r: the gradient flow of the embedded metric.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from manifolds.layout import ClassLayout
from manifolds.linalg import Array, identity_like, namespace
from ufm.laws.domain import wide
from ufm.laws.one_vector import ComplementBasis


@dataclass(frozen=True)
class GeneralLaw:
    """Class sizes n_c, ridge lambda on the classifier (not on its bias), and r, the kernel on class means over that on deviations.

    Raises ValueError for fewer than two classes, an empty class, a negative or infinite ridge, and r <= 0.
    """

    counts: tuple[int, ...]
    ridge: float = 0.0
    kernel_ratio: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", ClassLayout(self.counts).sizes)
        object.__setattr__(self, "ridge", float(self.ridge))
        object.__setattr__(self, "kernel_ratio", float(self.kernel_ratio))
        if not 0 <= self.ridge < math.inf:
            raise ValueError(f"ridge = {self.ridge}: lambda must be finite and cannot be negative")
        if not self.kernel_ratio > 0:
            raise ValueError(f"kernel_ratio = {self.kernel_ratio}: r must be positive; math.inf is the embedded flow on the clock t r")

    @property
    def C(self) -> int:
        """Number of classes."""
        return len(self.counts)

    @property
    def n(self) -> int:
        """Number of examples."""
        return sum(self.counts)

    @property
    def balanced(self) -> bool:
        """Whether all classes have the same size, so that the law is closed."""
        return min(self.counts) == max(self.counts)

    @property
    def s(self) -> float:
        """1 + lambda"""
        return 1.0 + self.ridge

    @cached_property
    def priors(self) -> np.ndarray:
        """pi_c = n_c / n. (C,)"""
        return np.asarray(self.counts, dtype=np.float64) / self.n

    def scaled_means(self, M: Array) -> Array:
        """S = (M - mu_G 1^T) diag(sqrt(pi)) of class means M (P, C) of renormalized features. (P, C), float64"""
        M = self._checked(M)
        pi = self._priors_like(M)
        return (M - (M @ pi)[:, None]) * pi**0.5

    def class_means(self, S: Array) -> Array:
        """M = S diag(1 / sqrt(pi)), whose singular values are the omega_j of Eq. 9. (..., P, C) -> (..., P, C)"""
        return S / self._priors_like(S) ** 0.5

    def velocity(self, S: Array) -> Array:
        """dS/dt = (1/n) S K Pi K (r s I + G) J. (P, C) -> (P, C)"""
        S = self._checked(S)
        basis = self._basis(S)
        return basis.expand(self.reduced_velocity(basis.reduce(S)))

    def reduced_velocity(self, Z: Array) -> Array:
        """dZ/dt of Z = U^T S Q, U any frozen orthonormal columns and Q (C, C-1) an orthonormal basis orthogonal to q.

        (m, C-1) -> (m, C-1), K and J never written out for r = 1.
        """
        BP = self._gain(Z) / self.n
        if self.kernel_ratio == 1:
            return BP
        C = Z.shape[-1]
        BPK = namespace(Z).linalg.solve(Z.mT @ Z + self.s * identity_like(Z, C), BP.mT).mT
        if math.isinf(self.kernel_ratio):
            return self.s * BPK
        return BP + ((self.kernel_ratio - 1) * self.s) * BPK

    def _gain(self, Z: Array) -> Array:
        """S K Pi J in the basis: (s I + Z Z^T)^{-1} Z Q^T Pi Q. (m, C-1)"""
        basis = self._basis(Z)
        B = namespace(Z).linalg.solve(Z @ Z.mT + self.s * identity_like(Z, Z.shape[-2]), Z)
        return basis.reduce(basis.expand(B) * self._priors_like(Z))

    def limit_gram(self) -> np.ndarray:
        """(I - 1 pi^T)(I - pi 1^T), the limit of M^T M / (2 t / n): Gram matrix of the centred one-hot e_c - pi. (C, C)"""
        centring = np.eye(self.C) - self.priors[:, None]
        return centring.T @ centring

    def _basis(self, like: Array) -> ComplementBasis:
        return ComplementBasis.of(self._priors_like(like) ** 0.5)

    def _priors_like(self, x: Array) -> Array:
        xp = namespace(x)
        return self.priors if xp is np else xp.as_tensor(self.priors, dtype=x.dtype, device=x.device)

    def _checked(self, M: Array) -> Array:
        M = wide(M)
        if M.ndim != 2 or M.shape[1] != self.C:
            raise ValueError(f"shape {tuple(M.shape)}: (P, C) with C = {self.C} columns is needed, one a class")
        if not bool(namespace(M).isfinite(M).all()):
            raise ValueError("the class means have NaN or infinite entries")
        return M
