"""What the general law's reported error bound is made of, and the rounding of the start that stands beside it."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ufm.laws.general import GeneralLaw
from ufm.laws.general_run import run_general
from ufm.laws.general_states import reduced_start, states_at
from ufm.laws.integrator import arcs


def start_of(law: GeneralLaw, P: int, seed: int = 0) -> np.ndarray:
    return law.scaled_means(np.random.default_rng(seed).standard_normal((P, law.C)))


def test_the_reported_error_is_the_largest_of_all_output_times_and_not_the_last() -> None:
    law = GeneralLaw((50, 20, 5))
    S = start_of(law, 6)
    Z, end = reduced_start(law, S).Z, 30.0 * law.time_unit
    share = 0.5e-10 / law.spread_of_sizes
    stops = [arc.end for arc in arcs(law.reduced_velocity, Z, end, law.time_unit, share)]
    t = np.array([0.5 * (stops[-2] + stops[-1]), end])  # inside the last step, where the interpolant adds its own, and at its end
    bounds = [bound for _, bound in states_at(law, Z, t, 1e-10)]
    assert bounds[0] > bounds[1] > 0
    assert run_general(law, S, t).error == max(bounds)


@pytest.mark.parametrize("counts", [(9, 9, 4), (40, 20, 1)])
def test_errors_of_the_steps_count_times_the_root_of_the_ratio_of_the_class_sizes(counts: tuple[int, ...]) -> None:
    law = GeneralLaw(counts)
    S, end = start_of(law, 5), 30.0 * law.time_unit
    share = 0.5e-10 / law.spread_of_sizes
    steps = list(arcs(law.reduced_velocity, reduced_start(law, S).Z, end, law.time_unit, share))[-1].error
    ratio = math.sqrt(max(counts) / min(counts))
    assert run_general(law, S, np.array([end])).error == pytest.approx(ratio * steps, rel=1e-12)


@given(st.floats(-7, -1), st.integers(0, 99))
def test_rounding_of_the_start_is_a_few_units_of_its_largest_value_over_each(decade: float, seed: int) -> None:
    """The singular values at time 0 against fifty digits, of class means that nearly lie on a line."""
    law, rng = GeneralLaw((7, 20, 4)), np.random.default_rng(seed)
    left, right = np.linalg.qr(rng.standard_normal((5, 2)))[0], np.linalg.qr(rng.standard_normal((3, 2)))[0]
    S = law.scaled_means((left * [1.0, 10.0**decade]) @ right.T)
    run = run_general(law, S, np.array([0.0]))
    with mpmath.workdps(50):
        exact = np.array([float(x) for x in mpmath.svd_r(mpmath.matrix(S.tolist()), compute_uv=False)])[:2]
    allowed = 16 * np.finfo(float).eps * exact[0] / exact
    assert (abs(np.sqrt(run.u[0]) / exact - 1) <= allowed).all()
