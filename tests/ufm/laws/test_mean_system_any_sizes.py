"""The unnormalized flow with unequal classes, a class-block kernel and feature decay: the closed system against the full one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifolds.class_centering import ClassLayout
from tests.strategies import Problem, features, problems
from tests.ufm.laws import oracles
from ufm.features.snr import snr
from ufm.laws.mean_run import growth_time, run_raw, solved_steps
from ufm.laws.mean_system import decayed_clock, mean_system

any_sizes = problems(balanced=False, few_features=True)
ratios = st.sampled_from([0.3, 1.0, 4.0])


def centred(problem: Problem) -> np.ndarray:
    """Features with zero mean over examples. (P, n)"""
    return problem.H - problem.H.mean(1, keepdims=True)


def short_time(H: np.ndarray, layout: ClassLayout, r: float) -> float:
    """A time in which the fastest direction grows by a factor of order one."""
    return layout.n * float(np.linalg.eigvalsh(H @ H.T / layout.n)[0]) / max(r, 1) ** 2


@given(any_sizes, ratios, st.floats(0.1, 2))
def test_the_mean_system_is_the_full_flow_for_any_sizes_and_kernel(problem: Problem, r: float, share: float) -> None:
    layout, H = problem.layout, centred(problem)
    kernel, t = oracles.class_kernel(layout, r), np.array([0.0, 0.5, 1.0]) * share * short_time(H, layout, r)
    system = mean_system(H, layout, snr(H, layout), r)
    run = run_raw(system, t)
    states = oracles.integrated(lambda H: -oracles.ridge_gradient(H, layout, 0.0) @ kernel, H, t)
    for k, state in enumerate(states):
        expected = oracles.singular_values(state, layout)
        np.testing.assert_allclose(np.sort(run.omega[k])[::-1], expected, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(run.loss[k], oracles.ridge_loss(state, layout, 0.0), rtol=1e-7)
        if r == 1:
            np.testing.assert_allclose(system.snr(system.state_of(layout.means(state)))[0], expected, rtol=1e-7, atol=1e-8)
    assert run.V_t is not None
    np.testing.assert_allclose(abs(run.V_t[0]), abs(snr(H, layout).V), atol=1e-6)


@given(any_sizes)
def test_the_velocity_of_the_class_means_and_the_conserved_covariance_are_as_stated(problem: Problem) -> None:
    """dM/dt = (1/n) A^{-1} M Pi (I - pi 1^T - Pi M^T A^{-1} M), A = Hbar Hbar^T / n at rest as grad L_LS H^T = 0: any start."""
    layout, H, pi = problem.layout, problem.H, problem.layout.priors
    gradient, Hbar = oracles.ridge_gradient(H, layout, 0.0), centred(problem)
    A, M, Pi = Hbar @ Hbar.T / layout.n, layout.means(Hbar), np.diag(pi)
    white = np.linalg.solve(A, M)
    stated = white @ Pi @ (np.eye(layout.C) - np.outer(pi, np.ones(layout.C)) - Pi @ M.T @ white) / layout.n
    np.testing.assert_allclose(layout.means(-gradient), stated, atol=1e-9 * abs(stated).max())
    size = float(np.linalg.norm(gradient) * np.linalg.norm(H))
    np.testing.assert_allclose(gradient @ H.T, 0 * A, atol=1e-9 * size)


@given(any_sizes, ratios, st.floats(0.1, 2))
def test_the_singular_vectors_are_those_of_the_snr_matrix(problem: Problem, r: float, share: float) -> None:
    """U_t diag(omega_t) V_t^T is Sigma_W^{-1/2} (M - mu_G 1^T), with the symmetric root of the whole tensor's covariance."""
    layout, H = problem.layout, centred(problem)
    kernel, t = oracles.class_kernel(layout, r), np.array([0.0, 0.5, 1.0]) * share * short_time(H, layout, r)
    run = run_raw(mean_system(H, layout, snr(H, layout), r), t, left_vectors=np.array([True, False, True]))
    states = oracles.integrated(lambda H: -oracles.ridge_gradient(H, layout, 0.0) @ kernel, H, t)
    assert run.U_t is not None
    assert run.V_t is not None
    assert np.isnan(run.U_t[1]).all()
    for k in (0, 2):
        matrix = oracles.snr_matrix(states[k], layout)
        np.testing.assert_allclose((run.U_t[k] * run.omega[k]) @ run.V_t[k].T, matrix, atol=1e-7 * abs(matrix).max())


