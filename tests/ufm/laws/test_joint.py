"""The joint flow of classifier, bias and features: the closed system against the flow on (W, b, H), any sizes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from manifolds.class_centering import ClassLayout
from tests import oracles as dense
from tests.strategies import Problem, features, problems
from tests.ufm.laws import oracles
from ufm.features.snr import snr
from ufm.laws.joint import JointFlow, joint_start, run_joint
from ufm.laws.mean_run import run_raw
from ufm.laws.mean_system import mean_system

decays = st.sampled_from([0.0, 1e-3, 0.05])


def full(flow: JointFlow, W: np.ndarray, b: np.ndarray, H: np.ndarray, t: np.ndarray) -> list[tuple]:
    """(W, b, H) at times t of the gradient flow, example by example."""
    C, (P, n) = flow.C, H.shape
    Y = dense.one_hot(ClassLayout(flow.counts))

    def split(y: np.ndarray) -> tuple:
        return y[: C * P].reshape(C, P), y[C * P : C * P + C], y[C * P + C :].reshape(P, n)

    def field(t: float, y: np.ndarray) -> np.ndarray:
        W, b, H = split(y)
        R = W @ H + b[:, None] - Y
        dW, db = R @ H.T / n + flow.wd_W * W, (R.mean(1) + flow.wd_b * b) * flow.bias
        dH = W.T @ R / n + flow.wd_H * H
        return -np.concatenate([flow.kappa * dW.ravel(), flow.kappa * db, dH.ravel()])

    y0 = np.concatenate([W.ravel(), b, H.ravel()])
    solution = solve_ivp(field, (0, float(t[-1])), y0, method="DOP853", t_eval=t, rtol=1e-12, atol=1e-13)
    return [split(y) for y in solution.y.T]


@settings(max_examples=6)
@given(problems(balanced=False, few_features=True), decays, decays, decays, st.sampled_from([0.3, 2.0]), st.booleans())
def test_the_joint_system_is_the_flow_of_classifier_and_features(
    problem: Problem, wd_W: float, wd_H: float, wd_b: float, kappa: float, bias: bool
) -> None:
    layout, H = problem.layout, problem.H / 3
    flow = JointFlow(layout.sizes, wd_W, wd_H / 10, wd_b, kappa, bias)
    W, b = problem.rng.standard_normal((layout.C, problem.P)) / 2, problem.rng.standard_normal(layout.C)
    t = np.array([0.0, 0.3, 2.0, 6.0])
    run = run_joint(flow, W, b, *joint_start(H, layout), t)
    for k, (W_t, b_t, H_t) in enumerate(full(flow, W, b, H, t)):
        np.testing.assert_allclose(run.W[k], W_t, atol=1e-8)
        np.testing.assert_allclose(run.b[k], b_t, atol=1e-8)
        np.testing.assert_allclose(run.features(k, H), H_t, atol=1e-8 * abs(H).max())
        np.testing.assert_allclose(run.Sigma_W[k], H_t @ dense.class_centering(layout) @ H_t.T, atol=1e-8 * (H**2).max())
        np.testing.assert_allclose(run.loss[k], dense.mse(H_t.T, layout.labels, W_t, b_t, 0.0), rtol=1e-7)
    omega = np.sort(run.trajectory().omega[-1])[::-1]
    np.testing.assert_allclose(omega, oracles.singular_values(H_t, layout), rtol=1e-5, atol=1e-7)


@given(problems(balanced=False, few_features=True), decays, decays)
def test_the_velocity_descends_the_energy(problem: Problem, wd_W: float, wd_H: float) -> None:
    layout, flow = problem.layout, JointFlow(problem.layout.sizes, wd_W, wd_H, 0.02, 1.7)
    M, Sigma_W = joint_start(problem.H, layout)
    state = (problem.rng.standard_normal((layout.C, problem.P)), problem.rng.standard_normal(layout.C), M, Sigma_W)
    velocity = flow.velocity(*state)
    h = 1e-5 / max(abs(v).max() for v in velocity)
    up, down = (flow.energy(*(x + e * v for x, v in zip(state, velocity, strict=True))) for e in (h, -h))
    dW, db, dM, _ = velocity
    W, b = state[:2]
    R = W @ problem.H + b[:, None] - dense.one_hot(layout)
    dH = -W.T @ R / layout.n - wd_H * problem.H
    expected = -((dW**2).sum() + (db**2).sum()) / flow.kappa - (dH**2).sum()
    np.testing.assert_allclose((up - down) / (2 * h), expected, rtol=1e-4)
    assert dM.shape == M.shape


@given(problems(balanced=False), decays)
def test_the_velocity_has_rank_c_and_the_displacement_does_not(problem: Problem, wd_H: float) -> None:
    """dH/dt + wd_H H has rank C, that of Sigma_W 2 C; H(t) - H(0) has more, as the rows of W turn: "rank at most C" is wrong."""
    layout, H = problem.layout, problem.H / 3
    C, n = layout.C, layout.n
    flow = JointFlow(layout.sizes, wd_W=0.02, wd_H=wd_H)
    W, b = problem.rng.standard_normal((C, problem.P)), problem.rng.standard_normal(C)
    states = full(flow, W, b, H, np.array([0.0, 3.0, 3.0 + 1e-3, 3.0 + 2e-3]))
    around = [state[2] for state in states[1:]]
    velocity = (around[2] - around[0]) / 2e-3 + wd_H * around[1]
    values = np.linalg.svd(velocity, compute_uv=False)
    assert values[C:].max() < 1e-5 * values[0]
    displacement = np.linalg.svd(around[0] - np.exp(-3 * wd_H) * H, compute_uv=False)
    assert displacement[C] > 1e-4 * displacement[0]
    M, Sigma_W = joint_start(around[1], layout)
    W, b, _ = states[2]
    dSigma = flow.velocity(W, b, M, Sigma_W)[3] + 2 * wd_H * Sigma_W
    rank = int(np.linalg.matrix_rank(dSigma, tol=1e-10 * float(np.linalg.norm(dSigma))))
    assert C < rank <= 2 * C or rank == problem.P
    assert n > problem.P > C


def test_a_fast_classifier_is_the_central_path() -> None:
    layout = ClassLayout((12, 7, 9))
    H = features(layout, 4, np.random.default_rng(0))
    H -= H.mean(1, keepdims=True)
    t = np.array([0.0, 20.0, 60.0])
    path = run_raw(mean_system(H, layout, snr(H, layout)), t).omega
    gaps = []
    for kappa in (30.0, 300.0):
        W, b = oracles.ridge_classifier(H, layout, 0.0)
        run = run_joint(JointFlow(layout.sizes, kappa=kappa), W, b, *joint_start(H, layout), t)
        gaps.append(abs(run.trajectory().omega - path).max())
    assert gaps[0] < 0.05
    assert abs(gaps[0] / gaps[1] - 10) < 1  # first order in 1 / kappa


def deviations_flow(flow: JointFlow, W: np.ndarray, b: np.ndarray, H: np.ndarray, t: np.ndarray) -> np.ndarray:
    """omega (T, K), descending, of the flow of W, b, means and deviations of every example."""
    layout, C, P = ClassLayout(flow.counts), flow.C, len(H)
    M, pi = layout.means(H), np.array(flow.counts) / flow.n

    def split(y: np.ndarray) -> tuple:
        W, b, M, D = np.split(y, np.cumsum([C * P, C, P * C]))
        return W.reshape(C, P), b, M.reshape(P, C), D.reshape(P, -1)

    def field(t: float, y: np.ndarray) -> np.ndarray:
        W, b, M, D = split(y)
        E, WD = W @ M + b[:, None] - np.eye(C), W @ D
        dW, db = WD @ D.T / flow.n + E * pi @ M.T + flow.wd_W * W, E @ pi + flow.wd_b * b
        dM, dD = W.T @ E / flow.n + flow.wd_H * M, W.T @ WD / flow.n + flow.wd_H * D
        return -np.concatenate([flow.kappa * dW.ravel(), flow.kappa * db, dM.ravel(), dD.ravel()])

    y0 = np.concatenate([W.ravel(), b, M.ravel(), (H - M[:, layout.labels]).ravel()])
    solution = solve_ivp(field, (0, float(t[-1])), y0, method="DOP853", t_eval=t, rtol=3e-14, atol=1e-28)
    omega = []
    for _, _, M, D in map(split, solution.y.T):
        E, deviations, _ = np.linalg.svd(D / math.sqrt(flow.n), full_matrices=False)
        snr = (E / deviations).T @ (M - (M @ pi)[:, None])
        omega.append(np.linalg.svd(snr, compute_uv=False)[: min(C - 1, P)])
    return np.array(omega)


@pytest.mark.parametrize(
    ("wd_W", "wd_H", "end"), [(0.0, 1.0, 20.0), (1.0, 1.0, 20.0), (1.0, 0.0, 60.0), (0.0, 0.0, 100.0), (0.05, 1e-3, 100.0)]
)
def test_omega_keeps_its_digits_however_far_features_and_classifier_decay(wd_W: float, wd_H: float, end: float) -> None:
    rng, layout = np.random.default_rng(0), ClassLayout((5, 6, 9))
    W, H = rng.standard_normal((3, 4)) / 2, rng.standard_normal((4, 20))
    flow, t = JointFlow(layout.sizes, wd_W, wd_H), np.array([0.0, end / 3, end])
    run = run_joint(flow, W, np.zeros(3), *joint_start(H, layout), t)
    omega = -np.sort(-run.trajectory().omega)
    off = abs(omega / deviations_flow(flow, W, np.zeros(3), H, t) - 1).max(1)
    assert off.max() < 1e-10
    assert (off < run.error).all()
    assert run.error.max() < 1e-9


def test_a_collapse_past_the_condition_of_float64_keeps_omega_to_its_reported_error() -> None:
    """Sigma_W reaches the condition number 1e19, at which it has no inverse in float64; two tolerances agree within the error."""
    rng, layout = np.random.default_rng(0), ClassLayout((5, 6, 9))
    W, H = 3 * rng.standard_normal((3, 4)), rng.standard_normal((4, 20))
    start = (W, np.zeros(3), *joint_start(H, layout))
    runs = [run_joint(JointFlow(layout.sizes), *start, np.array([25.0]), tolerance) for tolerance in (1e-12, 1e-10)]
    deviations = np.linalg.svd(runs[0].R[0] @ runs[0].root, compute_uv=False)
    assert (deviations[0] / deviations[-1]) ** 2 > 1e19
    fine, rough = (run.trajectory().omega[0] for run in runs)
    assert abs(rough / fine - 1).max() < runs[1].error[0] < 1e-4


def test_a_time_that_cannot_be_reached_is_refused_with_the_one_that_can() -> None:
    rng, flow = np.random.default_rng(0), JointFlow((2, 3))
    W, M = 9 * rng.standard_normal((2, 1)), rng.standard_normal((1, 2))
    with pytest.raises(ValueError, match=r"t = [0-9.e+]*: .*choose an earlier end"):
        run_joint(flow, W, np.zeros(2), M, np.eye(1), np.array([0.0, 1e12]), tolerance=1e-6)


def test_a_run_takes_so_many_steps_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufm.laws.joint_system.MOST_JOINT_STEPS", 50)
    with pytest.raises(ValueError, match=r"t = [0-9.]*: .*50 steps were taken.*choose an earlier end"):
        run_joint(JointFlow((2, 3)), np.ones((2, 1)), np.zeros(2), np.array([[1.0, 0]]), np.eye(1), np.array([1e12]))


def test_a_start_near_a_singular_covariance_says_what_rounding_leaves_of_omega() -> None:
    start = np.ones((3, 2)), np.ones(3), np.random.default_rng(0).standard_normal((2, 3))
    good, bad = (run_joint(JointFlow((5, 4, 6)), *start, np.diag([1.0, x]), np.array([0.0, 1.0])) for x in (1.0, 1e-9))
    assert good.error.max() < 1e-11
    assert bad.error.min() > 1e-7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wd_W": -1.0}, "wd_W = -1"),
        ({"wd_H": math.inf}, "wd_H = inf"),
        ({"kappa": 0.0}, "kappa = 0"),
        ({"kappa": math.inf}, "mean_system"),
    ],
)
def test_flows_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JointFlow((5, 4), **options)


def test_starts_that_do_not_go_together_are_refused() -> None:
    flow = JointFlow((5, 4, 6))
    W, b, M, Sigma = np.ones((3, 2)), np.ones(3), np.ones((2, 3)), np.eye(2)
    with pytest.raises(ValueError, match="do not match"):
        run_joint(flow, W.T, b, M, Sigma, np.array([0.0]))
    with pytest.raises(ValueError, match="NaN"):
        run_joint(flow, W * np.nan, b, M, Sigma, np.array([0.0]))
    with pytest.raises(ValueError, match="ascending"):
        run_joint(flow, W, b, M, Sigma, np.array([-1.0]))
    with pytest.raises(ValueError, match="infinite along it"):
        run_joint(flow, W, b, M, 0 * Sigma, np.array([0.0])).trajectory()


@pytest.mark.parametrize("size", [1e60, 1e120])
def test_a_flow_past_float64_is_refused_with_the_time(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufm.laws.joint_system.MOST_JOINT_STEPS", 2000)
    rng = np.random.default_rng(0)
    W, M = size * rng.standard_normal((2, 3)), size * rng.standard_normal((3, 2))
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"t = .*; choose an earlier end"):
        run_joint(JointFlow((3, 2)), W, np.zeros(2), M, np.eye(3), np.array([0.0, 1.0]))
