"""Embedded geodesics, parallel transport, logarithm, distance: against integrated equations and the libraries' Stiefel."""

import geoopt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from pymanopt.manifolds import Stiefel

from manifolds import normalized_features
from manifolds.class_centering import ClassLayout
from manifolds.embedded import geodesics, logarithm
from manifolds.embedded.curvature import embedded_hessian
from manifolds.retractions import nearest_point
from manifolds.shooting import Shooting
from tests import oracles
from tests.manifolds.points import LAYOUT, P, point, tangent
from tests.strategies import Problem, problems


@settings(max_examples=5)
@given(problems(balanced=False))
def test_geodesic_and_parallel_transport_solve_their_differential_equations(problem: Problem) -> None:
    layout, rng = problem.layout, problem.rng
    X = nearest_point(problem.H, layout)
    U, W = tangent(X, layout, rng, 1.5 * np.sqrt(layout.n)), tangent(X, layout, rng, 3.0)
    Y, moved = geodesics.geodesic_transport(X, U, W, layout)
    Y_ode, moved_ode = oracles.embedded_motion(X, U, W, layout)
    np.testing.assert_allclose(Y, Y_ode, rtol=0, atol=1e-8)
    np.testing.assert_allclose(moved, moved_ode, rtol=0, atol=1e-8)
    np.testing.assert_allclose(Y, geodesics.exp(X, U, layout), rtol=0, atol=1e-12)


@given(problems(balanced=False))
def test_parallel_transport_is_an_isometry_of_tangent_spaces_and_reverses(problem: Problem) -> None:
    layout, rng = problem.layout, problem.rng
    X = nearest_point(problem.H, layout)
    U, V, W = (tangent(X, layout, rng, length) for length in (2.0 * np.sqrt(layout.n), 1.0, 2.0))
    Y, V_Y = geodesics.geodesic_transport(X, U, V, layout)
    _, W_Y = geodesics.geodesic_transport(X, U, W, layout)
    _, U_Y = geodesics.geodesic_transport(X, U, U, layout)
    assert normalized_features.constraint_residual(Y, layout) < 1e-12
    assert normalized_features.tangency_residual(Y, V_Y, layout) < 1e-12
    np.testing.assert_allclose(np.sum(V_Y * W_Y), np.sum(V * W), rtol=0, atol=1e-11)
    X_back, V_back = geodesics.geodesic_transport(Y, -U_Y, V_Y, layout)
    np.testing.assert_allclose(X_back, X, rtol=0, atol=1e-11)
    np.testing.assert_allclose(V_back, V, rtol=0, atol=1e-11)


@given(problems(balanced=False))
def test_exp_is_a_one_parameter_curve_of_constant_speed(problem: Problem) -> None:
    layout, rng = problem.layout, problem.rng
    X = nearest_point(problem.H, layout)
    U = tangent(X, layout, rng, np.sqrt(layout.n))
    middle, velocity = geodesics.geodesic_transport(X, 0.4 * U, U, layout)
    np.testing.assert_allclose(geodesics.exp(middle, 0.6 * velocity, layout), geodesics.exp(X, U, layout), rtol=0, atol=1e-11)
    derivative = oracles.directional_derivative(lambda t: geodesics.exp(X, float(t[0]) * U, layout), np.array([0.4]), np.ones(1))
    np.testing.assert_allclose(derivative, velocity, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8, 0.95])
@pytest.mark.parametrize(("sizes", "size"), [((3, 3), 2), ((5, 7, 6), 4), ((10,) * 4, 8), ((4, 4, 4), 9)])
def test_log_inverts_exp_within_the_injectivity_radius(sizes: tuple, size: int, fraction: float) -> None:
    layout, rng = ClassLayout(sizes), np.random.default_rng(3)
    X = point(layout, size)
    U = tangent(X, layout, rng, fraction * geodesics.injectivity_radius(layout))
    velocity = logarithm.shoot_log(X, geodesics.exp(X, U, layout), layout)
    assert velocity.converged.all()
    np.testing.assert_allclose(velocity.vector, U, rtol=0, atol=1e-7)
    np.testing.assert_allclose(logarithm.dist(X, geodesics.exp(X, U, layout), layout), np.linalg.norm(U), rtol=1e-9)


def test_log_of_random_points_hits_them_and_the_midpoint_is_equidistant() -> None:
    rng = np.random.default_rng(0)
    for layout, size in ((ClassLayout((3, 3)), 2), (LAYOUT, P), (ClassLayout((6,) * 5), 7)):
        for _ in range(3):
            X, Y = (nearest_point(rng.standard_normal((size, layout.n)), layout) for _ in range(2))
            U = logarithm.log(X, Y, layout)
            np.testing.assert_allclose(geodesics.exp(X, U, layout), Y, rtol=0, atol=1e-9)
            assert normalized_features.tangency_residual(X, U, layout) < 1e-11
            M = logarithm.midpoint(X, Y, layout)
            np.testing.assert_allclose(geodesics.exp(X, U / 2, layout), M, rtol=0, atol=1e-9)


