"""Adaptive regularization by cubics: its model's minimum, its saddles, its end, against numpy's eigenvalues."""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymanopt.manifolds import Euclidean, Sphere

from manifolds.optimizers.arc import AdaptiveCubicRegularization
from manifolds.optimizers.cubic import KrylovSpace, minimise_cubic
from tests.manifolds.optimizers.problems import CASES, global_state, numpy_problem, rayleigh_quotient, symmetric, weighted_pca

ARC = partial(AdaptiveCubicRegularization, verbosity=0)


@given(
    st.integers(1, 6),
    st.integers(0, 10**6),
    st.sampled_from([1e-8, 1e-2, 1.0, 1e2, 1e8]),
    st.sampled_from(["any", "hard", "zero"]),
)
def test_the_cubic_is_minimised_globally(size: int, seed: int, sigma: float, kind: str) -> None:
    """(T + mu I) z = -c with mu = sigma |z| and T + mu I positive semidefinite: necessary and sufficient."""
    rng = np.random.default_rng(seed)
    T = rng.standard_normal((size, size))
    T = (T + T.T) / 2
    eigenvalues, E = np.linalg.eigh(T)
    c = E @ np.where(np.arange(size) == 0, 0.0, rng.standard_normal(size)) if kind == "hard" else rng.standard_normal(size)
    c = 0 * c if kind == "zero" else c
    z = minimise_cubic(T, c, sigma)
    mu = sigma * np.linalg.norm(z)
    scale = np.abs(eigenvalues).max() + mu
    assert np.linalg.norm(T @ z + mu * z + c) <= 1e-12 * (scale * np.linalg.norm(z) + np.linalg.norm(c))
    assert eigenvalues[0] + mu >= -1e-12 * scale


@given(st.integers(2, 7), st.integers(0, 10**6))
def test_the_basis_is_orthonormal_and_holds_the_hessian(size: int, seed: int) -> None:
    """Q* Q = I and Q* H Q = T in the inner product of M, in which H is self-adjoint, up to the whole space."""
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((size, size))
    M = B @ B.T + np.eye(size)
    H = np.linalg.solve(M, symmetric(rng, size))
    space = KrylovSpace(rng.standard_normal(size), lambda u, v: float(u @ M @ v), lambda v: H @ v, lambda v: v)
    while not space.is_invariant:
        space.grow()
    Q = np.column_stack(space.basis)
    k = Q.shape[1]
    assert k == size
    assert np.linalg.norm(Q.T @ M @ Q - np.eye(k)) <= 1e-11
    assert np.linalg.norm(Q.T @ M @ H @ Q - space.matrix) <= 1e-9 * np.linalg.norm(H)
    z = rng.standard_normal(k)
    assert np.allclose(space.coordinates(space.vector(z)), z, atol=1e-10)


def test_a_space_that_the_hessian_keeps_stops_growing() -> None:
    H = np.diag([1.0, 1.0, 2.0, 2.0])
    space = KrylovSpace(np.array([1.0, 1.0, 1.0, 0.0]), lambda u, v: float(u @ v), lambda v: H @ v, lambda v: v)
    space.grow()
    assert not space.is_invariant
    space.grow()
    assert space.is_invariant
    assert np.allclose(np.linalg.eigvalsh(space.matrix), [1, 2])


