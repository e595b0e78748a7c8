"""Corrected and held-out SNR: unbiased on Gaussian data of known SNR, equal to their definitions by refitting; refusals."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifolds.class_centering import ClassLayout
from tests.strategies import Problem, problems
from tests.ufm.ledger.maps import EPS, labels_of, statistics
from ufm.features.statistics import StreamingStatistics, statistics_of
from ufm.ledger import ledger_of_features
from ufm.ledger.discrimination import discrimination
from ufm.ledger.estimators import Estimates, corrected_form, draw_forms, estimates, mean_noise, too_few
from ufm.ledger.leave_one_out import LeaveOneOutRows, SecondPass, left_out_forms, left_out_readout


def measured(X: np.ndarray, y: np.ndarray, C: int) -> tuple[Estimates, LeaveOneOutRows]:
    stats = statistics_of(X, y, C)
    form = discrimination(stats, EPS)
    rows = SecondPass(stats, form).update(X, y).compute()
    return estimates(form, rows), rows


def gaussian(
    counts: np.ndarray, P: int, rng: np.random.Generator, size: float = 4.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, P), labels, and the true omega: means in three directions, deviations with a random covariance."""
    C, n = len(counts), counts.sum()
    M = np.zeros((P, C))
    M[:C, :C] = np.diag(size * 0.75 ** np.arange(C))
    M = M - (M @ (counts / n))[:, None]
    y = np.repeat(np.arange(C), counts)
    mixing = np.eye(P) + rng.standard_normal((P, P)) / (2 * P**0.5)
    return (rng.standard_normal((n, P)) + M.T[y]) @ mixing.T, y, np.linalg.svd(M)[1][: C - 1]


@settings(max_examples=5)
@given(problems(balanced=False))
def test_leaving_an_example_out_is_what_refitting_without_it_gives(problem: Problem) -> None:
    X, y, C = problem.H.T, labels_of(problem.layout), problem.layout.C
    counts = np.array(problem.layout.sizes)
    if len(y) - 1 - C < problem.P:
        return
    _, rows = measured(X, y, C)
    V = problem.rng.standard_normal((C, 2))
    V -= V.mean(0)  # contrasts: the centring of the class means then does not matter
    mu = X.mean(0)
    signal = np.zeros((C, C))
    noise: list[np.ndarray] = []
    for i in range(len(y)):
        keep = np.arange(len(y)) != i
        means = np.stack([X[keep & (y == c)].mean(0) for c in range(C)], 1)
        D = X[keep] - means.T[y[keep]]
        A = D.T @ D
        expected = V.T @ means.T @ np.linalg.solve(A, means @ V)
        np.testing.assert_allclose(left_out_forms(rows, counts, V)[i], np.diag(expected), rtol=1e-6)
        signal[y[i]] += (X[i] - mu) @ np.linalg.solve(A, means - mu[:, None]) / counts[y[i]]
        d = X[i] - means[:, y[i]]
        noise.append(((counts[y[i]] - 1) / counts[y[i]]) ** 0.5 * (d @ np.linalg.solve(A, means @ V)))
    T, Q = left_out_readout(rows, counts)
    np.testing.assert_allclose(T, signal, rtol=1e-6, atol=1e-8 * abs(signal).max())
    np.testing.assert_allclose(V.T @ Q @ V, np.transpose(noise) @ np.array(noise) / len(y), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("share", "counts"),
    [
        pytest.param(share, counts, marks=[] if (share, k) in ((0.05, 0), (0.6, 1)) else pytest.mark.slow)
        for share in (0.05, 0.3, 0.6, 0.9)
        for k, counts in enumerate(((100, 100, 100, 100), (50, 80, 110, 160)))
    ],
)
def test_estimates_agree_with_a_known_snr_and_with_each_other(share: float, counts: tuple[int, ...]) -> None:
    """P / n from 0.05 to 0.9: in sample is far off, both estimates are not; intervals hold the truth and each other."""
    rng, sizes = np.random.default_rng(7), np.array(counts)
    repeats, inside, errors, gaps, naive = 24, np.zeros(2), [], [], []
    for _ in range(repeats):
        X, y, true = gaussian(sizes, int(share * sizes.sum()), rng)
        measurement, _ = measured(X, y, 4)
        for k, interval in enumerate((measurement.corrected_interval, measurement.held_out_interval)):
            inside[k] += ((interval[:, 0] <= true) & (true <= interval[:, 1])).mean()
        errors.append(measurement.corrected[:2] ** 2 / true[:2] ** 2 - 1)
        gaps.append(measurement.held_out[:2] / measurement.corrected[:2] - 1)
        naive.append(np.log(measurement.omega / true).mean())
        assert (measurement.corrected_interval[:, 0] <= measurement.held_out).all()
        assert (measurement.held_out[:2] <= measurement.corrected_interval[:2, 1]).all()
    deviation = np.std(errors, axis=0) / repeats**0.5
    assert (abs(np.mean(errors, axis=0)) < 4 * deviation).all()  # unbiased for omega^2
    assert (inside / repeats > 0.85).all()  # 72 intervals at 95 %, three of a sample not independent
    assert np.mean(naive) > 0.5 * -np.log(1 - share) > 0 or share < 0.1
    assert abs(np.mean(gaps)) < 0.05


