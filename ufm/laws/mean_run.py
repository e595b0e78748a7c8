"""The class-mean system of the unnormalized flow run: omega and its vectors at given times, and the time of a given growth."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifolds.representation import short_repr
from ufm.interrupt import Interrupted
from ufm.laws.mean_system import MeanSystem
from ufm.laws.trajectory import Trajectory, follow

MOST_SOLVER_STEPS = 3000  # of the solver; a few hundred are usual
TOLERANCE = 1e-12  # relative error of a step
VELOCITY_ROUNDING = 100 * 2.0**-52  # of the velocity, times the ratio of the largest to the smallest singular value of Z
HIDDEN_SHARE = 1e-2  # of the smallest, as which an error of the largest may appear in it
GROWN = 10.0  # factor of the largest entry after which the solver starts anew, with errors relative to it
LSODA_UP_TO = 6000  # unknowns for which LSODA may hold its dense Jacobian


@dataclass(frozen=True, eq=False, repr=False)
class SolvedStep:
    """One step of the solver: its end, the state there, and the states inside by their time."""

    t: float
    Z: np.ndarray
    inside: Callable[[float], np.ndarray]
    __repr__ = short_repr


def solved_steps(system: MeanSystem, t_0: float, t_end: float, tolerance: float = TOLERANCE) -> Iterator[SolvedStep]:
    """Steps of dZ/dt from the system's start at t_0 to t_end, with this relative error in every step, or what rounding allows.

    Raises OverflowError where the largest singular value of Z hides the smallest, or after MOST_SOLVER_STEPS steps.
    """
    shape, moving, scale, allowed, solver = system.Z.shape, system.moving, -1.0, tolerance, None
    t, Z, z = t_0, system.Z, np.linalg.svdvals(system.Z)
    for _ in range(MOST_SOLVER_STEPS):
        if solver is None or abs(Z).max() > GROWN * scale:  # entries far below the largest are known to its rounding only
            scale = float(abs(Z).max())
            allowed = max(tolerance, VELOCITY_ROUNDING * (z[0] / z[moving - 1] if moving else 1.0))
            solver = _solver(system, t, Z, t_end, allowed)
        message = solver.step()
        t = solver.t
        if solver.status == "failed":
            raise _too_late(t, str(message))
        Z, states = solver.y.reshape(shape), solver.dense_output()
        z = np.linalg.svdvals(Z)
        if moving and z[0] * allowed > HIDDEN_SHARE * z[moving - 1]:
            raise _too_late(t, f"one direction grew {z[0] / z[moving - 1]:.1e} times as far as another")
        yield SolvedStep(t, Z, lambda t, states=states: states(t).reshape(shape))
        if solver.status == "finished":
            return
    raise _too_late(t, f"{MOST_SOLVER_STEPS} steps were taken: rounding decides the step size there")


def _too_late(t: float, why: str) -> OverflowError:
    return OverflowError(f"t = {t:.6g}: the class means cannot be followed further ({why}); choose an earlier end")


def _solver(system: MeanSystem, t: float, Z: np.ndarray, t_end: float, tolerance: float) -> Any:
    from scipy.integrate import DOP853, LSODA

    def velocity(t: float, z: np.ndarray) -> np.ndarray:
        return system.velocity(z.reshape(Z.shape)).reshape(-1)

    return (LSODA if Z.size <= LSODA_UP_TO else DOP853)(
        velocity,
        t,
        Z.reshape(-1),
        t_end,
        rtol=tolerance,
        atol=tolerance * float(abs(Z).max()),
    )


def run_raw(
    system: MeanSystem,
    times: np.ndarray,
    tolerance: float = TOLERANCE,
    progress: Callable[[float], None] | None = None,
    left_vectors: np.ndarray | None = None,
) -> Trajectory:
    """omega at `times` (T,), times[0] the start; every value follows its vector from one step of the solver to the next.

    V is that of the start, V_t (T, C, K) those at every time, U_t (T, P, K) those where `left_vectors` (T,) is true, else NaN.
    Raises OverflowError where the flow overflows; Interrupted, a KeyboardInterrupt with the times reached, on Ctrl-C.
    """
    end, (omega, V) = float(times[-1]), system.snr(system.Z)
    rows, states = [(omega, V)] * int(np.searchsorted(times, times[0], side="right")), [system.Z]
    states *= len(rows)
    try:
        for step in solved_steps(system, float(times[0]), end, tolerance) if len(rows) < len(times) else ():
            while len(rows) < len(times) and times[len(rows)] <= step.t:
                states.append(step.inside(times[len(rows)]))
                omega, V = follow(V, *system.snr(states[-1]))
                rows.append((omega, V))
            _, V = follow(V, *system.snr(step.Z))
            if progress is not None:
                progress(step.t / end)
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
    """The first time at which the smallest omega has grown `growth`-fold.

    Raises OverflowError, with the time and the growth until then, where the flow overflows before.
    """
    from scipy.optimize import brentq

    start, _ = system.snr(system.Z)

    def excess(Z: np.ndarray) -> float:
        return float(np.log(system.snr(Z)[0][-1] / (growth * start[-1])))

    far, before, grown = 1e9 * system.n * float(system.a.max()), 0.0, 1.0
    try:
        for step in solved_steps(system, 0.0, far):
            above = excess(step.Z)
            if above >= 0:
                inside = step.inside
                return float(brentq(lambda t, inside=inside: excess(inside(t)), before, step.t, rtol=1e-10))  # type: ignore[arg-type]
            before, grown = step.t, growth * float(np.exp(above))
    except OverflowError as error:
        raise OverflowError(f"the smallest omega grows {grown:.3g}-fold, not {growth:g}-fold, within float64: {error}") from None
    raise OverflowError(
        f"the smallest omega grows {grown:.3g}-fold, not {growth:g}-fold, until t = {far:.3g}; choose an earlier end"
    )
