"""Flows of the class statistics, advanced by one step of flow time each, and traced evenly in log omega.

Every flow is a small closed system, for any class sizes. S = M diag(q) (P x C), q = sqrt(pi), J = I - q q^T, Pi = diag(pi):

    renormalized, block kernel r   `ufm.laws.general`; r -> infinity with t / r: the embedded flow
    unnormalized, block kernel r   `ufm.compare.unnormalized_motion`
    joint                          `ufm.compare.joint_motion`
    linear last layer              `ufm.compare.layer_motion`

The last three are advanced by exponentials, which the stiffness of small eigenvalues of A and of W^T W leaves stable at any step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ufm.compare.coordinates import log_gram
from ufm.laws.general import GeneralLaw

SPACING = 0.02  # of log omega between two points of a path
MOST_POINTS = 3000
FIRST_STEP = 1e-3
FIRST_HALVINGS = 4  # of the spacing, that make the first step
LONGEST, AT_REST = 1e12, 1e-15  # a step, and a speed of log omega, at which a flow has arrived
SPLIT, ROUGH_SPLIT = 1e-4, 2e-3  # relative difference of a step and its halves that is halved again, and that of a rough one
DEEPEST = 20  # how often
MOST_FLOW_STEPS = 20_000  # of one flow, each two halves and a whole
PLACES = 20, 1.0  # of a response, and the power of their number by which they are spaced
FlowState = Any


class StiffFlowError(ValueError):
    """A flow that more steps than MOST_FLOW_STEPS do not follow."""


@dataclass(frozen=True, eq=False)
class Motion:
    """A state, how a step of flow time h changes it to fourth order, G (C, C) of a state; and two that may be cheaper: `quick`,
    which does not watch its error as `step` may, and `rough`, which watches it less closely.

    places: at how many places of a long path its response is computed, and the power of their number by which they are spaced,
    above 1 denser at the start.
    """

    state: FlowState
    step: Callable[[FlowState, float], FlowState]
    gram: Callable[[FlowState], np.ndarray]
    quick: Callable[[FlowState, float], FlowState] | None = None
    rough: Callable[[FlowState, float], FlowState] | None = None
    places: tuple[int, float] = PLACES


def renormalized_motion(gram: np.ndarray, counts: np.ndarray, r: float = 1.0, lam: float = 0.0) -> Motion:
    """The renormalized law from G (..., C, C) under a block kernel r (inf: embedded), time / n. Fourth-order Runge-Kutta."""
    law = GeneralLaw(tuple(int(count) for count in counts), lam, r)
    values, vectors = np.linalg.eigh(gram)
    basis = law.basis(gram)
    start = basis.reduce(np.sqrt(np.clip(values, 0, None))[..., None] * vectors.mT)

    def velocity(Z: np.ndarray) -> np.ndarray:
        if Z.ndim == 2:
            return law.n * law.reduced_velocity(Z)
        B = np.linalg.solve(Z @ Z.mT + law.s * np.eye(Z.shape[-2]), Z)
        gain = law.weighted(B)
        damped = gain - (gain @ Z.mT) @ B
        return damped if np.isinf(r) else gain + (r - 1) * damped

    def step(Z: np.ndarray, h: float) -> np.ndarray:
        k1 = velocity(Z)
        k2 = velocity(Z + h / 2 * k1)
        k3 = velocity(Z + h / 2 * k2)
        return Z + h / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(Z + h * k3))

    def gram_of_state(Z: np.ndarray) -> np.ndarray:
        S = basis.expand(Z)
        return S.mT @ S

    return Motion(start, step, gram_of_state)


def halves_and_whole(step: Callable[[FlowState, float], FlowState]) -> Callable[[FlowState, float], tuple[FlowState, FlowState]]:
    """Two steps of h / 2 and one of h."""
    return lambda state, h: (step(step(state, h / 2), h / 2), step(state, h))


def extrapolated(
    both: Callable[[FlowState, float], tuple[FlowState, FlowState]],
    deepest: int = DEEPEST,
    sizes: Sequence[float] = (),
    split: float = SPLIT,
    watched: Callable[[FlowState, float], tuple[FlowState, FlowState]] | None = None,
) -> Callable[[FlowState, float], FlowState]:
    """Steps of a second-order method on tuples of arrays, two halves and a whole extrapolated, and halved where they differ by
    `split`, at most `deepest` times over: in relation to the largest entry of an array, or to its size in `sizes` where that is
    larger. Where a part of the state that is cheaper to follow determines the error, `watched` takes both steps of that part.

    Raises StiffFlowError after MOST_FLOW_STEPS of them.
    """
    count = 0

    def careful(state: FlowState, h: float, depth: int = 0) -> FlowState:
        nonlocal count
        count += 1
        if count > MOST_FLOW_STEPS:
            raise StiffFlowError(f"{MOST_FLOW_STEPS} steps do not follow it")
        halves, whole = both(state, h) if watched is None or depth == deepest else watched(state, h)
        if depth < deepest and _apart(halves, whole, sizes or (0.0,) * len(whole), split):
            return careful(careful(state, h / 2, depth + 1), h / 2, depth + 1)
        if watched is not None and depth < deepest:
            halves, whole = both(state, h)
        return tuple((4 * fine - coarse) / 3 for fine, coarse in zip(halves, whole, strict=True))

    return careful


def _apart(halves: FlowState, whole: FlowState, sizes: Sequence[float], split: float) -> bool:
    pairs = zip(halves, whole, sizes, strict=True)
    return any(abs(fine - coarse).max() > split * max(abs(fine).max(), size) for fine, coarse, size in pairs)


def trace(
    motion: Motion,
    frame: np.ndarray,
    most: float,
    mean: float,
    spacing: float = SPACING,
    points: int = MOST_POINTS,
    enough: float = np.inf,
) -> tuple[np.ndarray, np.ndarray]:
    """Y (S, K, K) and flow time (S,) along a flow, in steps of `spacing`, until the mean of its diagonal passes `mean` or its
    largest entry `most`.

    The first step is that halved FIRST_HALVINGS times, and each of the next is twice the last: a classifier that is not at rest
    at the start turns the path there. A flow that reaches a stationary point, or whose G overflows float64, ends there. So does
    one whose mean has passed `enough` and that comes to rest, where steps so long that they move it take many times more of a
    flow that is stiff. Y[0] is the start.
    """
    Y, times = [log_gram(motion.gram(motion.state), frame)], [0.0]
    state, h, halted = motion.state, FIRST_STEP, False
    for _ in range(20 * points):
        target = spacing * float(np.exp2(min(len(Y) - 1 - FIRST_HALVINGS, 0)))
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # a step too long, which is taken back
                trial = motion.step(state, h)
                after = log_gram(motion.gram(trial), frame)
        except StiffFlowError:
            raise
        except (ValueError, np.linalg.LinAlgError):
            trial, after = state, None
        moved = np.inf if after is None else abs(after - Y[-1]).max()
        if after is None or not moved <= 2 * target:
            h /= 4
            if h < 1e-300:
                break
            halted = True
            continue
        if moved < target / 4 and not halted:  # a short step is taken where a longer one was too long
            if moved < AT_REST * h or h > LONGEST or np.diagonal(Y[-1]).mean() > enough:
                break
            h *= min(0.8 * target / max(moved, target / 1e3), 1e3)
            continue
        Y.append(after)
        times.append(times[-1] + h)
        state, halted = trial, False
        h *= min(spacing / max(moved, spacing / 2), 2.0)
        diagonal = np.diagonal(after)
        if len(Y) >= points or diagonal.mean() > mean or diagonal.max() > most:
            break
    return np.array(Y), np.array(times)
