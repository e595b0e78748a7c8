"""(d) The discrete scheme renormalize-after-step (paper D.1) as an exact recursion of the singular values, at every step size.

    omega' = |omega + eta f / N| / |1 - eta f omega / (C N)|,   f = omega / (C + omega^2)^2,

with U, V and the deviations frozen (a deviation is reflected where the denominator is negative). eta -> 0 gives law (a).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MOST_STORED = 10_000  # steps kept; a longer run is thinned evenly


@dataclass(frozen=True)
class DiscreteRun:
    """Steps kept (S,), always the first and the last, and omega (S, K) at them."""

    steps: np.ndarray
    omega: np.ndarray
    eta: float

    @property
    def t(self) -> np.ndarray:
        """Flow time eta * step of every kept step. (S,)"""
        return self.eta * self.steps


def safe_step(C: int, N: int) -> float:
    """4 C^2 N: below it every denominator is positive for every omega, omega increases and the loss falls at every step."""
    return 4.0 * C * C * N


def safe_step_from(omega0: np.ndarray, C: int, N: int) -> float:
    """The bound for a run from omega0: C^2 N (1 + u)^2 / u at its smallest u = omega^2 / C where u > 1, else 4 C^2 N."""
    u = float(omega0.min()) ** 2 / C
    return safe_step(C, N) if u <= 1 else C * C * N * (1 + u) ** 2 / u


def renormalized_step(omega: np.ndarray, eta: float, C: int, N: int) -> np.ndarray:
    """One exact step of the scheme on the singular values. (K,) -> (K,)

    Raises ValueError where the step makes a deviation vanish (the renormalisation does not exist there).
    """
    square = omega * omega
    scale = (C + square) ** 2
    denominator = scale - (eta / (C * N)) * square
    if not denominator.all():
        raise ValueError(f"eta = {eta:g} annihilates a direction of the deviations: choose another, below {safe_step(C, N):g}")
    return omega * ((scale + eta / N) / abs(denominator))


def kept_steps(steps: int, most: int = MOST_STORED) -> np.ndarray:
    """0..steps, evenly thinned to at most `most` + 1 of them, first and last included."""
    if steps <= most:
        return np.arange(steps + 1)
    return np.round(np.linspace(0, steps, most + 1)).astype(np.int64)


def run_discrete(
    omega0: np.ndarray, eta: float, steps: int, C: int, N: int, progress: Callable[[int], None] | None = None
) -> DiscreteRun:
    """`steps` steps of size eta from omega0 (K,); KeyboardInterrupt returns what is done so far.

    `progress` is called with the number of steps done at every kept step.
    Raises ValueError for eta <= 0, steps < 1, or bad omega0.
    """
    _check(omega0, eta, steps, C, N)
    kept = kept_steps(steps)
    omega, done = np.array(omega0, dtype=np.float64), np.empty((len(kept), len(omega0)))
    done[0] = omega
    count = 1
    try:
        for start, stop in zip(kept[:-1].tolist(), kept[1:].tolist(), strict=True):
            for _ in range(start, stop):
                omega = renormalized_step(omega, eta, C, N)
            done[count] = omega
            count += 1
            if progress is not None:
                progress(stop)
    except KeyboardInterrupt:
        pass
    return DiscreteRun(kept[:count], done[:count], eta)


def _check(omega0: np.ndarray, eta: float, steps: int, C: int, N: int) -> None:
    if C < 2 or N < 1:
        raise ValueError(f"C = {C}, N = {N}: the scheme needs at least C = 2 classes and N = 1 example a class")
    if not (np.isfinite(eta) and eta > 0):
        raise ValueError(f"eta = {eta}: the step size must be positive and finite")
    if steps < 1:
        raise ValueError(f"steps = {steps}: at least one step is needed")
    if not (np.isfinite(omega0).all() and (omega0 >= 0).all()):
        raise ValueError("omega0 must be finite and non-negative")
