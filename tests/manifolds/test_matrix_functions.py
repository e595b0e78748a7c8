"""S^{-1/2}, the Lyapunov equation and exp: values against scipy, derivatives where eigenvalues coincide, refusals."""

import itertools
import math
from collections.abc import Callable
from functools import partial

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given

from manifolds import linalg, matrix_functions, normalized_features, roots, spectral
from manifolds.class_centering import ClassLayout
from tests import oracles
from tests.manifolds.points import LAYOUT, P, point
from tests.strategies import Problem, problems
from tests.typed import gradient_of


def spd(rng: np.random.Generator, size: int) -> np.ndarray:
    A = rng.standard_normal((size, size))
    return A @ A.T + size * np.eye(size)


def test_inverse_sqrt_and_lyapunov_equal_scipy() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 3, 8):
        S, B = spd(rng, size), rng.standard_normal((size, size))
        np.testing.assert_allclose(matrix_functions.inverse_sqrt(S), oracles.inverse_sqrt(S), rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            matrix_functions.lyapunov(S, B), scipy.linalg.solve_continuous_lyapunov(S, B), rtol=0, atol=1e-12
        )
        K = np.eye(size) + 0.3 * rng.standard_normal((size, size)) / size
        expected = scipy.linalg.solve_continuous_lyapunov(K.T, B + B.T)
        np.testing.assert_allclose(matrix_functions.sylvester_congruence(K, B + B.T), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("distance", [0.0, 1e-12, 1e-6, 1e-4, 2e-3, 8e-3, 0.05, 0.2])
def test_the_series_near_a_multiple_of_the_identity_is_right_to_rounding(distance: float, dtype: type) -> None:
    """Both sides of the switch to eigenvectors; a batch is switched as one."""
    rng, eps = np.random.default_rng(0), np.finfo(dtype).eps
    for size, scale in ((1, 4.0), (2, 1.0), (7, 1e-3), (30, 50.0)):
        A = rng.standard_normal((3, size, size))
        S = scale * (np.eye(size) + distance * (A + A.mT) / np.linalg.norm(A + A.mT, 2, axis=(-2, -1))[:, None, None])
        root = matrix_functions.inverse_sqrt(S.astype(dtype))
        exact = np.stack([oracles.inverse_sqrt(one) for one in S.astype(dtype).astype(np.float64)])
        np.testing.assert_allclose(root, exact, rtol=0, atol=40 * eps / np.sqrt(scale))
        in_torch = matrix_functions.inverse_sqrt(torch.from_numpy(S.astype(dtype)))
        np.testing.assert_allclose(in_torch, exact, rtol=0, atol=40 * eps / np.sqrt(scale))
        short = spectral.series_inverse_sqrt(S.astype(dtype))
        assert short is not None or distance > 2e-3
        assert short is None or distance < 0.1 or size == 1
        if short is not None:
            np.testing.assert_array_equal(short, short.mT)


def test_the_congruence_is_solved_for_a_defective_matrix_too() -> None:
    K = np.array([[1.0, 1e-9, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 1.0]])
    B = np.diag([2.0, 3.0, 1.0])
    S = matrix_functions.sylvester_congruence(K, B)
    np.testing.assert_allclose(S @ K + K.T @ S, B, rtol=0, atol=1e-13)


@pytest.mark.parametrize("smallest", [1e-2, 1e-5, 1e-9, 1e-12])
def test_the_congruence_is_solved_however_small_the_real_part(smallest: float) -> None:
    """Residual relative to |S| |K|; a fixed number of doublings stopped short of it in silence."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    turned = Q @ (np.diag([1.0, 0.8, 0.5, 0.3, smallest]) + np.triu(rng.standard_normal((5, 5)), 1)) @ Q.T
    for K in (np.diag([1.0, smallest]), turned):
        B = 2 * np.eye(len(K))
        for convert in (np.asarray, torch.from_numpy):
            S: np.ndarray = np.asarray(matrix_functions.sylvester_congruence(convert(K), convert(B)))
            assert np.linalg.norm(S @ K + K.T @ S - B) < 1e-14 * (np.linalg.norm(S) * np.linalg.norm(K) + 1)
    S = matrix_functions.sylvester_congruence(np.diag([1.0, 1e-5]), 2 * np.eye(2))
    np.testing.assert_allclose(S, np.diag([1.0, 1e5]), rtol=1e-9, atol=0)


@pytest.mark.parametrize("K", [np.diag([1.0, 0.0]), np.diag([1.0, -1e-6]), np.array([[0.0, 1.0], [-1.0, 0.0]])])
def test_the_congruence_without_a_positive_real_part_is_refused(K: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"eigenvalue of K .*no positive real part"):
        matrix_functions.sylvester_congruence(K, 2 * np.eye(2))


@pytest.mark.parametrize("size", [3, 300])
def test_gram_is_a_a_transposed_in_both_libraries(size: int) -> None:
    a = np.random.default_rng(0).standard_normal((2, size, 7))
    np.testing.assert_allclose(linalg.gram(torch.from_numpy(a)).numpy(), a @ a.mT, rtol=0, atol=1e-12)
    np.testing.assert_allclose(linalg.gram(a), a @ a.mT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 5, 150])
@pytest.mark.parametrize("near", [True, False])
def test_inverse_cholesky_whitens_and_refuses(size: int, near: bool) -> None:
    rng = np.random.default_rng(0)
    S = np.stack([np.eye(size) + 1e-4 * np.ones((size, size)) if near else spd(rng, size)] * 2)
    for one in (S, S[0], torch.from_numpy(S), torch.from_numpy(S[0])):
        inverse = np.asarray(roots.TRIANGULAR.of_covariance(one))
        np.testing.assert_allclose(
            inverse @ S[: inverse.ndim - 1].reshape(inverse.shape) @ inverse.mT - np.eye(size), 0 * inverse, atol=1e-12
        )
        np.testing.assert_array_equal(inverse, np.tril(inverse))
    with pytest.raises(ValueError, match="directions are lost"):
        roots.TRIANGULAR.of_covariance(np.diag([1.0, 0.0]))


@pytest.mark.parametrize("size", [1, 5, 150])
def test_triangular_systems_equal_scipy_in_both_libraries(size: int) -> None:
    rng = np.random.default_rng(0)
    L, B = np.linalg.cholesky(spd(rng, size)), rng.standard_normal((size, 7))
    lower, upper = np.asarray(scipy.linalg.solve_triangular(L, B, lower=True)), np.asarray(scipy.linalg.solve_triangular(L.T, B))
    for x, y in ((linalg.solve_lower(L, B), linalg.solve_upper(L.T, B)), torch_solutions(L, B)):
        np.testing.assert_allclose(x, lower, rtol=0, atol=1e-13)
        np.testing.assert_allclose(y, upper, rtol=0, atol=1e-13)


def torch_solutions(L: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tensor, right = torch.from_numpy(L), torch.from_numpy(B)
    return linalg.solve_lower(tensor, right).numpy(), linalg.solve_upper(tensor.mT, right).numpy()


def test_matrix_exp_of_torch_is_as_accurate_as_scipys() -> None:
    """Over every size: torch's own is off by up to 8e-12 just below the size at which it takes another term."""
    rng = np.random.default_rng(0)
    for norm in [1e-9, *np.geomspace(1e-3, 1, 60), 20.0]:
        A = rng.standard_normal((8, 8))
        A = (A - A.T) * (norm / np.linalg.norm(A - A.T, 2))
        np.testing.assert_allclose(
            matrix_functions.matrix_exp(torch.from_numpy(A)).numpy(), scipy.linalg.expm(A), rtol=0, atol=1e-13
        )


def test_derivative_of_inverse_sqrt_at_equal_eigenvalues_is_right_where_autograd_through_eigh_is_wrong() -> None:
    S, rng = np.eye(4), np.random.default_rng(0)
    weights, direction = rng.standard_normal((2, 4, 4))
    direction = direction + direction.T
    expected = oracles.directional_derivative(lambda S: np.sum(weights * oracles.inverse_sqrt(S)), S, direction)

    def derivative(function: object) -> float:
        leaf = torch.eye(4, dtype=torch.float64, requires_grad=True)
        (torch.from_numpy(weights) * function(leaf)).sum().backward()  # type: ignore[operator]
        return float((leaf.grad * torch.from_numpy(direction)).sum())  # type: ignore[operator]

    def through_eigh(S: torch.Tensor) -> torch.Tensor:
        values, E = torch.linalg.eigh(S)
        return (E / values.sqrt()) @ E.mT

    np.testing.assert_allclose(derivative(matrix_functions.inverse_sqrt), expected, rtol=1e-8)
    wrong = derivative(through_eigh)
    assert not abs(wrong - expected) < 1e-3 * abs(expected)


@given(problems(balanced=False))
def test_derivative_of_renormalisation_is_the_finite_difference_on_and_off_the_manifold(problem: Problem) -> None:
    layout, rng = problem.layout, problem.rng
    for H in (problem.X, problem.H):
        weights, Z = rng.standard_normal(H.shape), rng.standard_normal(H.shape)
        Z /= np.linalg.norm(Z)
        leaf = torch.from_numpy(H).requires_grad_(True)
        (normalized_features.renormalize(leaf, layout) * torch.from_numpy(weights)).sum().backward()
        expected = oracles.directional_derivative(
            lambda H, w=weights: np.sum(w * normalized_features.renormalize(H, layout)), H, Z
        )
        np.testing.assert_allclose(float((gradient_of(leaf).numpy() * Z).sum()), expected, rtol=1e-6, atol=1e-6)


def test_second_derivatives_and_batches_are_right() -> None:
    layout = ClassLayout((3, 4))
    H = torch.from_numpy(np.stack([point(layout, 2, seed) for seed in (0, 1)])).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda H: normalized_features.renormalize(H, layout), H)
    assert torch.autograd.gradgradcheck(lambda H: normalized_features.renormalize(H, layout), H)


