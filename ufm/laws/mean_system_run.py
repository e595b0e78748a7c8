"""The unnormalized flow integrated: omega, vectors and losses at the times asked for, from the closed system of the means."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ufm.interrupt import Interrupted
from ufm.laws.mean_system import MeanSystem
from ufm.laws.trajectory import Trajectory, follow

MOST_STEPS = 20_000  # of the solver; a few hundred are usual
IMPLICIT_UP_TO = 6000  # unknowns for which LSODA may hold its dense Jacobian


def run_raw(
    system: MeanSystem,
    times: np.ndarray,
    tolerance: float = 1e-11,
    progress: Callable[[float], None] | None = None,
    left_vectors: np.ndarray | None = None,
) -> Trajectory:
    """omega at `times` (T,), times[0] the start; every value follows its vector from one step of the solver to the next.

    V is that of the start, V_t (T, C, K) those at every time, U_t (T, P, K) those where `left_vectors` (T,) is true, else NaN.
    Raises RuntimeError where the solver fails; Interrupted, a KeyboardInterrupt with the times reached, on Ctrl-C.
    """
    from scipy.integrate import DOP853, LSODA

    shape, end = system.Z.shape, float(times[-1])
    omega, V = system.snr(system.Z)
    rows, states = [(omega, V)] * int(np.searchsorted(times, times[0], side="right")), [system.Z]
    states *= len(rows)

    def velocity(t: float, z: np.ndarray) -> np.ndarray:
        return system.velocity(z.reshape(shape)).reshape(-1)

    solver = (LSODA if system.Z.size <= IMPLICIT_UP_TO else DOP853)(
        velocity,
        float(times[0]),
        system.Z.reshape(-1),
        end,
        rtol=tolerance,
        atol=tolerance * float(abs(system.Z).max()),
    )
    message, steps = None, 0
    try:
        while solver.status == "running" and len(rows) < len(times):
            message, steps = solver.step(), steps + 1
            if steps > MOST_STEPS:
                solver.status, message = "failed", f"{MOST_STEPS} steps: rounding of the largest value hides the smallest"
            inside = solver.dense_output()
            while len(rows) < len(times) and times[len(rows)] <= solver.t:
                states.append(inside(times[len(rows)]).reshape(shape))
                omega, V = follow(V, *system.snr(states[-1]))
                rows.append((omega, V))
            _, V = follow(V, *system.snr(solver.y.reshape(shape)))
            if progress is not None:
                progress(solver.t / end)
        if solver.status == "failed":
            raise RuntimeError(
                f"the class-mean system could not be integrated past t = {solver.t:.6g}: {message}; choose an earlier end"
            )
    except KeyboardInterrupt:
        raise Interrupted(_trajectory(system, times, rows, states, left_vectors)) from None
    return _trajectory(system, times, rows, states, left_vectors)


def _trajectory(
    system: MeanSystem,
    times: np.ndarray,
    rows: list[tuple[np.ndarray, np.ndarray]],
    states: list[np.ndarray],
    wanted: np.ndarray | None,
) -> Trajectory:
    """The times reached; signs of the vectors continuous, losses of unequal classes among the observed."""
    count = min(len(rows), len(states))
    V_t = np.stack([V for _, V in rows[:count]])
    for k in range(1, count):
        V_t[k] *= np.where((V_t[k - 1] * V_t[k]).sum(0) < 0, -1.0, 1.0)
    observed: dict[str, Any] = {}
    if min(system.counts) != max(system.counts):
        nc1, nc23 = np.array([system.losses(Z) for Z in states[:count]]).T
        observed = {"ls_loss": nc1 + nc23, "ls_loss_nc1": nc1, "ls_loss_nc23": nc23}
    omega = np.stack([omega for omega, _ in rows[:count]])
    C, N = system.C, system.n // system.C
    U_t = None
    if wanted is not None:
        U_t = np.full((count, len(system.a), omega.shape[1]), np.nan)
        for k in np.flatnonzero(wanted[:count]):
            U_t[k] = system.left_vectors(states[k], omega[k], V_t[k])
    return Trajectory(times[:count], omega, V_t[0], C, N, V_t=V_t, U_t=U_t, observed=observed, counts=system.counts)


def growth_time(system: MeanSystem, growth: float) -> float:
    """A time by which the smallest omega has grown `growth`-fold: doubling, then bisection, of the integrated flow."""
    start, _ = system.snr(system.Z)
    target = start[-1] * growth

    def smallest(t: float) -> float:
        return float(run_raw(system, np.array([0.0, t]), 1e-8).omega[-1].min())

    high = system.n * np.log(growth) * float(system.a.min()) / float(system._pi.max())
    while smallest(high) < target:
        high *= 2
    low = high / 2 if smallest(high / 2) < target else 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if smallest(middle) < target else (low, middle)
        if high - low < 1e-9 * high:
            break
    return high