def test_what_noise_explains_is_not_corrected_to_a_signal() -> None:
    """Few directions, few examples, omega_9 = 0 beside large ones: the ratio to what is expected would give about 0.4."""
    rng, counts = np.random.default_rng(12), np.full(10, 15)
    basis = np.linalg.qr(np.c_[np.ones(10), rng.standard_normal((10, 9))])[0][:, 1:]
    true = np.array([5, 4, 3, 2, 1, 0.5, 0.3, 0.2, 0])
    means = np.zeros((10, 10))
    means[:9] = true[:, None] * basis.T
    y, corrected = np.repeat(np.arange(10), counts), []
    for _ in range(24):
        X = means.T[y] + rng.standard_normal((len(y), 10))
        measurement, _ = measured(X, y, 10)
        low, high = measurement.corrected_interval.T
        assert ((low <= measurement.corrected) & (measurement.corrected <= high)).all()
        corrected.append(measurement.corrected)
    assert np.mean(corrected, axis=0)[-1] < 0.2
    np.testing.assert_allclose(np.mean(corrected, axis=0)[:5], true[:5], rtol=0.1)


def test_the_mean_of_many_samples_is_the_population() -> None:
    """The matrix form is unbiased, and the draws of the bootstrap have the mean that the formula for E G_hat says."""
    rng, counts, P = np.random.default_rng(1), np.array([9, 14, 20]), 12
    nu, n = counts.sum() - 3, counts.sum()
    M = rng.standard_normal((P, 3))
    M -= (M @ (counts / n))[:, None]
    G = M.T @ M
    draws = draw_forms(G, nu, P, counts, 10_000, rng)
    expected = n / (nu - P - 1) * (G + P * mean_noise(counts))
    error = draws.std(0) / 100
    assert (abs(draws.mean(0) - expected) < 5 * error + 1e-9).all()
    np.testing.assert_allclose(corrected_form(expected, nu, P, counts), G, atol=1e-9)
    y = np.repeat(np.arange(3), counts)
    samples = np.stack([discrimination(statistics_of(M.T[y] + rng.standard_normal((n, P)), y, 3), EPS).gram for _ in range(2000)])
    assert (abs(samples.mean(0) - expected) < 5 * samples.std(0) / 2000**0.5).all()
    np.testing.assert_allclose(samples.std(0), draws.std(0), rtol=0.15)


@given(st.integers(2, 5), st.integers(1, 9), st.integers(0, 10**6))
def test_the_draws_serve_fewer_features_than_classes(C: int, P: int, seed: int) -> None:
    rng, counts = np.random.default_rng(seed), np.arange(C) + 8
    M = rng.standard_normal((P, C))
    M -= (M @ (counts / counts.sum()))[:, None]
    draws = draw_forms(M.T @ M, counts.sum() - C, P, counts, 50, rng)
    assert np.isfinite(draws).all()
    assert (np.linalg.matrix_rank(draws, tol=1e-9 * abs(draws).max()) <= min(C - 1, P)).all()


