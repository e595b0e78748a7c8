"""The law of a linear last layer: A A^T is conserved, omega rises to that of the features below; the full flow agrees."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings

from tests.strategies import Problem, problems
from tests.ufm.laws import oracles
from tests.ufm.ledger.maps import labels_of, statistics
from ufm.features.statistics import statistics_of
from ufm.ledger.last_layer import LastLayer


def full_velocity(A: np.ndarray, Z: np.ndarray, y: np.ndarray, C: int) -> np.ndarray:
    """-grad_H L_LS(H) Z^T at H = A Z by autograd through a least-squares fit with a bias: nothing of the closed system."""
    H = torch.from_numpy(A @ Z).requires_grad_()
    extended = torch.cat([H, torch.ones(1, H.shape[1], dtype=H.dtype)])
    Y = torch.nn.functional.one_hot(torch.from_numpy(y), C).double().T
    W = torch.linalg.solve(extended @ extended.T, extended @ Y.T).T
    loss = 0.5 * ((W @ extended - Y) ** 2).sum() / H.shape[1]
    return -torch.autograd.grad(loss, H)[0].numpy() @ Z.T


def start(problem: Problem) -> tuple[LastLayer, np.ndarray, np.ndarray]:
    Z = problem.H
    P = max(min(problem.layout.C - 1, problem.P - 1), 1)
    A = problem.rng.standard_normal((P, problem.P))
    return LastLayer.over(statistics(Z, problem.layout)), A, Z


@given(problems(balanced=False))
def test_the_closed_system_is_the_full_flow(problem: Problem) -> None:
    law, A, Z = start(problem)
    expected = full_velocity(A, Z, labels_of(problem.layout), problem.layout.C)
    np.testing.assert_allclose(law.velocity(A), expected, atol=1e-9 * (1e-3 + abs(expected).max()))


@settings(max_examples=4)
@given(problems(balanced=False))
def test_the_gram_matrix_of_a_linear_last_layer_is_conserved(problem: Problem) -> None:
    law, A, _ = start(problem)
    path = law.follow(A, np.array([0.0, 1.0, 10.0]))
    np.testing.assert_allclose(path[-1] @ path[-1].T, A @ A.T, rtol=1e-6, atol=1e-7 * abs(A @ A.T).max())
    assert abs(path[-1] - A).max() > 0


@settings(max_examples=6)
@given(problems(balanced=False))
def test_the_loss_falls_and_no_omega_passes_the_layer_below(problem: Problem) -> None:
    """The flow descends L_LS of A Z, every omega_j stays at most that of Z, and an invertible layer is there and at rest."""
    law, _, Z = start(problem)
    K = min(problem.layout.C - 1, problem.P)
    A = problem.rng.standard_normal((problem.P, problem.P))
    assume(np.linalg.cond(A) < 30)
    path = law.follow(A[:K], np.array([0.0, 1.0, 5.0]))
    losses = [oracles.ridge_loss(a @ Z, problem.layout, 0.0) for a in path]
    assert (np.diff(losses) <= 1e-10).all()
    assert (np.array([law.omega(a)[:K] for a in path]) <= law.bound()[:K] * (1 + 1e-7)).all()
    np.testing.assert_allclose(law.omega(A), law.bound(), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(law.velocity(A), 0 * A, atol=1e-8 * (1 + abs(A).max() * float(np.linalg.cond(A))))


def test_a_single_omega_may_fall_on_its_way_to_that_of_the_layer_below() -> None:
    """ "omega(t) rises" holds for the loss, not value by value: this omega_1 falls by a quarter first, and ends at its bound."""
    rng, y = np.random.default_rng(4), np.repeat(np.arange(3), (7, 9, 12))
    Z = rng.standard_normal((5, 28)) + 2 * rng.standard_normal((5, 3))[:, y]
    law = LastLayer.over(statistics_of(Z.T, y, 3))
    path = law.follow(rng.standard_normal((2, 5)), np.array([0.0, 1.0, 3.0, 30.0, 3e3]))
    levels = np.array([law.omega(a)[:2] for a in path])
    assert levels[:, 0].min() < 0.8 * levels[0, 0]
    np.testing.assert_allclose(levels[-1], law.bound()[:2], rtol=1e-6)


def test_omega_rises_to_that_of_the_features_below_and_the_full_flow_agrees() -> None:
    rng = np.random.default_rng(0)
    sizes, C = (7, 9, 12), 3
    y = np.repeat(np.arange(C), sizes)
    Z = rng.standard_normal((5, 28)) + 2 * rng.standard_normal((5, C))[:, y]
    law = LastLayer.over(statistics_of(Z.T, y, C))
    A = rng.standard_normal((2, 5))
    times = np.array([0.0, 3.0, 30.0, 3e3])
    path = law.follow(A, times)
    levels = np.array([law.omega(a) for a in path])
    assert (levels <= law.bound() * (1 + 1e-9)).all()
    assert (np.diff(np.log(levels).sum(1)) > 0).all()
    np.testing.assert_allclose(levels[-1], law.bound(), rtol=1e-4)
    step, full = 0.01, A.copy()
    centred = Z - Z.mean(1, keepdims=True)
    for _ in range(300):  # Runge-Kutta of the full flow, autograd at every stage
        k1 = full_velocity(full, centred, y, C) / 1
        k2 = full_velocity(full + step / 2 * k1, centred, y, C)
        k3 = full_velocity(full + step / 2 * k2, centred, y, C)
        k4 = full_velocity(full + step * k3, centred, y, C)
        full = full + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    np.testing.assert_allclose(full, path[1], atol=1e-8)


def test_dependent_rows_and_singular_features_are_refused() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 10)
    Z = rng.standard_normal((20, 4))
    law = LastLayer.over(statistics_of(Z, y, 2))
    with pytest.raises(ValueError, match="rows must be independent"):
        law.velocity(np.ones((2, 4)))
    with pytest.raises(ValueError, match="reduce them to their range"):
        LastLayer.over(statistics_of(np.zeros((20, 4)), y, 2))
