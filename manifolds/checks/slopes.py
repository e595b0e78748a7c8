"""Verdicts of numerical checks; orders of convergence, read off the straight piece of log(error) against log(step)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifolds.representation import short_repr

STEP_SIZES = np.geomspace(1e-6, 1.0, 49)
WINDOW = 9  # points of a straight piece: one decade of STEP_SIZES


@dataclass(frozen=True)
class Bound:
    """A number that a law wants small: `value` <= `bound`."""

    name: str
    value: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the law holds; NaN does not."""
        return bool(self.value <= self.bound)

    def __str__(self) -> str:
        return f"{'ok  ' if self.passed else 'FAIL'} {self.name}: {self.value:.2e} (at most {self.bound:.0e})"


@dataclass(frozen=True, repr=False)
class SlopeVerdict:
    """An error curve that a law wants to fall with order `expected` at least, or to be rounding throughout (`exact`).

    `steps` and `errors` (k,), `window` the slice of the fitted straight piece, `slope` and `intercept` of its line in log-log.
    """

    name: str
    expected: float
    tolerance: float
    steps: np.ndarray
    errors: np.ndarray
    window: slice
    slope: float
    intercept: float
    exact: bool
    __repr__ = short_repr

    @property
    def passed(self) -> bool:
        """Whether the order is reached; NaN is not."""
        return self.exact or bool(self.slope >= self.expected - self.tolerance)

    def draw(self, axes: Any) -> None:
        """Errors, fitted piece and the expected slope on matplotlib `axes`, log-log."""
        axes.loglog(self.steps, self.errors, ".", color="0.35", label=self.name)
        if not self.exact:
            steps, errors = self.steps[self.window], self.errors[self.window]
            axes.loglog(steps, np.exp(self.intercept) * steps**self.slope, linewidth=3, label=f"slope {self.slope:.3f}")
            ideal = errors[-1] * (self.steps / steps[-1]) ** self.expected
            axes.loglog(self.steps, ideal, "--", color="black", linewidth=1, label=f"slope {self.expected:g}")
        axes.set_xlabel("step t")
        axes.set_ylabel("error")
        axes.legend()

    def __str__(self) -> str:
        reached = f"exact, largest error {self.errors.max():.1e}" if self.exact else f"slope {self.slope:.3f}"
        return f"{'ok  ' if self.passed else 'FAIL'} {self.name}: {reached} (expected {self.expected:g})"


def measure_slope(
    name: str,
    error: Callable[[float], float],
    expected: float,
    rounding: float,
    tolerance: float = 0.1,
    steps: np.ndarray = STEP_SIZES,
) -> SlopeVerdict:
    """The order of `error`(t), fitted where log-log is straightest among WINDOW successive steps.

    Errors up to `rounding` are noise and never fitted; if all are, the curve is exact. Where errors leave no window above it, the
    slope is NaN, which does not pass.
    """
    errors = np.array([float(error(float(t))) for t in steps])
    if errors.max() <= rounding:
        return SlopeVerdict(name, expected, tolerance, steps, errors, slice(0, 0), np.nan, np.nan, True)
    best, line, window = np.inf, (np.nan, np.nan), slice(0, 0)
    for first in range(len(steps) - WINDOW + 1):
        piece = slice(first, first + WINDOW)
        if not errors[piece].min() > rounding:
            continue
        x, y = np.log(steps[piece]), np.log(errors[piece])
        slope, intercept = np.polyfit(x, y, 1)
        misfit = float(np.linalg.norm(y - slope * x - intercept))
        if misfit < best:
            best, line, window = misfit, (float(slope), float(intercept)), piece
    return SlopeVerdict(name, expected, tolerance, steps, errors, window, line[0], line[1], False)


CheckResult = Bound | SlopeVerdict


@dataclass(frozen=True)
class Report:
    """Verdicts of a list of checks, and the names of those the manifold implements nothing for."""

    verdicts: tuple[CheckResult, ...]
    missing: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every law that could be checked holds."""
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The verdicts that did not pass."""
        return tuple(verdict for verdict in self.verdicts if not verdict.passed)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.verdicts), *(f"---- {name}: not implemented" for name in self.missing)])