@pytest.mark.parametrize("name", CASES)
def test_the_known_minimum_is_reached(name: str) -> None:
    case = CASES[name]()
    result: Any = ARC(min_gradient_norm=1e-8).run(case.problem, initial_point=case.start)
    assert result.gradient_norm < 1e-8, result.stopping_criterion
    assert np.isclose(result.cost, case.least, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_nothing_of_the_callers_changes(name: str) -> None:
    case = CASES[name]()
    before, state = copy.deepcopy(case.start), global_state()
    own = getattr(case.problem.manifold, "_rng", None)
    drawn = None if own is None else copy.deepcopy(own.bit_generator.state)
    ARC(min_gradient_norm=1e3).run(case.problem, initial_point=case.start)  # looks for a lower eigenvalue at once
    assert all(np.array_equal(a, b) for a, b in zip(before, case.start, strict=True))
    after = global_state()
    assert np.array_equal(after[1], state[1])
    assert after[2:] == state[2:]
    assert own is None or own.bit_generator.state == drawn


def lowest_curvature(problem, X: np.ndarray) -> float:
    """lambda_min of the Riemannian Hessian at X, by a basis of the tangent space."""
    manifold = problem.manifold
    ambient = np.stack([manifold.projection(X, e.reshape(X.shape)).ravel() for e in np.eye(X.size)])
    _, values, rows = np.linalg.svd(ambient)
    basis = [row.reshape(X.shape) for row in rows[values > 0.5]]
    assert len(basis) == manifold.dim
    H = np.array([[manifold.inner_product(X, u, problem.riemannian_hessian(X, v)) for v in basis] for u in basis])
    return float(np.linalg.eigvalsh((H + H.T) / 2)[0])


@pytest.mark.parametrize("columns", [(1,), (4, 2), (5, 6, 7)])
def test_an_exact_saddle_is_left(columns: tuple[int, ...]) -> None:
    """Eigenvectors that are not the lowest are saddles, or the maximum: there the gradient says nothing."""
    rng, n, p, tol = np.random.default_rng(1), 8, len(columns), 1e-6
    case = weighted_pca(1, n, p)
    vectors = np.linalg.eigh(symmetric(rng, n))[1]
    start = vectors[:, list(columns)]
    assert case.problem.manifold.norm(start, case.problem.riemannian_gradient(start)) < 1e-12
    assert lowest_curvature(case.problem, start) < -1
    result: Any = ARC(min_gradient_norm=tol).run(case.problem, initial_point=start)
    assert np.isclose(result.cost, case.least, rtol=1e-10)
    assert result.gradient_norm <= tol
    assert lowest_curvature(case.problem, result.point) >= -(tol**0.5)
    stays = ARC(min_gradient_norm=tol, second_order=False).run(case.problem, initial_point=start)
    assert stays.iterations == 0


def test_a_gradient_of_exactly_zero_stops_or_leaves() -> None:
    A = np.diag([3.0, 1.0, 2.0])
    problem = numpy_problem(Sphere(3), lambda x: x @ A @ x, lambda x: 2 * A @ x, lambda x, u: 2 * A @ u)
    top, bottom = np.eye(3)[0], np.eye(3)[1]
    assert np.isclose(ARC().run(problem, initial_point=top).cost, 1.0)
    assert ARC(second_order=False, min_gradient_norm=0).run(problem, initial_point=top).cost == 3.0
    assert ARC(min_gradient_norm=0).run(problem, initial_point=bottom).cost == 1.0


def test_a_cost_that_is_not_finite_refuses_the_step() -> None:
    def cost(x: np.ndarray) -> float:
        return float(np.sum(x - np.log(x))) if np.all(x > 0) else float("nan")

    problem = numpy_problem(Euclidean(3), cost, lambda x: 1 - 1 / x, lambda x, u: u / x**2)
    result: Any = ARC(sigma=1e-9).run(problem, initial_point=np.array([1e-3, 5.0, 40.0]))
    assert np.allclose(result.point, 1, atol=1e-6)


@pytest.mark.parametrize("case", [rayleigh_quotient, weighted_pca])
def test_the_end_is_superlinear(case) -> None:
    given_case = case(3)
    result: Any = ARC(min_gradient_norm=1e-11, log_verbosity=1).run(given_case.problem, initial_point=given_case.start)
    norms = np.log(result.log["iterations"]["gradient_norm"])
    falls = norms[:-1] - norms[1:]
    assert norms[-1] < norms[-2] + np.log(1e-3)
    assert falls[-1] > falls[-2] or norms[-1] < np.log(1e-14)
    assert np.isclose(result.cost, given_case.least, rtol=1e-14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"theta": 0.0}, "theta = 0.0"),
        ({"sigma": -1.0}, "sigma = -1.0"),
        ({"max_inner_iterations": 0}, "max_inner_iterations = 0"),
        ({"max_inner_iterations": 5.0}, "whole number"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveCubicRegularization(**options)


def test_rounding_across_the_tangent_space_is_not_taken_for_a_direction() -> None:
    """Near the end of a space what is left is small, and normalising it would make rounding normal to the manifold large."""
    case = rayleigh_quotient(2, n=6)
    x, manifold = case.start, case.problem.manifold
    rounding = 1e-9 * x
    start = case.problem.riemannian_gradient(x)
    space = KrylovSpace(
        start + rounding,
        lambda u, v: float(u @ v),
        lambda v: case.problem.riemannian_hessian(x, v) + rounding,
        lambda v: manifold.to_tangent_space(x, v),
    )
    while not space.is_invariant and len(space.basis) < 6:
        space.grow()
    assert len(space.basis) >= manifold.dim
    assert max(abs(float(x @ vector)) for vector in space.basis[: manifold.dim]) < 1e-14
