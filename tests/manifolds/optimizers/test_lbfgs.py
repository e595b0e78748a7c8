"""Limited-memory BFGS against dense formulas, scipy and numpy's eigenvalues."""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymanopt.manifolds import Euclidean
from scipy.optimize import minimize, rosen, rosen_der, rosen_hess_prod

from manifolds.optimizers.lbfgs import CurvaturePair, RiemannianLBFGS, inverse_hessian_product
from tests.manifolds.optimizers.problems import CASES, global_state, numpy_problem, rayleigh_quotient, weighted_pca

LBFGS = partial(RiemannianLBFGS, verbosity=0)


@given(st.integers(1, 5), st.integers(2, 7), st.integers(0, 10**6))
def test_two_loops_are_the_dense_update_in_any_inner_product(count: int, size: int, seed: int) -> None:
    """H_+ = V H V* + rho s s*, V = I - rho s y*, with matrices, in the inner product of a positive definite M."""
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((size, size))
    M, H0, v = B @ B.T + np.eye(size), np.diag(rng.uniform(0.5, 2, size)), rng.standard_normal(size)
    pairs, H = [], H0
    for _ in range(count):
        s, y = rng.standard_normal(size), rng.standard_normal(size)
        y = y if s @ M @ y > 0 else -y
        rho = 1 / (s @ M @ y)
        pairs.append(CurvaturePair(s, y, float(rho)))
        V = np.eye(size) - rho * np.outer(s, y @ M)
        H = V @ H @ (np.eye(size) - rho * np.outer(y, s @ M)) + rho * np.outer(s, s @ M)
    direction = inverse_hessian_product(pairs, v, lambda a, b: float(a @ M @ b), lambda u: H0 @ u)
    expected = H @ v
    assert np.linalg.norm(direction - expected) <= 1e-9 * np.linalg.norm(H) * np.linalg.norm(v)


@pytest.mark.parametrize("name", CASES)
def test_the_known_minimum_is_reached(name: str) -> None:
    case = CASES[name]()
    result: Any = LBFGS(min_gradient_norm=1e-8).run(case.problem, initial_point=case.start)
    assert result.gradient_norm < 1e-8, result.stopping_criterion
    assert np.isclose(result.cost, case.least, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_nothing_of_the_callers_changes(name: str) -> None:
    case = CASES[name]()
    before, state = copy.deepcopy(case.start), global_state()[1].copy()
    own = getattr(case.problem.manifold, "_rng", None)
    drawn = None if own is None else copy.deepcopy(own.bit_generator.state)
    LBFGS(max_iterations=5).run(case.problem, initial_point=case.start)
    assert all(np.array_equal(a, b) for a, b in zip(before, case.start, strict=True))
    assert np.array_equal(global_state()[1], state)
    assert own is None or own.bit_generator.state == drawn


def test_on_flat_space_scipys_minimum_is_reached() -> None:
    start = np.array([-1.2, 1.0, -0.5, 0.3])
    problem = numpy_problem(Euclidean(4), rosen, rosen_der, rosen_hess_prod)
    ours: Any = LBFGS(min_gradient_norm=1e-12, min_step_size=0).run(problem, initial_point=start)
    theirs = minimize(rosen, start, jac=rosen_der, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-12, "maxiter": 1000})
    assert np.linalg.norm(ours.point - theirs.x) <= 1e-10
    assert ours.cost_evaluations <= 2 * theirs.nfev


@pytest.mark.parametrize("case", [rayleigh_quotient, weighted_pca])
def test_the_end_is_superlinear_with_as_many_pairs_as_dimensions(case) -> None:
    """|grad f| falls faster and faster: each of the last two thirds by a larger factor a step than the one before."""
    given_case = case(3)
    optimizer = LBFGS(memory=40, min_gradient_norm=1e-11, log_verbosity=1)
    result: Any = optimizer.run(given_case.problem, initial_point=given_case.start)
    norms = np.log(result.log["iterations"]["gradient_norm"])
    rates = [part[0] - part[-1] for part in np.array_split(norms, 3)]
    assert rates[0] < rates[1] < rates[2], rates
    assert np.isclose(result.cost, given_case.least, rtol=1e-13)


def test_more_pairs_take_fewer_steps_than_none_to_speak_of() -> None:
    case = weighted_pca(1, n=20)
    steps = [LBFGS(memory=memory).run(case.problem, initial_point=case.start).iterations for memory in (1, 8)]
    assert steps[1] < steps[0]


def test_the_result_is_pymanopts() -> None:
    case = rayleigh_quotient()
    result: Any = LBFGS(max_iterations=3, log_verbosity=1).run(case.problem, initial_point=case.start)
    assert result.iterations == 3
    assert "max iterations" in result.stopping_criterion
    assert result.cost_evaluations >= 4
    assert len(result.log["iterations"]["cost"]) == 4
    assert result.log["optimizer"] == "RiemannianLBFGS"
    assert result.log["optimizer_parameters"]["memory"] == 4
    assert "max cost evals" in LBFGS(max_cost_evaluations=3).run(case.problem, initial_point=case.start).stopping_criterion
    assert "min grad norm" in LBFGS().run(case.problem, initial_point=result.point).stopping_criterion


def test_a_preconditioner_is_the_first_inverse_hessian() -> None:
    """With the inverse of the Hessian a quadratic takes one step, whatever its condition."""
    import pymanopt

    weights = np.logspace(0, 6, 5)
    manifold = Euclidean(5)
    wrap = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        wrap(lambda x: float(x @ (weights * x)) / 2),
        euclidean_gradient=wrap(lambda x: weights * x),
        preconditioner=lambda x, v: v / weights,
    )
    result: Any = LBFGS(min_gradient_norm=1e-6).run(problem, initial_point=np.ones(5) / 5**0.5)
    assert result.iterations <= 2
    assert result.gradient_norm < 1e-6


def test_at_a_minimum_and_where_no_step_falls_it_stops() -> None:
    case = rayleigh_quotient()
    point = LBFGS(min_gradient_norm=1e-9).run(case.problem, initial_point=case.start).point
    result: Any = LBFGS(min_gradient_norm=0).run(case.problem, initial_point=point)
    assert result.iterations < 20
    assert result.gradient_norm < 1e-9


def test_it_prints_as_pymanopt_does(capsys: pytest.CaptureFixture[str]) -> None:
    case = rayleigh_quotient()
    RiemannianLBFGS(max_iterations=2).run(case.problem, initial_point=case.start)
    printed = capsys.readouterr().out
    assert "Gradient norm" in printed
    assert "Terminated - max iterations" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 0}, "memory = 0"),
        ({"memory": 2.0}, "whole number"),
        ({"curvature": 1.0}, "sufficient_decrease < curvature"),
        ({"sufficient_decrease": 0.95}, "sufficient_decrease < curvature"),
        ({"caution": -1.0}, "caution = -1.0"),
        ({"caution": float("nan")}, "caution = nan"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RiemannianLBFGS(**options)
