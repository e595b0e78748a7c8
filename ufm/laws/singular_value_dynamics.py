"""The three closed laws of the SNR singular values omega_j: rate (Lemma 5), omega(t) (Proposition 2), asymptote (Corollary 1).

With u = omega^2 / C every law reads Phi(u(t)) = Phi(u(0)) + 2 t / (C^2 N), so Phi(u_j) - Phi(u_k) is constant in time:

    (a) RENORMALIZED   Phi = log u + u              the paper's Eq. 5 with Proposition 4, limit of the discrete scheme
    (b) EMBEDDED       Phi = log u + 2 u + u^2 / 2  the paper's Eqs. 28 and 10: the Frobenius gradient flow
    (c) UNNORMALIZED   Phi = log u                  plain gradient flow of L_LS started from total covariance I

Arrays are numpy or torch, any shape; C classes of N examples. A singular value that starts at 0 stays 0.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from manifolds.class_centering import whole_number
from manifolds.linalg import ArrayT, detached, namespace
from ufm.arrays import AnyTimes, OmegaAt, Omegas
from ufm.laws.domain import (
    SMALLEST_OMEGA,
    SMALLEST_PHI,
    check_omega,
    check_range,
    differences,
    for_every,
    from_start,
    in_blocks,
    narrow,
    over_sum,
    six_digits,
    times_like,
    wide,
)


class Law(ABC):
    """A law of motion of the singular values: its rate, its invariant Phi, and both in closed form."""

    name: ClassVar[str]
    statement: ClassVar[str]

    @abstractmethod
    def _rate(self, omega: ArrayT, C: int, N: int) -> ArrayT:
        """d omega / dt of float64. Any shape."""

    @abstractmethod
    def phi(self, u: Omegas[ArrayT]) -> Omegas[ArrayT]:
        """The invariant Phi(u), u = omega^2 / C. Any shape."""

    @abstractmethod
    def asymptote(self, t: AnyTimes[ArrayT], omega0: Omegas[ArrayT], C: int, N: int) -> OmegaAt[ArrayT]:
        """Leading term of omega(t) as t -> infinity (Corollary 1). (*t.shape, *omega0.shape)"""

    @abstractmethod
    def _phi_difference(self, omega: ArrayT, omega0: ArrayT, C: int) -> ArrayT:
        """Phi(u) - Phi(u0) without cancellation, for omega0 > 0."""

    @abstractmethod
    def _solve(self, s: ArrayT) -> ArrayT:
        """The u > 0 with Phi(u) = s, to a few units in the last place."""

    def _phi_of_start(self, u: ArrayT) -> ArrayT:
        """Phi(u), by the same function for few values and for many."""
        return self.phi(u)

    def _omega_of(self, s: ArrayT, C: int) -> ArrayT:
        """The omega > 0 with Phi(omega^2 / C) = s."""
        return namespace(s).sqrt(C * self._solve(s))

    def rate(self, omega: Omegas[ArrayT], C: int, N: int) -> Omegas[ArrayT]:
        """d omega / dt of any omega >= 0 (Lemma 5). Any shape, in the dtype of omega."""
        return narrow(self._rate(wide(omega), whole_number(C, "C"), whole_number(N, "N")), omega)

    def time(self, omega: Omegas[ArrayT], omega0: Omegas[ArrayT], C: int, N: int) -> Omegas[ArrayT]:
        """t(omega) = (C^2 N / 2) (Phi(u) - Phi(u0)): when a singular value that starts at omega0 reaches omega.

        Raises ValueError unless both are positive (a singular value that starts at 0 never moves).
        """
        given, omega, omega0, C, N = omega0, wide(omega), wide(omega0), whole_number(C, "C"), whole_number(N, "N")
        for value in (omega, omega0):
            check_omega(value, C, N)
            if bool((value == 0).any()):
                raise ValueError("omega = 0 is a fixed point of every law: it is reached from, and leads to, no other value")
        xp, up = namespace(omega0), omega >= omega0
        larger, smaller = xp.where(up, omega, omega0), xp.where(up, omega0, omega)  # the change over the smaller keeps its digits
        return narrow((C * C * N / 2) * xp.where(up, 1.0, -1.0) * self._phi_difference(larger, smaller, C), given)

    def omega(self, t: AnyTimes[ArrayT] | float | Sequence[float], omega0: Omegas[ArrayT], C: int, N: int) -> OmegaAt[ArrayT]:
        """omega(t) in closed form (Proposition 2). t any shape, omega0 any shape -> (*t.shape, *omega0.shape)

        Computed in float64, returned in the dtype of omega0; omega0 itself at t = 0. t may be negative (backwards).
        Raises ValueError for an omega0 that is negative or whose powers overflow or underflow, for non-finite input, and for
        a time whose omega underflows; OverflowError where law (c) passes 1e150 (`log_omega` does not).
        """
        given, omega0, C, N = omega0, wide(omega0), whole_number(C, "C"), whole_number(N, "N")
        times = times_like(t, omega0)
        check_omega(omega0, C, N)
        xp, moving = namespace(omega0), omega0 > 0
        phi = self._phi_at(times, omega0, C, N)
        omega = in_blocks(lambda s: self._omega_of(s, C), phi)
        return narrow(from_start(omega if bool(moving.all()) else xp.where(moving, omega, 0.0), times, omega0), given)

    def log_omega(self, t: AnyTimes[ArrayT] | float | Sequence[float], omega0: Omegas[ArrayT], C: int, N: int) -> OmegaAt[ArrayT]:
        """log omega(t), -inf where omega0 = 0. (*t.shape, *omega0.shape)"""
        omega = self.omega(t, omega0, C, N)
        xp = namespace(omega)
        return xp.where(omega > 0, xp.log(xp.where(omega > 0, omega, 1.0)), -math.inf)

    def _phi_at(self, t: ArrayT, omega0: ArrayT, C: int, N: int) -> ArrayT:
        """Phi(u0) + 2 t / (C^2 N), that of u0 = 1 for one that starts at 0. (*t.shape, *omega0.shape)"""
        xp, moving, u = namespace(omega0), omega0 > 0, omega0 * (omega0 / C)
        every = bool(moving.all())
        start = in_blocks(self._phi_of_start, u if every else xp.where(moving, u, 1.0))
        phi = t.reshape(t.shape + (1,) * start.ndim) * (2 / (C * C * N)) + start
        phi = phi if every else xp.where(moving, phi, start)  # what stays at 0 leads nowhere
        if bool((t < 0).any()) and not bool((phi > self._smallest_phi).all()):
            raise ValueError(f"t = {float(t.min()):.6g} leads back to an omega below {SMALLEST_OMEGA:g}: choose a later time")
        return phi

    @property
    def _smallest_phi(self) -> float:
        return SMALLEST_PHI  # of a u that float64 still holds, as log u in all three laws


class _Renormalized(Law):
    name = "renormalized"
    statement = "law (a): log u + u, the paper's Eq. 5 with Proposition 4"

    def _rate(self, omega: ArrayT, C: int, N: int) -> ArrayT:
        """omega / (C N (C + omega^2))"""
        return over_sum(omega, C)[0] / (C * N)

    def phi(self, u: Omegas[ArrayT]) -> Omegas[ArrayT]:
        """log u + u"""
        return namespace(u).log(u) + u

    def asymptote(self, t: AnyTimes[ArrayT], omega0: Omegas[ArrayT], C: int, N: int) -> OmegaAt[ArrayT]:
        """sqrt(2 t / (C N)), for every start"""
        return for_every(omega0, namespace(t).sqrt(2 * t / (C * N)), t)

    def _phi_difference(self, omega: ArrayT, omega0: ArrayT, C: int) -> ArrayT:
        log_ratio, difference, _ = differences(omega, omega0, C)
        return log_ratio + difference

    def _solve(self, s: ArrayT) -> ArrayT:
        """The Wright omega function: two steps, the first to six digits, of the iteration of Fritsch, Shafer & Crowley (1973)."""
        return self._step(s, six_digits(lambda s: self._step(s, self._start(s)), s))

    def _start(self, s: ArrayT) -> ArrayT:
        xp = namespace(s)
        above = xp.clip(s, min=1.0)
        low = xp.exp(xp.minimum(s, (2 / 3) * (s - above)))  # 1 for s >= 1
        return (above - xp.log(above) * (above / (1 + above))) * low

    def _step(self, s: ArrayT, u: ArrayT) -> ArrayT:
        """One step of fourth order from u."""
        reciprocal = 1 / (1 + u)
        r = (s - u - namespace(u).log(u)) * reciprocal
        p, q = r * reciprocal, 1 + (2 / 3) * r
        return u * (1 + r * ((q - 0.5 * p) / (q - p)))


class _Embedded(Law):
    name = "embedded"
    statement = "law (b): log u + 2 u + u^2/2, the paper's Eq. 10; gradient flow of the Frobenius metric"

    def _rate(self, omega: ArrayT, C: int, N: int) -> ArrayT:
        """omega / (N (C + omega^2)^2), the paper's Eq. 28"""
        share, reciprocal = over_sum(omega, C)
        return share * (reciprocal / N)

    def phi(self, u: Omegas[ArrayT]) -> Omegas[ArrayT]:
        """log u + 2 u + u^2 / 2"""
        return namespace(u).log(u) + u * (2 + u / 2)

    def asymptote(self, t: AnyTimes[ArrayT], omega0: Omegas[ArrayT], C: int, N: int) -> OmegaAt[ArrayT]:
        """(4 t / N)^{1/4}, for every start (Corollary 1, c_3 = N/4)"""
        return for_every(omega0, (4 * t / N) ** 0.25, t)

    def _phi_difference(self, omega: ArrayT, omega0: ArrayT, C: int) -> ArrayT:
        log_ratio, difference, total = differences(omega, omega0, C)
        return log_ratio + difference * (2 + total / 2)

    def _solve(self, s: ArrayT) -> ArrayT:
        """Two steps, of fourth and of third order, in the relative change x of u, the first to six digits.

        With k = 1 / (1 + u) and r = k^2 (s - Phi(u)), the series r = x + (1/2 - k) x^2 + (k^2/3) x^3 is reversed by a quotient.
        """
        u = six_digits(self._start, s)
        k, r = self._residual(s, u)
        return u * (1 + r / (1 + r * (0.5 - k)))

    def _residual(self, s: ArrayT, u: ArrayT) -> tuple[ArrayT, ArrayT]:
        k = 1 / (1 + u)
        return k, (s - namespace(u).log(u) - u * (2 + 0.5 * u)) * k * k

    def _start(self, s: ArrayT) -> ArrayT:
        xp = namespace(s)
        above = xp.clip(s, min=1.45)  # the constants of this start leave 1.2e-6 after the first step, for every s
        low = xp.exp(xp.minimum(s, (s - above) * (1 / 1.97)))  # 1 for s >= 1.45
        u = (xp.sqrt(4 + 2 * above - xp.log(0.285 * above)) - 2) * low
        k, r = self._residual(s, u)
        return u * (1 + r / (1 + r * (0.5 - k + r * (k * (1 - (2 / 3) * k) - 0.25))))


