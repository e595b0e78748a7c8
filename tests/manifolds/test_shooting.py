"""What a logarithm says of itself: whether it is the shortest, and at once where there is none."""

import numpy as np
import pytest

from manifolds.layout import ClassLayout
from manifolds.metrics import BundleMetric, EmbeddedMetric
from manifolds.shooting import Shooting
from tests.manifolds.points import LAYOUT, point, tangent


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
