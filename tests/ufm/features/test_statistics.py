"""Streaming class statistics: equal to the dense definition in any batching and merging order, also under collapse."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import Problem, problems
from ufm.features.statistics import ClassStatistics, StreamingStatistics, block_statistics, statistics_of


def dense(features: np.ndarray, labels: np.ndarray, C: int) -> dict[str, np.ndarray]:
    """Every statistic example by example, in extended precision."""
    wide = features.astype(np.longdouble)
    means = np.stack([wide[labels == c].mean(0) for c in range(C)], axis=1)
    mu = wide.mean(0)
    deviations = wide - means[:, labels].T
    centred = wide - mu
    priors = np.bincount(labels, minlength=C) / len(labels)
    M = means - mu[:, None]
    return {
        "means": means,
        "global_mean": mu,
        "sigma_w": deviations.T @ deviations / len(labels),
        "sigma_b": (M * priors) @ M.T,
        "sigma_t": centred.T @ centred / len(labels),
        "priors": priors,
        "class_variances": np.array([(deviations[labels == c] ** 2).sum(1).mean() for c in range(C)]),
    }


def check(stats: ClassStatistics, features: np.ndarray, labels: np.ndarray, rtol: float = 1e-9) -> None:
    for name, expected in dense(features, labels, stats.C).items():
        expected = np.asarray(expected, dtype=np.float64)
        np.testing.assert_allclose(np.asarray(getattr(stats, name)), expected, rtol=rtol, atol=rtol * abs(expected).max())


@given(problems(balanced=False), st.integers(1, 9), st.sampled_from([1, 4, 2048]), st.booleans())
def test_any_batching_and_merging_gives_the_dense_statistics(problem: Problem, batch: int, chunk: int, tensors: bool) -> None:
    features, labels = problem.H.T, problem.layout.labels
    order = np.random.default_rng(batch).permutation(len(labels))
    features, labels = features[order], labels[order]
    kind = torch.from_numpy if tensors else np.asarray
    with patch("ufm.features.statistics.CHUNK", chunk):  # rows wait until there are so many
        streams = [StreamingStatistics(problem.layout.C) for _ in range(3)]
        for i, start in enumerate(range(0, len(labels), batch)):
            streams[i % 3].update(kind(features[start : start + batch]), kind(labels[start : start + batch]))
        merged = StreamingStatistics(problem.layout.C).merge(streams[2]).merge(streams[0]).merge(streams[1])
        check(merged.compute(), features, labels)
    check(block_statistics(problem.H, problem.layout), problem.H.T, problem.layout.labels)
    assert merged.compute().n == len(labels)


@given(problems(balanced=False), st.sampled_from([1e-3, 1e-4, 1e-5]))
def test_collapse_to_1e_10_is_measured_to_1e_9(problem: Problem, scale: float) -> None:
    """tr Sigma_W / tr Sigma_B down to 1e-10, far from the origin, where the one-pass formula in float32 is 100 % wrong."""
    layout = problem.layout
    means = 3 + problem.rng.standard_normal((problem.P, layout.C))
    H = layout.spread(means) + scale * layout.deviations(problem.H)
    features, labels = H.T, layout.labels
    stream = StreamingStatistics(layout.C)
    for start in range(0, len(labels), 5):
        stream.update(features[start : start + 5], labels[start : start + 5])
    check(stream.compute(), features, labels, rtol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_blocks_and_streams_merge_without_loss_however_far_and_collapsed_the_features_are(offset: float, kind) -> None:
    """tr Sigma_W / tr Sigma_B = 1e-10, sorted by class, so that most blocks lack most classes."""
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(4), [3000, 2000, 997, 3])
    features = offset + rng.standard_normal((4, 6))[labels] + 1e-5 * rng.standard_normal((6000, 6))
    streams = [StreamingStatistics(4) for _ in range(2)]
    for k, start in enumerate(range(0, 6000, 500)):
        streams[k % 2].update(kind(features[start : start + 500]), kind(labels[start : start + 500]))
    check(streams[0].merge(streams[1]).compute(), features, labels, rtol=1e-10)


def test_float32_features_are_accumulated_in_float64() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(3000) % 3
    features = (100 + rng.standard_normal((3, 5))[labels] + 1e-2 * rng.standard_normal((3000, 5))).astype(np.float32)
    stats = statistics_of(features, labels, 3)
    assert stats.sigma_w.dtype == np.float64
    check(stats, features.astype(np.float64), labels, rtol=1e-9)


def test_torch_on_its_device_equals_numpy() -> None:
    rng = np.random.default_rng(1)
    features, labels = rng.standard_normal((50, 4)).astype(np.float32), np.arange(50) % 4
    stats = statistics_of(torch.from_numpy(features).requires_grad_(), torch.from_numpy(labels), 4)
    assert isinstance(stats.sigma_w, torch.Tensor)
    assert not stats.sigma_w.requires_grad
    check(stats, features.astype(np.float64), labels)


def test_batches_larger_than_a_chunk_and_with_missing_classes() -> None:
    rng = np.random.default_rng(2)
    labels = np.concatenate([np.zeros(9000, dtype=int), np.ones(500, dtype=int), np.full(4, 2)])
    features = rng.standard_normal((len(labels), 3)) + labels[:, None]
    check(statistics_of(features, labels, 3), features, labels)


def test_a_refused_batch_changes_nothing_and_statistics_are_not_views() -> None:
    rng = np.random.default_rng(3)
    features, labels = rng.standard_normal((12, 3)), np.arange(12) % 2
    stream = StreamingStatistics(2).update(features, labels)
    before = stream.compute()
    with pytest.raises(ValueError, match="NaN"):
        stream.update(np.full((2, 3), np.nan), np.array([0, 1]))
    expected = before.means.copy()
    stream.update(features + 5, labels)
    np.testing.assert_array_equal(before.means, expected)
    np.testing.assert_array_equal(before.means, expected)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_the_caller_may_reuse_its_batch_at_once(kind) -> None:
    rng = np.random.default_rng(3)
    features, labels = rng.standard_normal((12, 3)), np.arange(12) % 2
    stream, kept, classes = StreamingStatistics(2), features.copy(), labels.copy()
    for _ in range(2):
        features[:], labels[:] = kept, classes
        stream.update(kind(features), kind(labels))
        features[:], labels[:] = 0, 1  # before anything was computed
    check(stream.compute(), np.vstack([kept, kept]), np.concatenate([classes, classes]))


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.zeros((4, 3)), np.array([0, 1, 2, 1]), r"labels run from 0 to 2, outside 0\.\.1"),
        (np.zeros((4, 3)), np.array([0, -1, 0, 1]), "from -1"),
        (np.zeros((4, 3)), np.array([0, 1, 0]), "shapes"),
        (np.zeros((2, 3)), np.array([0.0, 0.7]), "labels are float64, integers are needed"),
        (torch.zeros((2, 3)), torch.tensor([0.0, 1.0]), r"labels are torch.float32, integers are needed"),
        (np.full((2, 3), np.inf), np.array([0, 1]), "NaN or infinite"),
        (np.zeros((2, 5)), np.array([0, 1]), "5 features cannot be added to statistics of 3"),
    ],
)
def test_bad_batches_are_refused(features: np.ndarray, labels: np.ndarray, message: str) -> None:
    stream = StreamingStatistics(2).update(np.ones((2, 3)), np.array([0, 1]))
    with pytest.raises(ValueError, match=message):
        stream.update(features, labels)


def test_bad_streams_are_refused() -> None:
    with pytest.raises(TypeError, match="got list"):
        statistics_of([[1.0, 2.0]], [0], 2)  # type: ignore[bad-specialization]
    with pytest.raises(ValueError, match="C = 1"):
        StreamingStatistics(1)
    with pytest.raises(ValueError, match="no batch"):
        StreamingStatistics(2).compute()
    with pytest.raises(ValueError, match="class 2 has no example"):
        StreamingStatistics(4).update(np.ones((3, 2)), np.array([0, 1, 3])).compute()
    with pytest.raises(ValueError, match="2 and 3 classes"):
        StreamingStatistics(2).merge(StreamingStatistics(3))