@given(any_sizes, st.floats(0.1, 2), st.integers(0, 2**31))
def test_h_theta_inverse_h_t_is_conserved_for_any_kernel_that_keeps_the_mean(problem: Problem, share: float, seed: int) -> None:
    """Theta any symmetric positive n x n matrix with Theta 1 = c 1, not only a class-block one."""
    layout, H = problem.layout, centred(problem)
    n, rng = layout.n, np.random.default_rng(seed)
    Q = np.linalg.qr(np.column_stack([np.ones(n), rng.standard_normal((n, n - 1))]))[0]
    Theta = (Q * rng.uniform(0.3, 3, n)) @ Q.T
    t = np.array([0.0, share * short_time(H, layout, 3.0)])
    end = oracles.integrated(lambda H: -oracles.ridge_gradient(H, layout, 0.0) @ Theta, H, t)[-1]
    before, after = (X @ np.linalg.inv(Theta) @ X.T for X in (H, end))
    np.testing.assert_allclose(after, before, atol=1e-9 * abs(before).max())
    assert abs(end - H).max() > 1e-6


@given(any_sizes, ratios, st.floats(0.05, 0.5), st.floats(0.1, 2))
def test_feature_decay_is_a_change_of_clock(problem: Problem, r: float, decay: float, share: float) -> None:
    layout, H = problem.layout, centred(problem)
    unit = short_time(H, layout, r)
    kernel, decay, t = oracles.class_kernel(layout, r), decay / unit, share * unit
    tau = float(decayed_clock(np.array(t), decay))
    velocity = oracles.ridge_gradient

    def decayed(H: np.ndarray) -> np.ndarray:
        return -velocity(H, layout, 0.0) @ kernel - decay * H

    end = oracles.integrated(decayed, H, np.array([t]))[0]
    undecayed = oracles.integrated(lambda H: -velocity(H, layout, 0.0) @ kernel, H, np.array([tau]))[0]
    np.testing.assert_allclose(end, math.exp(-decay * t) * undecayed, atol=1e-8 * abs(H).max())
    inverse = np.linalg.inv(kernel)
    before, after = (X @ inverse @ X.T for X in (H, end))
    np.testing.assert_allclose(after, math.exp(-2 * decay * t) * before, atol=1e-8 * abs(before).max())
    run = run_raw(mean_system(H, layout, snr(H, layout), r), np.array([0.0, tau]))
    np.testing.assert_allclose(np.sort(run.omega[-1])[::-1], oracles.singular_values(end, layout), rtol=1e-7, atol=1e-9)


def test_the_decayed_clock_refuses_what_it_cannot_give() -> None:
    np.testing.assert_array_equal(decayed_clock(np.array([0.0, 3.0]), 0.0), [0.0, 3.0])
    np.testing.assert_allclose(decayed_clock(np.array([1e-9]), 1e-9), [1e-9], rtol=1e-15)
    with pytest.raises(ValueError, match="feature_decay = -1"):
        decayed_clock(np.array([1.0]), -1)
    with pytest.raises(OverflowError, match="overflows float64"):
        decayed_clock(np.array([1e4]), 1.0)
    with pytest.raises(OverflowError, match="overflows float64"):
        decayed_clock(np.array([1.0, 400.0]), 1.0)  # exp(800)
    assert np.isfinite(decayed_clock(np.array([349.0]), 1.0)).all()


