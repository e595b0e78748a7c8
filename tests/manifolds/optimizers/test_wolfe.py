"""The line search satisfies the conditions that it is named after."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from manifolds.optimizers.wolfe import wolfe_step

SUFFICIENT, CURVATURE = 1e-4, 0.9


@dataclass(frozen=True)
class Point:
    step: float
    cost: float
    slope: float


def wavy(depth: float, frequency: float, minimum: float):
    """(t / m - 1)^2 + depth sin^2: one global valley with ripples."""

    def trial(t: float) -> Point:
        cost = (t / minimum - 1) ** 2 + depth * np.sin(frequency * t) ** 2
        slope = 2 * (t / minimum - 1) / minimum + depth * frequency * np.sin(2 * frequency * t)
        return Point(t, float(cost), float(slope))

    return trial


@given(st.floats(0, 0.3), st.floats(0.1, 5), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_both_conditions_hold(depth: float, frequency: float, minimum: float, first: float) -> None:
    trial = wavy(depth, frequency, minimum)
    start = trial(0.0)
    step = wolfe_step(trial, start.cost, start.slope, first, sufficient_decrease=SUFFICIENT, curvature=CURVATURE, trials=60)
    assert step is not None
    assert step.cost <= start.cost + SUFFICIENT * step.step * start.slope
    assert step.slope >= CURVATURE * start.slope


def test_a_parabola_that_was_overshot_is_hit_by_interpolation() -> None:
    trial, tried = wavy(0.0, 1.0, 1.0), []

    def recorded(t: float) -> Point:
        tried.append(t)
        return trial(t)

    step = wolfe_step(recorded, 1.0, -2.0, 3.0)
    assert tried == [3.0, 1.0]
    assert step == trial(1.0)


def test_no_step_along_a_rising_cost_is_made() -> None:
    assert wolfe_step(lambda t: Point(t, 1 + t, 1.0), 1.0, -1.0, 1.0, trials=20) is None


def test_a_cost_without_a_bottom_gives_the_farthest_step() -> None:
    step = wolfe_step(lambda t: Point(t, -t, -1.0), 0.0, -1.0, 1.0, trials=5)
    assert step == Point(16.0, -16.0, -1.0)


def test_costs_that_are_not_finite_are_left_behind() -> None:
    step = wolfe_step(lambda t: Point(t, np.nan if t > 0.3 else (t - 0.2) ** 2, 2 * (t - 0.2)), 0.04, -0.4, 8.0)
    assert step is not None
    assert 0 < step.step <= 0.3


def test_where_costs_are_rounded_the_slope_decides() -> None:
    """1e8 + (t - 1)^2 / 1e10 is constant in float64, its slope is not."""
    step = wolfe_step(lambda t: Point(t, 1e8 + (t - 1) ** 2 / 1e10, 2e-10 * (t - 1)), 1e8, -2e-10, 1.0)
    assert step is not None
    assert step.step == 1.0
