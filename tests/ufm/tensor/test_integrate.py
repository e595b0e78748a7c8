"""The integrator: the tableau's identities, order five, dense output of order four, resuming, torch, failures."""

import numpy as np
import pytest
import torch
from scipy.integrate import RK45

from tests import oracles
from ufm.tensor import integrate
from ufm.tensor.integrate import dormand_prince, integrate_scipy, observe_at


def rotation(X: np.ndarray) -> np.ndarray:
    """A nonlinear field with a known flow: rotation at a speed that depends on the radius, constant along a trajectory."""
    speed = (X[:1] ** 2 + X[1:] ** 2) ** 0.5
    return np.concatenate([-speed * X[1:], speed * X[:1]])


def rotated(X: np.ndarray, t: float) -> np.ndarray:
    angle = t * np.hypot(X[:1], X[1:])
    return np.concatenate([np.cos(angle) * X[:1] - np.sin(angle) * X[1:], np.sin(angle) * X[:1] + np.cos(angle) * X[1:]])


X0 = np.array([[1.0, 0.3, -0.5], [0.2, 0.8, 0.4]])


def test_tableau_is_that_of_scipy_and_consistent() -> None:
    for i, row in enumerate(integrate.A[1:6], start=1):
        np.testing.assert_allclose(row, RK45.A[i, : len(row)], rtol=1e-14)
        np.testing.assert_allclose(sum(row), RK45.C[i], rtol=1e-14)
    np.testing.assert_allclose(integrate.A[6], RK45.B, rtol=1e-14)
    np.testing.assert_allclose(np.abs(integrate.ERROR), np.abs(RK45.E), rtol=1e-14)
    np.testing.assert_allclose(sum(integrate.ERROR), 0, atol=1e-15)
    np.testing.assert_allclose(integrate.DENSE, RK45.P, rtol=1e-13)
    np.testing.assert_allclose(integrate.DENSE.sum(1)[:6], integrate.A[6], atol=1e-14)


def pendulum(X: np.ndarray) -> np.ndarray:
    return np.concatenate([X[1:], -np.sin(X[:1])])


@pytest.mark.parametrize("theta", [1.0, 0.4])
def test_fixed_steps_have_order_five_and_dense_output_a_local_error_of_order_five(theta: float) -> None:
    T = 6.0

    def error(count: float) -> float:
        X, inner, t, h = X0, X0, 0.0, T / round(count)
        for _ in range(round(count)):
            step = next(dormand_prince(pendulum, X, t, t + h, lambda X: X, tolerance=1e3, size=h))
            inner, X, t = step.observed(t + theta * h), step.X, step.t
        exact = integrate_scipy(pendulum, X0, np.array([0.0, T - (1 - theta) * h]), "DOP853", 1e-13)[-1]
        return float(np.linalg.norm(inner - exact))

    assert abs(oracles.slope(error, np.array([30.0, 60.0, 120.0])) + 5) < 0.3


def test_global_error_follows_the_tolerance_and_times_are_hit() -> None:
    times = np.linspace(0, 9, 31)[1:]
    for tolerance in (1e-6, 1e-9):
        values = [v for _, vs in observe_at(dormand_prince(rotation, X0, 0.0, 9.0, lambda X: X, tolerance), times) for v in vs]
        assert len(values) == len(times)
        error = max(abs(v - rotated(X0, t)).max() for v, t in zip(values, times, strict=True))
        assert error < 1e3 * tolerance
    assert error < 1e-6


def test_the_controller_scales_a_step_by_the_fifth_root_of_its_error() -> None:
    """The local error of the pair is of order h^5: the step that would meet the tolerance is h (tolerance / error)^(1/5)."""
    tolerance = 1e-6
    for size in (0.08, 0.12, 0.16):
        step = next(dormand_prince(rotation, X0, 0.0, 9.0, lambda X: X, tolerance, size))
        assert step.t == size
        _, new, error = integrate._trial_stages(rotation, X0, rotation(X0), size)
        ratio = np.linalg.norm(error) / (tolerance * max(np.linalg.norm(X0), np.linalg.norm(new)))
        assert 0.2 < integrate.STEP_SAFETY * ratio**-0.2 < 5  # neither bound of the controller is reached
        np.testing.assert_allclose(step.next_size, size * integrate.STEP_SAFETY * (1 / ratio) ** (1 / 5), rtol=1e-12)


def test_a_resumed_run_is_bitwise_the_same() -> None:
    steps = list(dormand_prince(rotation, X0, 0.0, 5.0, lambda X: X))
    assert len(steps) > 6
    middle = steps[3]
    resumed = list(dormand_prince(rotation, middle.X, middle.t, 5.0, lambda X: X, size=middle.next_size))
    np.testing.assert_array_equal(resumed[-1].X, steps[-1].X)
    assert resumed[-1].t == steps[-1].t == 5.0


def test_torch_stays_torch_and_agrees() -> None:
    def field(X: torch.Tensor) -> torch.Tensor:
        speed = (X[:1] ** 2 + X[1:] ** 2) ** 0.5
        return torch.cat([-speed * X[1:], speed * X[:1]])

    *_, last = dormand_prince(field, torch.from_numpy(X0), 0.0, 3.0, lambda X: X)
    assert isinstance(last.X, torch.Tensor)
    *_, expected = dormand_prince(rotation, X0, 0.0, 3.0, lambda X: X)
    np.testing.assert_allclose(last.X.numpy(), expected.X, rtol=1e-12)
    *_, single = dormand_prince(field, torch.from_numpy(X0).float(), 0.0, 3.0, lambda X: X, tolerance=1e-5)
    assert single.X.dtype == torch.float32
    np.testing.assert_allclose(single.X.numpy(), rotated(X0, 3.0), atol=1e-3)


def test_scipy_solvers_take_the_same_fields() -> None:
    times = np.array([0.0, 1.0, 3.0])
    for method in ("RK45", "DOP853", "LSODA"):
        states = integrate_scipy(rotation, X0, times, method)
        assert states.shape == (3, 2, 3)
        np.testing.assert_allclose(states[2], rotated(X0, 3.0), atol=1e-7)


def test_failures_are_raised() -> None:
    with pytest.raises(ValueError, match="time must advance"):
        next(dormand_prince(rotation, X0, 1.0, 1.0, lambda X: X))
    with np.errstate(all="ignore"), pytest.raises(RuntimeError, match="step size fell"):
        list(dormand_prince(lambda X: X**2, np.array([[1.0]]), 0.0, 2.0, lambda X: X))
    with np.errstate(all="ignore"), pytest.raises(RuntimeError, match="stopped at t"):
        integrate_scipy(lambda X: X**2, np.array([[1.0]]), np.array([0.0, 2.0]))


def test_a_field_of_zero_stands_still() -> None:
    *_, last = dormand_prince(lambda X: 0 * X, X0, 0.0, 7.0, lambda X: X)
    np.testing.assert_array_equal(last.X, X0)
    assert last.t == 7.0
