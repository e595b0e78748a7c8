"""The discrete scheme for any class sizes, ridge and kernel ratio: against steps of the whole X, safe step from both sides."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from manifolds.class_centering import ClassLayout
from manifolds.normalized_features import renormalize
from tests.strategies import Problem, problems
from tests.ufm.laws import oracles
from ufm.laws import discrete_singular_values as discrete
from ufm.laws.general import GeneralLaw
from ufm.laws.general_discrete import general_step, run_general_discrete, safe_step, safe_step_from
from ufm.laws.general_run import run_general

any_sizes = problems(balanced=False, few_features=True)
ridges = st.sampled_from([0.0, 0.03, 0.7])
ratios = st.sampled_from([0.3, 1.0, 4.0])


def whole(problem: Problem) -> np.ndarray:
    """Renormalized features with zero mean over examples. (P, n)"""
    return problem.X - problem.X.mean(1, keepdims=True)


def full_step(X: np.ndarray, layout: ClassLayout, ridge: float, r: float, eta: float) -> np.ndarray:
    """renormalize(X - eta grad L Theta)"""
    return renormalize(X - eta * oracles.ridge_gradient(X, layout, ridge) @ oracles.class_kernel(layout, r), layout)


@given(any_sizes, ridges, ratios, st.floats(1e-3, 0.95), st.integers(1, 5))
def test_the_recursion_is_the_scheme_on_the_whole_tensor(
    problem: Problem, ridge: float, r: float, share: float, steps: int
) -> None:
    layout, X = problem.layout, whole(problem)
    law, D = GeneralLaw(layout.sizes, ridge, r), layout.deviations(X)
    eta = share * safe_step(law)
    run = run_general_discrete(law, law.scaled_means(layout.means(X)), eta, steps)
    for k in range(steps):
        X = full_step(X, layout, ridge, r, eta)
        np.testing.assert_allclose(run.omega[k + 1], oracles.singular_values(X, layout), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(law.class_means(run.S), layout.means(X), atol=1e-9 * run.omega.max())
    np.testing.assert_allclose(layout.deviations(X), D, atol=1e-9)
    np.testing.assert_allclose(run.t, eta * np.arange(steps + 1))


@given(any_sizes, ridges, ratios, st.floats(1.05, 30))
def test_past_the_safe_step_deviations_are_reflected(problem: Problem, ridge: float, r: float, factor: float) -> None:
    layout, X = problem.layout, whole(problem)
    law = GeneralLaw(layout.sizes, ridge, r)
    S = law.scaled_means(layout.means(X))
    W, _ = oracles.ridge_classifier(X, layout, ridge)
    eta = float(factor * layout.n / np.linalg.norm(W, 2) ** 2)
    values, E = np.linalg.eigh(np.eye(len(X)) - eta / layout.n * W.T @ W)
    assume((abs(values) > 1e-3).all())
    assert values[0] < 0
    stepped = full_step(X, layout, ridge, r, eta)
    np.testing.assert_allclose(
        E.T @ layout.deviations(stepped), np.sign(values)[:, None] * (E.T @ layout.deviations(X)), atol=1e-8
    )
    np.testing.assert_allclose(law.class_means(general_step(law, S, eta)), layout.means(stepped), atol=1e-8 * abs(stepped).max())


@given(any_sizes, ridges, st.sampled_from([0.3, 1.0, 4.0, 40.0, math.inf]), st.floats(-3, 3), st.floats(0.01, 0.999))
def test_below_the_safe_step_nothing_is_reflected_and_the_loss_falls(
    problem: Problem, ridge: float, r: float, decade: float, share: float
) -> None:
    layout = problem.layout
    law = GeneralLaw(layout.sizes, ridge, r)
    S = 10.0**decade * law.scaled_means(layout.means(problem.H))
    for bound in (safe_step(law), safe_step_from(law, S)):
        eta = share * bound
        W, _ = law.classifier(S)
        if not math.isinf(r):
            assert np.linalg.eigvalsh(np.eye(len(S)) - eta / law.n * W.T @ W)[0] > 0
        before, after = law.loss(S), law.loss(general_step(law, S, eta))
        assert after <= before * (1 + 1e-13)


@given(any_sizes, ridges, st.floats(1e-6, 1e-2))
def test_the_safe_step_is_sharp_at_one_state(problem: Problem, ridge: float, beyond: float) -> None:
    """G = s v v^T with v the top eigenvector of J Pi J: I - (eta/n) W^T W is singular there, and indefinite just beyond."""
    layout = problem.layout
    law = GeneralLaw(layout.sizes, ridge)
    q = np.sqrt(law.priors)
    J = np.eye(layout.C) - np.outer(q, q)
    v = np.linalg.eigh(J @ np.diag(law.priors) @ J)[1][:, -1]
    S = math.sqrt(law.s) * np.outer(np.eye(problem.P)[0], v)
    W, _ = law.classifier(S)
    for factor, sign in ((1 - beyond, 1), (1 + beyond, -1)):
        smallest = np.linalg.eigvalsh(np.eye(problem.P) - factor * safe_step(law) / law.n * W.T @ W)[0]
        assert sign * smallest > 0
    np.testing.assert_allclose(safe_step_from(law, S), safe_step(law), rtol=1e-10)


@given(any_sizes, st.floats(1.02, 3))
def test_twice_the_safe_step_is_where_the_loss_may_rise(problem: Problem, factor: float) -> None:
    """r = infinity: past 2 n / ||W||^2 a step enlarges the fixed classifier's residual along the largest singular value of W."""
    layout = problem.layout
    law = GeneralLaw(layout.sizes, kernel_ratio=math.inf)
    S = law.scaled_means(layout.means(problem.H))
    W, _ = law.classifier(S)
    q = np.sqrt(law.priors)
    J = np.eye(law.C) - np.outer(q, q)

    left = np.linalg.svd(W)[0]
    residual = q[:, None] * J - W @ S
    eta = factor * safe_step_from(law, S)
    moved = S + eta / law.n * W.T @ residual
    np.testing.assert_allclose(general_step(law, S, eta), moved, atol=1e-10 * abs(moved).max())
    top = left[:, :1].T @ residual
    after = left[:, :1].T @ (q[:, None] * J - W @ moved)
    np.testing.assert_allclose(after, (1 - 2 * factor) * top, atol=1e-9 * abs(top).max())


