"""The general law: any class sizes, ridge and kernel ratio, against the whole tensor X; loss, measures, accuracy, limits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests import oracles as dense
from tests.strategies import Problem, problems
from tests.ufm.laws import oracles
from ufm.features import measures
from ufm.features.snr import snr
from ufm.features.statistics import block_statistics
from ufm.interrupt import Interrupted
from ufm.laws.general import GeneralLaw
from ufm.laws.general_discrete import general_step, run_general_discrete, safe_step_from
from ufm.laws.general_run import run_general
from ufm.laws.general_states import ReducedStart, reduced_start, states_at, time_of_growth
from ufm.laws.run_cost import bytes_of_run
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED

any_sizes = problems(balanced=False, few_features=True)
ridges = st.sampled_from([0.0, 0.03, 0.7])
ratios = st.sampled_from([0.3, 1.0, 4.0, 30.0])


def whole(problem: Problem) -> np.ndarray:
    """Renormalized features with zero mean over examples. (P, n)"""
    X = problem.X
    return X - X.mean(1, keepdims=True)


@given(any_sizes, ridges, ratios)
def test_the_law_is_the_velocity_of_the_class_means_and_the_deviations_are_frozen(
    problem: Problem, ridge: float, r: float
) -> None:
    layout, X = problem.layout, whole(problem)
    law = GeneralLaw(layout.sizes, ridge, r)
    velocity = oracles.renormalized_velocity(X, layout, ridge, oracles.class_kernel(layout, r))
    scale = abs(velocity).max()
    np.testing.assert_allclose(layout.deviations(velocity), 0 * X, atol=1e-11 * scale)
    expected = layout.means(velocity) * np.sqrt(layout.priors)
    np.testing.assert_allclose(law.velocity(law.scaled_means(layout.means(X))), expected, atol=1e-11 * scale)


@given(st.one_of(any_sizes, problems(few_features=True)))
def test_singular_values_of_s_are_those_of_the_whitened_covariance_of_the_class_means(problem: Problem) -> None:
    """S S^T has the eigenvalues of Sigma_W^{-1/2} Sigma_B Sigma_W^{-1/2}; equal classes: u_j = omega_j^2 / C. S q = 0."""
    layout, H = problem.layout, problem.H
    law, white = GeneralLaw(layout.sizes), dense.inverse_sqrt(H @ dense.class_centering(layout) @ H.T)
    means = white @ (layout.means(H) - H.mean(1, keepdims=True))
    between = sum(share * np.outer(mean, mean) for share, mean in zip(layout.priors, means.T, strict=True))
    S, K = law.scaled_means(layout.means(whole(problem))), min(layout.C - 1, problem.P)
    u = np.linalg.svd(S, compute_uv=False)[:K] ** 2
    np.testing.assert_allclose(u, np.linalg.eigvalsh(between)[::-1][:K], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(S @ np.sqrt(layout.priors), 0 * S[:, 0], atol=1e-14 * abs(S).max())
    if law.balanced:
        np.testing.assert_allclose(u, oracles.singular_values(H, layout) ** 2 / layout.C, rtol=1e-7, atol=1e-9)


@given(any_sizes, ridges, ratios)
def test_the_law_closes_in_the_gram_matrix_and_in_a_triangle_of_s(problem: Problem, ridge: float, r: float) -> None:
    """dG/dt = (1/n) G K Pi K (r s I + G) J and its transpose, in C x C numbers; S = Q R with Q at rest, dR/dt the law of R."""
    layout, X, q = problem.layout, whole(problem), np.sqrt(problem.layout.priors)
    law = GeneralLaw(layout.sizes, ridge, r)
    velocity = oracles.renormalized_velocity(X, layout, ridge, oracles.class_kernel(layout, r))
    S, dS = layout.means(X) * q, layout.means(velocity) * q
    G, J = S.T @ S, np.eye(layout.C) - np.outer(q, q)
    K = np.linalg.inv(law.s * np.eye(layout.C) + G)
    half = G @ K @ np.diag(layout.priors) @ K @ (r * law.s * np.eye(layout.C) + G) @ J / layout.n
    np.testing.assert_allclose(dS.T @ S + S.T @ dS, half + half.T, atol=1e-10 * abs(half).max())
    Q, R = np.linalg.qr(S)
    np.testing.assert_allclose(Q @ law.velocity(R), dS, atol=1e-10 * abs(dS).max())


@given(st.one_of(any_sizes, problems(few_features=True)), ridges, ratios)
def test_vectors_are_at_rest_for_equal_classes_only(problem: Problem, ridge: float, r: float) -> None:
    """V^T d(M^T M)/dt V of the whole tensor is diagonal for equal classes, and not for others where they have two values."""
    layout, X = problem.layout, whole(problem)
    velocity = oracles.renormalized_velocity(X, layout, ridge, oracles.class_kernel(layout, r))
    K = min(layout.C - 1, problem.P)
    V, change = np.linalg.svd(layout.means(X))[2][:K].T, layout.means(X).T @ layout.means(velocity)
    turned = V.T @ (change + change.T) @ V
    off = abs(turned - np.diag(np.diagonal(turned))).max()
    if min(layout.sizes) == max(layout.sizes):
        assert off < 1e-10 * abs(turned).max()
    elif K > 1:
        assert off > 1e-6 * abs(turned).max()


@given(any_sizes, ridges, ratios, st.floats(0.1, 3))
def test_the_law_is_the_flow_of_the_whole_tensor(problem: Problem, ridge: float, r: float, share: float) -> None:
    layout, X = problem.layout, whole(problem)
    law, kernel = GeneralLaw(layout.sizes, ridge, r), oracles.class_kernel(layout, r)
    t = np.array([0.0, 0.4, 1.0]) * share * law.time_unit
    states = oracles.integrated(lambda X: oracles.renormalized_velocity(X, layout, ridge, kernel), X, t)
    run = run_general(law, law.scaled_means(layout.means(X)), t)
    for k, state in enumerate(states):
        np.testing.assert_allclose(run.class_means(k), layout.means(state), atol=1e-9)
        np.testing.assert_allclose(run.omega[k], oracles.singular_values(state, layout), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose((run.U_t[k] * run.omega[k]) @ run.V_t[k].T, layout.means(state), atol=1e-9)
        np.testing.assert_allclose(run.loss[k], oracles.ridge_loss(state, layout, ridge), rtol=1e-9)


@given(any_sizes, st.floats(0.1, 3))
def test_infinite_ratio_is_the_embedded_flow(problem: Problem, share: float) -> None:
    """The class means of -P(grad L) with the orthogonal projection P: deviations do not move."""
    layout, X = problem.layout, whole(problem)
    law = GeneralLaw(layout.sizes, kernel_ratio=math.inf)

    def field(X: np.ndarray) -> np.ndarray:
        return -layout.spread(layout.means(oracles.ridge_gradient(X, layout, 0.0)))

    t = np.array([0.0, share * law.time_unit])
    state = oracles.integrated(field, X, t)[-1]
    run = run_general(law, law.scaled_means(layout.means(X)), t)
    np.testing.assert_allclose(run.class_means(1), layout.means(state), atol=1e-9)
    large = GeneralLaw(layout.sizes, kernel_ratio=1e7)
    near = run_general(large, law.scaled_means(layout.means(X)), t / 1e7)
    np.testing.assert_allclose(near.omega, run.omega, rtol=1e-4)


def few_features(r: float) -> tuple[GeneralLaw, ReducedStart]:
    """P = 2 < C - 1, where K has no 1 / s in most directions. Equal classes: the integration has a closed law beside it."""
    law = GeneralLaw((9,) * 6, kernel_ratio=r)
    return law, reduced_start(law, law.scaled_means(np.random.default_rng(0).standard_normal((2, 6))))


@pytest.mark.parametrize(("r", "decades"), [(math.inf, 3), (math.inf, 6), (math.inf, 8), (1e6, 3), (1e6, 6), (1e6, 8), (1e6, 11)])
def test_few_features_and_large_ratios_have_the_values_of_the_closed_law(r: float, decades: int) -> None:
    law, start = few_features(r)
    t = np.array([10.0**decades * law.time_unit])
    (state, bound), *_ = states_at(law, start.Z, t, 1e-10)
    exact = law.closed_omega(t, (law.C * start.sigma**2) ** 0.5)[0]
    assert abs(np.linalg.svd(state, compute_uv=False) * law.C**0.5 / exact - 1).max() <= bound <= 1e-10


@pytest.mark.parametrize("r", [math.inf, 1e6])
def test_few_features_and_large_ratios_are_refused_past_the_digits_that_cancel(r: float) -> None:
    law, start = few_features(r)
    with pytest.raises(ValueError, match=r"^t = .*: later, rounding exceeds the accuracy"):
        list(states_at(law, start.Z, np.array([1e14 * law.time_unit]), 1e-10))


def test_the_approach_to_the_limit_is_logarithmic() -> None:
    """n = 60: about 1e-3 of the limit is missing at t = 1e7, in the proportion of log t / t from there on."""
    law = GeneralLaw((12, 30, 18))
    S = law.scaled_means(np.random.default_rng(0).standard_normal((4, 3)))
    t = np.array([1e7, 1e9])
    run = run_general(law, S, t)
    gaps = [abs(run.class_means(k).T @ run.class_means(k) / (2 * t[k] / law.n) - law.limit_gram()).max() for k in range(2)]
    assert 1e-4 < gaps[0] < 1e-2
    np.testing.assert_allclose(gaps[1] / gaps[0], (np.log(1e9 / 60) / 1e9) / (np.log(1e7 / 60) / 1e7), rtol=0.3)


@given(any_sizes, ridges)
def test_loss_and_parts_are_those_of_the_ridge_classifier(problem: Problem, ridge: float) -> None:
    layout, X = problem.layout, whole(problem)
    law = GeneralLaw(layout.sizes, ridge)
    S = law.scaled_means(layout.means(X))
    W, b = oracles.ridge_classifier(X, layout, ridge)
    W_law, b_law = law.classifier(S)
    np.testing.assert_allclose(W_law, W, atol=1e-10 * abs(W).max())
    np.testing.assert_allclose(b_law, b, atol=1e-10)
    nc1 = 0.5 * (1 + ridge) * float((W**2).sum())
    residual = W @ layout.means(X) + b[:, None] - np.eye(layout.C)
    nc23 = 0.5 * float((residual**2 * layout.priors).sum())
    np.testing.assert_allclose(law.loss_parts(S), (nc1, nc23), rtol=1e-9)
    np.testing.assert_allclose(law.loss(S), oracles.ridge_loss(X, layout, ridge), rtol=1e-9)
    K, Pi = np.linalg.inv(law.s * np.eye(law.C) + S.T @ S), np.diag(law.priors)
    lowest = np.trace(Pi @ (np.eye(law.C) - np.outer(law.priors, np.ones(law.C))))
    by_trace = (lowest - np.trace(Pi @ (np.eye(law.C) - law.s * K))) / 2
    np.testing.assert_allclose(by_trace, oracles.ridge_loss(X, layout, ridge), rtol=1e-9, atol=1e-13)
    run = run_general(law, S, np.array([0.0]))
    np.testing.assert_allclose((run.loss_nc1[0], run.loss_nc23[0]), (nc1, nc23), rtol=1e-9)
    np.testing.assert_allclose(run.trajectory().loss, run.loss)


@pytest.mark.parametrize("sizes", [(5, 9, 7), (7, 7, 7)])
def test_the_loss_keeps_its_digits_where_the_square_of_u_overflows(sizes: tuple[int, ...]) -> None:
    """At omega = 1e98 the loss is s/2 sum_j v_j^T Pi v_j / u_j = s^2/2 tr Pi G^+ less terms of its square."""
    law = GeneralLaw(sizes, 0.5)
    run = run_general(law, law.scaled_means(np.random.default_rng(0).standard_normal((4, 3))), np.array([1e200]))
    _, sigma, Vt = np.linalg.svd(run.S(0), full_matrices=False)
    expected = 0.5 * law.s * ((Vt[:2] ** 2 @ law.priors) / sigma[:2] / sigma[:2]).sum()
    np.testing.assert_allclose(run.loss, [expected], rtol=1e-9)
    np.testing.assert_allclose(run.loss_nc1, [expected], rtol=1e-9)
    assert expected > 0


@given(any_sizes, ridges)
def test_measures_along_the_law_are_those_of_the_features(problem: Problem, ridge: float) -> None:
    layout, X = problem.layout, whole(problem)
    assume(layout.C > 2)
    law = GeneralLaw(layout.sizes, ridge)
    run = run_general(law, law.scaled_means(layout.means(X)), np.array([0.0]))
    stats = block_statistics(X, layout)
    W, _ = oracles.ridge_classifier(X, layout, ridge)
    np.testing.assert_allclose(run.nc1[0], measures.phd_nc1(stats), rtol=1e-8)
    np.testing.assert_allclose(run.nc3()[0], measures.phd_nc3(stats, W), rtol=1e-8, atol=1e-12)
    M = layout.means(X)
    for centre, means in (("examples", M), ("classes", M - M.mean(1, keepdims=True))):
        np.testing.assert_allclose(run.equinorm(centre)[0], measures.phd_equinorm(means), rtol=1e-8)
        np.testing.assert_allclose(run.equiangular(centre)[0], measures.phd_equiangular(means), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(run.maximal_angle(centre)[0], measures.phd_maximal_angle(means), rtol=1e-8, atol=1e-12)


@given(problems(few_features=True), ridges, ratios, st.floats(0.1, 100))
def test_equal_classes_are_closed_and_agree_with_the_integration(problem: Problem, ridge: float, r: float, share: float) -> None:
    layout, X = problem.layout, problem.X
    law = GeneralLaw(layout.sizes, ridge, r)
    S, t = law.scaled_means(layout.means(X)), np.array([0.0, share * law.time_unit])
    run = run_general(law, S, t)
    assert run.frozen
    np.testing.assert_allclose(run.omega[0], snr(X, layout).omega, rtol=1e-9)
    np.testing.assert_array_equal(law.closed_omega(np.zeros(1), run.omega[0])[0], run.omega[0])
    u, s = run.u[-1], 1 + ridge
    # d log u / dt = (2 / (C^2 N)) (r s + u) / (s + u)^2 along the closed omega
    h = 1e-4 * t[-1]
    a, b = (np.log(law.closed_omega(np.array([t[-1] + e]), run.omega[0])[0] ** 2) for e in (-h, h))
    rate = 2 / (layout.C**2 * layout.N) * (r * s + u) / (s + u) ** 2
    np.testing.assert_allclose((b - a) / (2 * h), rate, rtol=1e-6)
    step = law.velocity(run.S(1))
    slope = np.einsum("pk,pc,kc->k", run.U_t[1], step, run.V_t[1].T) / np.sqrt(u)
    np.testing.assert_allclose(2 * slope, rate, rtol=1e-9)


@given(problems(few_features=True), ridges, st.floats(1, 1e4))
def test_the_ridge_rescales_law_a_and_law_b(problem: Problem, ridge: float, share: float) -> None:
    """Laws (a) and (b) with C replaced by C (1 + lambda) in u, and the time divided by 1 + lambda."""
    layout, X = problem.layout, problem.X
    s, omega0 = 1 + ridge, snr(X, layout).omega
    t = np.array([share * layout.C**2 * layout.N])
    for r, closed in ((1.0, RENORMALIZED), (math.inf, EMBEDDED)):
        law = GeneralLaw(layout.sizes, ridge, r)
        run = run_general(law, law.scaled_means(layout.means(X)), t)
        np.testing.assert_allclose(
            run.omega[0], np.sqrt(s) * closed.omega(t / s, omega0 / np.sqrt(s), layout.C, layout.N)[0], rtol=1e-9
        )


@given(any_sizes, ridges, st.sampled_from([0.3, 1.0, 4.0, 30.0, math.inf]), st.floats(-3, 3))
def test_the_reported_bound_holds_and_is_at_most_what_was_asked(problem: Problem, ridge: float, r: float, decade: float) -> None:
    """Against a run with steps refined until its own bound is a hundred times smaller."""
    layout, X = problem.layout, whole(problem)
    law = GeneralLaw(layout.sizes, ridge, r)
    S, t = law.scaled_means(layout.means(X)), np.array([0.1, 0.37, 1.0]) * 10.0**decade * law.time_unit
    run, fine = run_general(law, S, t), run_general(law, S, t, accuracy=1e-12)
    assert 0 < run.error <= 1e-10
    assert fine.error <= 1e-12
    for name in ("omega", "u"):
        gap = abs(np.log(getattr(run, name) / getattr(fine, name))).max() * (0.5 if name == "u" else 1)
        assert gap <= run.error + fine.error


@pytest.mark.parametrize("r", [1.0, 6.0])
def test_the_law_is_right_to_1e_10_against_thirty_digits(r: float) -> None:
    """Taylor series of the law in mpmath, from a start whose singular values span six decades."""
    import mpmath

    law, rng = GeneralLaw((9, 4, 7), 0.2, r), np.random.default_rng(0)
    S = np.diag([1e3, 1e-3]) @ law.scaled_means(rng.standard_normal((2, 3)))
    t_end = 3.0 * law.time_unit
    run = run_general(law, S, np.array([t_end]))
    with mpmath.workdps(40):
        counts = [mpmath.mpf(c) for c in law.counts]
        pi = [c / law.n for c in counts]
        q = mpmath.matrix([mpmath.sqrt(p) for p in pi])
        J, Pi = mpmath.eye(3) - q * q.T, mpmath.diag(pi)
        s, eye = 1 + mpmath.mpf(law.ridge), mpmath.eye(3)

        def field(S: mpmath.matrix) -> mpmath.matrix:
            G = S.T * S
            K = mpmath.inverse(s * eye + G)
            return S * K * Pi * K * (r * s * eye + G) * J / law.n

        def end(steps: int) -> mpmath.matrix:  # Gragg's modified midpoint rule
            h, old = t_end / mpmath.mpf(steps), mpmath.matrix(S.tolist())
            new = old + h * field(old)
            for _ in range(steps - 1):
                old, new = new, old + 2 * h * field(new)
            return (old + new + h * field(new)) / 2

        orders = [20 * k for k in range(1, 11)]
        table = [end(k) for k in orders]
        for j in range(1, len(table)):
            for i in range(len(table) - 1, j - 1, -1):
                table[i] += (table[i] - table[i - 1]) / ((mpmath.mpf(orders[i]) / orders[i - j]) ** 2 - 1)
        exact = [float(x) for x in mpmath.svd_r(table[-1], compute_uv=False)]
        doubt = mpmath.norm(table[-1] - table[-2])
    assert doubt < 1e-14
    np.testing.assert_allclose(np.sqrt(run.u[0]), exact[:2], rtol=1e-10)


@settings(max_examples=6)
@given(any_sizes, st.sampled_from([0.5, 1.0, 5.0]), ridges)
def test_the_limit_is_a_regular_simplex_about_the_mean_of_the_class_means(problem: Problem, r: float, ridge: float) -> None:
    """M^T M / (2 t / n) -> (I - 1 pi^T)(I - pi 1^T) for P >= C - 1: a simplex ETF about the mean of means, none about mu_G."""
    layout, X = problem.layout, whole(problem)
    assume(len(X) >= layout.C - 1 and layout.C > 2)
    law = GeneralLaw(layout.sizes, ridge, r)
    t = 1e13 * law.n * law.s
    run = run_general(law, law.scaled_means(layout.means(X)), np.array([t]))
    M = run.class_means(0)
    centring = np.eye(layout.C) - np.outer(layout.priors, np.ones(layout.C))
    np.testing.assert_allclose(law.limit_gram(), centring.T @ centring, atol=1e-14)
    np.testing.assert_allclose(M.T @ M / (2 * t / law.n), law.limit_gram(), atol=1e-6)
    distances = np.linalg.norm(M[:, :, None] - M[:, None, :], axis=0)[np.triu_indices(layout.C, 1)]
    np.testing.assert_allclose(distances / distances.mean(), 1, atol=1e-6)
    assert run.maximal_angle("classes")[0] < 1e-5
    assert run.nc3("classes")[0] < 1e-9
    assert run.maximal_angle("examples")[0] > 1e-3
    assert run.nc3("examples")[0] > 1e-4
    assert run.nc1[0] < 1e-9


@given(any_sizes, ridges)
def test_the_limit_of_the_embedded_flow_is_another(problem: Problem, ridge: float) -> None:
    """r = infinity: G / (2 sqrt(s t / n)) -> (J Pi J)^{1/2}: no regular simplex about any centre."""
    layout, X = problem.layout, whole(problem)
    assume(len(X) >= layout.C - 1 and layout.C > 2)
    law = GeneralLaw(layout.sizes, ridge, math.inf)
    t = 1e10 * law.n
    S = run_general(law, law.scaled_means(layout.means(X)), np.array([t])).S(0)
    q = np.sqrt(layout.priors)
    J = np.eye(layout.C) - np.outer(q, q)
    values, E = np.linalg.eigh(J @ np.diag(layout.priors) @ J)
    root = (E * np.sqrt(values.clip(min=0))) @ E.T
    np.testing.assert_allclose(S.T @ S / (2 * math.sqrt(law.s * t / law.n)), root, atol=1e-3)


def test_vectors_are_frozen_for_equal_classes_only() -> None:
    law = GeneralLaw((30, 5, 11))
    S = law.scaled_means(np.random.default_rng(0).standard_normal((4, 3)))
    run = run_general(law, S, np.array([0.0, 3 * law.time_unit]))
    assert abs((run.V_t[0] * run.V_t[1]).sum(0)).min() < 0.99
    assert not run.frozen
    with pytest.raises(ValueError, match="subsample"):
        law.closed_omega(np.array([1.0]), run.omega[0])


def test_zero_values_stay_zero_and_the_rest_is_unchanged() -> None:
    law, rng = GeneralLaw((5, 9, 7, 12)), np.random.default_rng(0)
    S = law.scaled_means(rng.standard_normal((6, 2)) @ rng.standard_normal((2, 4)))
    t = np.array([0.0, 100.0])
    run = run_general(law, S, t)
    assert (run.omega[:, 2] == 0).all()
    assert (run.u[:, 2] == 0).all()
    assert (run.omega[1, :2] > run.omega[0, :2]).all()
    np.testing.assert_allclose(run.S(0), S, atol=1e-14)
    np.testing.assert_allclose(run.loss[1], law.loss(run.S(1)), rtol=1e-12)
    none = run_general(law, 0 * S, t)
    assert (none.omega == 0).all()
    np.testing.assert_allclose(none.loss, 0.5 * (1 - (law.priors**2).sum()))


def test_an_output_time_does_not_change_the_run() -> None:
    law, rng = GeneralLaw((5, 9, 7)), np.random.default_rng(0)
    S = law.scaled_means(rng.standard_normal((4, 3)))
    few, many = (run_general(law, S, np.linspace(0, 500, count)).omega[-1] for count in (2, 300))
    np.testing.assert_array_equal(few, many)


def test_progress_is_told_and_may_stop() -> None:
    law, seen = GeneralLaw((5, 9, 7)), []
    S = law.scaled_means(np.random.default_rng(0).standard_normal((4, 3)))
    run_general(law, S, np.array([0.0, 500.0]), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0

    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_general(law, S, np.array([0.0, 500.0]), progress=stop)


@pytest.mark.parametrize("at", [0.2, 0.7])
def test_an_interrupted_run_keeps_the_times_reached(at: float) -> None:
    law, times = GeneralLaw((5, 9, 7)), np.linspace(0, 3000, 40)
    S = law.scaled_means(np.random.default_rng(0).standard_normal((4, 3)))

    def stop(share: float) -> None:
        if share > at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interrupted:
        run_general(law, S, times, progress=stop)
    assert isinstance(interrupted.value, Interrupted)
    part, complete = interrupted.value.partial, run_general(law, S, times)
    assert 40 * at < len(part.t) < 40
    assert 0 < part.error <= complete.error
    for name in ("t", "omega", "u", "loss", "V_t", "U_t"):
        np.testing.assert_array_equal(getattr(part, name), getattr(complete, name)[: len(part.t)], err_msg=name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((5,),), "C = 1"),
        (((5, 0),), "class 1 has 0"),
        (((5, 4), -0.1), "ridge = -0.1"),
        (((5, 4), math.inf), "ridge = inf"),
        (((5, 4), 1e61), "between 0 and 1e\\+60"),
        (((5, 4), 0.0, 0.0), "kernel_ratio = 0.0"),
        (((5, 4), 0.0, math.nan), "kernel_ratio = nan"),
    ],
)
def test_laws_that_make_no_sense_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeneralLaw(*arguments)


@pytest.mark.parametrize(
    ("S", "t", "message"),
    [
        (np.ones((4, 2)), [0.0], "C = 3"),
        (np.full((4, 3), np.nan), [0.0], "NaN"),
        (np.ones((4, 3)), [-1.0, 2.0], "ascending and not negative"),
        (np.ones((4, 3)), [2.0, 1.0], "ascending and not negative"),
        (np.ones((4, 3)), [], "ascending and not negative"),
    ],
)
def test_starts_and_times_that_make_no_sense_are_refused(S: np.ndarray, t: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_general(GeneralLaw((5, 9, 7)), S, np.array(t))


@given(any_sizes, st.floats(1e-6, 1.0))
def test_a_start_whose_mean_over_examples_is_not_zero_is_refused_with_the_number(problem: Problem, share: float) -> None:
    """It was projected without a word; what the rounding of float32 leaves passes."""
    layout = problem.layout
    law, q = GeneralLaw(layout.sizes), np.sqrt(layout.priors)
    S = law.scaled_means(layout.means(whole(problem)))
    bad = S + share * abs(S).max() * np.outer(np.eye(len(S))[0], q)
    for call in (
        lambda: run_general(law, bad, np.array([1.0])),
        lambda: run_general_discrete(law, bad, 1.0, 1),
        lambda: general_step(law, bad, 1.0),
        lambda: time_of_growth(law, bad, 2.0),
        lambda: safe_step_from(law, bad),
        lambda: law.velocity(bad),
        lambda: law.loss(bad),
        lambda: law.classifier(bad),
    ):
        with pytest.raises(ValueError, match=r"^S q has an entry of .* where S has at most .*; scaled_means makes it"):
            call()
    rounded = np.asarray(S, np.float32)
    np.testing.assert_allclose(law.velocity(rounded), law.velocity(S), atol=1e-4 * float(abs(S).max()))
    far = layout.means(whole(problem)) + 1e9 * problem.rng.standard_normal((len(S), 1))
    run_general(law, law.scaled_means(far), np.array([1.0]))


def on_torch(device: str) -> None:
    """Every public call on a device gives numpy's numbers, and stays there."""
    law, rng = GeneralLaw((5, 9, 7, 30), 0.1, 3.0), np.random.default_rng(0)
    S, t = law.scaled_means(rng.standard_normal((6, 4))), np.array([0.0, 1.0, 50.0])
    tensor, times = torch.from_numpy(S).to(device), torch.from_numpy(t).to(device)
    run, expected = run_general(law, tensor, times), run_general(law, S, t)
    for name in ("omega", "u", "loss", "loss_nc1", "nc1", "V_t", "U_t"):
        value = getattr(run, name)
        assert value.device.type == device
        np.testing.assert_allclose(value.cpu(), getattr(expected, name), rtol=1e-9, atol=1e-11)
    for centre in ("examples", "classes"):
        np.testing.assert_allclose(torch.as_tensor(run.nc3(centre)).cpu(), expected.nc3(centre), rtol=1e-8)
        np.testing.assert_allclose(torch.as_tensor(run.equinorm(centre)).cpu(), expected.equinorm(centre), rtol=1e-8)
    np.testing.assert_allclose(law.velocity(tensor).cpu(), law.velocity(S), rtol=1e-10, atol=1e-15)
    stepped = general_step(law, tensor, 10.0)
    assert stepped.device.type == device
    np.testing.assert_allclose(stepped.cpu(), general_step(law, S, 10.0), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(run.trajectory().omega, expected.omega, rtol=1e-9)
    balanced = GeneralLaw((8, 8, 8, 8), 0.1)
    even = balanced.scaled_means(S)
    closed, known = run_general(balanced, torch.from_numpy(even).to(device), times), run_general(balanced, even, t)
    np.testing.assert_allclose(torch.as_tensor(closed.omega).cpu(), known.omega, rtol=1e-10)
    np.testing.assert_allclose(torch.as_tensor(closed.loss).cpu(), known.loss, rtol=1e-10)


def test_torch_gives_the_same_numbers() -> None:
    on_torch("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_gives_the_same_numbers() -> None:
    on_torch("cuda")


def test_a_run_past_the_free_memory_is_refused_with_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    law = GeneralLaw((9, 17, 12, 14, 30))
    S, t = law.scaled_means(np.random.default_rng(0).standard_normal((3, 5))), np.linspace(0, 1, 1000)
    needed = bytes_of_run(5, 3, 1000)
    monkeypatch.setattr("ufm.laws.run_cost.free_memory", lambda: needed - 1)
    with pytest.raises(ValueError, match=r"^5 unequal classes in P = 3 features at 1000 times need about .*kB"):
        run_general(law, S, t)
    assert run_general(law, S, t[:500]).omega.shape == (500, 3)
    closed = GeneralLaw((9,) * 5)
    assert run_general(closed, closed.scaled_means(S), t).omega.shape == (1000, 3)


@pytest.mark.parametrize("r", [0.4, 1.0, 3.0, math.inf])
@pytest.mark.parametrize("P", [3, 7])
def test_the_time_of_a_growth_is_closed_for_equal_classes(r: float, P: int) -> None:
    """Against the search along the integrated law, which classes as good as equal take."""
    rng, times = np.random.default_rng(P), []
    M = rng.standard_normal((P, 5))
    for counts in ((400,) * 5, (400, 401, 400, 400, 400)):
        law = GeneralLaw(counts, 0.3, r)
        S = law.scaled_means(M)
        times.append(time_of_growth(law, S, 4.0))
        end = run_general(law, S, np.array([0.0, times[-1]]))
        assert float(end.omega[1, -1] / end.omega[0, -1]) == pytest.approx(4.0, rel=1e-6 if law.counts[1] > 400 else 1e-12)
    assert times[0] == pytest.approx(times[1], rel=0.01)
