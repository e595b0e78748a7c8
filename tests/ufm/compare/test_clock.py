"""The best monotone clock: recovered where it is known, the closed form for law (c), and never worse than brute force."""

from itertools import combinations_with_replacement, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from tests.ufm.compare.synthetic import C, N, class_vectors, clock, starts
from ufm.compare.clock import fit_clock, law_from, slopes_by_rate
from ufm.laws.singular_value_dynamics import LAWS, UNNORMALIZED, Law
from ufm.laws.trajectory import Trajectory

EVERY = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


def entry_of(rng: np.random.Generator, K: int = 4) -> np.ndarray:
    return np.sqrt(C) * np.exp(starts(rng, K) / 2)


def times_of(law: Law, entry: np.ndarray, growth: float, shape: np.ndarray) -> np.ndarray:
    """Flow times at which the largest value has grown as `shape`, from 0 to 1, says."""
    top = entry.max()
    return law.time(top * np.exp(np.log(growth) * shape), np.full(len(shape), top), C, N)


@EVERY
@pytest.mark.parametrize("seed", range(5))
def test_a_known_clock_is_recovered(law: Law, seed: int) -> None:
    rng = np.random.default_rng(seed)
    entry = entry_of(rng)
    tau = times_of(law, entry, rng.uniform(2, 9), clock(rng, 23))
    tau[5:8] = tau[5]  # it may stand still
    log_omega = law.log_omega(tau, entry, C, N)
    fit = fit_clock(law_from(law, entry, float(np.exp(log_omega.max())), C, N), log_omega)
    assert fit.tau[0] == 0
    assert abs(fit.error).max() < 1e-6
    top = int(entry.argmax())
    np.testing.assert_allclose(law.log_omega(fit.tau, entry, C, N)[:, top], log_omega[:, top], atol=1e-6)
    assert not fit.exhausted


@EVERY
@given(st.integers(0, 999), st.floats(0.001, 3), st.integers(4, 11))
def test_the_clock_never_goes_back_whatever_was_measured(law: Law, seed: int, size: float, T: int) -> None:
    rng = np.random.default_rng(seed)
    entry = entry_of(rng, 3)
    log_omega = np.log(entry) + size * rng.standard_normal((T, 3)).cumsum(0)
    log_omega[0] = np.log(entry)
    simulated = law_from(law, entry, float(np.exp(log_omega.max())), C, N, points=200)
    fit = fit_clock(simulated, log_omega)
    assert fit.tau[0] == 0
    assert (np.diff(fit.tau) >= 0).all()
    assert fit.tau[-1] <= simulated.t[-1]
    np.testing.assert_allclose(fit.predicted + fit.error, log_omega, atol=1e-12)
    assert fit.rms == pytest.approx(np.sqrt((fit.error[1:] ** 2).mean()))


