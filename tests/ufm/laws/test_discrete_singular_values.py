"""(d) The discrete scheme D.1: the exact recursion against full-X steps, the safe step, what happens past it, and its limit."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from manifolds.normalized_features import renormalize
from tests import oracles
from tests.strategies import Problem, problems
from ufm.features import spectral_loss
from ufm.features.snr import snr
from ufm.interrupt import Interrupted
from ufm.laws import discrete_singular_values as discrete
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED
from ufm.tensor.renormalized_flow import central_path_gradient, ls_gradient, renormalize_after_step


@given(problems(), st.floats(1e-3, 0.95), st.integers(1, 6))
def test_recursion_equals_full_steps_with_frozen_vectors_and_deviations(problem: Problem, share: float, steps: int) -> None:
    layout, X = problem.layout, problem.X
    C, N = layout.C, layout.N
    eta = share * discrete.safe_step(C, N)
    start, D = snr(X, layout), layout.deviations(X)
    for _ in range(steps):
        X = renormalize_after_step(X, eta, lambda X: ls_gradient(X, layout), layout)
    omega = discrete.run_discrete(start.omega, eta, steps, C, N).omega[-1]
    M = layout.means(X)
    np.testing.assert_allclose(M, (start.left_vectors * omega) @ start.V.T, atol=1e-9 * omega[0])
    np.testing.assert_allclose(layout.deviations(X), D, atol=1e-9)


@given(problems(), st.floats(1.05, 40))
def test_past_the_safe_step_values_are_absolute_and_deviations_reflect(problem: Problem, factor: float) -> None:
    layout, X = problem.layout, problem.X
    C, N = layout.C, layout.N
    eta = factor * discrete.safe_step(C, N)
    start, D = snr(X, layout), layout.deviations(X)
    stepped = renormalize(X - eta * central_path_gradient(X, layout), layout)
    f = spectral_loss.loss_slope(start.omega, C)
    denominator = 1 - eta * f * start.omega / (C * N)
    assume((abs(denominator) > 1e-3).all())
    omega = discrete.recursion_step(start.omega, eta, C, N)
    np.testing.assert_allclose(omega, (start.omega + eta * f / N) / abs(denominator), rtol=1e-12)
    U = start.left_vectors
    np.testing.assert_allclose(U.T @ layout.means(stepped) @ start.V, np.diag(omega), atol=1e-8 * omega.max())
    np.testing.assert_allclose(U.T @ layout.deviations(stepped), np.sign(denominator)[:, None] * (U.T @ D), atol=1e-8)


@given(st.integers(2, 40), st.integers(2, 400), st.lists(st.floats(-6, 6), min_size=1, max_size=5), st.floats(1e-6, 0.9999))
def test_below_the_safe_step_omega_grows_and_the_loss_falls(C: int, N: int, logs: list[float], share: float) -> None:
    omega = 10.0 ** np.array(logs)
    eta = share * discrete.safe_step(C, N)
    stepped = discrete.recursion_step(omega, eta, C, N)
    assert (stepped >= omega).all()
    assert spectral_loss.spectral_loss(stepped, C) <= spectral_loss.spectral_loss(omega, C)
    denominators = 1 - eta * spectral_loss.loss_slope(omega, C) * omega / (C * N)
    assert (denominators > 0).all()


def test_the_safe_step_is_sharp_at_omega_squared_equal_C() -> None:
    C, N = 5, 7
    omega = np.array([np.sqrt(C)])
    at = discrete.safe_step(C, N) * spectral_loss.loss_slope(omega, C) * omega / (C * N)
    np.testing.assert_allclose(at, 1, rtol=1e-14)
    np.testing.assert_allclose(discrete.safe_step_from(omega, C, N), discrete.safe_step(C, N), rtol=1e-14)
    beyond = discrete.safe_step_from(np.array([10.0]), C, N)
    np.testing.assert_allclose(beyond * spectral_loss.loss_slope(np.array([10.0]), C) * 10.0 / (C * N), 1, rtol=1e-13)
    assert beyond > discrete.safe_step(C, N)


@given(st.integers(2, 12), st.integers(2, 50), st.floats(0.2, 5))
def test_the_scheme_tends_to_law_a_at_first_order(C: int, N: int, omega: float) -> None:
    omega0 = np.array([omega, 1.5 * omega])
    T = float(RENORMALIZED.time(np.array(3 * omega), omega0[:1], C, N)[0])
    exact = RENORMALIZED.omega(np.array(T), omega0, C, N)

    def error(eta: float) -> float:
        steps = round(T / eta)
        return float(abs(discrete.run_discrete(omega0, T / steps, steps, C, N).omega[-1] - exact).max())

    assert abs(oracles.slope(error, T / np.array([200.0, 400.0, 800.0])) - 1) < 0.05


def test_example_the_scheme_follows_law_a_and_not_the_printed_proposition_2() -> None:
    """Errata: C = 4, N = 12, 200 steps of eta = 50; end values 20.49, 20.32, 20.16 against 7.27, 7.15, 7.07 of the print."""
    C, N, eta, steps = 4, 12, 50.0, 200
    printed = np.array([7.27, 7.15, 7.07])
    # the starts that Proposition 2 takes to those values: the law run backwards
    omega0 = EMBEDDED.omega(np.array(-eta * steps), printed, C, N)
    scheme = discrete.run_discrete(omega0, eta, steps, C, N).omega[-1]
    law_a = RENORMALIZED.omega(np.array(eta * steps), omega0, C, N)
    np.testing.assert_allclose(scheme, [20.49, 20.32, 20.16], atol=0.1)
    np.testing.assert_allclose(law_a, [20.37, 20.19, 20.01], atol=0.1)
    assert (scheme / printed > 2.8).all()


def test_the_schedule_reaches_the_end_with_safe_steps_or_says_that_it_does_not() -> None:
    omega0 = np.array([0.9, 0.5])
    safe = discrete.safe_step(3, 10)
    assert discrete.schedule(100.0, omega0, 3, 10) == (0.1, 1000)
    eta, steps = discrete.schedule(1e5 * safe, omega0, 3, 10)
    np.testing.assert_allclose((eta, steps), (safe / 2, 200_000), rtol=1e-9)
    assert discrete.step_warnings(1e5 * safe, eta, steps, omega0, 3, 10) == ()
    assert discrete.schedule(100.0, omega0, 3, 10, eta=30.0) == (30.0, 4)
    assert discrete.schedule(100.0, omega0, 3, 10, steps=8) == (12.5, 8)
    eta, steps = discrete.schedule(1e9 * safe, omega0, 3, 10)
    assert (eta, steps) == (safe / 2, 200_000)
    (warning,) = discrete.step_warnings(1e9 * safe, eta, steps, omega0, 3, 10)
    assert "2e+09 steps" in warning
    (warning,) = discrete.step_warnings(9 * safe, 3 * safe, 3, omega0, 3, 10)
    assert "beyond the safe step, 4 C^2 N = 360" in warning


def test_runs_are_thinned_evenly_only_past_ten_thousand_steps() -> None:
    short = discrete.run_discrete(np.array([1.0]), 1.0, 10_000, 3, 5)
    np.testing.assert_array_equal(short.steps, np.arange(10_001))
    long = discrete.run_discrete(np.array([1.0]), 1.0, 25_000, 3, 5)
    assert long.steps[0] == 0
    assert long.steps[-1] == 25_000
    assert len(long.steps) == 10_001
    assert set(np.diff(long.steps)) == {2, 3}
    np.testing.assert_array_equal(long.omega[4000], short.omega[long.steps[4000]])


def test_interrupt_keeps_what_was_computed() -> None:
    def stop(done: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interrupted:
        discrete.run_discrete(np.array([1.0, 2.0]), 1.0, 100, 3, 5, stop)
    assert isinstance(interrupted.value, Interrupted)
    run = interrupted.value.partial
    np.testing.assert_array_equal(run.steps, np.arange(8))
    np.testing.assert_array_equal(run.omega, discrete.run_discrete(np.array([1.0, 2.0]), 1.0, 7, 3, 5).omega)


def test_unsafe_and_safe_loops_take_the_same_steps() -> None:
    omega0 = np.array([0.5, 3.0, 40.0])
    for factor in (0.5, 3.0):
        eta = factor * discrete.safe_step(4, 9)
        omega = omega0
        for _ in range(5):
            omega = discrete.recursion_step(omega, eta, 4, 9)
        np.testing.assert_allclose(discrete.run_discrete(omega0, eta, 5, 4, 9).omega[-1], omega, rtol=1e-14)


@pytest.mark.parametrize(
    ("omega", "eta", "steps", "message"),
    [
        ([1.0], 0.0, 5, "eta = 0.0"),
        ([1.0], np.nan, 5, "eta = nan"),
        ([1.0], 1.0, 0, "steps = 0"),
        ([-1.0], 1.0, 5, "non-negative"),
        ([np.inf], 1.0, 5, "finite"),
    ],
)
def test_bad_runs_are_refused(omega: list[float], eta: float, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        discrete.run_discrete(np.array(omega), eta, steps, 4, 9)


def test_a_step_that_annihilates_a_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="annihilates"):
        discrete.recursion_step(np.array([2.0]), discrete.safe_step(4, 16), 4, 16)
