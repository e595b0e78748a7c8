"""The shared objective: values against torch's own losses, gradients and curvatures against autograd."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pymanopt.manifolds import Oblique

from manifolds.class_centering import ClassLayout
from tests.ufm.models.problems import SEEDS, shapes
from ufm.models.objective.feasible import Flat, NonNegative, Spheres
from ufm.models.objective.losses import CrossEntropy, SquaredError, column_weights, one_hot
from ufm.models.objective.peeled import Peeled, Point, gaussian_point
from ufm.models.poggio_liao import Normalized
from ufm.models.solvers.pymanopt_vectors import FeasibleVectors
from ufm.models.solvers.vectors import Vectors


def plain_value(
    point: Point, labels: torch.Tensor, weights: torch.Tensor, squared: bool, penalties: tuple, bias: float | None, gain: float
):
    """The objective written with torch's own functions, for autograd."""
    *factors, b = point if bias is not None else (*point, torch.zeros(1, 1, dtype=torch.float64))
    Z = factors[0]
    for factor in factors[1:]:
        Z = Z @ factor
    Z = gain * Z + b
    if squared:
        target = torch.nn.functional.one_hot(labels, Z.shape[0]).T.double()
        value = 0.5 * (((Z - target) ** 2).sum(0) * weights).sum()
    else:
        value = (torch.nn.functional.cross_entropy(Z.T, labels, reduction="none") * weights).sum()
    value = value + sum(p / 2 * (f**2).sum() for p, f in zip(penalties, factors, strict=True))
    return value + (bias / 2 * (b**2).sum() if bias is not None else 0.0)


@settings(max_examples=10)
@given(shapes(), SEEDS, st.booleans(), st.sampled_from([None, 0.0, 0.3]), st.integers(1, 3), st.sampled_from([1.0, 2.5]))
def test_value_gradient_and_curvature_are_those_of_autograd(shape, seed, squared, bias, depth, gain):
    rng = np.random.default_rng(seed)
    layout = ClassLayout(tuple(shape["N"] + k % 3 for k in range(shape["C"])))
    per_class = rng.uniform(0.5, 2, layout.C)
    weights, labels = column_weights(layout, per_class), torch.as_tensor(layout.labels)
    penalties = tuple(rng.uniform(0, 1, depth + 1))
    P = shape["P"]
    sizes = ((layout.C, P), *((P, P),) * (depth - 1), (P, layout.n), *(((layout.C, 1),) if bias is not None else ()))
    point, move = gaussian_point(sizes, seed), gaussian_point(sizes, seed + 1)
    loss = SquaredError if squared else CrossEntropy
    peeled = Peeled(loss(one_hot(layout), weights), penalties, bias, gain)

    def plain(*q):
        return plain_value(q, labels, weights, squared, penalties, bias, gain)

    leaves = tuple(t.clone().requires_grad_() for t in point)
    value = plain(*leaves)
    gradient = torch.autograd.grad(value, leaves, create_graph=True)
    curvature = torch.autograd.grad(gradient, leaves, grad_outputs=move)
    own_value, own_gradient = peeled.value_and_gradient(point)
    assert float(own_value) == pytest.approx(float(value.detach()), rel=1e-12)
    for ours, true in zip(own_gradient, gradient, strict=True):
        assert torch.allclose(ours, true, rtol=1e-10, atol=1e-11)
    for ours, true in zip(peeled.curvature_at(point)(move), curvature, strict=True):
        assert torch.allclose(ours, true, rtol=1e-9, atol=1e-10)