@given(any_sizes, ridges, st.floats(2, 50), st.floats(0.5, 2))
def test_for_ratios_past_two_the_safe_step_is_where_residuals_of_the_means_begin_to_grow(
    problem: Problem, ridge: float, r: float, factor: float
) -> None:
    """A step of the whole tensor multiplies them by 1 - 2 factor along the largest singular value of its fixed classifier."""
    layout, X = problem.layout, whole(problem)
    law = GeneralLaw(layout.sizes, ridge, r)
    W, b = oracles.ridge_classifier(X, layout, ridge)
    eta = factor * safe_step_from(law, law.scaled_means(layout.means(X)))
    stepped = X - eta * oracles.ridge_gradient(X, layout, ridge) @ oracles.class_kernel(layout, r)
    top = np.linalg.svd(W)[0][:, 0]
    before, after = (top @ (W @ layout.means(Z) + b[:, None] - np.eye(layout.C)) for Z in (X, stepped))
    np.testing.assert_allclose(after, (1 - 2 * factor) * before, atol=1e-8 * abs(before).max())


@given(problems(few_features=True), st.floats(0.01, 0.9), st.integers(1, 6))
def test_equal_classes_give_the_scheme_of_the_singular_values(problem: Problem, share: float, steps: int) -> None:
    layout, X = problem.layout, problem.X
    law = GeneralLaw(layout.sizes)
    np.testing.assert_allclose(safe_step(law), discrete.safe_step(layout.C, layout.N), rtol=1e-12)
    eta = share * safe_step(law)
    run = run_general_discrete(law, law.scaled_means(layout.means(X)), eta, steps)
    known = discrete.run_discrete(run.omega[0], eta, steps, layout.C, layout.N)
    np.testing.assert_allclose(run.omega, np.sort(known.omega)[:, ::-1], rtol=1e-10)  # large steps may cross


