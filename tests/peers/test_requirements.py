"""What the test suites of geoopt, pymanopt, Manopt and ManifoldsBase require of a manifold, asked of every class here.

The requirements are theirs, the tests ours. Orders of convergence are in `tests/manifolds/checks`, which run on the same classes.
"""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from manifolds import geoopt as geoopt_manifolds
from manifolds import pymanopt as pymanopt_manifolds
from manifolds.class_centering import ClassLayout
from manifolds.forms import WeightedCentering

LAYOUT, P, COPIES = ClassLayout((3, 5, 4)), 2, 4
FORM = WeightedCentering((0.5, 1.5, 1.0, 0.7, 1.1, 0.9, 2.0))
Make = Callable[[int], Any]  # of a seed

GEOOPT: dict[str, tuple[Make, int]] = {
    "bundle": (lambda seed: geoopt_manifolds.NormalizedFeatures(LAYOUT, seed=seed), LAYOUT.n),
    "embedded": (lambda seed: geoopt_manifolds.EmbeddedNormalizedFeatures(LAYOUT, seed=seed), LAYOUT.n),
    "bundle exact": (lambda seed: geoopt_manifolds.NormalizedFeaturesExact(LAYOUT, seed=seed), LAYOUT.n),
    "embedded exact": (lambda seed: geoopt_manifolds.EmbeddedNormalizedFeaturesExact(LAYOUT, seed=seed), LAYOUT.n),
    "form": (lambda seed: geoopt_manifolds.GeneralizedStiefel(FORM, seed=seed), FORM.columns),
    "form exact": (lambda seed: geoopt_manifolds.GeneralizedStiefelExact(FORM, seed=seed), FORM.columns),
}
PYMANOPT: dict[str, Make] = {
    "bundle": lambda seed: pymanopt_manifolds.NormalizedFeatures(LAYOUT, P, seed=seed),
    "bundle, copies": lambda seed: pymanopt_manifolds.NormalizedFeatures(LAYOUT, P, copies=COPIES, seed=seed),
    "embedded": lambda seed: pymanopt_manifolds.EmbeddedNormalizedFeatures(LAYOUT, P, seed=seed),
    "embedded, copies": lambda seed: pymanopt_manifolds.EmbeddedNormalizedFeatures(LAYOUT, P, copies=COPIES, seed=seed),
    "form": lambda seed: pymanopt_manifolds.GeneralizedStiefel(FORM, P, seed=seed),
    "form, copies": lambda seed: pymanopt_manifolds.GeneralizedStiefel(FORM, P, copies=COPIES, seed=seed),
}


