"""What a law leaves unexplained: uniform p-values under white noise, small ones under anything with a trend."""

import numpy as np
import pytest
from scipy.stats import binomtest, chi2, kstest

from tests.ufm.compare.synthetic import noisy, of_law
from ufm.compare.exponent import EXPONENTS
from ufm.compare.fit import fit_law, motion
from ufm.laws.singular_value_dynamics import EMBEDDED, LAWS, RENORMALIZED, UNNORMALIZED, Law

EVERY = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


@EVERY
def test_white_noise_alone_has_uniform_p_values_and_its_own_rms(law: Law) -> None:
    rows = []
    for seed in range(80):
        rng = np.random.default_rng([seed, 1])
        rows.append(fit_law(noisy(of_law(law, rng, T=12, K=5), rng), EXPONENTS[law]))
    assert kstest([fit.no_trend for fit in rows], "uniform").pvalue > 1e-3
    assert kstest([fit.no_memory for fit in rows], "uniform").pvalue > 1e-3
    assert all(fit.like_noise == min(fit.no_trend, fit.no_memory) for fit in rows)
    assert sum(fit.advances < 0.05 for fit in rows) <= 10  # 4 or fewer of 80 expected; P(> 10) < 0.004 at 5 %
    freedoms = 11 * 4 * 80
    squares = sum(fit.rms**2 for fit in rows) * 11 * 4 / 0.01**2
    assert 1e-3 < chi2.cdf(squares, freedoms) < 1 - 1e-3


@EVERY
def test_without_noise_nothing_is_left(law: Law) -> None:
    assert fit_law(of_law(law, np.random.default_rng(3)), EXPONENTS[law]).rms < 1e-7


def test_neighbours_that_are_alike_are_no_white_noise_though_nothing_has_a_trend() -> None:
    for seed in range(6):
        rng = np.random.default_rng([seed, 5])
        x = of_law(RENORMALIZED, rng)
        waves = np.sin(2 * np.pi * (4 * np.linspace(0, 1, len(x))[:, None] + rng.uniform(size=x.shape[1])))
        fit = fit_law(noisy(x, rng) + 0.06 * waves, 1.0)
        assert fit.no_memory < 0.01
        assert fit.like_noise < 0.01


@EVERY
def test_a_clock_that_goes_back_is_told_from_one_that_stands(law: Law) -> None:
    p, false_alarms = EXPONENTS[law], 0
    for seed in range(20):
        rng = np.random.default_rng([seed, 6])
        x = of_law(law, rng, T=20)
        stands = np.vstack([x[:10], np.tile(x[9], (10, 1))])
        false_alarms += fit_law(noisy(stands, rng), p).advances < 0.01
        assert fit_law(noisy(x[::-1], rng), p).advances < 1e-6
    assert false_alarms <= 3  # P(> 3 of 20) < 1e-4 at 1 %
    assert fit_law(x, p).back < 1e-9
    steps = np.array([0.0, 1.0, 3.0, 2.5, 4.0])  # law (c): log u is the clock, and 3, 2.5 become 2.75 twice
    forth_and_back = fit_law(starts_of(steps), 0.0)
    assert forth_and_back.back == pytest.approx(0.5 * np.sqrt(2 * 3 * 0.25**2 / (4 * 2)))


def starts_of(clock: np.ndarray) -> np.ndarray:
    return np.array([-1.0, 0.5, 1.0]) + clock[:, None]


def rejected(law: Law, p: float, drift: float, seeds: int = 12) -> int:
    count = 0
    for seed in range(seeds):
        rng = np.random.default_rng([seed, 2])
        x = noisy(of_law(law, rng), rng)
        x[:, 0] += 2 * drift * np.linspace(0, 1, len(x))
        count += fit_law(x, p).no_trend < 0.01
    return count


@pytest.mark.parametrize("law", [RENORMALIZED, EMBEDDED, UNNORMALIZED], ids=lambda law: law.name)
def test_the_wrong_exponent_and_one_drifting_value_are_told_from_noise(law: Law) -> None:
    """A 10 % drift of one of 9 values over 50 epochs of 1 % noise stands about 20 standard errors out, some of it refitted."""
    others = [p for p in EXPONENTS.values() if p != EXPONENTS[law]]
    assert all(rejected(law, p, 0.0) == 12 for p in others)
    assert rejected(law, EXPONENTS[law], 0.1) == 12
    assert binomtest(rejected(law, EXPONENTS[law], 0.0), 12, 0.01).pvalue > 1e-3


def test_too_few_epochs_for_a_trend_have_no_p_value() -> None:
    rng = np.random.default_rng(0)
    few = fit_law(noisy(of_law(RENORMALIZED, rng, T=3, K=3), rng), 1.0)
    assert np.isnan(few.no_trend)
    assert few.rms > 0
    assert 0 <= fit_law(noisy(of_law(RENORMALIZED, rng, T=7, K=9), rng), 1.0).no_trend <= 1


def test_motion_is_measured_against_the_noise() -> None:
    rng = np.random.default_rng(1)
    T, K, noise = 40, 7, 0.01
    b = np.linspace(0, 0.5, T)
    signal = np.sqrt(K * ((b - b.mean()) ** 2).sum())
    edge = noise * (np.sqrt(T - 1) + np.sqrt(K - 1))
    starts = rng.standard_normal(K)
    moving = 2 * (starts + b[:, None] + noise * rng.standard_normal((T, K)))
    still = 2 * (starts + noise * rng.standard_normal((T, K)))
    assert motion([moving], 0.0) == pytest.approx(signal / edge, rel=0.1)  # the noise's own size is estimated to 5 %
    assert motion([moving, moving], 0.0) == pytest.approx(motion([moving], 0.0))
    assert motion([still], 0.0) < 1
    assert motion([np.tile(starts, (T, 1))], 0.0) < 1e-3  # rounding
