"""Where the result of a whole step is written, and steps that are not finite."""

from functools import partial

import numpy as np
import pytest
import torch

from manifolds import steps
from manifolds.metrics import BundleMetric, EmbeddedMetric
from manifolds.renormalized_gradient_step import renormalized_step
from manifolds.retractions import (
    Retraction,
    cholesky_retraction,
    horizontal_renormalisation,
    polar_retraction,
    renormalisation,
)
from tests.manifolds.points import LAYOUT, P, point

RETRACTIONS = (polar_retraction, renormalisation, cholesky_retraction, horizontal_renormalisation)
G = np.random.default_rng(1).standard_normal((P, LAYOUT.n))


@pytest.mark.parametrize("retraction", RETRACTIONS)
@pytest.mark.parametrize("room", [np.zeros((LAYOUT.n, P)).T, np.zeros((P, 2 * LAYOUT.n))[:, ::2], np.zeros((P, LAYOUT.n))[::-1]])
def test_the_result_may_lie_in_memory_in_any_order(retraction: steps.Retraction, room: np.ndarray) -> None:
    expected = steps.gradient_step(point(), G, 0.1, BundleMetric(LAYOUT), retraction)
    written = steps.gradient_step(point(), G, 0.1, BundleMetric(LAYOUT), retraction, out=room)
    np.testing.assert_allclose(room, expected, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(written, room)


@pytest.mark.parametrize("retraction", RETRACTIONS)
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_a_gradient_step_over_its_own_point_is_refused_and_the_cheaper_ones_are_right(retraction, convert) -> None:
    X, metric = convert(point()), EmbeddedMetric(LAYOUT)
    with pytest.raises(ValueError, match="out shares memory with X"):
        steps.gradient_step(X, convert(G), 0.1, metric, retraction, out=X)
    np.testing.assert_array_equal(X, point())
    for step in (partial(steps.projected_step, metric=metric), partial(renormalized_step, layout=LAYOUT)):
        X = convert(point())
        expected = step(X, convert(G), 0.1)
        step(X, convert(G), 0.1, out=X)
        np.testing.assert_allclose(X, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("retraction", [polar_retraction, horizontal_renormalisation])
def test_an_array_of_another_shape_or_dtype_is_refused(recorded: bool, retraction: Retraction) -> None:
    X = torch.from_numpy(point()).requires_grad_(recorded)
    for out in (torch.empty(2, *X.shape, dtype=X.dtype), torch.empty(X.shape)):
        with pytest.raises(ValueError, match=r"out is .* but the step"):
            steps.gradient_step(X, torch.from_numpy(G), 0.1, EmbeddedMetric(LAYOUT), retraction, out=out)
    for half in (torch.float16, torch.bfloat16):
        x = X.detach().to(half)
        with pytest.raises(ValueError, match=r"but the step .* torch.float32"):
            steps.projected_step(x, torch.from_numpy(G).to(half), 0.1, EmbeddedMetric(LAYOUT), out=torch.empty_like(x))


@pytest.mark.parametrize("retraction", RETRACTIONS)
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_a_step_that_is_not_finite_says_so(retraction, convert) -> None:
    bad = G.copy()
    bad[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        steps.gradient_step(convert(point()), convert(bad), 0.1, EmbeddedMetric(LAYOUT), retraction)


def test_a_learning_rate_may_be_a_tensor() -> None:
    X, metric = torch.from_numpy(point()), EmbeddedMetric(LAYOUT)
    step = steps.gradient_step(X, torch.from_numpy(G), torch.tensor(0.1, dtype=torch.float64), metric)
    np.testing.assert_array_equal(step, steps.gradient_step(X, torch.from_numpy(G), 0.1, metric))
