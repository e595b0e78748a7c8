"""The gradient flow of an objective in continuous time."""

import numpy as np

from ufm.models.objective.peeled import Point
from ufm.models.solvers.contract import Objective
from ufm.models.solvers.vectors import Flattening


def gradient_flow(objective: Objective, start: Point, times: np.ndarray, rtol: float = 1e-11) -> tuple[Point, ...]:
    """The gradient flow x' = -grad f(x) at the given times, by scipy's DOP853 with the relative tolerance rtol.

    Raises RuntimeError where the integration fails.
    """
    from scipy.integrate import solve_ivp

    flattening = Flattening(start)

    def velocity(_: float, x: np.ndarray) -> np.ndarray:
        return -flattening.vector(objective.value_and_gradient(flattening.point(x))[1])

    x0 = flattening.vector(start)
    atol = rtol * 1e-3 * float(np.abs(x0).max())  # a small start must not drown in the absolute tolerance
    solution = solve_ivp(velocity, (times[0], times[-1]), x0, method="DOP853", t_eval=times, rtol=rtol, atol=atol)
    if not solution.success:
        raise RuntimeError(f"DOP853 stopped at t = {solution.t[-1] if len(solution.t) else times[0]:.4g}: {solution.message}")
    return tuple(flattening.point(np.ascontiguousarray(x)) for x in solution.y.T)