def test_weight_normalised_objective_is_that_of_autograd():
    layout, sizes = ClassLayout.equal(4, 3), ((4, 5), (5, 12), (1, 1))
    target = one_hot(layout) - 1 / 4
    objective = Normalized(Peeled(SquaredError(target, column_weights(layout, 1.0))), 0.7, 1.7)
    point, move = gaussian_point(sizes, 0), gaussian_point(sizes, 1)
    leaves = tuple(t.clone().requires_grad_() for t in point)
    W, H, r = leaves
    rho = 1.7 * r
    value = 0.5 * ((rho * (W @ H) - target) ** 2).sum() + 0.35 * (rho**2).sum()
    gradient = torch.autograd.grad(value, leaves, create_graph=True)
    curvature = torch.autograd.grad(gradient, leaves, grad_outputs=move)
    own_value, own_gradient = objective.value_and_gradient(point)
    assert float(own_value) == pytest.approx(float(value.detach()), rel=1e-13, abs=0)
    for ours, true in zip((*own_gradient, *objective.curvature_at(point)(move)), (*gradient, *curvature), strict=True):
        assert torch.allclose(ours, true, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("space", [Flat(), NonNegative(), Spheres(), Spheres(axis=0), Spheres(axis=1)])
def test_feasible_sets_are_kept_by_their_maps_and_by_both_libraries(space):
    (x, z) = gaussian_point(((3, 5), (3, 5)), 0)
    point = space.onto(x)
    assert torch.allclose(space.onto(point), point)
    assert torch.equal(space.from_rows(space.to_rows(x), x.shape), x)
    tangent = space.tangent(point, z)
    assert torch.allclose(space.tangent(point, tangent), tangent)
    rows = space.to_rows(point)
    assert space.geoopt().check_point_on_manifold(rows)
    manifold = FeasibleVectors(Vectors(Peeled(SquaredError(x, x[0]), (1.0,)), (space,), (point,)))
    assert manifold.dim == space.freedom(tuple(x.shape)) == point.numel() - (len(rows) if isinstance(space, Spheres) else 0)
    flat, move = point.numpy().ravel(), z.numpy().ravel()
    projected = manifold.projection(flat, move)
    assert np.allclose(projected, tangent.numpy().ravel(), atol=1e-15)
    if isinstance(space, Spheres):  # pymanopt's own oblique manifold, which is the transpose of unit rows
        oblique = Oblique(rows.shape[1], rows.shape[0])
        assert np.allclose(oblique.projection(rows.mT.numpy(), space.to_rows(z).mT.numpy()), space.to_rows(tangent).mT.numpy())
        stepped = oblique.retraction(rows.mT.numpy(), space.to_rows(tangent).mT.numpy())
        moved = torch.from_numpy(manifold.retraction(flat, projected)).reshape(x.shape)
        assert np.allclose(space.to_rows(moved).mT.numpy(), stepped)


@settings(max_examples=8)
@given(shapes(), SEEDS, st.sampled_from([Spheres(), Spheres(axis=0), Spheres(axis=1)]))
def test_the_riemannian_hessian_of_log_f_is_a_finite_difference_of_its_gradient(shape, seed, space):
    layout = ClassLayout.equal(shape["C"], shape["N"])
    peeled = Peeled(CrossEntropy(one_hot(layout), column_weights(layout, 1 / layout.n)), (0.1, 0.0), gain=3.0)
    sizes = ((layout.C, shape["P"]), (shape["P"], layout.n))
    assume(1 not in sizes[0] + sizes[1])  # the sphere of R^1 is two points
    feasible = (space, Flat())
    point, move = (gaussian_point(sizes, seed + k) for k in range(2))
    vectors = Vectors(peeled, feasible, point)
    x = vectors.onto(vectors.vector(point))
    d = vectors.tangent(x, vectors.vector(move))
    d /= np.linalg.norm(d)
    ahead, behind = (vectors.value_and_gradient(vectors.onto(x + h * d))[1] for h in (1e-5, -1e-5))
    difference = vectors.tangent(x, (ahead - behind) / 2e-5)
    assert vectors.hessian(x)(d) == pytest.approx(difference, abs=1e-7 * max(1, np.abs(difference).max()))


@pytest.mark.parametrize("margin", [5.0, 40.0, 300.0])
def test_exponentially_small_losses_keep_their_relative_accuracy(margin):
    """log(1 + 2 e^-m) and its slope in the margin, against 300 digits: softmax minus one-hot would give 0."""
    mp = pytest.importorskip("mpmath").mp.clone()
    mp.dps = 300
    loss = CrossEntropy(torch.eye(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    Z = margin * torch.eye(3, dtype=torch.float64)
    value, gradient = loss.value_and_gradient(Z)
    exact = 3 * mp.log(1 + 2 * mp.exp(-margin))
    assert float(value) == pytest.approx(float(exact), rel=1e-14, abs=0)
    assert float(gradient[0, 0]) == pytest.approx(float(-2 * mp.exp(-margin) / (1 + 2 * mp.exp(-margin))), rel=1e-14, abs=0)
    bent = loss.curvature_at(Z)(torch.eye(3, dtype=torch.float64))
    p = 2 * mp.exp(-margin) / (1 + 2 * mp.exp(-margin))
    assert float(bent[0, 0]) == pytest.approx(float(p * (1 - p)), rel=1e-13, abs=0)
    right_is_far_behind = loss.value_and_gradient(-2 * margin * torch.eye(3, dtype=torch.float64))[0]
    assert float(right_is_far_behind) == pytest.approx(
        float(3 * (2 * margin + mp.log(2 + mp.exp(-2 * margin)))), rel=1e-14, abs=0
    )


def test_a_seed_means_one_point():
    a, b = gaussian_point(((3, 4),), 5), gaussian_point(((3, 4),), 5)
    state = torch.random.get_rng_state()
    assert torch.equal(a[0], b[0])
    assert not torch.equal(a[0], gaussian_point(((3, 4),), 6)[0])
    assert torch.equal(state, torch.random.get_rng_state())  # the global generator is not touched
