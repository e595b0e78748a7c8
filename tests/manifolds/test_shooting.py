"""What a logarithm says of itself: whether it is the shortest, and at once where there is none."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manifolds import normalized_features
from manifolds.class_centering import ClassLayout
from manifolds.metric import Metric
from manifolds.metrics import BundleMetric, EmbeddedMetric
from manifolds.sampling import random_point
from manifolds.shooting import Shooting
from tests.manifolds.points import LAYOUT, point, tangent


@st.composite
def geodesics(draw: st.DrawFn, least: float, most: float) -> tuple[EmbeddedMetric, np.ndarray, np.ndarray, float]:
    """Metric, X, a U whose deviations have length `share` of the injectivity radius, and that share; class means move too."""
    sizes = draw(st.lists(st.integers(2, 6), min_size=2, max_size=4))
    layout = ClassLayout(tuple(sizes))
    P = draw(st.integers(1, min(4, layout.rank)))
    rng, share = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.floats(least, most))
    metric, X = EmbeddedMetric(layout), point(layout, P, int(rng.integers(2**31)))
    U = metric.project(X, rng.standard_normal(X.shape))
    D = layout.deviations(U)
    if np.linalg.norm(D) < 1e-9:  # P = n - C = 1: two points only
        return metric, X, layout.rest(U), 0.0
    return metric, X, layout.rest(U) + share * metric.injectivity_radius / np.linalg.norm(D) * D, share


@given(geodesics(0.01, 0.95))
@settings(max_examples=20, deadline=None)
def test_within_the_injectivity_radius_log_inverts_exp_and_is_minimising(case) -> None:
    metric, X, U, _ = case
    Y = metric.exp(X, U)
    shooting = metric.shoot(X, Y)
    assert shooting.converged
    assert shooting.minimising
    np.testing.assert_allclose(shooting.vector, U, rtol=0, atol=float(1e-7 * np.linalg.norm(X)))
    np.testing.assert_allclose(metric.exp(X, metric.log(X, Y)), Y, rtol=0, atol=float(1e-11 * np.linalg.norm(Y)))
    np.testing.assert_allclose(metric.dist(X, Y), np.linalg.norm(U), rtol=1e-8)
    np.testing.assert_allclose(metric.dist(Y, X), np.linalg.norm(U), rtol=1e-8)


@given(geodesics(1.05, 1.5))
@settings(max_examples=6, deadline=None)
def test_beyond_it_log_hits_and_says_unknown_unless_short_or_refuses_with_the_reason(case) -> None:
    """A curve of length |U| is given, so that no distance is longer; what is no hit is no answer."""
    metric, X, U, _ = case
    Y = metric.exp(X, U)
    shooting = metric.shoot(X, Y)
    if not shooting.converged:
        with pytest.raises(ValueError, match=r"no geodesic found .* further apart than the injectivity radius"):
            metric.log(X, Y)
        return
    np.testing.assert_allclose(metric.exp(X, shooting.vector), Y, rtol=0, atol=float(1e-10 * np.linalg.norm(Y)))
    length = np.linalg.norm(metric.layout.deviations(shooting.vector))
    assert bool(shooting.minimising) is bool(length < metric.injectivity_radius)
    if shooting.minimising:
        assert metric.dist(X, Y) <= np.linalg.norm(U) * (1 + 1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
@settings(max_examples=10, deadline=None)
def test_the_component_is_the_sign_of_the_determinant(seed: int, P: int) -> None:
    layout, rng = ClassLayout((P, 2)), np.random.default_rng(seed)  # n - C = P
    X, Y = (normalized_features.renormalize(rng.standard_normal((P, layout.n)), layout) for _ in range(2))
    shooting = EmbeddedMetric(layout).shoot(X, Y)
    same = np.linalg.det(layout.deviations(Y) @ layout.deviations(X).T) > 0
    assert bool(shooting.shots == 0) is not same
    if not same:
        with pytest.raises(ValueError, match="two components"):
            EmbeddedMetric(layout).dist(X, Y)


@pytest.mark.parametrize(("fraction", "minimising"), [(0.3, True), (0.6, True)])
def test_a_geodesic_within_the_injectivity_radius_is_minimising(fraction: float, minimising: bool) -> None:
    metric, X = EmbeddedMetric(LAYOUT), point()
    U = tangent(X, LAYOUT, np.random.default_rng(0))
    U = fraction * metric.injectivity_radius / np.linalg.norm(LAYOUT.deviations(U)) * U
    U += LAYOUT.spread(1e3 * np.ones((len(X), LAYOUT.C)))  # class means are flat: no distance along them is too far
    shooting = metric.shoot(X, metric.exp(X, U))
    assert bool(shooting.converged)
    assert bool(shooting.minimising) is minimising


def test_a_longer_geodesic_is_a_bound_and_says_so() -> None:
    """In one plane of the deviations: the circle of radius sqrt(n), on which the shorter way round is 2 pi - 1.2 pi."""
    layout = ClassLayout((5, 7, 6))
    metric, X = EmbeddedMetric(layout), point(layout, 1)
    U = tangent(X, layout, np.random.default_rng(0))
    U = layout.deviations(U)
    U *= 1.2 * np.pi * layout.n**0.5 / np.linalg.norm(U)
    shooting = metric.shoot(X, metric.exp(X, U))
    assert bool(shooting.converged)
    assert bool(shooting.minimising)
    assert metric.norm(X, shooting.vector) == pytest.approx(0.8 * np.pi * layout.n**0.5, rel=1e-9)
    antipode = layout.rest(X) - layout.deviations(X)
    ways = metric.shoot(X, antipode)
    assert not ways.minimising  # of infinitely many, or none at all


def test_the_bundle_metric_does_not_know() -> None:
    metric, X = BundleMetric(LAYOUT), point()
    U = tangent(X, LAYOUT, np.random.default_rng(0), 0.3)
    shooting = metric.shoot(X, metric.exp(X, U))
    assert bool(shooting.converged)
    assert not shooting.minimising


@pytest.mark.parametrize("metric", [EmbeddedMetric, BundleMetric])
def test_points_of_two_components_are_told_without_a_shot(metric: type) -> None:
    layout = ClassLayout((3, 4))
    X = point(layout, 5)  # n - C = 5 = P
    Y = np.diag([1.0, 1.0, 1.0, 1.0, -1.0]) @ X
    shooting = metric(layout).shoot(X, np.stack([Y, X]))
    assert isinstance(shooting, Shooting)
    assert shooting.shots[0] == 0
    assert not shooting.converged[0]
    assert shooting.converged[1]
    with pytest.raises(ValueError, match="between 1 of 1 pairs of points: they lie in the two components"):
        metric(layout).log(X, Y)


@pytest.mark.parametrize("metric", [EmbeddedMetric(LAYOUT), BundleMetric(LAYOUT)])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_points_of_other_rows_or_columns_are_refused_not_broadcast(metric: Metric, convert: Callable) -> None:
    X, one_row = convert(random_point(LAYOUT, 4, 0)), convert(random_point(LAYOUT, 1, 1))
    for Y in (one_row, X[:3], X[:, :-1]):
        for ends in ((X, Y), (Y, X)):
            for function in (metric.dist, metric.log, metric.midpoint):
                with pytest.raises(ValueError, match=r"X has .* Y has .*\(\.\.\., P, n\)"):
                    function(*ends)


@pytest.mark.parametrize("metric", [EmbeddedMetric(LAYOUT), BundleMetric(LAYOUT)])
def test_the_gap_of_a_target_off_the_manifold_is_the_one_that_is_left(metric: Metric) -> None:
    X, rng = random_point(LAYOUT, 4, 0), np.random.default_rng(1)
    for Y in (2 * X, X + 0.1 * rng.standard_normal(X.shape), X.astype(np.float32).astype(float)):
        shooting = metric.shoot(X, Y)
        np.testing.assert_allclose(shooting.gap, np.linalg.norm(metric.exp(X, shooting.vector) - Y), rtol=1e-6, atol=1e-10)
