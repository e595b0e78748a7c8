"""ReLU units on two Gaussian classes: the closed form against quadrature and draws, the ceiling of all functions, the limit."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from ufm.ledger.rectified import best_threshold, input_omega, largest_omega, relu_moments, relu_omega

reals = st.floats(-3, 3)
units = st.lists(st.tuples(st.floats(-3, 3).filter(lambda w: abs(w) > 0.05), reals), min_size=1, max_size=4)


@given(reals, units)
def test_moments_of_rectified_units_agree_with_quadrature(mean: float, pairs: list[tuple[float, float]]) -> None:
    w, b = np.array(pairs).T
    first, second = relu_moments(mean, w, b)
    kinks = sorted(-b / w)
    inside = [k for k in kinks if mean - 12 < k < mean + 12] or None

    def expected(f) -> float:
        return quad(lambda x: f(x) * norm.pdf(x - mean), mean - 12, mean + 12, points=inside, limit=300, epsabs=1e-11)[0]

    def unit(k: int, x: float) -> float:
        return max(w[k] * x + b[k], 0.0)

    for j in range(len(w)):
        assert first[j] == pytest.approx(expected(lambda x, j=j: unit(j, x)), abs=1e-8)
        assert second[j, 0] == pytest.approx(expected(lambda x, j=j: unit(j, x) * unit(0, x)), abs=1e-8)


def test_omega_of_rectified_units_agrees_with_draws() -> None:
    rng, m = np.random.default_rng(0), 1.3
    w, b = np.array([1.0, -1.0, 0.7]), np.array([0.4, 0.9, -0.8])
    x = rng.standard_normal(400_000)
    high, low = (np.maximum(np.outer(x + s * m, w) + b, 0) for s in (1, -1))
    delta = high.mean(0) - low.mean(0)
    sigma = (np.cov(high.T) + np.cov(low.T)) / 2
    drawn = np.sqrt(delta @ np.linalg.solve(sigma, delta) / 2)
    assert relu_omega(m, w, b) == pytest.approx(drawn, rel=0.01)


@given(st.floats(0.1, 4), units)
def test_no_units_pass_the_ceiling(m: float, pairs: list[tuple[float, float]]) -> None:
    w, b = np.array(pairs).T
    assert relu_omega(m, w, b) <= largest_omega(m) * (1 + 1e-6)


@given(st.floats(0.1, 4), st.floats(0.2, 5), st.floats(-3, 3))
def test_scaling_a_unit_changes_nothing_and_an_open_unit_is_the_input(m: float, scale: float, b: float) -> None:
    one = relu_omega(m, np.array([1.0]), np.array([b]))
    assert relu_omega(m, np.array([scale]), np.array([scale * b])) == pytest.approx(one, rel=1e-9)
    assert relu_omega(m, np.array([1.0]), np.array([m + 30.0])) == pytest.approx(input_omega(m), rel=1e-9)


def test_one_unit_gains_at_most_the_root_of_two_and_tends_to_it() -> None:
    gains = [best_threshold(m)[1] / input_omega(m) for m in (0.5, 2.0, 10.0, 100.0)]
    assert gains == sorted(gains)
    assert 1 <= gains[0] < gains[-1] < 2**0.5
    assert gains[-1] == pytest.approx(2**0.5, rel=0.03)


@pytest.mark.parametrize("m", [0.5, 1.0, 2.0])
def test_many_thresholds_reach_the_ceiling(m: float) -> None:
    thresholds = np.linspace(-m - 3, m + 3, 24)
    w = np.ones(24)
    assert relu_omega(m, w, -thresholds) == pytest.approx(largest_omega(m), rel=2e-3)
    assert largest_omega(m) > relu_omega(m, np.array([1.0, -1.0]), np.array([m / 2, m / 2])) > 0


def test_the_ceiling_is_that_of_tanh() -> None:
    """rho = E tanh^2(m x) by another quadrature."""
    m = 1.1
    rho = quad(lambda x: np.tanh(m * x) ** 2 * (norm.pdf(x - m) + norm.pdf(x + m)) / 2, -20, 20)[0]
    assert largest_omega(m) == pytest.approx(np.sqrt(2 * rho / (1 - rho)), rel=1e-8)


def test_dead_units_and_bad_numbers() -> None:
    assert relu_omega(1.0, np.array([0.0]), np.array([2.0])) == 0
    for m in (0.0, -1.0, inf):
        with pytest.raises(ValueError, match="must be positive and finite"):
            relu_omega(m, np.array([1.0]), np.array([0.0]))
    with pytest.raises(ValueError, match="one weight and one bias"):
        relu_moments(0.0, np.array([1.0, 2.0]), np.array([1.0]))