@given(st.integers(0, 999), st.floats(0.01, 0.3))
def test_the_clock_of_law_c_is_the_isotonic_regression_of_the_mean_growth(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    entry = entry_of(rng, 5)
    growth = 1.5 * clock(rng, 15)[:, None] + noise * rng.standard_normal((15, 5))
    growth[0] = 0
    log_omega = np.log(entry) + growth
    fit = fit_clock(law_from(UNNORMALIZED, entry, float(np.exp(log_omega.max())), C, N, points=400), log_omega)
    closed = np.r_[0, np.maximum(isotonic_regression(growth[1:].mean(1)).x, 0)]
    np.testing.assert_allclose(fit.tau / (C * C * N), closed, atol=1e-6)


def monotone_paths(motion: np.ndarray, log_omega: np.ndarray) -> float:
    """The least squared error over every never decreasing choice of rows of motion (G, K), the first row first."""
    cost = ((log_omega[:, None] - motion) ** 2).sum(-1)
    rest = range(1, len(log_omega))
    choices = combinations_with_replacement(range(len(motion)), len(log_omega) - 1)
    return cost[0, 0] + min(sum(cost[k, g] for k, g in zip(rest, chosen, strict=True)) for chosen in choices)


@EVERY
@pytest.mark.parametrize("seed", range(4))
def test_no_choice_of_times_on_a_grid_is_better(law: Law, seed: int) -> None:
    rng = np.random.default_rng([seed, 11])
    entry = entry_of(rng, 3)
    t = times_of(law, entry, 6.0, np.linspace(0, 1, 13))
    path = law.log_omega(t, entry, C, N)
    log_omega = path[[0, 5, 3, 9]] + rng.normal(0, 0.4, size=(4, 3))  # it goes back, and is far from the law
    fit = fit_clock(Trajectory(t, np.exp(path), class_vectors(C, 3), C, N), log_omega)
    squares = (fit.error**2).sum()
    assert squares <= monotone_paths(path, log_omega) * (1 + 1e-9)
    between = np.unique(np.concatenate([np.linspace(a, b, 4) for a, b in pairwise(t)]))
    fine = PchipInterpolator(t, path)(between)
    assert squares <= monotone_paths(fine, log_omega) * (1 + 1e-6)


@EVERY
def test_a_law_is_followed_past_the_reach_in_every_value(law: Law) -> None:
    entry = np.array([0.4, 6.0, 2.5])
    path = law_from(law, entry, 40.0, C, N, points=300)
    assert path.t[0] == 0
    assert (np.diff(path.t) > 0).all()
    np.testing.assert_allclose(path.omega[0], entry, rtol=1e-12)
    assert (path.omega[-1] > 40.0).all()
    np.testing.assert_allclose(np.log(path.omega), law.log_omega(path.t, entry, C, N), atol=1e-12)
    assert abs(np.diff(np.log(path.omega.max(1)))).max() < 0.1
    assert law_from(law, entry, 1.0, C, N).omega[-1].max() > 6.0  # a measured run that only falls


@EVERY
@pytest.mark.parametrize("largest", [1e2, 1e3, 1e5])
def test_small_values_that_move_long_before_a_dominating_one_are_followed(law: Law, largest: float) -> None:
    entry = np.array([1.0, 3.0, largest])
    tau = law.time(np.geomspace(1, 20, 30), np.ones(30), C, N)
    log_omega = law.log_omega(tau, entry, C, N)
    fit = fit_clock(law_from(law, entry, float(np.exp(log_omega.max())), C, N), log_omega)
    assert fit.rms < 1e-6
    np.testing.assert_allclose(fit.tau, tau, rtol=1e-4)


def test_a_clock_that_stands_still_and_one_that_outruns_the_simulation() -> None:
    entry = np.array([1.0, 2.0, 3.0])
    law = law_from(LAWS["renormalized"], entry, 9.0, C, N)
    still = fit_clock(law, np.tile(np.log(entry), (5, 1)))
    np.testing.assert_array_equal(still.tau, 0)
    assert still.rms == 0
    assert fit_clock(law, np.log(entry) + np.linspace(0, 5, 5)[:, None]).exhausted


def test_columns_and_times_must_fit() -> None:
    entry = np.array([1.0, 2.0, 3.0])
    law = law_from(LAWS["renormalized"], entry, 9.0, C, N)
    with pytest.raises(ValueError, match=f"3 simulated singular values at {len(law.t)} times, 2 measured"):
        fit_clock(law, np.zeros((5, 2)))
    with pytest.raises(ValueError, match="at 3 times"):
        fit_clock(law.rows(np.arange(3)), np.zeros((5, 3)))


def test_slopes_of_a_clock_in_stretches_of_one_learning_rate() -> None:
    epochs = np.array([1.0, 2, 4, 7, 8, 9, 13, 14, 15, 16])
    rates = np.array([0.5, 0.5, 0.5, 0.5, 0.1, 0.1, 0.1, 0.02, 0.02, 0.1])
    tau = np.concatenate([3 * epochs[:4] - 3, 20 + 0.7 * epochs[4:7], [33.0, 34.0, 40.0]])
    slopes = slopes_by_rate(epochs, tau, rates)
    assert [(rate, count) for rate, _, count in slopes] == [(0.5, 4), (0.1, 3)]
    np.testing.assert_allclose([slope for _, slope, _ in slopes], [3, 0.7], rtol=1e-12)