class _Unnormalized(Law):
    name = "unnormalized"
    statement = "law (c): log u, plain gradient flow of L_LS from total covariance I"

    def _rate(self, omega: ArrayT, C: int, N: int) -> ArrayT:
        """omega / (C^2 N)"""
        return omega / (C * C * N)

    def phi(self, u: Omegas[ArrayT]) -> Omegas[ArrayT]:
        """log u"""
        return namespace(u).log(u)

    def asymptote(self, t: AnyTimes[ArrayT], omega0: Omegas[ArrayT], C: int, N: int) -> OmegaAt[ArrayT]:
        """omega0 exp(t / (C^2 N)): exact at every time"""
        return self.omega(t, omega0, C, N)

    def omega(self, t: AnyTimes[ArrayT] | float | Sequence[float], omega0: Omegas[ArrayT], C: int, N: int) -> OmegaAt[ArrayT]:
        """omega0 exp(t / (C^2 N)); OverflowError where it overflows float64: use `log_omega`."""
        start = wide(omega0)
        log_omega = self.log_omega(t, start, C, N)
        check_range(detached(log_omega))
        return narrow(from_start(namespace(log_omega).exp(log_omega), times_like(t, start), start), omega0)

    def log_omega(self, t: AnyTimes[ArrayT] | float | Sequence[float], omega0: Omegas[ArrayT], C: int, N: int) -> OmegaAt[ArrayT]:
        """log omega0 + t / (C^2 N)"""
        given, omega0, C, N = omega0, wide(omega0), whole_number(C, "C"), whole_number(N, "N")
        times = times_like(t, omega0)
        check_omega(omega0, C, N)
        xp, moving = namespace(omega0), omega0 > 0
        log0 = xp.log(xp.where(moving, omega0, 1.0))
        log_omega = times.reshape(times.shape + (1,) * log0.ndim) / (C * C * N) + log0
        return narrow(xp.where(moving, log_omega, -math.inf), given)

    def _phi_difference(self, omega: ArrayT, omega0: ArrayT, C: int) -> ArrayT:
        return differences(omega, omega0, C)[0]

    def _solve(self, s: ArrayT) -> ArrayT:
        return namespace(s).exp(s)


RENORMALIZED: Law = _Renormalized()
EMBEDDED: Law = _Embedded()
UNNORMALIZED: Law = _Unnormalized()
LAWS: dict[str, Law] = {law.name: law for law in (RENORMALIZED, EMBEDDED, UNNORMALIZED)}
