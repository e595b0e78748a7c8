"""What the general law's reported error bound is made of, and the rounding of the start that stands beside it."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

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


@pytest.mark.parametrize(
    ("counts", "P", "ridge", "r", "seed"),
    [((1, 10_000), 1, 0.0, 4.0, 2), ((1, 10_000), 4, 0.0, 4.0, 3), ((1, 10_000), 4, 1e-3, 1.0, 3), ((10**6, 1), 2, 0.0, 1.0, 0)],
)
def test_classes_ten_thousand_and_more_times_as_large_as_others_run(
    counts: tuple[int, ...], P: int, ridge: float, r: float, seed: int
) -> None:
    """Against the flow of S itself, on the clock of its growth."""
    law = GeneralLaw(counts, ridge, r)
    S, t = start_of(law, P, seed), np.array([0.0, 0.01, 1.0, 10.0, 1e4]) * law.time_unit
    run = run_general(law, S, t)
    assert run.error <= 1e-10
    pi, s, C = law.priors, law.s, law.C
    q, J = np.sqrt(pi), np.eye(C) - np.sqrt(np.outer(pi, pi))

    def field(tau: float, y: np.ndarray) -> np.ndarray:
        X = y.reshape(S.shape)
        G = X.T @ X
        K = np.linalg.inv(s * np.eye(C) + G)
        after = s * K if math.isinf(r) else K @ (r * s * np.eye(C) + G)
        return (law.time_unit * math.exp(tau) / law.n * (X @ K * pi @ after @ J)).ravel()

    tau = np.log1p(t / law.time_unit)
    flow = solve_ivp(field, (0, tau[-1]), S.ravel(), method="DOP853", rtol=3e-14, atol=1e-16 * abs(S).max(), t_eval=tau)
    exact = [np.linalg.svd(y.reshape(S.shape) / q, compute_uv=False)[: run.omega.shape[1]] for y in flow.y.T]
    np.testing.assert_allclose(run.omega, exact, rtol=1e-10)


def test_class_sizes_whose_ratio_leaves_too_little_are_refused_with_it_and_run_at_the_accuracy_they_leave() -> None:
    law = GeneralLaw((1_000_000, 1, 50), 1e8, 1e8)
    S, t = start_of(law, 5), np.array([0.0, 1e4 * law.time_unit])
    with pytest.raises(ValueError, match=r"^t = .*class sizes 1e\+06 apart leave 1e\+03 times .* 1e-10 was asked for; choose"):
        run_general(law, S, t)
    assert run_general(law, S, t, accuracy=1e-6).error <= 1e-6
