"""The bundle metric: horizontal lift, gradient, connection, Hessian and geodesics, against differences of the metric itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from manifolds import normalized_features
from manifolds.bundle import connection as bundle
from manifolds.bundle import geodesics as bundle_geodesics
from manifolds.class_centering import ClassLayout
from manifolds.metrics import BundleMetric, EmbeddedMetric
from tests import oracles
from tests.manifolds.points import LAYOUT, P, cost, point
from tests.strategies import Problem, problems
from ufm.tensor.renormalized_flow import ls_gradient

SMALL = ClassLayout((3, 4))


def renormalized(layout: ClassLayout, size: int, seed: int = 0) -> np.ndarray:
    return normalized_features.renormalize(point(layout, size, seed), layout)


def tangent(X: np.ndarray, layout: ClassLayout, rng: np.random.Generator, length: float = 1.0) -> np.ndarray:
    U = normalized_features.oblique_projection(X, rng.standard_normal(X.shape), layout)
    return U * (length / np.sqrt(bundle.bundle_inner(X, U, U, layout)))


@given(problems(balanced=False))
def test_horizontal_is_the_frobenius_projection_off_the_fibre(problem: Problem) -> None:
    X, Z, rng = problem.X, problem.direction(), problem.rng
    S = rng.standard_normal((problem.P, problem.P))
    S = S + S.T
    hor = bundle.horizontal(X, Z, problem.layout)
    np.testing.assert_allclose(np.sum(hor * (S @ X)), 0, rtol=0, atol=1e-8)
    np.testing.assert_allclose(bundle.horizontal(X, S @ X, problem.layout), 0 * X, rtol=0, atol=1e-10)
    np.testing.assert_allclose(bundle.horizontal(X, hor, problem.layout), hor, rtol=0, atol=1e-10)
    # the lift of a tangent vector: same image under Proposition 4's map
    layout = problem.layout
    U = normalized_features.oblique_projection(X, Z, layout)
    np.testing.assert_allclose(
        normalized_features.oblique_projection(X, bundle.horizontal(X, U, problem.layout), layout), U, rtol=0, atol=1e-9
    )


@given(problems(balanced=False))
def test_bundle_inner_is_the_product_of_lifts(problem: Problem) -> None:
    X, U, V = problem.X, problem.direction(), problem.direction()
    expected = np.sum(bundle.horizontal(X, U, problem.layout) * bundle.horizontal(X, V, problem.layout))
    np.testing.assert_allclose(bundle.bundle_inner(X, U, V, problem.layout), expected, rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        bundle.bundle_inner(X, U, V, problem.layout), bundle.bundle_inner(X, V, U, problem.layout), rtol=0, atol=1e-8
    )


@given(problems(balanced=False))
def test_each_metric_has_its_own_gradient_and_no_other_map_serves(problem: Problem) -> None:
    """g(grad, U) = <G, U>: P for the embedded metric, Pi Pi* for the bundle metric, and Proposition 4's Pi for neither."""
    layout, X, G = problem.layout, problem.X, problem.direction()
    for metric in (EmbeddedMetric(layout), BundleMetric(layout)):
        U = metric.project(X, problem.direction())
        scale = float(np.linalg.norm(G) * np.linalg.norm(U))
        np.testing.assert_allclose(metric.inner(X, metric.gradient(X, G), U), np.sum(G * U), rtol=0, atol=1e-11 * scale)
        assert abs(metric.inner(X, normalized_features.oblique_projection(X, G, layout), U) - np.sum(G * U)) > 1e-7 * scale


@given(problems(balanced=False))
def test_bundle_gradient_is_the_product_of_its_two_projections(problem: Problem) -> None:
    layout, X, G = problem.layout, problem.X, problem.direction()
    expected = normalized_features.oblique_projection(X, normalized_features.oblique_projection_adjoint(X, G, layout), layout)
    np.testing.assert_allclose(bundle.bundle_gradient(X, G, layout), expected, rtol=0, atol=1e-10)


