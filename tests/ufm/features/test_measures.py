"""Every measure against its definition written out, example by example and pair by pair; exact values at perfect collapse."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import Problem, problems
from ufm.features import measures, nearest_class_mean
from ufm.features.statistics import ClassStatistics, statistics_of


def inputs(problem: Problem) -> tuple[np.ndarray, np.ndarray, ClassStatistics, np.ndarray, np.ndarray]:
    C = problem.layout.C
    features, labels = problem.H.T, problem.layout.labels
    W, b = problem.rng.standard_normal((C, problem.P)), problem.rng.standard_normal(C)
    return features, labels, statistics_of(features, labels, C), W, b


def cosines(vectors: list[np.ndarray]) -> np.ndarray:
    return np.array(
        [u @ v / (np.linalg.norm(u) * np.linalg.norm(v)) for i, u in enumerate(vectors) for j, v in enumerate(vectors) if i < j]
    )


def spread(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def etf(K: int) -> np.ndarray:
    return (np.eye(K) - np.ones((K, K)) / K) / np.sqrt(K - 1)


@given(problems())
def test_papyan_han_donoho_measures(problem: Problem) -> None:
    features, labels, stats, W, b = inputs(problem)
    C = stats.C
    means = [features[labels == c].mean(0) for c in range(C)]
    mu = np.mean(means, axis=0)
    centred = [m - mu for m in means]
    sigma_w = sum(np.outer(h - means[y], h - means[y]) for h, y in zip(features, labels, strict=True)) / len(labels)
    sigma_b = sum(np.outer(m, m) for m in centred) / C
    np.testing.assert_allclose(measures.phd_nc1(stats), np.trace(sigma_w @ np.linalg.pinv(sigma_b, rcond=1e-12)) / C, rtol=1e-6)
    for vectors, columns in ((centred, stats.centred_means), (list(W), W.T)):
        norms = np.array([np.linalg.norm(v) for v in vectors])
        np.testing.assert_allclose(measures.phd_equinorm(columns), spread(norms) / norms.mean(), atol=1e-10)
        np.testing.assert_allclose(measures.phd_equiangular(columns), spread(cosines(vectors)), atol=1e-9)
        np.testing.assert_allclose(measures.phd_maximal_angle(columns), np.mean(abs(cosines(vectors) + 1 / (C - 1))), atol=1e-9)
    M = np.stack(centred, axis=1)
    expected = np.linalg.norm(W.T / np.linalg.norm(W) - M / np.linalg.norm(M)) ** 2
    np.testing.assert_allclose(measures.phd_nc3(stats, W), expected, rtol=1e-9)
    disagree = [int(np.argmax(W @ h + b)) != int(np.argmin([np.linalg.norm(h - m) for m in means])) for h in features]
    assert measures.phd_nc4(features, W, b, stats.means) == np.mean(disagree)


@given(problems(balanced=False))
def test_measures_of_the_other_papers(problem: Problem) -> None:
    features, labels, stats, W, b = inputs(problem)
    C = stats.C
    gram = W @ W.T
    np.testing.assert_allclose(measures.zhu_nc2(W), np.linalg.norm(gram / np.linalg.norm(gram) - etf(C)), rtol=1e-10)
    centred_W = W - W.mean(0)
    gram = centred_W @ centred_W.T
    np.testing.assert_allclose(measures.zhu_nc2_centred(W), np.linalg.norm(gram / np.linalg.norm(gram) - etf(C)), atol=1e-12)
    for measure, M in ((measures.zhu_nc3, stats.centred_means), (measures.yaras_nc3, stats.means)):
        product = W @ M
        np.testing.assert_allclose(measure(stats, W), np.linalg.norm(product / np.linalg.norm(product) - etf(C)), rtol=1e-9)
    np.testing.assert_allclose(measures.zhu_bias(stats, W, b), np.linalg.norm(b + W @ features.mean(0)), rtol=1e-9)
    means = [features[labels == c].mean(0) for c in range(C)]
    variances = [np.mean(np.sum((features[labels == c] - means[c]) ** 2, axis=1)) for c in range(C)]
    cdnv = [
        (variances[i] + variances[j]) / (2 * np.sum((means[i] - means[j]) ** 2)) for i in range(C) for j in range(C) if i != j
    ]
    np.testing.assert_allclose(measures.galanti_cdnv(stats), np.mean(cdnv), rtol=1e-9)
    np.testing.assert_allclose(measures.tirer_trace_ratio(stats), np.trace(stats.sigma_w) / np.trace(stats.sigma_b), rtol=1e-9)
    unit = [v / np.linalg.norm(v) for v in stats.centred_means.T]
    energy = [-np.log(np.linalg.norm(unit[i] - unit[j])) for i in range(C) for j in range(C) if i != j]
    np.testing.assert_allclose(measures.liu_log_uniformity(stats), np.mean(energy), atol=1e-8)
    ood = problem.rng.standard_normal((9, problem.P))
    direction = ood.mean(0) - features.mean(0)
    expected = np.mean([abs(v @ direction) / np.linalg.norm(direction) for v in unit])
    np.testing.assert_allclose(measures.ammar_nc5(stats, ood), expected, rtol=1e-9)


@given(st.integers(3, 9), st.integers(1, 4), st.floats(0.1, 10))
def test_perfect_collapse_gives_zero(C: int, extra: int, size: float) -> None:
    P = C + extra
    rng = np.random.default_rng(C * 10 + extra)
    frame = np.linalg.qr(rng.standard_normal((P, C)))[0] @ (np.eye(C) - 1 / C)
    labels = np.repeat(np.arange(C), 3)
    mean = rng.standard_normal(P)
    features = (size * frame.T + mean)[labels]
    stats, W = statistics_of(features, labels, C), 2.5 * frame.T
    b = -W @ mean
    for value in (
        measures.phd_nc1(stats),
        measures.phd_equinorm(stats.centred_means),
        measures.phd_equiangular(W.T),
        measures.phd_maximal_angle(stats.centred_means),
        measures.phd_nc3(stats, W),
        measures.phd_nc4(features, W, b, stats.means),
        measures.zhu_nc2(W),
        measures.zhu_nc3(stats, W),
        measures.zhu_bias(stats, W, b),
        measures.galanti_cdnv(stats),
        measures.tirer_trace_ratio(stats),
    ):
        assert abs(value) < 1e-13
    np.testing.assert_allclose(measures.liu_log_uniformity(stats), -0.5 * np.log(2 * C / (C - 1)), rtol=1e-12)


@given(problems())
def test_torch_gives_the_same_values(problem: Problem) -> None:
    features, labels, stats, W, b = inputs(problem)
    tensors = statistics_of(torch.from_numpy(features), torch.from_numpy(labels), stats.C)
    Wt, bt = torch.from_numpy(W), torch.from_numpy(b)
    pairs = [
        (measures.phd_nc1(tensors), measures.phd_nc1(stats)),
        (measures.phd_equinorm(tensors.centred_means), measures.phd_equinorm(stats.centred_means)),
        (measures.phd_maximal_angle(tensors.centred_means), measures.phd_maximal_angle(stats.centred_means)),
        (measures.phd_nc3(tensors, Wt), measures.phd_nc3(stats, W)),
        (measures.zhu_nc2(Wt), measures.zhu_nc2(W)),
        (measures.zhu_bias(tensors, Wt, bt), measures.zhu_bias(stats, W, b)),
        (measures.galanti_cdnv(tensors), measures.galanti_cdnv(stats)),
        (measures.phd_nc4(torch.from_numpy(features), Wt, bt, tensors.means), measures.phd_nc4(features, W, b, stats.means)),
    ]
    np.testing.assert_allclose([a for a, _ in pairs], [b for _, b in pairs], rtol=1e-9, atol=1e-12)


def test_nearest_mean_decisions_survive_a_collapse_that_expanded_distances_do_not() -> None:
    """|h|^2 + |mu|^2 - 2 h.mu in float32 cannot tell means 1e-3 apart at distance 100 from the origin."""
    means = np.array([[100.0, 100.001], [100.0, 100.0]], dtype=np.float32)
    features = np.repeat(means.T, 50, axis=0)
    W, b = np.array([[-1.0, 0.0], [1.0, 0.0]], dtype=np.float32), np.array([100.0005, -100.0005], dtype=np.float32)
    assert measures.phd_nc4(features, W, b, means) == 0


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("gap", [1.0, 1e-9])
def test_the_nearest_mean_is_that_of_all_distances_however_many_rows_at_a_time(
    kind: Any, gap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five means of which pairs are as close as `gap`, rows that are cut into blocks of 7."""
    rng = np.random.default_rng(4)
    means = np.repeat(rng.standard_normal((3, 3)), 2, axis=1)[:, :5] + gap * rng.standard_normal((3, 5))
    features = means[:, rng.integers(0, 5, 40)].T + 0.3 * gap * rng.standard_normal((40, 3))
    expected = ((features[:, :, None] - means) ** 2).sum(1).argmin(1)
    assert len(np.unique(expected)) == 5
    monkeypatch.setattr(nearest_class_mean, "rows_at_a_time", lambda C: 7)
    np.testing.assert_array_equal(np.asarray(nearest_class_mean.nearest_mean(kind(features), kind(means))), expected)
    assert len(nearest_class_mean.nearest_mean(kind(features[:0]), kind(means))) == 0


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_pair_of_means_far_closer_than_the_others_is_told_apart(kind) -> None:
    """A third mean at distance 1 makes the products about the centre round off what decides between two 1e-9 apart."""
    means = np.array([[0.0, 1e-9, 1.0], [0.0, 0.0, 1.0]])
    features = np.repeat(means.T, 20, axis=0) + np.tile([[4e-10, 0.0]], (60, 1))
    # the network says: class 0 left of 0.5e-9, class 1 right of it, class 2 far away
    W, b = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1e3]]), np.array([1e-9, 0.0, -1.0])
    assert measures.phd_nc4(kind(features), kind(W), kind(b), kind(means)) == 0


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("at_a_time", [1, 40])
def test_ties_among_many_coinciding_means_are_decided_in_few_products(
    kind, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means on a small lattice coincide: nearest is the first of the nearest, over the candidates alone."""
    monkeypatch.setattr(nearest_class_mean, "MOST_ENTRIES", at_a_time)
    rng = np.random.default_rng(4)
    means, rows = rng.integers(0, 3, (3, 50)).astype(float), rng.integers(0, 3, (70, 3)).astype(float)
    distances = ((rows[:, :, None] - means[None]) ** 2).sum(1)
    assert nearest_class_mean.nearest_mean(kind(rows), kind(means)).tolist() == distances.argmin(1).tolist()


def test_ties_of_thousands_of_classes_cost_products_of_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """One subtraction for all candidates, not one a class."""
    means = np.random.default_rng(4).integers(0, 9, (4, 3000)).astype(float)
    whole = np.ndarray.__getitem__
    calls: list[int] = []

    class Counted(np.ndarray):
        def __getitem__(self, key):
            calls.append(1)
            return whole(self, key)

    nearest = nearest_class_mean.nearest_mean(means.T[:20].copy(), means.view(Counted))
    assert len(calls) < 100
    assert (means[:, np.asarray(nearest)] == means[:, :20]).all()


def test_undefined_measures_are_refused() -> None:
    labels = np.repeat(np.arange(3), 4)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((12, 4))
    means = np.stack([features[labels == c].mean(0) for c in range(3)])
    same = statistics_of(features - means[labels], labels, 3)
    with pytest.raises(ValueError, match="rank 0 < 2"):
        measures.phd_nc1(same)
    merged = features - (means - means[[0, 0, 2]])[labels]
    stats = statistics_of(merged, labels, 3)
    with pytest.raises(ValueError, match="rank 1 < 2"):
        measures.phd_nc1(stats)
    equal = ClassStatistics(stats.counts, np.eye(4)[:, [0, 0, 1]], stats.sigma_w, stats.class_variances)
    with pytest.raises(ValueError, match="coincide"):
        measures.galanti_cdnv(equal)
    with pytest.raises(ValueError, match="same way"):
        measures.liu_log_uniformity(equal)
    with pytest.raises(ValueError, match="vector is zero"):
        measures.phd_maximal_angle(np.array([[0.0, 1.0], [0.0, 2.0]]))


def test_classifiers_of_another_shape_are_refused() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((12, 4)), np.repeat(np.arange(3), 4)
    stats, W, b = statistics_of(features, labels, 3), rng.standard_normal((3, 4)), np.zeros(3)
    for measure in (measures.phd_nc3, measures.zhu_nc3, measures.yaras_nc3):
        with pytest.raises(ValueError, match=r"W has shape \(4, 3\)"):
            measure(stats, W.T)
    for arguments in ((features.T, W, b), (features, W.T, b), (features, W, b[:, None])):
        with pytest.raises(ValueError, match="do not match class means"):
            measures.phd_nc4(*arguments, stats.means)
