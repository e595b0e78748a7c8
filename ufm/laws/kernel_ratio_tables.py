"""The invariants Phi(u) of both kernel-ratio laws and their inverses as tables of polynomials: neither takes a logarithm.

A law asks for the u of thousands of Phi, one function for all of them, and a step of Newton's method costs two logarithms. So
log u is tabulated once as a function of Phi. A cell is 1/64 to 1/128 of |Phi| + unit wide, and the bits of that number tell
which one: its exponent and the first digits. In a cell log u is its Taylor series of order 7, economized to degree 5, which
leaves 1e-15. Beyond both ends log u is linear in Phi, except for the renormalized law above, where u = Phi. Phi is tabulated
alike, over u.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from manifolds.linalg import ArrayT, array_like, detached, namespace
from manifolds.representation import short_repr

ENDS = 40.0  # of log u beyond the scales of the function, from where it is its asymptote to the last digit
ORDER = 7  # of the Taylor series
SHIFT = 52 - 6  # bits of the mantissa that do not tell the cell: 64 cells from a power of two to the next
ONE = 1023 << 6  # what is left of the bits of 1.0
FORWARD = 1 / 16  # of log u, at which the function itself is tabulated to make the table


@dataclass(frozen=True)
class Invariant:
    """Phi(u) of slope (s + u)^2 / (r s + u) in log u, or ((s + u) / (r s + u))^2 where `squared`, and its unit, a power of 2."""

    phi: Callable[[Any], Any]
    r: float
    s: float
    squared: bool

    @property
    def unit(self) -> float:
        """About the slope for r s << u << s, or for u << s << r s: the smallest that holds over a decade."""
        return 2.0 ** -math.floor(math.log2(max(self.r, 1.0) ** (1 + self.squared) / self.s))

    def slope(self, u: np.ndarray) -> np.ndarray:
        """d Phi / d log u. Any shape"""
        share = (self.s + u) / (self.r * self.s + u)
        return share * (share if self.squared else self.s + u)

    @property
    def ends(self) -> tuple[float, float]:
        """log u of both ends of the table"""
        scales = math.log(self.s), math.log(self.s) + math.log(self.r)
        return min(scales) - ENDS, max(scales) + ENDS

    def series(self, u: np.ndarray, width: np.ndarray | float) -> np.ndarray:
        """Taylor coefficients 1 to ORDER of log u in Phi / width, at Phi(u). (k,) -> (ORDER, k)"""
        k = 1 / (self.s + u)
        rate = width if self.squared else width * k  # d log u / d x = rate h h, or rate h q, with the series below
        c, g, p, q, h = np.empty((5, ORDER + 1, len(u)))  # g that derivative, p = u / u_0, q = (s + u_0) / (s + u)
        p[0], q[0], h[0] = 1.0, 1.0, (self.r * self.s + u) * k  # h = (r s + u) / (s + u)
        for n in range(ORDER):
            g[n] = rate * (h[: n + 1] * (h if self.squared else q)[n::-1]).sum(0)
            c[n] = g[n] / (n + 1)
            p[n + 1] = (p[: n + 1] * g[n::-1]).sum(0) / (n + 1)
            q[n + 1] = -u * k * (p[1 : n + 2] * q[n::-1]).sum(0)
            h[n + 1] = (self.r - 1) * self.s * k * q[n + 1]
        return c[:ORDER]

    def forward_series(self, u: np.ndarray) -> np.ndarray:
        """Taylor coefficients 1 to ORDER of Phi at u (1 + e) in e. (k,) -> (ORDER, k)"""
        g = np.resize([1.0, -1.0], ORDER)[:, None] + 0 * u  # 1 / (1 + e)
        y, z = u / (self.r * self.s + u), u / (self.s + u)
        for _ in range(1 + self.squared):
            for n in range(1, ORDER):
                g[n] -= y * g[n - 1]  # over 1 + y e
        for _ in range(2):
            g[1:] += z * g[:-1]  # times 1 + z e
        return self.slope(u) * g / np.arange(1, ORDER + 1)[:, None]

    def log_root(self, target: np.ndarray) -> np.ndarray:
        """log u with Phi(u) = target, between the ends: linear interpolation leaves 1e-3, one step of eighth order rounding."""
        first, last = self.ends
        y = np.arange(first - 1, last + 1 + FORWARD, FORWARD)
        start = np.interp(target, self.phi(np.exp(y)), y)
        u = np.exp(start)
        slope, step = self.slope(u), np.zeros(len(u))  # in units of it no power of the small change underflows
        missing = (target - self.phi(u)) / slope
        for coefficient in self.series(u, slope)[::-1]:
            step = (step + coefficient) * missing
        return start + step


@dataclass(frozen=True, eq=False, repr=False)
class InverseTable:
    """`rows` (8, k) of the cells of Phi: centres c, reciprocals of half the widths w, coefficients of log u over (Phi - c) / w.

    `negative` cells lie below Phi = 0. Beyond `top` u is Phi; infinity, where the last cell serves for all that lies above.
    """

    unit: float
    rows: np.ndarray
    negative: int
    top: float
    __repr__ = short_repr

    @classmethod
    def of(cls, invariant: Invariant) -> "InverseTable":
        """The table of an invariant."""
        unit = invariant.unit
        below, above = (_edges(abs(float(end))) for end in invariant.phi(np.exp(invariant.ends)) / unit)
        edges = unit * np.concatenate([-below[:0:-1], above])
        centres, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
        log_u = invariant.log_root(centres)
        series = invariant.series(np.exp(log_u), widths)
        series[1:, [0, -1]] = 0.0  # the asymptotes
        rows = np.concatenate([[centres, 1 / widths], _economized(log_u, series)])
        return cls(unit, rows, len(below) - 1, math.inf if invariant.squared else float(edges[-3]))

    def log_root(self, phi: ArrayT) -> ArrayT:
        """log u with Phi(u) = phi, to a few units in the last place of log u or of 1. Any shape"""
        xp, k = namespace(phi), self._cell(detached(phi))
        centres, reciprocals, *others = array_like(self.rows, phi)
        log_u = _polynomial(others, (phi - _at(centres, k)) * _at(reciprocals, k), k)
        beyond = phi > self.top
        return xp.where(beyond, xp.log(xp.where(beyond, phi, 1.0)), log_u) if bool(beyond.any()) else log_u

    def _cell(self, phi: ArrayT) -> Any:
        """Which cell holds Phi, beyond the table one that is none: of the bits of |Phi| + unit the first, down for Phi < 0."""
        xp, given = namespace(phi), cast("Any", phi)
        k: Any = abs(given)
        k += self.unit
        k = k.view(xp.int64) >> SHIFT
        k -= ONE + (math.frexp(self.unit)[1] - 1 << 6)  # of the unit itself, a power of two
        k ^= given.view(xp.int64) >> 63
        k += self.negative
        return k


@dataclass(frozen=True, eq=False, repr=False)
class ForwardTable:
    """`rows` (7, k) of the cells of u: reciprocals of the centres, then the coefficients of Phi over u / centre - 1.

    There are twice as many cells from a power of two to the next, for Phi may grow as u^-2 towards 0. `first` is the number of
    the first one; outside the `ends` of u, e^20 beyond its scales, Phi is computed by `invariant`.
    """

    invariant: Invariant
    rows: np.ndarray
    first: int
    ends: tuple[float, float]
    __repr__ = short_repr

    @classmethod
    def of(cls, invariant: Invariant) -> "ForwardTable":
        """The table of an invariant."""
        low, high = invariant.ends
        first, last = (int(end.view(np.int64) >> SHIFT - 1) for end in np.exp([low + ENDS / 2, high - ENDS / 2]))
        edges = (np.arange(first, last + 2) << SHIFT - 1).view(np.float64)
        centres = (edges[1:] + edges[:-1]) / 2
        powers = ((edges[1:] - edges[:-1]) / 2 / centres) ** np.arange(ORDER + 1)[:, None]
        rows = _economized(invariant.phi(centres), invariant.forward_series(centres) * powers[1:]) / powers[5::-1]
        rows = np.concatenate([1 / centres[None], rows])
        return cls(invariant, rows, first, (float(edges[0]), float(edges[-1])))

    def phi(self, u: ArrayT) -> ArrayT:
        """Phi(u), u > 0, to a few units in the last place of Phi or of its slope. Any shape"""
        xp, bits = namespace(u), cast("Any", detached(u))
        outside = (u < self.ends[0]) | (u > self.ends[1])
        if bool(outside.any()):
            return xp.where(outside, self.invariant.phi(u), self.phi(xp.where(outside, self.ends[0], u)))
        k = (bits.view(xp.int64) >> SHIFT - 1) - self.first
        reciprocals, *others = array_like(self.rows, u)
        return _polynomial(others, u * _at(reciprocals, k) - 1.0, k)


def _economized(constant: np.ndarray, series: np.ndarray) -> np.ndarray:
    """Degree 7 to degree 5 on [-1, 1], highest first: c_7 T_7 / 64 and c_6 T_6 / 32 subtracted. (k,), (7, k) -> (6, k)"""
    c = np.concatenate([constant[None], series])
    c[1:6:2] += np.multiply.outer([7 / 64, -7 / 8, 7 / 4], c[7])
    c[0:5:2] += np.multiply.outer([1 / 32, -9 / 16, 3 / 2], c[6])
    return c[5::-1]


def _polynomial(rows: list[ArrayT], d: ArrayT, k: Any) -> ArrayT:
    """The polynomials of the cells k at d."""
    value = _at(rows[0], k)
    for row in rows[1:]:
        value = value * d  # torch keeps both for derivatives, so nothing but the product is overwritten
        value += _at(row, k)
    return value


def _at(row: ArrayT, k: Any) -> ArrayT:
    """What the row has at k, at its ends for a k beyond them."""
    array: Any = row
    return array.take(k, mode="clip") if namespace(row) is np else array[k.clip(0, len(row) - 1)]


def _edges(end: float) -> np.ndarray:
    """The edges of the cells from x = 0 to the first beyond |x| = end, and one cell more."""
    last = int(np.float64(end + 1).view(np.int64) >> SHIFT)
    return (np.arange(ONE, last + 3) << SHIFT).view(np.float64) - 1.0
