"""A step length along a curve of falling cost: sufficient decrease, and a slope that has risen (weak Wolfe conditions)."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

COST_ROUNDING = 512 * float(
    np.finfo(np.float64).eps
)  # of |cost|: smaller differences are a sum's rounding, and the slope decides
NEAREST, FARTHEST = 0.1, 0.9  # where in the bracket an interpolated step may lie


class Trial(Protocol):
    """A step tried: its length as a multiple of the direction, the cost at its end, and the slope of the cost there."""

    @property
    def step(self) -> float:
        """The length of the step as a multiple of the direction."""
        ...

    @property
    def cost(self) -> float:
        """f at its end."""
        ...

    @property
    def slope(self) -> float:
        """The derivative of f along the direction at its end."""
        ...


TrialT = TypeVar("TrialT", bound=Trial)


def wolfe_step(
    trial: Callable[[float], TrialT],
    cost: float,
    slope: float,
    first: float,
    *,
    sufficient_decrease: float = 1e-4,
    curvature: float = 0.9,
    trials: int = 30,
) -> TrialT | None:
    """A step t > 0 with f(t) <= f(0) + c1 t f'(0) and f'(t) >= c2 f'(0), c1 = `sufficient_decrease`, c2 = `curvature`.

    `trial` (t) evaluates; `cost` = f(0), `slope` = f'(0) < 0. The bracket is doubled until it is closed, then cut by quadratic
    interpolation. Where the costs differ by rounding only, (2 c1 - 1) f'(0) >= f'(t) stands for the decrease, which exact costs
    of a quadratic would give. Where `trials` do not suffice: the last step that decreases the cost enough, or None.
    [Lewis and Overton 2013; Hager and Zhang 2005]
    """
    best, upper, lower, step = None, None, 0.0, first
    for _ in range(trials):
        tried = trial(step)
        if not _decreases(tried, cost, slope, sufficient_decrease):
            upper = tried
        elif tried.slope < curvature * slope:
            best, lower = tried, step
        else:
            return tried
        step = 2 * step if upper is None else _between(lower, best.cost if best else cost, best.slope if best else slope, upper)
    return best


def _decreases(tried: Trial, cost: float, slope: float, sufficient_decrease: float) -> bool:
    """Whether the cost falls enough; a cost that is not finite does not."""
    if tried.cost <= cost + sufficient_decrease * tried.step * slope:
        return True
    return tried.cost <= cost + COST_ROUNDING * abs(cost) and tried.slope <= (2 * sufficient_decrease - 1) * slope


def _between(lower: float, cost: float, slope: float, upper: Trial) -> float:
    """The minimum of the parabola of cost and slope at `lower` and the cost at `upper`, kept inside the bracket."""
    width = upper.step - lower
    excess = upper.cost - cost - slope * width
    share = -slope * width / (2 * excess) if np.isfinite(excess) and excess > 0 else 0.5
    return lower + width * min(max(share, NEAREST), FARTHEST)
