"""Inverses of increasing functions Phi(u) that are linear in log u for small u, in log u or u for large: a table and a step.

A law asks for the u of thousands of Phi, one function for all of them. So its inverse is tabulated once, uniformly in
theta = sign(Phi) log(1 + |Phi|), in which one look-up needs no search, and one step of fourth order leaves rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifolds.linalg import ArrayT, array_like, namespace
from manifolds.representation import short_repr

THETA_SPACING = 2e-3  # of theta
ENDS = 10.0  # of log u beyond the scales of the function, from where it is its asymptote to 5e-5
FORWARD = 8e-3  # of log u, at which the function itself is tabulated to make the table


@dataclass(frozen=True, eq=False)
class InverseTable:
    """u (k,) at theta = low + THETA_SPACING (0, 1, ..., k - 1), Phi at both ends, and the slopes beyond.

    `below` is d Phi / d log u. `above` is d Phi / du where `grows_as_u`, else d Phi / d log u.
    """

    u: np.ndarray
    low: float
    ends: tuple[float, float]
    below: float
    above: float
    grows_as_u: bool
    __repr__ = short_repr

    @classmethod
    def of(
        cls, phi: Callable[[np.ndarray], np.ndarray], scales: tuple[float, float], slopes: tuple[float, float], grows_as_u: bool
    ) -> "InverseTable":
        """The table of Phi(u), whose asymptotes hold for u far below the smaller and far above the larger of two scales."""
        first, last = np.log(min(scales)) - ENDS, np.log(max(scales)) + ENDS
        ends = phi(np.exp([first, last]))
        y = np.linspace(first - 1, last + 1, int((last - first + 2) / FORWARD) + 2)  # the last node lies beyond the end
        values = phi(np.exp(y))
        low, high = (float(np.copysign(np.log1p(abs(value)), value)) for value in ends)
        theta = low + THETA_SPACING * np.arange(int((high - low) / THETA_SPACING) + 2)
        u = np.exp(np.interp(np.copysign(np.expm1(abs(theta)), theta), values, y))
        return cls(u, low, (float(ends[0]), float(ends[1])), *slopes, grows_as_u)

    def start(self, phi: ArrayT) -> ArrayT:
        """u with Phi(u) = phi, to about 1e-4 of u. Any shape"""
        xp: Any = namespace(phi)
        inside = xp.clip(phi, min=self.ends[0], max=self.ends[1])
        place = (xp.copysign(xp.log1p(abs(inside)), inside) - self.low) * (1 / THETA_SPACING)
        k = place.astype(np.int32) if xp is np else place.detach().long()
        table = array_like(self.u, phi)
        left = table[k]
        u = left + (place - k) * (table[k + 1] - left)
        beyond = phi - inside
        if not bool((beyond != 0).any()):
            return u
        u = u * xp.exp(xp.clip(beyond, max=0.0) / self.below)
        upward = xp.clip(beyond, min=0.0) / self.above
        return u + upward if self.grows_as_u else u * xp.exp(upward)


def step_of_fourth_order(u: ArrayT, missing: ArrayT, first: ArrayT, second: ArrayT) -> ArrayT:
    """u after a step: `missing` = (Phi - Phi(u)) / slope, `first` and `second` the derivatives of log slope, all in log u."""
    a = 0.5 * first
    x = missing / (1 + missing * (a + missing * ((1 / 6) * second - (1 / 3) * (a * a))))
    return u + u * (x * (1 + x * (0.5 + (1 / 6) * x)))