@given(problems(few_features=True), ridges, st.sampled_from([0.3, 1.0, 4.0, math.inf]), st.floats(0.01, 3.0))
def test_equal_classes_with_ridge_and_kernel_take_the_steps_of_the_class_means(
    problem: Problem, ridge: float, r: float, share: float
) -> None:
    layout = problem.layout
    law = GeneralLaw(layout.sizes, ridge, r)
    S = law.scaled_means(layout.means(problem.X))
    eta = share * safe_step(law)
    run = run_general_discrete(law, S, eta, 3)
    for _ in range(3):
        S = general_step(law, S, eta)
    K = run.u.shape[1]
    np.testing.assert_allclose(run.S, S, atol=1e-10 * abs(S).max())
    np.testing.assert_allclose(run.u[-1], np.linalg.svd(S)[1][:K] ** 2, rtol=1e-9)
    np.testing.assert_allclose(run.omega[-1], np.linalg.svd(law.class_means(S))[1][:K], rtol=1e-9)


@given(any_sizes, ridges, st.sampled_from([0.3, 1.0, 4.0, math.inf]))
def test_small_steps_tend_to_the_law_at_first_order(problem: Problem, ridge: float, r: float) -> None:
    layout, X = problem.layout, whole(problem)
    law = GeneralLaw(layout.sizes, ridge, r)
    S, T = law.scaled_means(layout.means(X)), 0.3 * law.time_unit
    exact = run_general(law, S, np.array([T])).S(0)
    errors = [abs(run_general_discrete(law, S, T / steps, steps).S - exact).max() for steps in (200, 400)]
    assert errors[0] < 1e-2 * abs(exact).max()
    assert abs(errors[0] / errors[1] - 2) < 0.1


@pytest.mark.parametrize(("eta", "steps", "message"), [(0.0, 3, "eta = 0.0"), (math.nan, 3, "eta = nan"), (1.0, 0, "steps = 0")])
def test_bad_runs_are_refused(eta: float, steps: int, message: str) -> None:
    law = GeneralLaw((5, 9, 7))
    S = law.scaled_means(np.random.default_rng(0).standard_normal((4, 3)))
    with pytest.raises(ValueError, match=message):
        run_general_discrete(law, S, eta, steps)


def test_a_step_that_annihilates_a_direction_is_refused() -> None:
    law = GeneralLaw((16, 16, 16, 16))  # G = v v^T: I - (eta/n) W^T W is singular exactly
    S = np.zeros((2, 4))
    S[0] = [0.5, -0.5, 0.5, -0.5]
    with pytest.raises(ValueError, match="annihilates"):
        general_step(law, S, 4.0 * 16 * 16)


def test_long_runs_are_thinned_and_told() -> None:
    law, seen = GeneralLaw((5, 9, 7)), []
    S = law.scaled_means(np.random.default_rng(0).standard_normal((4, 3)))
    run = run_general_discrete(law, S, 1.0, 12, seen.append)
    assert seen == list(range(13))
    assert len(run.omega) == 13
    assert (np.diff(run.u[:, 0]) > 0).all()


def test_features_without_signal_bound_no_step() -> None:
    """W = 0 at S = 0: the bound n / ||W||^2 was a division by zero."""
    for law in (GeneralLaw((3, 4, 5)), GeneralLaw((3, 4, 5), 0.1, math.inf)):
        assert safe_step_from(law, np.zeros((2, 3))) == math.inf
        assert safe_step_from(law, 1e-170 * law.scaled_means(np.eye(3))) == math.inf
        tiny = safe_step_from(law, 1e-60 * law.scaled_means(np.eye(3)))
        assert tiny == pytest.approx(1e120 * safe_step_from(law, 1e-10 * law.scaled_means(np.eye(3))) / 1e20, rel=1e-12)
