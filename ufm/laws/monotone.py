"""Roots of increasing functions, elementwise."""

from collections.abc import Callable

from manifolds.linalg import ArrayT, namespace

MOST_NEWTON_STEPS = 200


def increasing_root(f: Callable[[ArrayT], ArrayT], slope: Callable[[ArrayT], ArrayT], low: ArrayT, high: ArrayT) -> ArrayT:
    """The y of [low, high] with f(y) = 0 for an increasing f of slope f' > 0, by Newton's method inside a shrinking bracket.

    Elementwise, any shape. A Newton step that leaves the bracket or does not halve the last one is replaced by a bisection.
    An f without a change of sign in the bracket, as rounding can leave it, gives the nearer end to rounding.
    Raises RuntimeError where 200 steps do not suffice.
    """
    xp = namespace(low)
    low, high = low - 1e-14 * (1 + abs(low)), high + 1e-14 * (1 + abs(high))
    y, last = low, high - low
    for _ in range(MOST_NEWTON_STEPS):
        value = f(y)
        low, high = xp.where(value < 0, y, low), xp.where(value > 0, y, high)
        step = -value / slope(y)
        new = y + step
        bad = ~((new > low) & (new < high) & (2 * abs(step) <= abs(last) * (1 + 1e-9))) & (abs(step) > 4e-16 * (1 + abs(y)))
        new = xp.where(bad, low + (high - low) / 2, new)
        last = new - y
        y = new
        if bool((abs(last) <= 4e-16 * (1 + abs(y))).all()):
            return y
        if bool(((abs(last) <= 4e-16 * (1 + abs(y))) | (high - low <= 8e-16 * (1 + abs(y)))).all()):
            return y
    raise RuntimeError(f"no root to rounding in {MOST_NEWTON_STEPS} steps: bracket {float((high - low).max()):.3g} wide")
