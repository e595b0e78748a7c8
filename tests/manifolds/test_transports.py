"""Transport by the differentiated retraction: finite differences, torch's forward derivative, tangency, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given

from manifolds import normalized_features
from manifolds.checks.slopes import measure_slope
from manifolds.embedded import geodesics
from manifolds.retractions import (
    cholesky_retraction,
    horizontal_renormalisation,
    polar_retraction,
    renormalisation,
)
from manifolds.transports import differentiated_transport
from tests.manifolds.points import LAYOUT, point, tangent
from tests.oracles import directional_derivative
from tests.strategies import Problem, problems

ALL = (renormalisation, horizontal_renormalisation, polar_retraction, cholesky_retraction)


@given(problems(balanced=False))
def test_it_is_the_derivative_of_the_retraction(problem: Problem) -> None:
    layout, X = problem.layout, problem.X
    U, W = 0.3 * problem.direction(), problem.direction()
    for retraction in ALL:
        moved = differentiated_transport(X, U, W, layout, retraction)
        expected = np.asarray(directional_derivative(lambda Z, R=retraction: R(X, Z, layout), U, W))
        np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-7 * (1 + abs(expected).max()))
        assert normalized_features.tangency_residual(retraction(X, U, layout), moved, layout) < 1e-11 * (1 + abs(moved).max())
        batch = differentiated_transport(np.stack([X, X]), np.stack([U, U]), np.stack([W, -2 * W]), layout, retraction)
        np.testing.assert_allclose(batch[1], -2 * moved, rtol=0, atol=1e-11 * (1 + abs(moved).max()))


@pytest.mark.parametrize("retraction", ALL[:3])
def test_it_pairs_with_torchs_derivative(retraction) -> None:
    rng = np.random.default_rng(0)
    X, U, W = (torch.from_numpy(A) for A in (point(), *rng.standard_normal((2, *point().shape))))
    leaf = U.clone().requires_grad_(True)
    C = torch.from_numpy(rng.standard_normal(X.shape))
    (gradient,) = torch.autograd.grad((C * retraction(X, leaf, LAYOUT)).sum(), leaf)
    np.testing.assert_allclose(
        (C * differentiated_transport(X, U, W, LAYOUT, retraction)).sum(), (gradient * W).sum(), rtol=1e-12
    )


def test_polar_transport_is_parallel_to_first_order() -> None:
    X, rng = point(), np.random.default_rng(0)
    U, W = tangent(X, LAYOUT, rng), tangent(X, LAYOUT, rng)

    def gap(t: float) -> float:
        Y, carried = geodesics.geodesic_transport(X, t * U, W, LAYOUT)
        moved = differentiated_transport(X, t * U, W, LAYOUT, polar_retraction)
        return float(np.linalg.norm(normalized_features.orthogonal_projection(Y, moved, LAYOUT) - carried))

    verdict = measure_slope("transport", gap, 2, rounding=1e-12)
    assert abs(verdict.slope - 2) < 0.05


def test_wrong_use_is_refused() -> None:
    X = point()
    with pytest.raises(ValueError, match="derivative of exp is not known"):
        differentiated_transport(X, X, X, LAYOUT, geodesics.exp)
    with pytest.raises(ValueError, match="directions are lost"):
        differentiated_transport(X, -X, X, LAYOUT, polar_retraction)