@settings(max_examples=5)
@given(problems(balanced=False), st.integers(1, 7))
def test_batches_and_merged_passes_give_the_same(problem: Problem, size: int) -> None:
    X, y, C = problem.H.T, labels_of(problem.layout), problem.layout.C
    whole, _ = measured(X, y, C)
    first, second = StreamingStatistics(C), StreamingStatistics(C)
    for start in range(0, len(y), size):
        (first if start % 2 else second).update(X[start : start + size], y[start : start + size])
    stats = first.merge(second).compute()
    form = discrimination(stats, EPS)
    passes = [SecondPass(stats, form), SecondPass(stats, form)]
    for start in range(0, len(y), size):
        passes[start % 2].update(X[start : start + size], y[start : start + size])
    estimate = estimates(form, passes[0].merge(passes[1]).compute())
    np.testing.assert_allclose(estimate.omega, whole.omega, rtol=1e-7)
    np.testing.assert_allclose(estimate.held_out, whole.held_out, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_too_few_data_get_no_number_and_a_reason() -> None:
    rng = np.random.default_rng(0)
    for n, P, word in ((60, 100, "omega in sample is inf"), (60, 55, "above P \\+ 4 = 59 are needed")):
        y = np.arange(n) % 4
        measurement, _ = measured(rng.standard_normal((n, P)), y, 4)
        assert np.isnan(measurement.corrected).all()
        assert np.isnan(measurement.held_out_interval).all()
        assert re.search(word, measurement.reason)
    X = rng.standard_normal((60, 4))
    X[:, 3] = 0
    X[7, 3] = 1.0  # a unit that a single example switches on
    measurement, _ = measured(X, np.arange(60) % 3, 3)
    assert "an example is alone" in measurement.reason
    assert np.isnan(measurement.held_out).all()
    assert np.isfinite(measurement.corrected).all()
    stats = statistics(rng.standard_normal((3, 13)), ClassLayout((1, 5, 7)))
    assert "single example" in too_few(discrimination(stats, EPS))


def test_nothing_to_see_is_not_seen() -> None:
    """Labels without meaning: in sample omega is large, the intervals of both estimates go down to nothing."""
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((300, 150)), np.arange(300) % 3
    measurement, _ = measured(X, y, 3)
    assert (measurement.omega > 1).all()
    assert (measurement.corrected_interval[:, 0] < 0.1).all()
    assert (measurement.held_out < 0.8).all()


def test_other_data_in_the_second_pass_is_refused() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = rng.standard_normal((60, 4))
    stats = statistics_of(X, y, 3)
    form = discrimination(stats, EPS)
    with pytest.raises(ValueError, match="other features than the first"):
        SecondPass(stats, form).update(rng.standard_normal((60, 4)), y).compute()
    with pytest.raises(ValueError, match="without random augmentation and without drop_last"):
        SecondPass(stats, form).update(X[:-1], y[:-1]).compute()


def test_deviations_are_from_the_class_means_with_all_their_digits() -> None:
    """An offset that the features hold exactly and their means do not, beside deviations of four units of their last place."""
    rng, y, unit = np.random.default_rng(6), np.arange(200) % 3, 2.0**-29
    X = np.round(rng.standard_normal((200, 2)) * 4 + 8 * rng.standard_normal((3, 2))[y]) * unit
    plain, _ = measured(X, y, 3)
    shifted, _ = measured(X + 2.0**23, y, 3)
    assert np.array_equal(X + 2.0**23 - 2.0**23, X)
    np.testing.assert_allclose(shifted.omega, plain.omega, rtol=1e-9)
    np.testing.assert_allclose(shifted.held_out, plain.held_out, rtol=1e-9)


def nearly_singular(share: float, P: int = 4, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Features one direction of which has this share of the largest variance, near the limit of what float64 resolves."""
    rng, y = np.random.default_rng(7), np.arange(n) % 3
    U, V = (np.linalg.qr(rng.standard_normal((P, P)))[0] for _ in range(2))
    scales = np.append(np.ones(P - 1), share**0.5)
    return (rng.standard_normal((n, P)) @ V * scales) @ U.T, y


@pytest.mark.parametrize("share", [2.0, 8.0, 32.0])
def test_a_whitening_that_rounding_spoils_is_repeated_and_is_no_other_data(share: float) -> None:
    """The first pass knows a variance only to 4 eps of the largest; the second one whitens again with its own digits."""
    X, y = nearly_singular(share * 4 * EPS)
    names = {"input": X, "again": X[:, ::-1]}
    result = ledger_of_features(names, y)
    shifted = np.linalg.svd(X - np.stack([X[y == c].mean(0) for c in range(3)])[y], full_matrices=False)
    of_whitened = ledger_of_features({"input": X @ shifted[2].T / shifted[1], "again": X}, y)
    assert result.ranks.tolist() == [4, 4]
    np.testing.assert_allclose(result.omega[0], of_whitened.omega[0], rtol=1e-5)
    np.testing.assert_allclose(result.held_out[0], of_whitened.held_out[0], rtol=1e-2)


@pytest.mark.parametrize("scales", [(1.0, 3.0), (-1.0, 1.0, 1.0), (2.0, 0.5, 0.5, 0.5)])
def test_features_that_repeat_another_are_left_out_and_are_no_other_data(scales: tuple[float, ...]) -> None:
    """Multiples of one feature among others: sums of n products see a variance between them that is not there."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n = int(10 ** rng.uniform(3, 4.3))
        y, x = np.arange(n) % 3, rng.standard_normal((n, 2))
        X = np.concatenate([x, x[:, :1] * np.array(scales)], 1) / 3 + rng.standard_normal(2 + len(scales)) * 10
        result = ledger_of_features({"input": X, "again": X[:, ::-1]}, y)
        assert result.ranks.tolist() == [2, 2]
        assert result.dropped.tolist() == [len(scales)] * 2
        np.testing.assert_allclose(result.omega[0], measured(x, y, 3)[0].omega, rtol=1e-6)


@pytest.mark.parametrize("P", [2, 3, 20])
def test_large_values_are_drawn_beside_small_ones(P: int) -> None:
    """omega_1 sqrt(n) = 1e10, whose square has no digits left for the other contrast."""
    counts = np.array([300, 400, 500])
    for angle in np.linspace(0.1, 3, 8):
        contrasts = np.linalg.svd(counts[None, :] / 1200)[2][1:].T @ [
            [np.cos(angle), -np.sin(angle)],
            [np.sin(angle), np.cos(angle)],
        ]
        form = contrasts * [1e17, 1.0] @ contrasts.T
        draws = draw_forms(form, 1197, P, counts, 50, np.random.default_rng(0))
        largest = np.linalg.eigvalsh(draws)[:, -1] * (1197 - P - 1) / 1200
        assert np.median(largest) == pytest.approx(1e17, rel=0.05)


def test_the_second_pass_gives_back_the_digits_of_an_ill_conditioned_covariance() -> None:
    rng, layout = np.random.default_rng(5), ClassLayout((30, 40, 50))
    X, y, true = gaussian(np.array(layout.sizes), 6, rng)
    A = np.linalg.qr(rng.standard_normal((6, 6)))[0] * np.logspace(0, -5.5, 6) @ np.linalg.qr(rng.standard_normal((6, 6)))[0]
    plain, _ = measured(X, y, 3)
    mapped, _ = measured(X @ A.T, y, 3)
    first = discrimination(statistics_of(X @ A.T, y, 3), EPS).omega
    assert abs(mapped.omega / plain.omega - 1).max() < 1e-8
    assert abs(mapped.omega / plain.omega - 1).max() < abs(first / plain.omega - 1).max()
    assert len(true) == 2