def test_functions_of_functorch_agree_with_autograd() -> None:
    X, Z = (torch.from_numpy(point(seed=seed)) for seed in (0, 1))
    leaf = X.clone().requires_grad_(True)

    def loss(X: torch.Tensor) -> torch.Tensor:
        return (normalized_features.renormalize(X + Z, LAYOUT) ** 3).sum()

    loss(leaf).backward()
    torch.testing.assert_close(torch.func.grad(loss)(X), leaf.grad)
    batch = torch.stack([X, Z, X + Z])
    mapped = torch.vmap(torch.func.grad(loss))(batch)
    torch.testing.assert_close(mapped[0], leaf.grad)


def test_rank_loss_is_refused_with_the_number_of_directions() -> None:
    H = point()
    H[1:3] = 0
    for array in (H, torch.from_numpy(H)):
        with pytest.raises(ValueError, match=f"2 of {P} directions are lost"):
            normalized_features.renormalize(array, LAYOUT)
    batch = np.stack([point(), H])
    with pytest.raises(ValueError, match="directions are lost"):
        normalized_features.renormalize(batch, LAYOUT)


def test_not_a_number_is_refused() -> None:
    H = point()
    H[0, 0] = np.nan
    for array in (H, torch.from_numpy(H)):
        with pytest.raises(ValueError, match="NaN or infinite"):
            normalized_features.renormalize(array, LAYOUT)


