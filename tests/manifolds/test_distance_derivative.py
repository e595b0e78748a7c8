"""dist has the derivative that geometry gives it, log refuses its own: never a silent zero or a part of the truth."""

import numpy as np
import pytest
import torch

from manifolds import geoopt as geoopt_manifolds
from manifolds.embedded import logarithm
from manifolds.metrics import BundleMetric, EmbeddedMetric, Metric
from tests.manifolds.points import LAYOUT, point
from tests.typed import gradient_of

METRICS = [EmbeddedMetric(LAYOUT), BundleMetric(LAYOUT)]


def ends(metric: Metric) -> tuple[torch.Tensor, torch.Tensor]:
    X = point()
    U = metric.project(X, np.random.default_rng(5).standard_normal(X.shape))
    return torch.from_numpy(X), torch.from_numpy(metric.exp(X, 0.4 * U))


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: type(m).__name__)
def test_the_derivative_of_dist_is_its_difference_along_geodesics(metric: Metric) -> None:
    X, Y = ends(metric)
    leaves = X.clone().requires_grad_(True), Y.clone().requires_grad_(True)
    (metric.dist(*leaves) ** 2 / 2).backward()
    generator, t = torch.Generator().manual_seed(0), 1e-4
    for k, Z in enumerate((X, Y)):
        U = metric.project(Z, torch.randn(Z.shape, dtype=Z.dtype, generator=generator))
        values = []
        for step in (t, -t):
            moved = [X, Y]
            moved[k] = metric.exp(Z, step * U)
            values.append(float(metric.dist(*moved) ** 2 / 2))
        slope = (values[0] - values[1]) / (2 * t)
        assert float((gradient_of(leaves[k]) * U).sum()) == pytest.approx(slope, rel=1e-6, abs=1e-6)
        # the Riemannian gradient of d^2 / 2 is -log
        back = metric.log(Z, (Y, X)[k])
        np.testing.assert_allclose(metric.gradient(Z, gradient_of(leaves[k])), -back, rtol=0, atol=1e-8)


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: type(m).__name__)
def test_batches_broadcast_and_coincident_points_have_the_subgradient_zero(metric: Metric) -> None:
    X, Y = ends(metric)
    alone, shared = X.clone().requires_grad_(True), X.clone().requires_grad_(True)
    metric.dist(alone, Y).backward()
    metric.dist(shared, torch.stack([Y, Y])).sum().backward()
    np.testing.assert_allclose(gradient_of(shared), 2 * gradient_of(alone), rtol=0, atol=1e-10)
    same = X.clone().requires_grad_(True)
    (metric.dist(same, X.clone()) ** 2).backward()
    assert float(abs(gradient_of(same)).max()) < 1e-6


def test_the_derivative_of_log_and_of_what_is_made_of_it_is_refused() -> None:
    X, Y = ends(METRICS[0])
    leaf = X.clone().requires_grad_(True)
    for value in (
        METRICS[0].log(leaf, Y),
        METRICS[0].midpoint(leaf, Y),
        METRICS[1].log(Y, leaf),
        logarithm.log(leaf, Y, LAYOUT),
        logarithm.dist(leaf, Y, LAYOUT),
        geoopt_manifolds.EmbeddedNormalizedFeatures(LAYOUT).logmap(leaf, Y),
    ):
        with pytest.raises(ValueError, match=r"differentiate dist\(X, Y\)"):
            value.sum().backward()


def test_a_frechet_mean_by_gradient_descent_on_squared_distances() -> None:
    """x <- exp_x(mean of logs), by autograd of geoopt's dist: the gradient vanishes at the mean of three near points."""
    manifold = geoopt_manifolds.EmbeddedNormalizedFeaturesExact(LAYOUT)
    X = torch.from_numpy(point())
    generator = torch.Generator().manual_seed(1)
    near = [manifold.expmap(X, manifold.proju(X, torch.randn(X.shape, dtype=X.dtype, generator=generator))) for _ in range(3)]
    points = torch.stack(near)
    for _ in range(10):
        leaf = X.detach().requires_grad_(True)
        (manifold.dist(leaf, points) ** 2).sum().div(6).backward()
        gradient = manifold.egrad2rgrad(X, gradient_of(leaf))
        X = manifold.expmap(X, -gradient)
    assert float(manifold.norm(X, gradient)) < 1e-4


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("power", [1, 2])
def test_the_second_derivative_of_dist_is_refused_beside_a_term_that_has_one(metric: Metric, power: int) -> None:
    """d alone has the constant incoming gradient 1, which must not make the Hessian of the sum that of the other term."""
    X, Y = ends(metric)
    leaf = X.clone().requires_grad_(True)
    value = metric.dist(leaf, Y) ** power + (leaf * leaf).sum()
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    with pytest.raises(ValueError, match="differentiable once"):
        torch.autograd.grad(gradient.sum(), leaf)


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: type(m).__name__)
def test_torch_func_differentiates_dist_and_vmap_is_refused_with_the_way_out(metric: Metric) -> None:
    X, Y = ends(metric)
    leaf = X.clone().requires_grad_(True)
    metric.dist(leaf, Y).backward()
    np.testing.assert_allclose(torch.func.grad(lambda x: metric.dist(x, Y))(X), gradient_of(leaf), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="give it the whole batch"):
        torch.vmap(metric.dist)(torch.stack([X, X]), torch.stack([Y, Y]))
