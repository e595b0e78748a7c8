"""Least squares and the parts of its loss where class means lie far from the origin, against 60 digits of the same numbers."""

from collections.abc import Iterator

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mp

from ufm.features.least_squares import extended_ls_classifier, ls_classifier
from ufm.features.loss_decomposition import decompose
from ufm.features.measures import phd_nc1
from ufm.features.ranges import Classifier, decomposition
from ufm.features.statistics import statistics_of

SIZES = (9, 12, 7, 16)
C = len(SIZES)
LABELS = np.random.default_rng(1).permutation(np.repeat(np.arange(C), SIZES))


@pytest.fixture(autouse=True)
def sixty_digits() -> Iterator[None]:
    with mp.workdps(60):
        yield


def exactly(values: np.ndarray) -> np.ndarray:
    """The same numbers with 60 digits, for numpy's own arithmetic."""
    return np.vectorize(lambda x: mp.mpf(float(x)), otypes=[object])(values)


def exact(features: np.ndarray, lam: float) -> tuple[np.ndarray, mpmath.mpf, mpmath.mpf]:
    """[W_LS, b_LS] (C, P + 1) of extended features by the normal equations, L_NC1 and L_NC2/3 example by example."""
    n, P = features.shape
    H, Y = exactly(np.hstack([features.astype(float), np.ones((n, 1))])), exactly(np.eye(C)[LABELS])
    second = H.T @ H / n + exactly(np.eye(P + 1)) * mp.mpf(lam)
    best = np.array([mp.lu_solve(mp.matrix(second.tolist()), mp.matrix(column.tolist())) for column in (Y.T @ H) / n])
    means = np.array([H[c == LABELS].sum(0) / size for c, size in enumerate(SIZES)])[LABELS]
    nc1 = np.sum(((H - means) @ best.T) ** 2) / n / 2 + mp.mpf(lam) * np.sum(best**2) / 2
    return best, nc1, np.sum((means @ best.T - Y) ** 2) / n / 2


def features_far_away(offset: float, noise: float, P: int, dtype: type) -> np.ndarray:
    rng = np.random.default_rng(P)
    spread = 1.0 if dtype is np.float64 else max(offset, 1.0) / 2  # float32 holds seven digits: class means lie as far apart
    means = offset + spread * rng.standard_normal((C, P))
    return (means[LABELS] + noise * spread * rng.standard_normal((len(LABELS), P))).astype(dtype)


def assert_close(value: float, truth: mpmath.mpf, digits: float, name: str) -> None:
    assert abs(value - truth) <= digits * abs(truth), f"{name}: {mp.nstr((value - truth) / truth, 3)}"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("P", [2, 3, 6])  # fewer features than C - 1, as many, more
@pytest.mark.parametrize("lam", [0.0, 1e-6, 0.01, 3.0])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3, 1e6, 1e8])
def test_the_parts_of_the_loss_and_the_classifier_keep_their_digits(offset: float, lam: float, P: int, dtype: type) -> None:
    for noise in (0.3, 1e-4) if dtype is np.float64 and offset < 1e4 else (0.3,):
        features = features_far_away(offset, noise, P, dtype)
        best, nc1, nc23 = exact(features, lam)
        stats = statistics_of(features, LABELS, C)
        W, b = ls_classifier(stats, lam)
        parts = decompose(stats, W, b, lam)
        assert_close(parts.nc1, nc1, 1e-12, "L_NC1")
        assert_close(parts.nc23, nc23, 1e-12, "L_NC2/3")
        error = mp.sqrt(np.sum((exactly(W) - best[:, :P]) ** 2) / np.sum(best[:, :P] ** 2))
        assert error < 1e-12, mp.nstr(error, 3)
        room = 1e-14 * (1 + np.linalg.norm(W) * np.linalg.norm(stats.global_mean))  # of pi - W mu_G
        assert max(abs(exactly(b) - best[:, P])) < room
        np.testing.assert_array_equal(extended_ls_classifier(stats, lam), np.column_stack([W, b]))


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_dead_features_far_away_cost_no_digits_at_lambda_zero(offset: float) -> None:
    alive = features_far_away(offset, 0.3, 3, np.float64)
    _, nc1, nc23 = exact(alive, 0.0)
    features = np.hstack([alive, np.full((len(alive), 2), offset)])
    stats = statistics_of(torch.from_numpy(features), torch.from_numpy(LABELS), C)
    zero = Classifier(torch.zeros(C, 5, dtype=torch.float64), torch.zeros(C, dtype=torch.float64))
    parts = decomposition(stats, zero, 0.0)
    assert_close(parts.nc1, nc1, 1e-12, "L_NC1")
    assert_close(parts.nc23, nc23, 1e-12, "L_NC2/3")
    assert_close(parts.loss, mp.mpf(1) / 2, 1e-15, "L")


@pytest.mark.parametrize("dead", [0, 2])
@pytest.mark.parametrize("P", [3, 6])
@pytest.mark.parametrize("noise", [1e-7, 1e-9, 1e-12])
def test_variability_below_the_rounding_of_sigma_t_counts_at_lambda_zero(noise: float, P: int, dead: int) -> None:
    alive = features_far_away(0.0, noise, P, np.float64)
    _, nc1, nc23 = exact(alive, 0.0)
    stats = statistics_of(torch.from_numpy(np.hstack([alive, np.full((len(alive), dead), 0.3)])), torch.from_numpy(LABELS), C)
    zero = Classifier(torch.zeros(C, P + dead, dtype=torch.float64), torch.zeros(C, dtype=torch.float64))
    parts = decomposition(stats, zero, 0.0)
    assert_close(parts.nc1, nc1, 1e-12, "L_NC1")
    assert_close(parts.nc23, nc23, 1e-12, "L_NC2/3")


@pytest.mark.parametrize(("lam", "digits"), [(1e-17, 1e-11), (1e-8, 1e-12)])
def test_a_weight_decay_below_the_rounding_of_an_empty_direction(lam: float, digits: float) -> None:
    """9 features that are mixtures of 6: rounding makes eigenvalues of Sigma_W negative where they are zero."""
    features = features_far_away(3.0, 0.3, 6, np.float64) @ np.random.default_rng(0).standard_normal((6, 9))
    _, nc1, nc23 = exact(features, lam)
    parts = decompose(statistics_of(features, LABELS, C), np.zeros((C, 9)), np.zeros(C), lam)
    assert_close(parts.nc1, nc1, digits, "L_NC1")
    assert_close(parts.nc23, nc23, digits, "L_NC2/3")


def test_nc1_of_means_known_beyond_their_rounding_is_not_called_infinite() -> None:
    rng = np.random.default_rng(3)
    near = (rng.integers(-2, 3, (len(LABELS), 5)) + rng.integers(-4, 5, (C, 5))[LABELS]) / 2**26
    expected = phd_nc1(statistics_of(near, LABELS, C))
    assert phd_nc1(statistics_of(near + 2.0**26, LABELS, C)) == pytest.approx(expected, rel=1e-9)
    one_point = np.round(rng.standard_normal((len(LABELS), 5)) * 2**20) / 2**26 + 2.0**26
    with pytest.raises(ValueError, match="class means coincide"):
        phd_nc1(statistics_of(np.concatenate([one_point] * C), np.repeat(np.arange(C), len(LABELS)), C))
