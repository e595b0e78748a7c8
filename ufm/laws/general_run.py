"""The general law run: closed for equal classes, integrated with a reported error bound otherwise."""

from collections.abc import Callable
from typing import Any

import numpy as np

from manifolds.linalg import Array, ArrayT, array_like, namespace
from ufm.arrays import ClassMeans, Times, as_numpy
from ufm.interrupt import Interrupted
from ufm.laws.domain import wide
from ufm.laws.general import GeneralLaw
from ufm.laws.general_states import ReducedStart, peak_signs, reduced_start, states_at
from ufm.laws.general_trajectory import GeneralTrajectory
from ufm.laws.run_cost import check_run_cost
from ufm.laws.thin_svd import singular_values

ACCURACY = 1e-10  # largest relative error bound of a singular value
CLOSED_ERROR = 1e-13  # of the closed laws
ShareDone = Callable[[float], None]


def run_general(
    law: GeneralLaw, S: ClassMeans[Array], t: Times[Array], accuracy: float = ACCURACY, progress: ShareDone | None = None
) -> GeneralTrajectory:
    """The trajectory from S (P, C) at times t (T,), ascending, t >= 0, S given at time 0. numpy, or torch on its device.

    `accuracy` bounds the relative error of every singular value (default 1e-10). Singular values of S of at most
    max(P, C) eps sigma_1 are rounding of zeros and stay exactly 0. `progress` gets the share of the time done.
    Raises ValueError for bad times, accuracy or means, S q not 0 among them, for more than the machine's memory, and with the
    time from which on rounding exceeds the accuracy; OverflowError past the times that float64 allows; Interrupted, a
    KeyboardInterrupt with the times reached, on Ctrl-C.
    """
    try:
        return run_general_beside(law, S, t, np.zeros(0), accuracy, progress)[0]
    except Interrupted as stop:
        raise Interrupted(stop.partial[0]) from None


def run_general_beside(
    law: GeneralLaw,
    S: ClassMeans[ArrayT],
    t: Times[Array],
    beside: Times[np.ndarray],
    accuracy: float = ACCURACY,
    progress: ShareDone | None = None,
) -> tuple[GeneralTrajectory, ArrayT]:
    """`run_general` at times t (T,), and omega (B, K) alone at more times `beside` (B,), ascending, from one integration."""
    times, others = _checked_times(t), _checked_times(beside) if len(beside) else beside
    if not 0 < accuracy < 1:
        raise ValueError(f"accuracy = {accuracy}: a relative error between 0 and 1 is needed, such as {ACCURACY:g}")
    S = law.checked_scaled(S)
    start = reduced_start(law, S)
    if law.balanced or start.moving == 0:
        omega: Any = _closed(law, start, others).omega
        return _closed(law, start, times), omega
    if isinstance(S, np.ndarray):
        check_run_cost(law.C, S.shape[0], len(times))
    visited, states, values, error = np.union1d(times, others), list[Any](), list[Any](), 0.0
    wanted, compared = np.isin(visited, times), np.isin(visited, others)
    passed = 0
    try:
        for state, bound in states_at(law, start.Z, visited, accuracy, progress):
            if compared[passed]:
                values.append(_omega(law, start, state))
            if wanted[passed]:
                states.append(state)
            passed, error = passed + 1, max(error, bound)
    except KeyboardInterrupt:
        if not (states and (values or not len(others))):
            raise
        raise Interrupted(_integrated(law, start, (times, states), (others, values), error)) from None
    return _integrated(law, start, (times, states), (others, values), error)


def _closed(law: GeneralLaw, start: ReducedStart, times: np.ndarray) -> GeneralTrajectory:
    """Equal classes, or nothing that moves."""
    Z = law.basis(start.Vt).expand(start.Vt)
    signs = peak_signs(Z.mT)
    t, omega0 = array_like(times, Z), (law.C * start.sigma * start.sigma) ** 0.5
    omega = law.closed_omega(t, omega0) if start.moving else t[:, None] * omega0
    return GeneralTrajectory(law, t, omega, omega * omega / law.C, CLOSED_ERROR, start.U * signs, Z * signs[:, None])


def _integrated(
    law: GeneralLaw,
    start: ReducedStart,
    main: tuple[np.ndarray, list[ArrayT]],
    beside: tuple[np.ndarray, list[ArrayT]],
    error: float,
) -> tuple[GeneralTrajectory, ArrayT]:
    """What the states at the times reached, without repetitions, and the values beside them, make."""
    (times, states), (others, values) = main, beside
    xp, K, like = namespace(start.sigma), len(start.sigma), start.sigma
    at = np.searchsorted(np.unique(times), times)
    at = at[at < len(states)]
    moving = xp.stack([states[k] for k in at])
    missing = xp.zeros((len(at), K - start.moving, law.C), dtype=like.dtype, device=like.device)
    Z = xp.concatenate([law.basis(like).expand(moving), missing], 1)
    u = xp.concatenate([_values(moving) ** 2, missing[..., 0]], -1)
    run = GeneralTrajectory(law, array_like(times[: len(at)], like), _values(law.class_means(Z)), u, error, start.U, Z)
    at = np.searchsorted(np.unique(others), others)
    return run, xp.stack([values[k] for k in at[at < len(values)]]) if len(others) else u[:0]


def _omega(law: GeneralLaw, start: ReducedStart, state: ArrayT) -> ArrayT:
    """Singular values of Eq. 9's matrix, zeros included. (K,)"""
    omega = singular_values(law.class_means(law.basis(state).expand(state)))
    return namespace(omega).concatenate([omega, 0 * start.sigma[start.moving :]])


def _values(Z: ArrayT) -> ArrayT:
    """Singular values, one matrix after the other: a batch would need them all at once. (T, m, c) -> (T, min(m, c))"""
    return namespace(Z).stack([singular_values(z) for z in Z])


def _checked_times(t: Array) -> np.ndarray:
    times = as_numpy(wide(t)).reshape(-1)
    if not (len(times) and np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) >= 0).all()):
        raise ValueError(f"times t must be finite, ascending and not negative: the state is given at t = 0 (got {times[:5]} ...)")
    return times
