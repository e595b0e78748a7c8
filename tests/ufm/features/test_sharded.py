"""Class statistics of shards: those of all features in memory, also for ill-conditioned Sigma_W and far means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifolds.class_centering import ClassLayout
from tests.strategies import Problem, problems
from ufm.features.sharded import counts_of, factored_snr, factored_statistics, restricted_to_range
from ufm.features.snr import snr


def shuffled(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, P) and labels (n,) in random order."""
    order = problem.rng.permutation(problem.layout.n)
    return problem.H.T[order], problem.layout.labels[order]


def in_blocks(rows: np.ndarray, labels: np.ndarray, pieces: int):
    """A fresh pass over the rows in so many blocks, some of which may be empty of some classes."""
    return lambda: zip(np.array_split(rows, pieces), np.array_split(labels, pieces), strict=True)


@given(problems(balanced=False), st.integers(1, 9))
def test_statistics_of_blocks_are_those_of_all_features(problem, pieces):
    rows, labels = shuffled(problem)
    assert tuple(counts_of(np.array_split(labels, pieces)).tolist()) == problem.layout.sizes
    statistics = factored_statistics(in_blocks(rows, labels, pieces), problem.layout, problem.P, 2.2e-16)
    D, M = problem.layout.deviations(problem.H), problem.layout.means(problem.H)
    mean = M @ problem.layout.priors
    np.testing.assert_allclose(statistics.root @ statistics.root.T, D @ D.T / problem.layout.n, rtol=0, atol=1e-12)
    np.testing.assert_allclose(statistics.centred_means, M - mean[:, None], rtol=0, atol=1e-12)
    np.testing.assert_allclose(statistics.mean, mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(statistics.mean_square, (problem.H**2).sum(0).mean(), rtol=1e-12)


@given(problems(balanced=False), st.integers(1, 9), st.floats(0, 7), st.floats(-2, 5))
def test_snr_of_shards_keeps_its_digits_where_sigma_w_is_ill_conditioned_and_means_are_far(problem, pieces, decades, far):
    rows, labels = shuffled(problem)
    P = problem.P
    turned = np.linalg.qr(problem.rng.standard_normal((P, P)))[0]
    rows = (rows * np.geomspace(1, 10**-decades, P)) @ turned + 10**far * problem.rng.standard_normal(P)
    H = rows[np.argsort(labels, kind="stable")].T
    whole = snr(H, problem.layout)
    of_shards = factored_snr(factored_statistics(in_blocks(rows, labels, pieces), problem.layout, P, 2.2e-16))
    lost = 1e-14 * 10 ** max(decades, decades + far)  # the digits that the features themselves do not have
    np.testing.assert_allclose(of_shards.omega, whole.omega, rtol=1e-11 + 100 * lost, atol=1e-11 * whole.omega[0])


def test_a_scatter_alone_would_lose_the_small_directions():
    rng = np.random.default_rng(0)
    layout = ClassLayout((40, 25, 30))
    turned = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    rows = (rng.standard_normal((layout.n, 6)) * np.geomspace(1, 1e-7, 6) + rng.standard_normal((3, 6))[layout.labels]) @ turned
    H = rows.T
    statistics = factored_statistics(in_blocks(rows, layout.labels, 5), layout, 6, 2.2e-16)
    exact = np.linalg.svd(layout.deviations(H), compute_uv=False) / layout.n**0.5
    D = layout.deviations(H)
    of_scatter = np.sqrt(abs(np.linalg.eigvalsh(D @ D.T / layout.n)[::-1]))
    assert abs(np.linalg.svd(statistics.root, compute_uv=False) / exact - 1).max() < 1e-8
    assert abs(of_scatter / exact - 1).max() > 1e-4


def test_dead_directions_are_left_out_and_counted():
    rng = np.random.default_rng(1)
    layout = ClassLayout((20, 25, 30))
    rows = rng.standard_normal((layout.n, 4)) @ rng.standard_normal((4, 7))
    statistics = factored_statistics(in_blocks(rows, layout.labels, 4), layout, 7, 2.2e-16)
    with pytest.raises(ValueError, match="3 of 7 directions"):
        factored_snr(statistics)
    inside, basis = restricted_to_range(statistics)
    assert basis.shape == (7, 4)
    expected = snr(basis.T @ rows.T, layout)
    np.testing.assert_allclose(factored_snr(inside).omega, expected.omega, rtol=1e-10)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -1], "label -1 is negative"),
        ([0, 2, 2], "skip class 1 .*: relabel the classes"),
        ([1, 2, 2], "skip class 0 .*: the labels seem to start at 1: subtract 1"),
        ([0, 0, 0], "all labels are 0: collapse needs at least C = 2 classes"),
        ([], "there is no example"),
        ([0, 1, 10**12], "label 1000000000000 with 3 examples: labels run from 0 to C-1"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message):
    """As those of one file are: numpy would count up to the largest, whatever memory that takes."""
    with pytest.raises(ValueError, match=message):
        counts_of([np.array(labels, dtype=np.int64)], n=len(labels))


def test_features_whose_squares_overflow_are_named_without_a_warning():
    rows = np.random.default_rng(0).standard_normal((6, 2))
    with np.errstate(all="raise"), pytest.raises(ValueError, match=r"the largest of features is .*e.199: .* rescale"):
        factored_statistics(in_blocks(1e200 * rows, np.array([0, 0, 0, 1, 1, 1]), 2), ClassLayout((3, 3)), 2, 2.2e-16)
    with np.errstate(all="raise"), pytest.raises(ValueError, match=r"the largest of features is .*e.1\d\d: .* rescale"):
        factored_statistics(in_blocks(1e150 * rows, np.array([0, 0, 0, 1, 1, 1]), 2), ClassLayout((3, 3)), 2, 2.2e-16)


def test_entries_that_are_not_finite_are_refused_with_their_row():
    rows = np.ones((6, 2))
    rows[4, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite entries, first in row 4"):
        factored_statistics(in_blocks(rows, np.array([0, 0, 0, 1, 1, 1]), 2), ClassLayout((3, 3)), 2, 2.2e-16)