def along(function: Callable, x: torch.Tensor, *directions: torch.Tensor) -> torch.Tensor:
    """The derivative of `function` at x along every direction in turn, forward mode inside forward mode."""
    for direction in directions:
        function = partial(_derivative, function, direction)
    return function(x)


def _derivative(function: Callable, direction: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.func.jvp(function, (x,), (direction,))[1]


def in_eigenbasis(S: mpmath.matrix, function: Callable, B: mpmath.matrix) -> mpmath.matrix:
    """E [function(s_i, s_j) (E^T B E)_ij] E^T, S = E diag(s) E^T."""
    values, E = mpmath.eigsy(S)
    turned, size = E.T * B * E, len(values)
    scaled = [[function(values[i], values[j]) * turned[i, j] for j in range(size)] for i in range(size)]
    return E * mpmath.matrix(scaled) * E.T


def mixed_difference(function: Callable, S: np.ndarray, directions: list[np.ndarray]) -> np.ndarray:
    """The derivative along every direction, by central differences in 90 digits."""
    with mpmath.workdps(90):
        h, total = mpmath.mpf(10) ** -15, 0
        for signs in itertools.product((1, -1), repeat=len(directions)):
            at = mpmath.matrix(S.tolist())
            for sign, direction in zip(signs, directions, strict=True):
                at = at + sign * h * mpmath.matrix(direction.tolist())
            total = total + math.prod(signs) * function(at)
        return np.array((total / (2 * h) ** len(directions)).tolist(), dtype=float)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_forward_mode_inside_forward_mode_is_right_to_third_order(spread: float) -> None:
    """Torch drops the second derivative of a custom function without a word."""
    rng = np.random.default_rng(1)
    S, B, *directions = (A + A.T for A in rng.standard_normal((5, 3, 3)))
    S = 2 * np.eye(3) + spread * S @ S
    functions = {
        "inverse root": (
            matrix_functions.inverse_sqrt,
            lambda A: in_eigenbasis(A, lambda a, _: 1 / mpmath.sqrt(a), mpmath.eye(3)),
        ),
        "lyapunov": (
            lambda A: matrix_functions.lyapunov(A, torch.from_numpy(B)),
            lambda A: in_eigenbasis(A, lambda a, b: 1 / (a + b), mpmath.matrix(B.tolist())),
        ),
    }
    for name, (ours, exact) in functions.items():
        for order in (2, 3):
            some = directions[:order]
            expected = mixed_difference(exact, S, some)
            value = along(ours, torch.from_numpy(S), *map(torch.from_numpy, some))
            np.testing.assert_allclose(value, expected, rtol=0, atol=1e-11 * np.abs(expected).max(), err_msg=f"{name}, {order}")


def test_forward_mode_inside_forward_mode_agrees_with_the_other_orders_of_modes() -> None:
    S = torch.from_numpy(spd(np.random.default_rng(0), 3))
    weights = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 3)))

    def loss(S: torch.Tensor) -> torch.Tensor:
        R = matrix_functions.inverse_sqrt((S + S.mT) / 2)
        return (weights * matrix_functions.lyapunov(R, weights)).sum() + (R**3).sum()

    expected = torch.func.hessian(loss)(S)
    torch.testing.assert_close(torch.func.jacfwd(torch.func.jacfwd(loss))(S), expected, rtol=0, atol=1e-12)
    third = torch.func.jacfwd(torch.func.jacfwd(torch.func.jacrev(loss)))(S)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacfwd(torch.func.jacfwd(loss)))(S), third, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.func.jacfwd(torch.func.hessian(loss))(S), third, rtol=0, atol=1e-12)

    leaf = S.clone().requires_grad_(True)
    torch.func.jacfwd(torch.func.jacfwd(loss))(leaf).sum().backward()
    torch.testing.assert_close(gradient_of(leaf), third.sum((0, 1, 2, 3)), rtol=0, atol=1e-12)
