"""Retractions and their inverses: feasibility, order against the exact geodesic, nearest point, round trips, refusals."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given

from manifolds import normalized_features, retractions
from manifolds.bundle.geodesics import bundle_exp
from manifolds.checks.slopes import measure_slope
from manifolds.class_centering import ClassLayout
from manifolds.embedded import geodesics
from tests.manifolds.points import LAYOUT, P, point, tangent
from tests.strategies import Problem, problems

ALL = (
    retractions.renormalisation,
    retractions.horizontal_renormalisation,
    retractions.polar_retraction,
    retractions.cholesky_retraction,
)


@given(problems(balanced=False))
def test_retractions_land_on_the_manifold_from_any_ambient_vector(problem: Problem) -> None:
    layout, X, Z = problem.layout, problem.X, problem.direction()
    for retraction in ALL:
        Y = retraction(X, Z, layout)
        assert normalized_features.constraint_residual(Y, layout) < 1e-10
        np.testing.assert_allclose(retraction(X, 0 * Z, layout), X, rtol=0, atol=1e-10)
        batch = retraction(np.stack([X, X]), np.stack([Z, -Z]), layout)
        np.testing.assert_allclose(batch[0], Y, rtol=0, atol=1e-10)
        np.testing.assert_allclose(retraction(torch.from_numpy(X), torch.from_numpy(Z), layout).numpy(), Y, rtol=0, atol=1e-9)


@given(problems(balanced=False))
def test_the_class_means_are_free_in_polar_and_cholesky(problem: Problem) -> None:
    layout, X, Z = problem.layout, problem.X, problem.direction()
    for retraction in ALL[2:]:
        np.testing.assert_allclose(layout.means(retraction(X, Z, layout)), layout.means(X + Z), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("retraction", "expected"),
    [
        (retractions.renormalisation, 2),
        (retractions.horizontal_renormalisation, 2),
        (retractions.polar_retraction, 3),
        (retractions.cholesky_retraction, 2),
    ],
)
@pytest.mark.parametrize("sizes", [(5, 7, 6), (6, 6, 6)])
def test_order_against_the_exact_geodesic_of_the_embedded_metric(retraction: Callable, expected: int, sizes: tuple) -> None:
    layout, rng = ClassLayout(sizes), np.random.default_rng(0)
    X = point(layout)
    U = tangent(X, layout, rng)

    def error(t: float) -> float:
        return float(np.linalg.norm(retraction(X, t * U, layout) - geodesics.exp(X, t * U, layout)))

    verdict = measure_slope("order", error, expected, rounding=1e-12)
    assert abs(verdict.slope - expected) < 0.05


@pytest.mark.parametrize("retraction", ALL[:2])
def test_renormalisations_are_first_order_for_the_bundle_metric_too(retraction: Callable) -> None:
    rng = np.random.default_rng(0)
    X = point(LAYOUT)
    X = normalized_features.renormalize(X, LAYOUT)
    U = tangent(X, LAYOUT, rng)

    def error(t: float) -> float:
        return float(np.linalg.norm(retraction(X, t * U, LAYOUT) - bundle_exp(X, t * U, LAYOUT)))

    verdict = measure_slope("order", error, 2, rounding=1e-11, steps=np.geomspace(1e-4, 1e-1, 13))
    assert abs(verdict.slope - 2) < 0.05


@given(problems(balanced=False))
def test_polar_is_the_nearest_point_and_the_others_are_not_nearer(problem: Problem) -> None:
    layout, rng = problem.layout, problem.rng
    Z = problem.X + 0.3 * problem.direction()
    nearest = retractions.nearest_point(Z, layout)
    best = np.linalg.norm(nearest - Z)
    assert best < np.linalg.norm(normalized_features.renormalize(Z, layout) - Z)
    for _ in range(5):
        U = normalized_features.orthogonal_projection(nearest, rng.standard_normal(Z.shape), layout)
        assert best <= np.linalg.norm(geodesics.exp(nearest, 0.05 * U, layout) - Z)
    # stationary: Z - nearest is normal
    residual = normalized_features.orthogonal_projection(nearest, Z - nearest, layout)
    np.testing.assert_allclose(residual, 0 * Z, rtol=0, atol=1e-9)


@given(problems(balanced=False))
def test_inverse_retractions_invert_in_closed_form(problem: Problem) -> None:
    layout, X, rng = problem.layout, problem.X, problem.rng
    for retraction, inverse, project in (
        (retractions.renormalisation, retractions.inverse_renormalisation, normalized_features.oblique_projection),
        (retractions.polar_retraction, retractions.inverse_polar_retraction, normalized_features.orthogonal_projection),
    ):
        U = project(X, rng.standard_normal(X.shape), layout)
        U *= 0.4 / np.linalg.norm(layout.deviations(U)) * np.sqrt(layout.n)
        back = inverse(X, retraction(X, U, layout), layout)
        np.testing.assert_allclose(back, U, rtol=0, atol=1e-10)
        assert normalized_features.tangency_residual(X, back, layout) < 1e-10


def test_inverse_retraction_refuses_points_too_far_apart() -> None:
    X = point()
    with pytest.raises(ValueError, match=r"inverse retraction does not exist.*too far apart.*D_Y D_X\^T / n.*points in between"):
        retractions.inverse_polar_retraction(X, -X, LAYOUT)


def test_a_step_that_loses_rank_is_refused() -> None:
    X = point()
    for retraction in (ALL[0], *ALL[2:]):
        with pytest.raises(ValueError, match=f"{P} of {P} directions are lost"):
            retraction(X, -X, LAYOUT)


def test_an_empty_manifold_is_refused_with_its_numbers() -> None:
    layout = ClassLayout.equal(3, 2)
    Z = np.random.default_rng(0).standard_normal((4, 6))
    for retraction in ALL:
        with pytest.raises(ValueError, match=r"C\(N-1\) = 3 < P = 4"):
            retraction(Z, Z, layout)
    with pytest.raises(ValueError, match="the manifold is empty"):
        normalized_features.dimension(layout, 4)
