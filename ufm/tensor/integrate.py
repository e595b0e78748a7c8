"""The one integrator of the full state: Dormand and Prince's 5(4) pair on numpy arrays or torch tensors, where they live.

It stays on the device, gives the observed quantities at any times by the pair's dense output, and can be stopped and resumed.
`integrate_scipy` hands the same field to scipy's solvers (numpy only), for comparison and for their other methods.
Reference: Dormand & Prince (1980); Hairer, Norsett & Wanner, Solving ODEs I, II.4-II.6 (dense output of Shampine 1986).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic

import numpy as np

from manifolds.linalg import Array, ArrayT, ArrayT_co
from manifolds.representation import short_repr

A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
DENSE = np.array(  # powers theta, theta^2, theta^3, theta^4 of each stage
    [
        [1, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432],
        [0, 0, 0, 0],
        [0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799],
        [0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072],
        [0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632],
        [0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844],
        [0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423],
    ]
)
STEP_SAFETY, LEAST_GROWTH, MOST_GROWTH = 0.9, 0.2, 5.0  # factors of the step-size controller


@dataclass(frozen=True, repr=False)
class Step(Generic[ArrayT_co]):
    """An accepted step: the state at its end, and the observed quantity anywhere inside it."""

    t: float
    X: ArrayT_co
    next_size: float
    observed: Callable[[float], ArrayT_co]
    __repr__ = short_repr


def dormand_prince(
    field: Callable[[ArrayT], ArrayT],
    X: ArrayT,
    t: float,
    t_end: float,
    observe: Callable[[ArrayT], ArrayT],
    tolerance: float = 1e-8,
    size: float | None = None,
    summed: Callable[[Array], Array] = lambda square: square,
) -> Iterator[Step[ArrayT]]:
    """Accepted steps of dX/dt = field(X) from t to t_end, with the relative local error (in the norm of X) below `tolerance`.

    `observe` must be linear in X (class means, say): its dense output costs nothing of the size of X. `size` is the first step
    (the `next_size` of an earlier `Step` resumes a run). Where X is a share of a larger state, `summed` adds the squared norms of
    all shares, so that all take the same steps.
    Raises ValueError for bad arguments, RuntimeError where no step succeeds.
    """
    if not (t_end > t and tolerance > 0):
        raise ValueError(f"t = {t}, t_end = {t_end}, tolerance = {tolerance}: time must advance and the tolerance be positive")

    def norm(x: ArrayT) -> float:
        return float(summed((x * x).sum()) ** 0.5)

    k1 = field(X)
    size = _first_size(norm(X), norm(k1), t_end - t, tolerance) if size is None else size
    while t < t_end:
        last = t + size >= t_end * (1 - 1e-14)
        h = t_end - t if last else size
        stages, new, error = _trial_stages(field, X, k1, h)
        ratio = norm(error) / (tolerance * max(norm(X), norm(new)))
        factor = STEP_SAFETY * ratio**-0.2 if ratio > 0 else MOST_GROWTH
        if not ratio <= 1:
            size = h * max(LEAST_GROWTH, factor if np.isfinite(factor) else 0.0)
            if size < 1e-14 * max(abs(t), t_end - t):
                raise RuntimeError(f"the step size fell to {size:.2e} at t = {t:.6g}: the field is not smooth there")
            continue
        size = h * min(MOST_GROWTH, max(LEAST_GROWTH, factor))
        yield Step(t_end if last else t + h, new, size, _dense(X, stages, t, h, observe))
        X, k1, t = new, stages[6], t_end if last else t + h


def observe_at(steps: Iterator[Step[ArrayT]], times: np.ndarray) -> Iterator[tuple[Step[ArrayT], Iterator[ArrayT]]]:
    """Every step with the observed quantity at each of the `times` (ascending) that it passes, one at a time."""
    done = 0
    for step in steps:
        stop = int(np.searchsorted(times, step.t, side="right"))
        yield step, map(step.observed, times[done:stop].tolist())
        done = stop


def integrate_scipy(
    field: Callable[[np.ndarray], np.ndarray], X: np.ndarray, times: np.ndarray, method: str = "DOP853", tolerance: float = 1e-10
) -> np.ndarray:
    """X at `times` (T,) by scipy.integrate.solve_ivp. (P, n) -> (T, P, n). Raises RuntimeError where the solver fails."""
    from scipy.integrate import solve_ivp

    def velocity(t: float, x: np.ndarray) -> np.ndarray:
        return field(x.reshape(X.shape)).reshape(-1)

    solution = solve_ivp(
        velocity,
        (float(times[0]), float(times[-1])),
        X.reshape(-1),
        method=method,
        t_eval=times,
        rtol=tolerance,
        atol=tolerance * float(abs(X).max()),
    )
    if not solution.success:
        raise RuntimeError(f"{method} stopped at t = {solution.t[-1]:.6g}: {solution.message}")
    return solution.y.T.reshape(len(times), *X.shape)


def _trial_stages(field: Callable[[ArrayT], ArrayT], X: ArrayT, k1: ArrayT, h: float) -> tuple[list[ArrayT], ArrayT, ArrayT]:
    """The seven stages, the new state (fifth order) and the error estimate. The last stage is the field at the new state."""
    stages = [k1]
    point = X
    for weights in A[1:]:
        point = _combine(weights, stages, h)
        point += X
        if len(stages) == 6:
            stages[1] = k1  # nothing after the sixth stage has weight on the second: free its memory
        stages.append(field(point))
    return stages, point, _combine(ERROR, stages, h)


def _combine(weights: tuple[float, ...], stages: list[ArrayT], h: float) -> ArrayT:
    """h sum_i weights_i stages_i, with one temporary of the size of a stage."""
    total = (h * weights[0]) * stages[0]
    for weight, stage in zip(weights[1:], stages[1:], strict=True):
        if weight:
            total += (h * weight) * stage
    return total


def _dense(X: ArrayT, stages: list[ArrayT], t: float, h: float, observe: Callable[[ArrayT], ArrayT]) -> Callable[[float], ArrayT]:
    start, slopes = observe(X), [observe(stage) for stage in stages]

    def observed(time: float) -> ArrayT:
        theta = (time - t) / h
        weights = DENSE @ theta ** np.arange(1, 5)
        return start + _combine(tuple(weights.tolist()), slopes, h)

    return observed


def _first_size(length: float, speed: float, span: float, tolerance: float) -> float:
    """A step whose first-order change is tolerance^(1/5) of the state, within the span."""
    return min(span, tolerance**0.2 * length / speed) if speed > 0 else span