def draw(name: str, seed: int, batch: tuple[int, ...] = ()) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A geoopt manifold, a point, and two tangent vectors of moderate length."""
    make, n = GEOOPT[name]
    manifold, rng = make(seed), torch.Generator().manual_seed(seed)
    x = manifold.random(*batch, P, n, dtype=torch.float64).as_subclass(torch.Tensor)
    u, v = (manifold.proju(x, torch.randn(*batch, P, n, generator=rng, dtype=torch.float64)) / 4 for _ in range(2))
    return manifold, x, u, v


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", list(GEOOPT))
def test_geoopt_projections_land_where_the_assertions_look(name: str, seed: int) -> None:
    manifold, x, u, _ = draw(name, seed)
    off = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    manifold.assert_check_point_on_manifold(manifold.projx(off))
    torch.testing.assert_close(manifold.projx(x), x, rtol=0, atol=1e-12)
    manifold.assert_check_vector_on_tangent(x, u)
    torch.testing.assert_close(manifold.proju(x, u), u, rtol=0, atol=1e-12)
    assert not manifold.check_point_on_manifold(2 * x)
    assert not manifold.check_vector_on_tangent(x, x - x.mean(-1, keepdim=True))


@pytest.mark.parametrize("name", list(GEOOPT))
def test_geoopt_steps_stay_on_the_manifold_and_carried_vectors_are_tangent(name: str) -> None:
    manifold, x, u, v = draw(name, 3)
    for step, along, both in (
        (manifold.retr, manifold.transp_follow_retr, manifold.retr_transp),
        (manifold.expmap, manifold.transp_follow_expmap, manifold.expmap_transp),
    ):
        y = step(x, u)
        manifold.assert_check_point_on_manifold(y)
        torch.testing.assert_close(step(x, 0 * u), x, rtol=0, atol=1e-12)
        manifold.assert_check_vector_on_tangent(y, along(x, u, v))
        torch.testing.assert_close(both(x, u, v)[0], y, rtol=0, atol=1e-11)
        torch.testing.assert_close(both(x, u, v)[1], along(x, u, v), rtol=0, atol=1e-11)
        torch.testing.assert_close(along(x, 0 * u, v), v, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", list(GEOOPT))
def test_geoopt_batches_are_their_members(name: str) -> None:
    manifold, x, u, v = draw(name, 4, (3,))
    for f in (manifold.retr, manifold.proju, manifold.egrad2rgrad, manifold.expmap):
        torch.testing.assert_close(f(x, u)[1], f(x[1], u[1]), rtol=0, atol=1e-10)
        torch.testing.assert_close(f(x[:1], u)[2], f(x[0], u[2]), rtol=0, atol=1e-10)  # broadcast
    torch.testing.assert_close(manifold.inner(x, u, v)[1], manifold.inner(x[1], u[1], v[1]), rtol=0, atol=1e-12)
    assert manifold.inner(x, u, v).shape == (3,)
    assert manifold.inner(x, u, v, keepdim=True).shape == (3, 1, 1)
    torch.testing.assert_close(manifold.projx(x + u)[2], manifold.projx(x[2] + u[2]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", list(GEOOPT))
def test_geoopt_logarithm_and_distance_invert_the_exponential(name: str) -> None:
    manifold, x, u, _ = draw(name, 5)
    y = manifold.expmap(x, u)
    torch.testing.assert_close(manifold.logmap(x, y), u, rtol=0, atol=1e-9)
    torch.testing.assert_close(manifold.dist(x, y), manifold.norm(x, u), rtol=1e-9, atol=0)
    torch.testing.assert_close(manifold.dist(y, x), manifold.dist(x, y), rtol=1e-9, atol=0)
    assert manifold.dist(x, y, keepdim=True).shape == (1, 1)


@pytest.mark.parametrize("name", [name for name in GEOOPT if name.endswith("exact")])
def test_geoopt_reversible_manifolds_come_back(name: str) -> None:
    manifold, x, u, v = draw(name, 6)
    assert manifold.reversible
    y, velocity = manifold.retr_transp(x, u, u)
    carried = manifold.transp_follow_retr(x, u, v)
    back, reversed_velocity = manifold.retr_transp(y, -velocity, -velocity)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(reversed_velocity, -u, rtol=0, atol=1e-9)
    torch.testing.assert_close(manifold.transp_follow_retr(y, -velocity, carried), v, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", list(GEOOPT))
def test_geoopt_origin_is_fixed_and_manifolds_are_values(name: str) -> None:
    make, n = GEOOPT[name]
    manifold = make(7)
    torch.testing.assert_close(manifold.origin(P, n), manifold.origin(P, n), rtol=0, atol=0)
    assert not torch.equal(manifold.random(P, n), manifold.random(P, n))
    copied = pickle.loads(pickle.dumps(manifold))
    assert copied == manifold
    assert hash(copied) == hash(manifold)
    with pytest.raises(ValueError, match=str(n + 1)):
        manifold.random(P, n + 1)


@pytest.mark.parametrize("name", list(PYMANOPT))
def test_pymanopt_points_and_directions(name: str) -> None:
    manifold = PYMANOPT[name](8)
    x, other = manifold.random_point(), manifold.random_point()
    assert manifold.metric.constraint_residual(x).max() < 1e-12
    assert not np.allclose(x, other)
    u, v = manifold.random_tangent_vector(x), manifold.random_tangent_vector(x)
    assert manifold.metric.tangency_residual(x, u).max() < 1e-12
    np.testing.assert_allclose(manifold.norm(x, u), 1, rtol=1e-12)
    assert not np.allclose(u, v)
    zero = manifold.zero_vector(x)
    np.testing.assert_array_equal(manifold.retraction(x, u).shape, x.shape)
    np.testing.assert_array_equal(zero, np.zeros(x.shape))
    np.testing.assert_allclose(manifold.projection(x, u), u, atol=1e-12)
    np.testing.assert_allclose(manifold.to_tangent_space(x, u), u, atol=1e-12)
    np.testing.assert_allclose(manifold.inner_product(x, u, v), manifold.inner_product(x, v, u), rtol=1e-12, atol=1e-15)
    assert isinstance(manifold.dim, int)
    assert manifold.typical_dist > 0


@pytest.mark.parametrize("name", list(PYMANOPT))
def test_pymanopt_maps_invert_and_means_lie_half_way(name: str) -> None:
    manifold = PYMANOPT[name](9)
    x = manifold.random_point()
    u = manifold.random_tangent_vector(x)
    small = manifold.retraction(x, 1e-6 * u)
    np.testing.assert_allclose(small, x + 1e-6 * u, atol=1e-10)
    y = manifold.exp(x, u)
    np.testing.assert_allclose(manifold.log(x, y), u, atol=1e-9)
    np.testing.assert_allclose(manifold.exp(x, manifold.log(x, y)), y, atol=1e-9)
    np.testing.assert_allclose(manifold.dist(x, y), 1, rtol=1e-9)
    middle = manifold.pair_mean(x, y)
    np.testing.assert_allclose([manifold.dist(x, middle), manifold.dist(middle, y)], [0.5, 0.5], rtol=1e-8)
    carried = manifold.transport(x, y, u)
    assert manifold.metric.tangency_residual(y, carried).max() < 1e-12


@pytest.mark.parametrize("name", list(PYMANOPT))
def test_pymanopt_gradient_represents_the_differential(name: str) -> None:
    manifold, rng = PYMANOPT[name](10), np.random.default_rng(10)
    x = manifold.random_point()
    u, G = manifold.random_tangent_vector(x), rng.standard_normal(x.shape)
    gradient = manifold.euclidean_to_riemannian_gradient(x, G)
    np.testing.assert_allclose(manifold.inner_product(x, gradient, u), np.sum(G * u), rtol=1e-10)


@pytest.mark.parametrize("name", ["bundle", "embedded"])
def test_antipodal_points_are_refused_by_the_logarithm_itself(name: str) -> None:
    manifold = PYMANOPT[name](11)
    x = manifold.random_point()
    with pytest.raises(ValueError, match="no geodesic found between 1 of 1 pairs"):
        manifold.log(x, -x)
