"""The lines of the table of measurements."""

from dataclasses import dataclass

import numpy as np

from benchmarks.timing import Paired


@dataclass(frozen=True)
class Row:
    """One line of the table: what, ours, beside what, what was measured, its target, and whether it holds (None: no target)."""

    quantity: str
    ours: str
    other: str
    measured: str
    target: str = ""
    holds: bool | None = None


def agree(ours: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """A race counts only where both arrive: RuntimeError where the relative difference exceeds the tolerance."""
    gap = float(abs(ours / expected - 1).max())
    if not gap <= tolerance:
        raise RuntimeError(f"the two results differ by {gap:.1e}, more than {tolerance:.0e}: the comparison is void")


def seconds(value: float) -> str:
    """Seconds or milliseconds in words."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def ratio(quantity: str, other: str, times: Paired, most: float) -> Row:
    """A line whose target is a largest ratio of ours to the other."""
    spread = f"{times.ratio:.2f} x ({times.low:.2f} to {times.high:.2f})"
    beside = f"{other}: {seconds(times.other)}"
    return Row(quantity, seconds(times.ours), beside, spread, f"<= {most:g} x", times.ratio <= most)


def faster(quantity: str, other: str, times: Paired, least: float) -> Row:
    """A line whose target is a smallest ratio of the other to ours."""
    spread = f"{1 / times.ratio:,.0f} x faster ({1 / times.high:,.0f} to {1 / times.low:,.0f})"
    beside = f"{other}: {seconds(times.other)}"
    return Row(quantity, seconds(times.ours), beside, spread, f">= {least:,} x", 1 / times.ratio >= least)


def milliseconds(quantity: str, times: Paired, most: float) -> Row:
    """A line whose target is a largest time."""
    return Row(quantity, seconds(times.ours), "", seconds(times.ours), f"<= {most:g} ms", times.ours * 1e3 <= most)
