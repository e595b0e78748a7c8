"""The v with log v + r v - (r - 1)^2 log(1 + v / r) = T for moderate r, elementwise, in a fixed number of steps.

A start within 0.5 of log v for every T, a step of fourth order in log v that leaves 4.2e-6, and one of third order.
"""

import math

from manifolds.linalg import ArrayT, namespace
from ufm.laws.domain import six_digits

MODERATE = 1.0, 100.0  # r: below, the start is worse; above, the two terms in r cancel digits


def moderate_root(T: ArrayT, r: float) -> ArrayT:
    """v > 0 of T to a few units in the last place, for r in `MODERATE`. Any shape."""
    v = six_digits(lambda T: _start(T, r), T)
    k, z = 1 / (1 + v), (1 / r) * v
    h = k * (1 + z)
    e = _residual(T, v, z, r) * k  # e h is the residual over the slope r (1 + v)^2 / (r + v) in log v
    return v + v * (e * h / (1 + e * (k * (0.5 - h))))


def _start(T: ArrayT, r: float) -> ArrayT:
    """v to six digits: one step from the root of q = v (2 r - 1 + r v / 2) / (r + v / 2), q ~ T - log v fitted, for T >= 1.2."""
    xp = namespace(T)
    above = xp.clip(T, min=1.2)
    half = 0.5 * (q := above - 0.7 * xp.log(above) + 0.75 * (1 - 1 / r)) + (1 - 2 * r)
    v = (half * (half / q) + 2 * r * r) ** 0.5 * q**0.5 + half  # r v, and no square that overflows
    v = v * xp.exp(xp.minimum(T, 0.6 * (T - above)) - math.log(r))  # the exponential is 1 / r for T >= 1.2
    k, z = 1 / (1 + v), (1 / r) * v
    j = 1 / (1 + z)
    x = _residual(T, v, z, r) * (((1 + z) * k) * k)
    half_a, quarter = 0.5 - k + 0.5 * j, k * (1 - k) / 3  # half of slope'' / slope; slope''' enters the next term
    return v * xp.exp(x / (1 + x * (half_a + x * (quarter - j * (1 - j) / 6 - half_a * half_a / 3))))


def _residual(T: ArrayT, v: ArrayT, z: ArrayT, r: float) -> ArrayT:
    """T less the left-hand side at v = r z."""
    xp = namespace(T)
    return T - xp.log(v) - r * v + (r - 1) ** 2 * xp.log1p(z)