def test_logarithms_of_batches_broadcast_and_keep_type_and_dtype() -> None:
    X = np.stack([point(seed=seed) for seed in (0, 1)])
    Y = point(seed=2)
    vectors = logarithm.log(X, Y, LAYOUT)
    np.testing.assert_allclose(vectors[1], logarithm.log(X[1], Y, LAYOUT), rtol=0, atol=1e-12)
    assert logarithm.dist(X, Y, LAYOUT).shape == (2,)
    single = logarithm.log(torch.from_numpy(X).float(), torch.from_numpy(Y).float(), LAYOUT)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), vectors, rtol=0, atol=1e-4)


def test_points_of_two_components_have_no_geodesic_and_say_so() -> None:
    layout = ClassLayout((3, 3))
    X = point(layout, 4)
    Y = X.copy()
    M = layout.means(X)
    Y[0] = -X[0]  # determinant of the other sign; n - C = P
    velocity = logarithm.shoot_log(X, Y, layout)
    assert isinstance(velocity, Shooting)
    assert not velocity.converged.any()
    assert M.shape == (4, 2)
    with pytest.raises(ValueError, match="no geodesic found between 1 of 1 pairs"):
        logarithm.log(X, Y, layout)


@given(problems(balanced=False))
def test_the_manifold_is_sqrt_n_stiefel_times_euclidean_of_the_libraries(problem: Problem) -> None:
    """The isometry D -> D^T / sqrt(n): exp, projection and distances agree with geoopt's and pymanopt's own Stiefel to 1e-12."""
    layout, X, rng = problem.layout, nearest_point(problem.H, problem.layout), problem.rng
    root = np.sqrt(layout.n)
    Z, U = rng.standard_normal(X.shape), tangent(X, layout, rng, root)
    Q, V, W = layout.deviations(X).T / root, layout.deviations(U).T / root, layout.deviations(Z).T / root
    theirs, torch_stiefel = Stiefel(layout.n, problem.P), geoopt.EuclideanStiefelExact()
    exp, projection = geodesics.exp(X, U, layout), normalized_features.orthogonal_projection(X, Z, layout)
    np.testing.assert_allclose(layout.deviations(exp), root * theirs.exp(Q, V).T, rtol=0, atol=1e-12 * root)
    np.testing.assert_allclose(layout.means(exp), layout.means(X + U), rtol=0, atol=1e-12)
    np.testing.assert_allclose(layout.deviations(projection), root * theirs.projection(Q, W).T, rtol=0, atol=1e-12 * root)
    in_torch = torch_stiefel.proju(torch.from_numpy(Q.copy()), torch.from_numpy(W.copy())).numpy()
    np.testing.assert_allclose(layout.deviations(projection), root * in_torch.T, rtol=0, atol=1e-12 * root)
    np.testing.assert_allclose(np.sum(U * U), layout.n * np.sum(V * V) + np.sum(layout.spread(layout.means(U)) ** 2), rtol=1e-12)
    egrad, ehess = rng.standard_normal((2, *X.shape))
    ours = embedded_hessian(X, egrad, ehess, U, layout)
    scaled = theirs.euclidean_to_riemannian_hessian(Q, layout.deviations(egrad).T, layout.deviations(ehess).T, V)
    np.testing.assert_allclose(layout.deviations(ours), scaled.T, rtol=0, atol=1e-12 * root * problem.P)
    np.testing.assert_allclose(layout.means(ours), layout.means(ehess), rtol=0, atol=1e-12)


def test_injectivity_radius_is_pi_sqrt_n() -> None:
    assert geodesics.injectivity_radius(LAYOUT) == pytest.approx(np.pi * np.sqrt(18))
    # a full turn in one plane of deviations returns: the shortest closed geodesic has twice that length
    layout = ClassLayout((3, 3))
    X = point(layout, 1)
    U = layout.deviations(normalized_features.orthogonal_projection(X, np.random.default_rng(0).standard_normal(X.shape), layout))
    U *= 2 * geodesics.injectivity_radius(layout) / np.linalg.norm(U)
    np.testing.assert_allclose(geodesics.exp(X, U, layout), X, rtol=0, atol=1e-12)


def test_exp_removes_the_rounding_of_its_start() -> None:
    """A start off the manifold by 1e-7 (float32's rounding) lands on it by Newton's step: to the square, 1e-14."""
    X = point()
    off = X + 1e-8 * np.random.default_rng(0).standard_normal(X.shape)
    assert normalized_features.constraint_residual(off, LAYOUT) > 1e-9
    U = tangent(X, LAYOUT, np.random.default_rng(1), 2.0)
    assert normalized_features.constraint_residual(geodesics.exp(off, U, LAYOUT), LAYOUT) < 1e-13


def test_exp_is_differentiable() -> None:
    layout = ClassLayout((3, 4))
    X = torch.from_numpy(point(layout, 2))
    U = torch.from_numpy(tangent(X.numpy(), layout, np.random.default_rng(0), 2.0)).requires_grad_(True)

    def exp(U: torch.Tensor) -> torch.Tensor:
        return geodesics.exp(X, normalized_features.orthogonal_projection(X, U, layout), layout)

    assert torch.autograd.gradcheck(exp, U)
