"""Small tensors go through numpy in geoopt's classes: the same numbers, and nothing lost of what torch wants to know."""

from typing import Any

import numpy as np
import pytest
import torch

from manifolds import geoopt as geoopt_manifolds
from manifolds.column_split import MeanSplit
from manifolds.retractions import nearest_point
from tests.manifolds.points import LAYOUT, P


@pytest.mark.parametrize("cls", [geoopt_manifolds.EmbeddedNormalizedFeatures, geoopt_manifolds.NormalizedFeatures])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_small_tensors_go_through_numpy_and_give_torchs_numbers(cls: type, dtype: torch.dtype) -> None:
    manifold = cls(LAYOUT, seed=0)
    x = manifold.random(3, P, LAYOUT.n, dtype=dtype)
    rng = np.random.default_rng(0)
    z = torch.as_tensor(rng.standard_normal(x.shape), dtype=dtype)
    kept = x.clone(), z.clone()
    metric = manifold.metric
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 2e-2}[dtype]
    pairs = {
        "proju": (manifold.proju(x, z), metric.project(x, z)),
        "egrad2rgrad": (manifold.egrad2rgrad(x, z), metric.gradient(x, z)),
        "retr": (manifold.retr(x, 0.1 * z), metric.retract(x, 0.1 * z, manifold._retraction)),
        "transp": (manifold.transp(x, x, z), metric.transport(x, x, z)),
        "inner": (manifold.inner(x, z), metric.inner(x, z, z)),
        "inner of two": (manifold.inner(x, z, x), metric.inner(x, z, x)),
        "norm": (manifold.norm(x, z), metric.norm(x, z)),
    }
    for name, (ours, reference) in pairs.items():
        assert ours.dtype == dtype, name
        assert type(ours) is torch.Tensor, name
        size = float(reference.abs().max()) + 1
        np.testing.assert_allclose(ours.double(), reference.double(), rtol=0, atol=tolerance * size, err_msg=name)
    assert torch.equal(x, kept[0])
    assert torch.equal(z, kept[1])
    single = manifold.inner(x[0], z[0])
    assert single.shape == ()
    assert single.dtype == dtype


def test_whatever_torch_records_traces_or_maps_stays_torchs() -> None:
    manifold = geoopt_manifolds.EmbeddedNormalizedFeatures(LAYOUT, seed=0)
    x = manifold.random(P, LAYOUT.n, dtype=torch.float64).as_subclass(torch.Tensor)
    u = manifold.proju(x, torch.ones_like(x).cumsum(-1)) / 100
    with_grad = u.clone().requires_grad_(True)
    assert manifold.retr(x, with_grad).requires_grad
    with torch.no_grad():
        assert not manifold.retr(x, with_grad).requires_grad
    pair: Any = torch.func.jvp(lambda v: manifold.retr(x, v), (u,), (u,))
    tangent, step = pair[1], 1e-6
    difference = (manifold.retr(x, (1 + step) * u) - manifold.retr(x, (1 - step) * u)) / (2 * step)
    np.testing.assert_allclose(tangent, difference, atol=1e-7)
    batch = torch.stack([u, 2 * u])
    mapped = torch.func.vmap(lambda v: manifold.retr(x, v))(batch)
    np.testing.assert_allclose(mapped, manifold.retr(x.expand(2, -1, -1), batch), atol=1e-12)
    gradient = torch.func.grad(lambda v: manifold.retr(x, v).sum())(u)
    (reference,) = torch.autograd.grad(manifold.retr(x, with_grad).sum(), with_grad)
    np.testing.assert_allclose(gradient, reference, atol=1e-12)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(u, u)
        carried: Any = torch.autograd.forward_ad.unpack_dual(manifold.retr(x, dual)).tangent
    np.testing.assert_allclose(carried, tangent, atol=1e-12)


def test_a_retraction_of_the_callers_own_is_given_tensors() -> None:
    def own(X: torch.Tensor, U: torch.Tensor, layout: MeanSplit) -> torch.Tensor:
        assert isinstance(X, torch.Tensor)
        return nearest_point(torch.add(X, U), layout)

    manifold = geoopt_manifolds.EmbeddedNormalizedFeatures(LAYOUT, retraction=own, seed=0)
    x = manifold.random(P, LAYOUT.n, dtype=torch.float64)
    assert manifold.check_point_on_manifold(manifold.retr(x, torch.zeros_like(x)))