@given(problems())
def test_for_a_loss_constant_on_fibres_the_bundle_gradient_is_proposition_4(problem: Problem) -> None:
    layout, X = problem.layout, problem.X
    G = ls_gradient(X, layout)
    np.testing.assert_allclose(
        bundle.bundle_gradient(X, G, layout), normalized_features.oblique_projection(X, G, layout), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("metric", [BundleMetric(SMALL), EmbeddedMetric(SMALL)])
def test_hessian_is_the_covariant_hessian_of_the_levi_civita_connection(metric: BundleMetric | EmbeddedMetric) -> None:
    X, rng = renormalized(SMALL, 2), np.random.default_rng(1)
    f, gradient, hessian = cost(2, SMALL.n)
    dim = normalized_features.dimension(SMALL, 2)
    samples = normalized_features.oblique_projection(X, rng.standard_normal((dim + 3, *X.shape)), SMALL).reshape(dim + 3, -1)
    basis = np.linalg.svd(samples, full_matrices=False)[2][:dim].reshape(dim, *X.shape)

    def chart(c: np.ndarray) -> np.ndarray:
        return normalized_features.renormalize(X + np.tensordot(c, basis, 1), SMALL)

    expected, axes = oracles.covariant_hessian(lambda X, U, V: float(metric.inner(X, U, V)), chart, f, dim)
    G = gradient(X)
    ours = np.array([[metric.inner(X, a, metric.hessian(X, G, hessian(X, b), b)) for b in axes] for a in axes])
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours, ours.T, rtol=0, atol=1e-9)


@settings(max_examples=3)
@given(problems(balanced=False))
def test_bundle_geodesics_keep_speed_products_and_the_manifold_and_reverse(problem: Problem) -> None:
    layout, rng = problem.layout, problem.rng
    X = renormalized(layout, problem.P)
    U, W = tangent(X, layout, rng, 0.8 * np.sqrt(layout.n)), tangent(X, layout, rng)
    Y, W_Y = bundle_geodesics.bundle_geodesic_transport(X, U, W, layout)
    _, U_Y = bundle_geodesics.bundle_geodesic_transport(X, U, U, layout)
    assert normalized_features.constraint_residual(Y, layout) < 1e-12
    assert normalized_features.tangency_residual(Y, W_Y, layout) < 1e-11
    for a, b, a_Y, b_Y in ((U, U, U_Y, U_Y), (U, W, U_Y, W_Y), (W, W, W_Y, W_Y)):
        np.testing.assert_allclose(
            bundle.bundle_inner(Y, a_Y, b_Y, layout), bundle.bundle_inner(X, a, b, layout), rtol=0, atol=1e-8
        )
    X_back, U_back = bundle_geodesics.bundle_geodesic_transport(Y, -U_Y, U_Y, layout)
    np.testing.assert_allclose(X_back, X, rtol=0, atol=1e-9)
    np.testing.assert_allclose(U_back, U, rtol=0, atol=1e-8)


def test_bundle_geodesics_are_stationary_for_the_length_of_curves() -> None:
    """Bending a geodesic with fixed ends changes its energy to second order only; bending another curve, to first."""
    layout, rng = SMALL, np.random.default_rng(0)
    X = renormalized(layout, 2)
    U = tangent(X, layout, rng, 1.0)
    times = (np.arange(16) + 0.5) / 16
    bend = rng.standard_normal((2, *X.shape))

    def energy(amount: float, straight: object) -> float:
        def curve(t: float) -> np.ndarray:
            moved = straight(t) + amount * (np.sin(np.pi * t) * bend[0] + np.sin(2 * np.pi * t) * bend[1])  # type: ignore[operator]
            return normalized_features.renormalize(moved, layout)

        h, total = 1e-5, 0.0
        for t in times:
            velocity = (curve(t + h) - curve(t - h)) / (2 * h)
            total += float(bundle.bundle_inner(curve(t), velocity, velocity, layout)) / len(times)
        return total

    def variation(straight: object) -> float:
        return abs(energy(1e-3, straight) - energy(-1e-3, straight)) / 2e-3

    geodesic = variation(lambda t: bundle_geodesics.bundle_exp(X, t * U, layout))
    retracted = variation(lambda t: normalized_features.renormalize(X + t * U, layout))
    assert geodesic < 1e-2 * retracted


