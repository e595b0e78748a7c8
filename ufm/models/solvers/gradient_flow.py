"""Flows in continuous time: the integral curve of a velocity, and the gradient flow of a potential."""

from collections.abc import Callable

import numpy as np

from ufm.models.objective.peeled import Point
from ufm.models.solvers.contract import Potential
from ufm.models.solvers.vectors import Flattening

Velocity = Callable[[Point], Point]


def integral_curve(velocity: Velocity, start: Point, times: np.ndarray, rtol: float = 1e-13) -> tuple[Point, ...]:
    """The curve x' = velocity(x) at the given times (T,), by scipy's DOP853 with the relative tolerance rtol.

    Raises RuntimeError where the integration fails.
    """
    from scipy.integrate import solve_ivp

    flattening = Flattening(start)

    def on_vectors(_: float, x: np.ndarray) -> np.ndarray:
        return flattening.vector(velocity(flattening.point(x)))

    x0 = flattening.vector(start)
    atol = rtol * 1e-3 * float(np.abs(x0).max())  # a small start must not drown in the absolute tolerance
    solution = solve_ivp(on_vectors, (times[0], times[-1]), x0, method="DOP853", t_eval=times, rtol=rtol, atol=atol)
    if not solution.success:
        raise RuntimeError(f"DOP853 stopped at t = {solution.t[-1] if len(solution.t) else times[0]:.4g}: {solution.message}")
    return tuple(flattening.point(np.ascontiguousarray(x)) for x in solution.y.T)


def gradient_flow(potential: Potential, start: Point, times: np.ndarray, rtol: float = 1e-13) -> tuple[Point, ...]:
    """The gradient flow x' = -grad f(x) at the given times (T,). Raises RuntimeError where the integration fails."""
    return integral_curve(lambda x: tuple(-g for g in potential.value_and_gradient(x)[1]), start, times, rtol)
