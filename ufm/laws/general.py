"""The renormalized law for any class sizes, any ridge on the classifier and any class-block kernel.

n_c examples in class c, pi_c = n_c / n, q = sqrt(pi), Pi = diag(pi), J = I - q q^T, s = 1 + lambda. With features renormalized
(Sigma_W = I) and of global mean zero, S = M diag(q) (P x C), G = S^T S and K = (s I + G)^{-1}, the flow
dX/dt = -Pi(grad L_LS Theta), Theta = 1 on the deviations and r on the class means, freezes the deviations and obeys

    dS/dt = (1/n) S K Pi K (r s I + G) J.

S q = 0 throughout. The eigenvalues u_j of G are omega_j^2 / C for equal classes, where the law is closed
(`ufm.laws.singular_value_dynamics`, `ufm.laws.kernel_ratio`). r = infinity is the limit of the flow on the clock
t r: the gradient flow of the embedded metric.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from manifolds.array import Array, ArrayT, ClassColumns, PerClass, Scalars
from manifolds.class_centering import ClassLayout
from manifolds.linalg import array_like, gram, identity_like, inverse_cholesky, namespace
from ufm.arrays import ClassGram, ClassMeans, OmegaInTime, ReducedMeans, SingularValues, Times, Weights
from ufm.laws.class_counts import ClassCounts
from ufm.laws.complement_basis import ComplementBasis
from ufm.laws.domain import LARGEST_RIDGE, digits_given, from_start, wide
from ufm.laws.kernel_ratio import RenormalizedKernelRatio
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED, Law
from ufm.laws.thin_svd import thin_svd

DIRECT_UP_TO = 64  # rows for which LAPACK's solve is faster than an inverse of matrix products
DENSE_UP_TO = 64  # columns up to which a product with Q^T Pi Q takes less than the calls that do without it


@dataclass(frozen=True)
class GeneralLaw(ClassCounts):
    """Class sizes n_c, ridge lambda on the classifier (not on its bias), r: the kernel on class means over that on deviations.

    Raises ValueError for fewer than two classes, an empty class, a ridge that is negative or past 1e60, and r <= 0.
    """

    ridge: float = 0.0
    kernel_ratio: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ridge", float(self.ridge))
        object.__setattr__(self, "kernel_ratio", float(self.kernel_ratio))
        if not 0 <= self.ridge <= LARGEST_RIDGE:
            raise ValueError(
                f"ridge = {self.ridge}: lambda must lie between 0 and {LARGEST_RIDGE:g}, where no power of it overflows"
            )
        if not self.kernel_ratio > 0:
            raise ValueError(f"kernel_ratio = {self.kernel_ratio}: r must be positive; math.inf is the embedded flow")

    @property
    def s(self) -> float:
        """1 + lambda"""
        return 1.0 + self.ridge

    def scaled_means(self, M: ClassMeans[ArrayT]) -> ClassMeans[ArrayT]:
        """S = (M - mu_G 1^T) diag(sqrt(pi)) of class means M (P, C) of renormalized features. (P, C), float64"""
        M = self.checked(M)
        pi = self.priors_like(M)
        M = M - (M @ pi)[:, None]
        return (M - (M @ pi)[:, None]) * pi**0.5  # once more: the first mean is rounded, by as much as it is far from zero

    def class_means(self, S: ClassColumns[ArrayT]) -> ClassColumns[ArrayT]:
        """M = S diag(1 / sqrt(pi)), whose singular values are the omega_j of Eq. 9. (..., P, C) -> (..., P, C)"""
        return S / self.priors_like(S) ** 0.5

    def velocity(self, S: ClassMeans[ArrayT]) -> ClassMeans[ArrayT]:
        """dS/dt = (1/n) S K Pi K (r s I + G) J. (P, C) -> (P, C)"""
        S = self.checked_scaled(S)
        basis = self.basis(S)
        return basis.expand(self.reduced_velocity(basis.reduce(S)))

    def reduced_velocity(self, Z: ReducedMeans[ArrayT]) -> ReducedMeans[ArrayT]:
        """dZ/dt of Z = U^T S Q, U any frozen orthonormal columns and Q (C, C-1) an orthonormal basis orthogonal to q.

        (m, C-1) -> (m, C-1), K and J never written out for r = 1.
        """
        r = self.kernel_ratio
        gain, damped, B = self.reduced_terms(Z, damping=r > 1)
        if r == 1:
            return gain
        if r < 1:  # s K = I - G K: with r = 0 in mind, nothing is left of G K after a subtraction where G is small beside s
            return r * gain + (1 - r) * ((gain @ Z.mT) @ B)
        return damped if math.isinf(r) else gain + (r - 1) * damped

    def reduced_terms(
        self, Z: ReducedMeans[ArrayT], damping: bool | None = None
    ) -> tuple[ReducedMeans[ArrayT], ReducedMeans[ArrayT], ReducedMeans[ArrayT]]:
        """(1/n) S K Pi J, the same times s K on the right, and S K, as those of Z (m, C-1). Three times (m, C-1)

        The second only with `damping`, by default where r is not 1.
        """
        s, (m, c) = self.s, Z.shape
        B = _shifted_solve(Z, s, Z)
        gain = self.weighted(B) / self.n
        if not (self.kernel_ratio != 1 if damping is None else damping):
            return gain, gain, B
        if m == c:
            return gain, s * _shifted_solve(Z.mT, s, gain.mT).mT, B
        # K is 1 / s off the rows of Z: what gain has there is split off first, twice, so that the small rest keeps its digits
        rows, R = namespace(Z).linalg.qr(Z.mT)
        inside = gain @ rows
        outside = gain - inside @ rows.mT
        outside = outside - (outside @ rows) @ rows.mT
        return gain, outside + s * _shifted_solve(R, s, inside.mT).mT @ rows.mT, B

    def weighted(self, B: ReducedMeans[ArrayT]) -> ReducedMeans[ArrayT]:
        """B Q^T Pi Q: few columns by a matrix that is kept, many without one. (m, C-1) -> (m, C-1)"""
        if namespace(B) is np and B.dtype == np.float64 and B.shape[-1] <= DENSE_UP_TO:
            return B @ array_like(self._weights, B)
        return self.basis(B).weighted(B, self.priors_like(B))

    @cached_property
    def _weights(self) -> np.ndarray:
        return self._numpy_basis.weighted(np.eye(self.C - 1), self.priors)

    @property
    def time_unit(self) -> float:
        """n s / (max(r, 1) max(pi)): no singular value grows faster than e-fold in it."""
        r = 1.0 if math.isinf(self.kernel_ratio) else max(self.kernel_ratio, 1.0)
        return self.n * self.s / (r * float(self.priors.max()))

    @cached_property
    def largest_weight(self) -> float:
        """nu, the largest eigenvalue of J Pi J: 1 / C for equal classes."""
        J = np.eye(self.C) - np.sqrt(np.outer(self.priors, self.priors))
        return float(np.linalg.eigvalsh(J * self.priors @ J)[-1])

    @property
    def spread_of_sizes(self) -> float:
        """sqrt(n_max / n_min), by which an error of S relative to its singular values may grow on the way to those of M."""
        return (max(self.counts) / min(self.counts)) ** 0.5

    def closed_omega(self, t: Times[ArrayT], omega0: SingularValues[ArrayT]) -> OmegaInTime[ArrayT]:
        """omega(t) for equal classes, in closed form. (T,), (K,) -> (T, K). Raises ValueError for classes of other sizes."""
        law, scale = self._closed_law
        root = scale**0.5
        omega = root * law.omega(t / scale, omega0 / root, self.C, ClassLayout(self.counts).N)
        return from_start(omega, t, omega0)

    def closed_time(self, omega: SingularValues[ArrayT], omega0: SingularValues[ArrayT]) -> SingularValues[ArrayT]:
        """When values of omega0 reach omega, for equal classes. (K,), (K,) -> (K,). Raises ValueError as `closed_omega`."""
        law, scale = self._closed_law
        return scale * law.time(omega / scale**0.5, omega0 / scale**0.5, self.C, ClassLayout(self.counts).N)

    @property
    def _closed_law(self) -> tuple[Law, float]:
        """The law of equal classes, and the factor of omega^2 and of time with which it has the ridge."""
        if self.kernel_ratio == 1:
            return RENORMALIZED, self.s
        return (
            (EMBEDDED, self.s) if math.isinf(self.kernel_ratio) else (RenormalizedKernelRatio(self.kernel_ratio, self.ridge), 1.0)
        )

    def loss(self, S: ClassMeans[Array]) -> float:
        """L_LS with lambda's share, 1/2 tr Pi (s K - q q^T), of the ridge least-squares classifier with free bias. S (P, C)"""
        return sum(self.loss_parts(S))

    def loss_parts(self, S: ClassMeans[Array]) -> tuple[float, float]:
        """L_NC1 = s/2 tr Pi K G K and L_NC2/3 = s^2/2 tr Pi K J K, which sum to the loss. S (P, C)"""
        u, p, rest = self.spectrum(self.basis(S).reduce(self.checked_scaled(S)))
        nc1, nc23 = self.parts_of(u, p, rest)
        return float(nc1), float(nc23)

    def spectrum(self, Z: ReducedMeans[ArrayT]) -> tuple[SingularValues[ArrayT], SingularValues[ArrayT], Scalars[ArrayT]]:
        """Eigenvalues u_j of G, p_j = v_j^T Pi v_j of their vectors, and tr J Pi less the p_j. Z (m, C-1) -> (K,), (K,), ()

        The last is 0 exactly where the vectors span everything orthogonal to q.
        """
        _, sigma, Vt = thin_svd(Z)
        V, pi = self.basis(Z).expand(Vt), self.priors_like(Z)
        p = (V * V) @ pi
        rest = 1 - (pi * pi).sum() - p.sum()
        return sigma * sigma, p, rest if len(p) < self.C - 1 else 0 * rest

    def parts_of(
        self, u: SingularValues[ArrayT], p: SingularValues[ArrayT], rest: Scalars[ArrayT]
    ) -> tuple[Scalars[ArrayT], Scalars[ArrayT]]:
        """L_NC1 and L_NC2/3 of a `spectrum`. (..., K), (..., K), (...) -> (...), (...)"""
        s = self.s
        return 0.5 * s * (p * (u / (s + u)) / (s + u)).sum(-1), 0.5 * (p * (s / (s + u)) ** 2).sum(-1) + 0.5 * rest

    def classifier(self, S: ClassMeans[ArrayT]) -> tuple[Weights[ArrayT], PerClass[ArrayT]]:
        """W = diag(q) K S^T (C, P) and b = pi (C,): ridge least squares with free bias on features of mean zero."""
        S = self.checked_scaled(S)
        A = S @ S.mT + self.s * identity_like(S, S.shape[0])
        pi = self.priors_like(S)
        return namespace(S).linalg.solve(A, S * pi**0.5).mT, pi

    def limit_gram(self) -> ClassGram[np.ndarray]:
        """(I - 1 pi^T)(I - pi 1^T), the limit of M^T M / (2 t / n): Gram matrix of the centred one-hot e_c - pi. (C, C)"""
        centring = np.eye(self.C) - self.priors[:, None]
        return centring.T @ centring

    def basis(self, like: Array) -> ComplementBasis:
        """An orthonormal basis orthogonal to q = sqrt(pi), in the dtype and on the device of `like`."""
        return self._numpy_basis if namespace(like) is np and like.dtype == np.float64 else self._basis_of(self.priors_like(like))

    @cached_property
    def _numpy_basis(self) -> ComplementBasis:
        return self._basis_of(self.priors)

    def _basis_of(self, pi: Array) -> ComplementBasis:
        return ComplementBasis.of(pi**0.5)

    def priors_like(self, x: ArrayT) -> PerClass[ArrayT]:
        """pi in the dtype and on the device of x. (C,)"""
        return array_like(self.priors, x)

    def checked(self, M: ClassMeans[ArrayT]) -> ClassMeans[ArrayT]:
        """M (P, C) as float64. Raises ValueError for another number of columns and for NaN or infinite entries."""
        M = wide(M)
        if M.ndim != 2 or M.shape[1] != self.C or M.shape[0] < 1:
            raise ValueError(f"shape {tuple(M.shape)}: (P, C) with P >= 1 and C = {self.C} columns is needed, one a class")
        if not bool(namespace(M).isfinite(M).all()):
            raise ValueError("the class means have NaN or infinite entries")
        return M

    def checked_scaled(self, S: ClassMeans[ArrayT]) -> ClassMeans[ArrayT]:
        """S = M diag(q) (P, C) as float64. Raises ValueError as `checked`, and where S q is not 0 to half the digits given."""
        allowed = digits_given(S) ** 0.5
        S = self.checked(S)
        along, largest = float(abs(S @ self.priors_like(S) ** 0.5).max()), float(abs(S).max())
        if not along <= allowed * largest:
            raise ValueError(
                f"S q has an entry of {along:.3g} where S has at most {largest:.3g}: S = M diag(q) needs class means M with "
                "sum_c pi_c mu_c = 0; scaled_means makes it of any M"
            )
        return S


def _shifted_solve(Z: ArrayT, s: float, X: ArrayT) -> ArrayT:
    """(Z Z^T + s I)^{-1} X, every row of X with its own relative accuracy. Z (m, k), X (m, c)

    Large ones by the inverse, whose work is all matrix products: Cholesky's is as accurate as that of a diagonal of ones.
    scipy's would need fewer, but the threads of its library and of numpy's wait for each other, which takes twice the time.
    """
    m, xp = len(Z), namespace(Z)
    A = gram(Z)
    A.reshape(-1)[:: m + 1] += s
    if m <= DIRECT_UP_TO:
        return xp.linalg.solve(A, X)
    scale = xp.diagonal(A) ** -0.5
    root = inverse_cholesky(scale[:, None] * A * scale)
    return (scale[:, None] * (root.mT @ root) * scale) @ X
