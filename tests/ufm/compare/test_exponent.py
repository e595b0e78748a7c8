"""The exponent without a clock: against quadrature, dense least squares, refits of resampled values, and known exponents."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import cumulative_simpson
from scipy.interpolate import CubicSpline
from scipy.optimize import least_squares

from tests.ufm.compare.synthetic import K, along, noisy, starts
from ufm.compare import exponent
from ufm.compare.exponent import EXPONENTS, fit_exponent, phi_between, profile, resample
from ufm.laws.singular_value_dynamics import LAWS, Law

ONCE = [np.ones((1, K))]  # every singular value once: a "bootstrap" of the sample itself


def moving(p: float, rng: np.random.Generator, T: int = 20, K: int = K, growth: float = 5.0) -> np.ndarray:
    """log u (T, K) of exponent p without noise, the largest omega growing `growth` fold, by even steps of its logarithm."""
    x0 = starts(rng, K)
    top = x0.max() + np.linspace(0, 2 * np.log(growth), T)
    b = np.r_[0, np.cumsum([float(phi_between(top[k : k + 1], top[k + 1 : k + 2], p)[0]) for k in range(T - 1)])]
    return along(p, x0, b)


@settings(max_examples=8)
@given(st.floats(-60, 60), st.floats(-60, 60), st.floats(-1, 3))
def test_phi_between_is_the_integral(x0: float, x1: float, p: float) -> None:
    with mpmath.workdps(30):
        corner = [
            mpmath.mpf(min(x0, x1)),
            *(c for c in range(-60, 61, 2) if min(x0, x1) < c < max(x0, x1)),
            mpmath.mpf(max(x0, x1)),
        ]
        expected = mpmath.quad(lambda y: (1 + mpmath.exp(y)) ** p, corner) * (1 if x1 >= x0 else -1)
    assert phi_between(np.array([x0]), np.array([x1]), p)[0] == pytest.approx(float(mpmath.mpf(expected)), rel=1e-13, abs=1e-300)


@pytest.mark.parametrize("law", EXPONENTS, ids=lambda law: law.name)
def test_phi_of_the_laws_exponents_is_the_laws(law: Law) -> None:
    x0, x1 = np.random.default_rng(0).uniform(-6, 8, size=(2, 7, 3))
    expected = law.phi(np.exp(x1)) - law.phi(np.exp(x0))
    np.testing.assert_allclose(phi_between(x0, x1, EXPONENTS[law]), expected, rtol=1e-12, atol=1e-12)
    assert set(EXPONENTS) == set(LAWS.values())


@given(st.floats(-0.9, 2.9), st.integers(2, 5), st.integers(0, 99))
def test_a_member_of_the_family_is_fitted_without_error_at_its_exponent(p: float, K: int, seed: int) -> None:
    x = moving(p, np.random.default_rng(seed), T=K + 4, K=K)
    fit = profile(x, p)
    assert abs(fit.error).max() < 1e-9  # the tolerance of the integration is 1e-12, steps add up
    np.testing.assert_allclose(fit.x, x, atol=2e-9)


@pytest.mark.parametrize("p", [-0.7, 0.0, 0.5, 1.0, 2.0, 2.8])
@pytest.mark.parametrize("truth", [0.0, 1.0, 2.0])
def test_the_profile_is_the_least_squares_fit_of_starts_and_clock(
    p: float, truth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(int(10 * truth))
    x = noisy(moving(truth, rng, T=7, K=4), rng, 0.03)
    grid = np.linspace(-20, 20, 40001)  # Simpson's rule and a cubic spline with steps of 1e-3: errors of 1e-12
    phi = cumulative_simpson((1 + np.exp(grid)) ** p, x=grid, initial=0)
    phi_of, x_of = CubicSpline(grid, phi), CubicSpline(phi, grid)

    def errors(parameters: np.ndarray) -> np.ndarray:
        """From log u_1j (K,), then log u_t1 (T-1,)."""
        b = np.r_[0, phi_of(parameters[4:]) - phi_of(parameters[0])]
        return ((x - x_of(phi_of(parameters[:4]) + b[:, None])) / 2).ravel()

    quick = profile(x, p)
    monkeypatch.setattr(exponent, "LEAST_GAIN", 1e-13)
    fit = profile(x, p)
    start = np.r_[fit.x[0], fit.x[1:, 0]] + 1e-3 * rng.standard_normal(10)
    dense = least_squares(errors, start, xtol=1e-13, ftol=1e-13, gtol=1e-13, max_nfev=500)
    assert fit.squares == pytest.approx(2 * dense.cost, rel=1e-6)
    assert fit.squares <= quick.squares <= fit.squares * (1 + 1e-4)
    np.testing.assert_allclose(fit.error.ravel(), (x - fit.x).ravel() / 2, atol=1e-14)
    assert fit.rms == pytest.approx(np.sqrt(fit.squares / 18))


@settings(max_examples=8)
@given(st.floats(-0.5, 2.5), st.integers(0, 99))
def test_the_exponent_of_a_trajectory_without_noise_is_found(p: float, seed: int) -> None:
    exponent = fit_exponent([moving(p, np.random.default_rng(seed))], ONCE)
    assert exponent.value == pytest.approx(p, abs=1e-3)
    assert exponent.low == exponent.high == pytest.approx(p, abs=1e-3)
    assert not exponent.at_bound


@pytest.mark.parametrize("p", [-2.0, 5.0])
def test_an_exponent_outside_the_range_is_at_its_bound(p: float) -> None:
    exponent = fit_exponent([moving(p, np.random.default_rng(1))], ONCE)
    assert exponent.at_bound
    assert exponent.value == pytest.approx(-1.0 if p < 0 else 3.0, abs=2e-3)


def test_runs_share_the_exponent_but_neither_clock_nor_starts_nor_sizes() -> None:
    rng = np.random.default_rng(5)
    logs = [moving(1.3, rng, T=T, K=K, growth=g) for T, K, g in ((9, 4, 3), (17, 6, 8), (5, 3, 2))]
    taken = [np.ones((1, x.shape[1])) for x in logs]
    assert fit_exponent(logs, taken).value == pytest.approx(1.3, abs=1e-3)


def test_one_singular_value_is_refused() -> None:
    with pytest.raises(ValueError, match="no pair"):
        fit_exponent([moving(1.0, np.random.default_rng(0), K=3)[:, :1]], [np.ones((1, 1))])


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0])
def test_the_one_step_bootstrap_is_the_refit_of_resampled_columns(p: float) -> None:
    """Linearized statistics: the step leaves errors of second order in the noise, a small part of the spread (first order)."""
    rng = np.random.default_rng(int(p))
    x = noisy(moving(p, rng, T=10), rng, 0.01)
    whole = fit_exponent([x], ONCE)
    one_step, refitted = [], []
    for counts in resample([K], 10, rng)[0]:
        one = fit_exponent([x], [counts[None]])
        one_step.append(one.low)
        columns = np.repeat(np.arange(K), counts)
        refitted.append(fit_exponent([x[:, columns]], [np.ones((1, K))]).value)
    assert whole.low == pytest.approx(whole.value, abs=1e-3)  # the step from the best fit is none
    spread = np.std(refitted)
    assert np.sqrt(np.mean(np.subtract(one_step, refitted) ** 2)) < 0.3 * spread
    assert np.std(one_step) == pytest.approx(spread, rel=0.2)


def test_resampled_runs_and_values_keep_their_number() -> None:
    rng = np.random.default_rng(0)
    one, several = resample([5], 400, rng), resample([5, 3, 7], 4000, rng)
    assert (one[0].sum(1) == 5).all()
    runs = np.stack([taken.sum(1) / taken.shape[1] for taken in several], axis=1)
    assert (runs.sum(1) == 3).all()
    assert (runs == np.round(runs)).all()
    np.testing.assert_allclose(runs.mean(0), 1, atol=5 * np.sqrt(2 / 3 / 4000))  # 5 standard errors of a multinomial


def covered(p: float, seeds: range, K: int) -> int:
    inside = 0
    for seed in seeds:
        rng = np.random.default_rng([seed, K])
        x = noisy(moving(p, rng, T=10, K=K), rng)
        exponent = fit_exponent([x], resample([K], 400, rng))
        inside += exponent.low <= p <= exponent.high
    return inside


def test_the_interval_covers_the_exponent_nearly_as_often_as_it_says() -> None:
    """25 cases of 9 values: a percentile interval of so few covers 85 to 95 %, and fewer than 17 of 25 at 85 % has p < 0.01."""
    assert covered(1.0, range(25), K=9) >= 17


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.0, 1.0, 2.0])
def test_the_interval_covers_the_exponent_over_many_seeds(p: float) -> None:
    assert covered(p, range(300), K=9) >= 300 * 0.85
    assert covered(p, range(300), K=30) >= 300 * 0.90
