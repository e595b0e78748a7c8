"""The closed laws between (a) and (b), and beside (c): equal classes, a class-block kernel of ratio r, a ridge lambda.

The kernel is 1 on the deviations and r on the class means; s = 1 + lambda, u = omega^2 / C, v = u / s.

    RenormalizedKernelRatio   d log u / dt = (2 / (C^2 N)) (r s + u) / (s + u)^2
                              Phi = s (v + (1/r) log v - ((r - 1)^2 / r) log(1 + v / r))
    UnnormalizedKernelRatio   d log u / dt = (2 / (C^2 N)) ((r + u) / (1 + u))^2, from r Sigma_W + M M^T / C = I, lambda = 0
                              Phi = (1/r^2) log u + (1 - 1/r^2) log(r + u) + ((r - 1)^2 / r) / (r + u)

up to constants, Phi(u(t)) = Phi(u(0)) + 2 t / (C^2 N). r = 1 gives laws (a) and (c); r -> infinity, time divided by r (by r^2
without renormalisation), gives law (b); the ridge rescales C to C (1 + lambda). Arrays are numpy or torch.

No digits are lost to large or small r: every difference of logarithms is written with g(x) = x - log(1 + x) and
k(x) = log(1 + x) - x / (1 + x), both positive, by the series of the inverse hyperbolic tangent for small x.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

from manifolds.class_centering import whole_number
from manifolds.linalg import ArrayT, detached, namespace
from ufm.laws.domain import (
    LARGEST_RIDGE,
    SMALLEST_NORMAL,
    SMALLEST_PHI,
    check_growth,
    check_omega,
    from_start,
    in_blocks,
    narrow,
    over_sum,
    times_like,
    wide,
)
from ufm.laws.kernel_ratio_tables import ForwardTable, Invariant, InverseTable
from ufm.laws.logarithms import log1p_excess, log1p_remainder, of_product, relative_growth
from ufm.laws.singular_value_dynamics import RENORMALIZED, Law


class _KernelRatioLaw(Law):
    """What both families share: Phi is inverted in log u."""

    @property
    def _s(self) -> float:
        """1 + lambda"""
        return 1.0

    @property
    @abstractmethod
    def _invariant(self) -> Invariant:
        """Phi as it and its inverse are tabulated, once a process."""

    def _log_root(self, phi: ArrayT) -> ArrayT:
        """log u with Phi(u) = phi."""
        return _inverse(self).log_root(phi)

    def _phi_of_start(self, u: ArrayT) -> ArrayT:
        return _forward(self).phi(u)

    def _solve(self, s: ArrayT) -> ArrayT:
        return namespace(s).exp(self._log_root(s))

    def _omega_of(self, s: ArrayT, C: int) -> ArrayT:
        return namespace(s).exp(self._log_omega_of(s, C))

    def _log_omega_of(self, s: ArrayT, C: int) -> ArrayT:
        log_omega = self._log_root(s) * 0.5
        log_omega += 0.5 * math.log(C)
        return log_omega

    @cached_property
    def _smallest_phi(self) -> float:
        return float(self.phi(wide(self._s * math.exp(SMALLEST_PHI))))

    def log_omega(self, t: ArrayT | float | Sequence[float], omega0: ArrayT, C: int, N: int) -> ArrayT:
        """log omega(t), -inf where omega0 = 0. (*t.shape, *omega0.shape). Same errors as `Law.omega`."""
        given = omega0
        omega0, C, N = wide(omega0), whole_number(C, "C"), whole_number(N, "N")
        times = times_like(t, omega0)
        check_omega(omega0, C, N)
        xp, moving = namespace(omega0), omega0 > 0
        log_omega = in_blocks(lambda s: self._log_omega_of(s, C), self._phi_at(times, omega0, C, N))
        log_omega = from_start(log_omega, times, xp.log(xp.where(moving, omega0, 1.0)))
        return narrow(xp.where(moving, log_omega, -math.inf), given)


@dataclass(frozen=True)
class RenormalizedKernelRatio(_KernelRatioLaw):
    """The renormalized law with kernel ratio r > 0 and ridge lambda >= 0, at most 1e60, on the classifier's weights.

    Raises ValueError otherwise, and for starts whose u / (1 + lambda) underflows float64.
    """

    kernel_ratio: float
    ridge: float = 0.0
    name: ClassVar[str] = "renormalized-kernel-ratio"
    statement: ClassVar[str] = "r v + log v - (r - 1)^2 log(1 + v / r), v = u / (1 + lambda): between laws (a) and (b)"

    def __post_init__(self) -> None:
        _check_ratio(self.kernel_ratio)
        if not 0 <= self.ridge <= LARGEST_RIDGE:
            raise ValueError(f"ridge = {self.ridge}: lambda must lie between 0 and {LARGEST_RIDGE:g}")

    @property
    def _s(self) -> float:
        return 1.0 + self.ridge

    def _rate(self, omega: ArrayT, C: int, N: int) -> ArrayT:
        """d omega / dt = omega (r s + u) / (C^2 N (s + u)^2)"""
        share, reciprocal = over_sum(omega, C * self._s)
        return share * (self.kernel_ratio * (C * self._s) * reciprocal + omega * share) / (C * N)

    def phi(self, u: ArrayT) -> ArrayT:
        """Phi(u), up to a constant that depends on r alone."""
        return self._s * self._phi_of(u / self._s)

    def _phi_of(self, v: ArrayT) -> ArrayT:
        xp, r = namespace(v), self.kernel_ratio
        if r >= 1:
            x = v / r
            return (xp.log(v) + (2 * r - 1) * xp.log1p(x)) / r + r * log1p_remainder(x)
        return v - xp.log1p(r / v) / r + (2 - r) * xp.log(r + v)

    def _phi_of_start(self, u: ArrayT) -> ArrayT:
        if bool((u < SMALLEST_NORMAL * self._s).any()):
            raise ValueError(
                f"omega^2 / (C (1 + lambda)) = {float(u.min()) / self._s:.6g} underflows float64 with ridge = {self.ridge:g}: "
                "set such an omega to 0"
            )
        return super()._phi_of_start(u)

    def asymptote(self, t: ArrayT, omega0: ArrayT, C: int, N: int) -> ArrayT:
        """sqrt(2 t / (C N)), for every start, every r and every ridge"""
        return RENORMALIZED.asymptote(t, omega0, C, N)

    def _phi_difference(self, omega: ArrayT, omega0: ArrayT, C: int) -> ArrayT:
        xp, r, s = namespace(omega), self.kernel_ratio, self._s
        v, v0 = omega * omega / (C * s), omega0 * omega0 / (C * s)
        dv = (omega - omega0) * ((omega + omega0) / (C * s))
        z = dv / (r + v0)
        shared = r * log1p_remainder(z) + z * v0 + 2 * xp.log1p(z)
        return s * (shared + of_product(xp.log1p, *relative_growth(omega, omega0, r / (r + v))) / r)

    @property
    def _invariant(self) -> Invariant:
        return Invariant(self.phi, self.kernel_ratio, self._s, squared=False)


@dataclass(frozen=True)
class UnnormalizedKernelRatio(_KernelRatioLaw):
    """The unnormalized law with kernel ratio r > 0, from r Sigma_W + M M^T / C = I. Raises ValueError for r <= 0."""

    kernel_ratio: float
    name: ClassVar[str] = "unnormalized-kernel-ratio"
    statement: ClassVar[str] = "(1/r^2) log u + (1 - 1/r^2) log(r + u) + ((r - 1)^2 / r) / (r + u): law (c) for r = 1"

    def __post_init__(self) -> None:
        _check_ratio(self.kernel_ratio)

    def _rate(self, omega: ArrayT, C: int, N: int) -> ArrayT:
        """d omega / dt = omega ((r + u) / (1 + u))^2 / (C^2 N)"""
        share, reciprocal = over_sum(omega, C)
        return omega * ((self.kernel_ratio * C * reciprocal + omega * share) ** 2 / (C * C * N))

    def signal_share(self, u: ArrayT) -> ArrayT:
        """r / (r + u), the share of d log omega that the class means make; the shrinking deviations make the rest."""
        return self.kernel_ratio / (self.kernel_ratio + u)

    def phi(self, u: ArrayT) -> ArrayT:
        """Phi(u), up to a constant that depends on r alone."""
        xp, r = namespace(u), self.kernel_ratio
        if r >= 1:
            x = u / r
            return (xp.log(u) + (r - 1) * (2 * xp.log1p(x) + (r - 1) * log1p_excess(x))) / r**2
        return xp.log(r + u) - (2 - r) / (r + u) - log1p_excess(r / u) / r**2

    def asymptote(self, t: ArrayT, omega0: ArrayT, C: int, N: int) -> ArrayT:
        """omega where log u = 2 t / (C^2 N) + Phi(u_0) less its constant: exact once u >> r."""
        return self.omega(t, omega0, C, N)

    def _phi_difference(self, omega: ArrayT, omega0: ArrayT, C: int) -> ArrayT:
        r = self.kernel_ratio
        u, u0 = omega * omega / C, omega0 * omega0 / C
        du = (omega - omega0) * ((omega + omega0) / C)
        z, excess = du / (r + u0), of_product(log1p_excess, *relative_growth(omega, omega0, r / (r + u)), limit=1.0)
        grown = z * (u0 + 2) / (r + u) + du / u / (r + u0) / (r + u)  # z / (1 + z) = du / (r + u)
        return log1p_excess(z) + excess / r**2 + grown

    def _omega_of(self, s: ArrayT, C: int) -> ArrayT:
        log_omega = self._log_omega_of(s, C)
        check_growth(detached(log_omega))
        return namespace(s).exp(log_omega)

    @property
    def _invariant(self) -> Invariant:
        return Invariant(self.phi, self.kernel_ratio, self._s, squared=True)


@lru_cache(maxsize=32)
def _inverse(law: _KernelRatioLaw) -> InverseTable:
    return InverseTable.of(law._invariant)


@lru_cache(maxsize=32)
def _forward(law: _KernelRatioLaw) -> ForwardTable:
    return ForwardTable.of(law._invariant)


def _check_ratio(r: float) -> None:
    if not 1e-100 <= r <= 1e100:
        raise ValueError(
            f"kernel_ratio = {r}: r must lie between 1e-100 and 1e100; for its limit take EMBEDDED, time divided by r"
        )