def test_unequal_classes_from_total_covariance_one_grow_at_the_rates_of_their_sizes() -> None:
    """Sigma_T = I: dS/dt = (1/n) S Pi (J - S^T S); the rates are the eigenvalues nu of J Pi J over n."""
    layout = ClassLayout((20, 9, 14))
    H = features(layout, 5, np.random.default_rng(0))
    H -= H.mean(1, keepdims=True)
    values, E = np.linalg.eigh(H @ H.T / layout.n)
    H = (E / np.sqrt(values)) @ E.T @ H
    system = mean_system(H, layout, snr(H, layout))
    t = np.linspace(0, 18 * layout.n, 9)
    run = run_raw(system, t)
    slope = np.diff(np.log(run.omega), axis=0)[-1] / (t[1] - t[0])
    assert run.omega[-1].min() > 90
    q = np.sqrt(layout.priors)
    J = np.eye(3) - np.outer(q, q)
    nu = np.linalg.eigvalsh(J @ np.diag(layout.priors) @ J)[1:]
    np.testing.assert_allclose(np.sort(slope) * layout.n, nu, rtol=1e-3)


def test_a_run_past_the_digits_of_float64_is_refused_with_the_time_and_the_way_out() -> None:
    layout = ClassLayout((20, 9, 14))
    H = features(layout, 5, np.random.default_rng(0))
    system = mean_system(H, layout, snr(H, layout))
    with pytest.raises(
        OverflowError,
        match=r"^t = [\d.]+: the class means cannot be followed further \(one direction.*\); choose an earlier end$",
    ) as refused:
        run_raw(system, np.array([0.0, 1e3 * layout.n]))
    earlier = float(str(refused.value)[4:].split(":")[0])
    for share in (0.7, 0.9, 0.99):  # the way out
        omega = run_raw(system, np.array([0.0, share * earlier])).omega
        assert (omega[1] > omega[0]).all()


def test_rounding_in_the_directions_without_a_mean_does_not_move_the_others() -> None:
    """Z has rank 2 in 5 x 3: an error of 1e-12 of it in the third direction is as large as the b of 1 that a mean there has."""
    layout = ClassLayout((20, 9, 14))
    H = features(layout, 5, np.random.default_rng(0))
    system = mean_system(H, layout, snr(H, layout))
    assert system.moving == 2
    *_, last = solved_steps(system, 0.0, 20.0 * layout.n)
    U, z, Vt = np.linalg.svd(last.Z)
    assert z[0] > 1e6
    error = 1e-12 * z[0] * np.outer(U[:, 2], Vt[2])
    exact, perturbed = system.velocity(last.Z), system.velocity(last.Z + error)
    np.testing.assert_allclose(perturbed, exact, atol=1e-10 * abs(exact).max())


def test_a_growth_out_of_reach_of_float64_is_refused_with_the_growth_there_is() -> None:
    """A direction of small covariance grows 1e8-fold while the other has not grown twofold."""
    layout = ClassLayout((9, 17, 12, 14))
    rng = np.random.default_rng(0)
    H = np.diag([1.0, 1e-2]) @ features(layout, 2, rng)
    system = mean_system(H, layout, snr(H, layout), 4.0)
    with pytest.raises(
        OverflowError, match=r"^the smallest omega grows [\d.]+-fold, not 50-fold, within float64: t = .* earlier end$"
    ) as refused:
        growth_time(system, 50.0)
    reached = float(str(refused.value).split("grows ")[1].split("-fold")[0])
    smaller = 1 + 0.9 * (reached - 1)
    omega = run_raw(system, np.array([0.0, growth_time(system, smaller)])).omega
    np.testing.assert_allclose(omega[1].min(), smaller * omega[0].min(), rtol=1e-7)


@pytest.mark.parametrize("r", [0.0, -2.0, math.inf, math.nan])
def test_kernels_that_make_no_sense_are_refused(r: float) -> None:
    layout = ClassLayout((9, 7))
    H = features(layout, 3, np.random.default_rng(0))
    with pytest.raises(ValueError, match="kernel_ratio"):
        mean_system(H, layout, snr(H, layout), r)
