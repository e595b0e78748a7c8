"""The integrator of the general law: the bounds that it reports for its steps and for the states inside them."""

import math
from itertools import islice, pairwise

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from ufm.laws.general import GeneralLaw
from ufm.laws.general_run import run_general
from ufm.laws.integrator import SAFETY, Arc, _clock_increment, arcs
from ufm.laws.interpolant import moved

FLOWS = [((8, 5), 1, 0.3), ((8, 5), 1, 4.0), ((3, 40), 1, 2.0), ((9, 4, 7), 2, math.inf), ((9, 4, 7, 30, 12, 5), 3, 6.0)]


def steps_of(counts: tuple[int, ...], m: int, r: float, accuracy: float) -> tuple[GeneralLaw, list[Arc]]:
    """The first 30 steps from a Gaussian start."""
    law = GeneralLaw(counts, 0.1, r)
    Z = np.random.default_rng(1).standard_normal((m, len(counts) - 1))
    return law, list(islice(arcs(law.reduced_velocity, Z, 1e4 * law.time_unit, law.time_unit, accuracy), 30))


def refined(law: GeneralLaw, arc: Arc, t: float) -> np.ndarray:
    """The state at a time inside by scipy, in the time itself, to rounding."""
    m, c = arc.start.shape
    run = solve_ivp(
        lambda _, z: law.reduced_velocity(z.reshape(m, c)).ravel(),
        (arc.t, t),
        arc.start.ravel(),
        method="DOP853",
        rtol=1e-13,
        atol=1e-15,
    )
    return run.y[:, -1].reshape(m, c)


def relative(state: np.ndarray, exact: np.ndarray) -> float:
    """By which factor the difference of two states moves singular values, at most."""
    norms = np.linalg.norm(exact, axis=1)[:, None]
    return moved([(state - exact) / norms], exact / norms)


@pytest.mark.parametrize(("counts", "m", "r"), FLOWS)
def test_a_state_inside_a_step_keeps_the_bound_reported_with_it(counts: tuple[int, ...], m: int, r: float) -> None:
    law, steps = steps_of(counts, m, r, 1e-9)
    seen = 0.0
    for arc in steps:
        for share in (0.3, 0.5, 0.8):
            t = arc.t + share * (arc.end - arc.t)
            state, bound = arc.at(t, accuracy=1.0)
            gap = relative(state, refined(law, arc, t))
            assert gap <= bound + 1e-13
            assert bound <= 1e-8  # of the order of the step's own error: a wrong polynomial is seen, and not only told
            seen = max(seen, gap / (bound + 1e-13))
    assert seen > 0.1  # and is no wild overestimate


@pytest.mark.parametrize(("counts", "m", "r"), FLOWS)
def test_a_step_keeps_the_bound_reported_with_it(counts: tuple[int, ...], m: int, r: float) -> None:
    law, steps = steps_of(counts, m, r, 1e-6)
    before = 0.0
    for arc in steps:
        assert relative(arc.state, refined(law, arc, arc.end)) <= arc.error - before + 1e-13
        before = arc.error
    assert 1e-8 < before <= 1e-6  # most of the accuracy is used


@pytest.mark.parametrize(("counts", "m", "r"), FLOWS)
def test_the_controller_scales_a_step_by_the_seventh_root_of_its_error(counts: tuple[int, ...], m: int, r: float) -> None:
    """What is allowed grows with the step and its error with the eighth power: SAFETY^7 of it is used, in the median."""
    _, steps = steps_of(counts, m, r, 1e-9)
    used = [(b.error - a.error) / (1e-9 * _clock_increment(b.tau, b.h)) for a, b in pairwise(steps[4:])]
    assert SAFETY**7 / 2 < np.median(used) < SAFETY**7 * 1.5


def test_a_state_whose_bound_is_too_large_comes_from_a_step_of_its_own() -> None:
    law, steps = steps_of((9, 4, 7), 2, 1.0, 1e-5)
    arc = steps[4]
    t = (arc.t + arc.end) / 2
    state, bound = arc.at(t, accuracy=1e-12)
    assert bound == 0
    assert relative(state, refined(law, arc, t)) < relative(arc.at(t, accuracy=1.0)[0], refined(law, arc, t)) / 10


def test_a_time_past_the_digits_of_float64_is_refused_and_the_time_named_in_it_is_reached() -> None:
    """The embedded flow with P < C - 1: the vectors' rest, which should vanish, is rounding of a cancellation there."""
    law = GeneralLaw((9, 17, 12, 14, 30), kernel_ratio=math.inf)
    S = law.scaled_means(np.random.default_rng(0).standard_normal((2, 5)))
    with pytest.raises(
        ValueError, match=r"^t = .*: later, rounding exceeds the accuracy .*; end there, or accept a lower accuracy$"
    ) as refused:
        run_general(law, S, np.array([0.0, 1e10]))
    last = float(str(refused.value)[4:].split(":")[0])
    assert run_general(law, S, np.array([0.0, 0.99 * last])).error <= 1e-10
    run_general(law, S, np.array([0.0, 2 * last]), accuracy=1e-7)