def test_bundle_log_inverts_exp_and_hits_random_points() -> None:
    rng = np.random.default_rng(0)
    X = renormalized(SMALL, 2)
    U = tangent(X, SMALL, rng, 1.5)
    metric = BundleMetric(SMALL)
    Y = metric.exp(X, U)
    np.testing.assert_allclose(metric.log(X, Y), U, rtol=0, atol=1e-8)
    np.testing.assert_allclose(metric.dist(X, Y), 1.5, rtol=1e-8)
    np.testing.assert_allclose(metric.dist(Y, X), 1.5, rtol=1e-8)
    Z = renormalized(SMALL, 2, seed=5)
    np.testing.assert_allclose(metric.exp(X, metric.log(X, Z)), Z, rtol=0, atol=1e-8)


def test_the_integrator_of_bundle_geodesics_agrees_with_scipy() -> None:
    from scipy.integrate import solve_ivp

    X = renormalized(LAYOUT, P)
    U = tangent(X, LAYOUT, np.random.default_rng(0), 3.0)

    def field(t: float, state: np.ndarray) -> np.ndarray:
        x, u = state.reshape(2, *X.shape)
        return np.stack([u, bundle.bundle_connection(x, u, u, LAYOUT)]).ravel()

    end = solve_ivp(field, (0, 1), np.stack([X, U]).ravel(), method="DOP853", rtol=1e-11, atol=1e-11).y[: X.size, -1]
    np.testing.assert_allclose(bundle_geodesics.bundle_exp(X, U, LAYOUT), end.reshape(X.shape), rtol=0, atol=1e-8)


def test_a_bundle_geodesic_beyond_the_integrator_is_refused() -> None:
    X = renormalized(SMALL, 2)
    U = tangent(X, SMALL, np.random.default_rng(0), 1e6)
    with pytest.raises(ValueError, match="could not be integrated"):
        bundle_geodesics.bundle_exp(X, U, SMALL)


def test_torch_equals_numpy_for_every_map_of_both_metrics() -> None:
    rng = np.random.default_rng(0)
    X = renormalized(LAYOUT, P)
    for metric in (EmbeddedMetric(LAYOUT), BundleMetric(LAYOUT)):
        G, H = rng.standard_normal((2, *X.shape))
        U, W = metric.project(X, G), metric.project(X, H)
        arrays = (X, G, H, U, W)
        X_t, G_t, H_t, U_t, W_t = (torch.from_numpy(array) for array in arrays)
        pairs = [
            (metric.inner(X, U, W), metric.inner(X_t, U_t, W_t)),
            (metric.gradient(X, G), metric.gradient(X_t, G_t)),
            (metric.hessian(X, G, H, U), metric.hessian(X_t, G_t, H_t, U_t)),
            (metric.exp(X, U), metric.exp(X_t, U_t)),
            *zip(metric.geodesic_transport(X, U, W), metric.geodesic_transport(X_t, U_t, W_t), strict=True),
            (metric.norm(X, U), metric.norm(X_t, U_t)),
        ]
        for ours, theirs in pairs:
            np.testing.assert_allclose(theirs.numpy(), ours, rtol=0, atol=1e-12 * max(1.0, float(np.abs(ours).max())))


def test_batches_are_batches() -> None:
    rng = np.random.default_rng(0)
    X = np.stack([renormalized(LAYOUT, P, seed) for seed in range(4)]).reshape(2, 2, P, LAYOUT.n)
    G = rng.standard_normal(X.shape)
    for metric in (EmbeddedMetric(LAYOUT), BundleMetric(LAYOUT)):
        U = metric.project(X, G)
        W = metric.project(X, rng.standard_normal(X.shape))
        Y, W_Y = metric.geodesic_transport(X, U / 4, W)
        one, W_one = metric.geodesic_transport(X[1, 0], U[1, 0] / 4, W[1, 0])
        np.testing.assert_allclose(Y[1, 0], one, rtol=0, atol=1e-9)
        np.testing.assert_allclose(W_Y[1, 0], W_one, rtol=0, atol=1e-9)
        np.testing.assert_allclose(
            metric.hessian(X, G, W, U)[0, 1], metric.hessian(X[0, 1], G[0, 1], W[0, 1], U[0, 1]), atol=1e-10
        )
        assert metric.inner(X, U, W).shape == (2, 2)
