"""(d) The discrete scheme renormalize-after-step (paper D.1) as an exact recursion of the singular values, at every step size.

    omega' = |omega + eta f / N| / |1 - eta f omega / (C N)|,   f = omega / (C + omega^2)^2,

with U, V and the deviations frozen (a deviation is reflected where the denominator is negative). eta -> 0 gives law (a).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from manifolds.class_centering import whole_number
from manifolds.representation import short_repr
from ufm.arrays import SingularValues
from ufm.interrupt import Interrupted
from ufm.laws.domain import wide

DEFAULT_STEPS, MOST_DEFAULT_STEPS = 1000, 200_000
MOST_STEPS = 10**12
MOST_STORED = 10_000  # steps kept; a longer run is thinned evenly


@dataclass(frozen=True, eq=False, repr=False)
class DiscreteRun:
    """Steps kept (S,), always the first and the last, and omega (S, K) at them."""

    steps: np.ndarray
    omega: np.ndarray
    eta: float
    __repr__ = short_repr

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


def recursion_step(omega: np.ndarray, eta: float, C: int, N: int) -> np.ndarray:
    """One exact step of the scheme on the singular values. (K,) -> (K,)

    Raises ValueError where the step makes a deviation vanish (the renormalisation does not exist there).
    """
    scale, denominator = _scale_and_denominator(omega, eta, C, N)
    if not denominator.all():
        raise ValueError(f"eta = {eta:g} annihilates a direction of the deviations: choose another, below {safe_step(C, N):g}")
    return omega * ((scale + eta / N) / abs(denominator))


def _scale_and_denominator(omega: np.ndarray, eta: float, C: int, N: int) -> tuple[np.ndarray, np.ndarray]:
    """(C + omega^2)^2, and the same times 1 - eta f omega / (C N). (K,)"""
    square = omega * omega
    scale = (square + C) ** 2
    return scale, scale - (eta / (C * N)) * square


class _SafeSteps:
    """`recursion_step` in place, where no denominator can change sign: a thousand steps of nine values in a few ms."""

    def __init__(self, omega: np.ndarray, eta: float, C: int, N: int) -> None:
        self.omega, self.square, self.scale = omega, omega * 0, omega * 0
        self.C, self.gain, self.loss = np.array(float(C)), np.array(eta / N), np.array(eta / (C * N))

    def advance(self, steps: int) -> np.ndarray:
        """omega after so many more steps (a view: copy to keep)."""
        omega, square, scale = self.omega, self.square, self.scale
        for _ in range(steps):
            np.multiply(omega, omega, square)
            np.add(square, self.C, scale)
            np.multiply(scale, scale, scale)
            np.multiply(square, self.loss, square)
            np.subtract(scale, square, square)
            np.add(scale, self.gain, scale)
            np.divide(scale, square, scale)
            np.multiply(omega, scale, omega)
        return omega


class _AnySteps:
    """`recursion_step`, step after step."""

    def __init__(self, omega: np.ndarray, eta: float, C: int, N: int) -> None:
        self.omega, self.arguments = omega, (eta, C, N)

    def advance(self, steps: int) -> np.ndarray:
        """omega after so many more steps."""
        for _ in range(steps):
            self.omega = recursion_step(self.omega, *self.arguments)
        return self.omega


def schedule(
    t_end: float, omega0: np.ndarray, C: int, N: int, eta: float | None = None, steps: int | None = None
) -> tuple[float, int]:
    """Step size and number of steps up to t_end: as asked, else 1000, or as many as half the safe step needs, 200,000 at most."""
    return schedule_within(t_end, safe_step_from(omega0, C, N), eta, steps)


def schedule_within(
    t_end: float, safe: float, eta: float | None = None, steps: int | None = None, default: int = DEFAULT_STEPS
) -> tuple[float, int]:
    """`schedule` for any safe step, and any number of steps by default, of which 200 times as many are taken at most."""
    if eta is not None:
        if not t_end / eta <= MOST_STEPS:
            raise ValueError(f"eta = {eta:g} needs {t_end / eta:.3g} steps to reach t = {t_end:g}, more than {MOST_STEPS:.0e}")
        return eta, max(1, int(np.ceil(t_end / eta * (1 - 1e-12))))
    if steps is None:
        half_safe, most = safe / 2, MOST_DEFAULT_STEPS * default // DEFAULT_STEPS
        if t_end > half_safe * most:
            return half_safe, most
        steps = max(default, int(np.ceil(t_end / half_safe)))
    return t_end / steps, steps


def step_warnings(t_end: float, eta: float, steps: int, omega0: np.ndarray, C: int, N: int) -> tuple[str, ...]:
    """Warnings where the step is beyond the safe one, and where the scheme ends before the flow does."""
    safe = safe_step_from(omega0, C, N)
    return warnings_within(
        t_end, eta, steps, safe, f"4 C^2 N = {safe:g}" if safe == safe_step(C, N) else f"{safe:g} for these omega"
    )


def warnings_within(t_end: float, eta: float, steps: int, safe: float, bound: str) -> tuple[str, ...]:
    """`step_warnings` for any safe step, called `bound`."""
    warnings = []
    if eta >= safe:
        warnings.append(
            f"eta = {eta:g} is beyond the safe step, {bound}: omega may fall and deviations are reflected; "
            "the numbers are those of the scheme itself"
        )
    if eta * steps < t_end * (1 - 1e-9):
        warnings.append(
            f"the scheme would need {t_end / eta:.3g} steps of half its safe step to reach t = {t_end:g}: "
            f"it is run for {steps}, to t = {eta * steps:g}; choose more steps or a larger eta to go further"
        )
    return tuple(warnings)


def kept_steps(steps: int, most: int = MOST_STORED) -> np.ndarray:
    """0..steps, evenly thinned to at most `most` + 1 of them, first and last included."""
    if steps <= most:
        return np.arange(steps + 1)
    return np.round(np.linspace(0, steps, most + 1)).astype(np.int64)


def run_discrete(
    omega0: SingularValues[np.ndarray] | Sequence[float],
    eta: float,
    steps: int,
    C: int,
    N: int,
    progress: Callable[[int], None] | None = None,
) -> DiscreteRun:
    """`steps` steps of size eta from omega0 (K,).

    `progress` is called with the number of steps done at every kept step.
    Raises ValueError for eta <= 0, steps < 1, or bad omega0; Interrupted, a KeyboardInterrupt with the steps done, on Ctrl-C.
    """
    omega0 = wide(omega0)
    _check_scheme(omega0, eta, steps, C, N)
    kept = kept_steps(steps)
    stepper = (_SafeSteps if eta < safe_step_from(omega0, C, N) else _AnySteps)(omega0.copy(), eta, C, N)
    done = np.empty((len(kept), len(omega0)))
    done[0] = omega0
    count = 1
    try:
        for start, stop in zip(kept[:-1].tolist(), kept[1:].tolist(), strict=True):
            done[count] = stepper.advance(stop - start)
            count += 1
            if progress is not None:
                progress(stop)
    except KeyboardInterrupt:
        raise Interrupted(DiscreteRun(kept[:count], done[:count], eta)) from None
    return DiscreteRun(kept, done, eta)


def _check_scheme(omega0: np.ndarray, eta: float, steps: int, C: int, N: int) -> None:
    if whole_number(C, "C") < 2 or whole_number(N, "N") < 1:
        raise ValueError(f"C = {C}, N = {N}: the scheme needs at least C = 2 classes and N = 1 example a class")
    whole_number(steps, "steps")
    if not (np.isfinite(eta) and eta > 0):
        raise ValueError(f"eta = {eta}: the step size must be positive and finite")
    if steps < 1:
        raise ValueError(f"steps = {steps}: at least one step is needed")
    if not (np.isfinite(omega0).all() and (omega0 >= 0).all()):
        raise ValueError("omega0 must be finite and non-negative")
