"""Section 3 and Appendix D on the full state: Lemmas 3-5, Proposition 2, Theorem 3, Corollary 2, Eq. 12, errata 4 and 5."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from manifolds import normalized_features
from manifolds.class_centering import ClassLayout
from tests import oracles
from tests.strategies import Problem, problems
from ufm.features import spectral_loss
from ufm.features.least_squares import ls_classifier
from ufm.features.loss_decomposition import decompose
from ufm.features.measures import phd_maximal_angle, phd_nc1, phd_nc3, phd_nc4
from ufm.features.singular_value_derivative import singular_value_derivative
from ufm.features.snr import Snr, renormalized_features, snr
from ufm.features.statistics import block_statistics
from ufm.laws.discrete_singular_values import safe_step
from ufm.laws.limit_matrices import renormalized_features_limit, snr_limit
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED
from ufm.tensor import renormalized_flow as flows
from ufm.tensor.integrate import integrate_scipy


def start(problem: Problem) -> tuple[np.ndarray, Snr, ClassLayout]:
    X, spectrum = renormalized_features(problem.H, problem.layout)
    return X, spectrum, problem.layout


def ls_loss(H: np.ndarray, layout: ClassLayout, lam: float = 0.0) -> float:
    stats = block_statistics(H, layout)
    return decompose(stats, *ls_classifier(stats, lam), lam).ls


def singular_values(layout: ClassLayout, H: np.ndarray) -> np.ndarray:
    return snr(H, layout).omega


def distinct(spectrum: Snr) -> bool:
    """Whether the singular values lie apart, so that their derivatives exist one by one."""
    return len(spectrum.omega) == 1 or bool(
        (-np.diff(spectrum.omega) > 0.05 * spectrum.omega[0]).all() and spectrum.omega[-1] > 0.05
    )


@given(problems(balanced=False), st.sampled_from([0.0, 0.05, 1.0]))
def test_ls_gradient_is_the_derivative_of_the_loss(problem: Problem, lam: float) -> None:
    H, layout, Z = problem.H, problem.layout, problem.direction()
    G = flows.ls_gradient(H, layout, lam)
    slope = oracles.directional_derivative(lambda H: ls_loss(H, layout, lam), H, Z / np.linalg.norm(Z))
    np.testing.assert_allclose(np.sum(G * Z) / np.linalg.norm(Z), slope, atol=1e-8)


@given(problems())
def test_gradient_on_the_manifold_is_the_general_one_and_orthogonal_to_the_features(problem: Problem) -> None:
    X, spectrum, layout = start(problem)
    G = flows.central_path_gradient(X, layout)
    np.testing.assert_allclose(G, flows.ls_gradient(X, layout), atol=1e-12)
    np.testing.assert_allclose(G @ X.T, 0, atol=1e-11)
    U, V, omega, C, N = spectrum.left_vectors, spectrum.V, spectrum.omega, layout.C, layout.N
    f = omega / (C + omega**2) ** 2
    Y, C_M = oracles.one_hot(layout), oracles.class_centering(layout)
    printed = -(U * f) @ V.T @ Y / N + (U * (f * omega)) @ U.T @ X @ C_M
    np.testing.assert_allclose(G, printed, atol=1e-11)


@given(problems())
def test_autograd_of_a_user_s_loss_gives_the_same_gradient(problem: Problem) -> None:
    X, _, layout = start(problem)

    def loss(X: torch.Tensor) -> torch.Tensor:
        C, n = layout.C, layout.n
        Y = torch.from_numpy(oracles.one_hot(layout)) - 1 / C
        W = torch.linalg.solve(X @ X.mT, X @ Y.mT).mT
        return 0.5 * ((W @ X - Y) ** 2).sum() / n

    gradient = flows.autograd_gradient(loss)
    np.testing.assert_allclose(gradient(torch.from_numpy(X)).numpy(), flows.central_path_gradient(X, layout), atol=1e-11)


@given(problems())
def test_lemma_3_derivative_of_the_singular_values(problem: Problem) -> None:
    """d omega_j(Pi(dX)) = (y_j / N - omega_j C x_j) . dx_j in aligned coordinates; here in X's own, for every direction."""
    X, spectrum, layout = start(problem)
    assume(distinct(spectrum))
    Z = problem.direction() / 10
    slope = oracles.directional_derivative(lambda H: singular_values(layout, H), X, Z)
    U, V = spectrum.left_vectors, spectrum.V
    rows = singular_value_derivative(X, layout, U, spectrum.omega, V)
    np.testing.assert_allclose(slope, np.sum(rows * (U.T @ Z), axis=1), rtol=1e-5, atol=1e-6)
    projected = normalized_features.oblique_projection(X, Z, layout)
    np.testing.assert_allclose(np.sum((U.T @ layout.means(projected)) * V.T, axis=1), np.sum(rows * (U.T @ Z), axis=1), atol=1e-9)


@given(problems())
def test_erratum_4_lemma_4_is_the_ambient_gradient_and_leaves_the_manifold(problem: Problem) -> None:
    X, spectrum, layout = start(problem)
    U, V, omega, C, N = spectrum.left_vectors, spectrum.V, spectrum.omega, layout.C, layout.N
    Y, C_M = oracles.one_hot(layout), oracles.class_centering(layout)
    f = omega / (C + omega**2) ** 2
    lemma_4 = (U * f) @ (V.T @ Y / N - omega[:, None] * (U.T @ X @ C_M))  # printed, all rows together
    G = flows.central_path_gradient(X, layout)
    np.testing.assert_allclose(lemma_4, -G, atol=1e-11)
    assert normalized_features.tangency_residual(X, lemma_4, layout) > 1e-6 * np.max(f * omega)
    # and it is not Eq. 5 with Proposition 4, whose velocity moves the class means alone
    velocity = flows.RENORMALIZED_FLOW.velocity(X, G, layout)
    np.testing.assert_allclose(layout.deviations(velocity), 0, atol=1e-11)
    means = (U * (f * (1 + omega**2 / C) / N)) @ V.T
    np.testing.assert_allclose(layout.means(velocity), means, atol=1e-11)
    assert np.linalg.norm(velocity - lemma_4) > 1e-6


@given(problems())
def test_the_embedded_flow_moves_the_means_alone_too_but_slower(problem: Problem) -> None:
    X, spectrum, layout = start(problem)
    G = flows.central_path_gradient(X, layout)
    velocity = flows.EMBEDDED_FLOW.velocity(X, G, layout)
    f = spectral_loss.loss_slope(spectrum.omega, layout.C)
    np.testing.assert_allclose(layout.deviations(velocity), 0, atol=1e-11)
    np.testing.assert_allclose(layout.means(velocity), (spectrum.left_vectors * (f / layout.N)) @ spectrum.V.T, atol=1e-11)
    assert normalized_features.tangency_residual(X, velocity, layout) < 1e-11


@given(problems())
def test_lemma_5_holds_for_the_embedded_flow_and_not_for_equation_5_with_proposition_4(problem: Problem) -> None:
    X, spectrum, layout = start(problem)
    C, N, omega = layout.C, layout.N, spectrum.omega
    G = flows.central_path_gradient(X, layout)
    lemma_5 = omega / (N * (C + omega**2) ** 2)

    def rate(flow: flows.Flow) -> np.ndarray:
        return np.sum((spectrum.left_vectors.T @ layout.means(flow.velocity(X, G, layout))) * spectrum.V.T, axis=1)

    np.testing.assert_allclose(rate(flows.EMBEDDED_FLOW), lemma_5, rtol=1e-8)
    np.testing.assert_allclose(rate(flows.EMBEDDED_FLOW), EMBEDDED.rate(omega, C, N), rtol=1e-8)
    np.testing.assert_allclose(rate(flows.RENORMALIZED_FLOW), RENORMALIZED.rate(omega, C, N), rtol=1e-8)
    np.testing.assert_allclose(rate(flows.RENORMALIZED_FLOW) / lemma_5, 1 + omega**2 / C, rtol=1e-8)  # not 1: erratum 5


@given(
    problems(),
    st.sampled_from(
        [
            (flows.RENORMALIZED_FLOW, normalized_features.oblique_projection),
            (flows.EMBEDDED_FLOW, normalized_features.orthogonal_projection),
        ]
    ),
)
def test_velocity_on_the_manifold_is_minus_the_projected_gradient_of_any_loss(problem: Problem, pair: tuple) -> None:
    X, _, layout = start(problem)
    flow, project = pair
    G = problem.direction()
    np.testing.assert_allclose(flow.velocity(X, G, layout), -project(X, G, layout), atol=1e-10)


@pytest.mark.parametrize("flow", [flows.RENORMALIZED_FLOW, flows.EMBEDDED_FLOW], ids=lambda flow: flow.name)
def test_the_constraint_survives_long_integration(flow: flows.Flow) -> None:
    """Rounding off the manifold grows as exp(omega^2 / C) under the bare orthogonal projection: here that is exp(224)."""
    layout = ClassLayout.equal(2, 4)
    X, spectrum = renormalized_features(np.random.default_rng(0).standard_normal((3, 8)), layout)
    t = float(flow.law.time(10 * spectrum.omega, spectrum.omega, 2, 4)[0])
    field = flows.central_path_field(flow, layout)
    end = integrate_scipy(field, X, np.array([0.0, t]))[-1]
    assert normalized_features.constraint_residual(end, layout) < 1e-8
    np.testing.assert_allclose(snr(end, layout).omega, 10 * spectrum.omega, rtol=1e-7)


@given(problems(), st.sampled_from(["renormalized", "embedded", "unnormalized"]))
def test_every_flow_of_the_full_state_follows_its_closed_law(problem: Problem, name: str) -> None:
    X, spectrum, layout = start(problem)
    C, N = layout.C, layout.N
    flow = flows.FLOWS[name]
    H = X if name != "unnormalized" else oracles.inverse_sqrt(X @ X.T / layout.n) @ X
    t_end = float(flow.law.time(np.array(2.5 * spectrum.omega[0]), spectrum.omega[:1], C, N)[0])
    times = np.linspace(0, t_end, 4)
    states = integrate_scipy(flows.central_path_field(flow, layout), H, times)
    expected = flow.law.omega(times, spectrum.omega, C, N)
    for state, omega in zip(states, expected, strict=True):
        np.testing.assert_allclose(snr(state, layout).omega, omega, rtol=1e-6)
        M = normalized_features.renormalize(state, layout) if name == "unnormalized" else state
        np.testing.assert_allclose(layout.means(M), (spectrum.left_vectors * omega) @ spectrum.V.T, atol=1e-5 * omega[0])


@given(problems())
def test_proposition_2_is_not_the_law_of_equation_5_as_the_paper_defines_it(problem: Problem) -> None:
    """Both sides of erratum 5 on the full state: Eq. 5 with Pi obeys log u + u, and the printed Eq. 10 fails it."""
    X, spectrum, layout = start(problem)
    C, N = layout.C, layout.N
    t = float(RENORMALIZED.time(np.array(3 * spectrum.omega[0]), spectrum.omega[:1], C, N)[0])
    end = integrate_scipy(flows.central_path_field(flows.RENORMALIZED_FLOW, layout), X, np.array([0.0, t]))[-1]
    omega = snr(end, layout).omega

    def printed(omega: np.ndarray) -> np.ndarray:  # c_1 log omega + c_2 omega^2 + c_3 omega^4, Eq. 10
        return C**2 * N * np.log(omega) + C * N * omega**2 + N / 4 * omega**4

    def corrected(omega: np.ndarray) -> np.ndarray:
        return C**2 * N * np.log(omega) + C * N / 2 * omega**2

    np.testing.assert_allclose(corrected(omega) - corrected(spectrum.omega), t, rtol=1e-6)
    gap = printed(omega) - printed(spectrum.omega) - t
    assert (gap > 0.01 * t).all()


@given(problems())
def test_unnormalized_flow_conserves_the_second_moment_for_every_start(problem: Problem) -> None:
    H, layout = problem.H - problem.H.mean(-1, keepdims=True), problem.layout
    G = flows.ls_gradient(H, layout)
    np.testing.assert_allclose(G @ H.T, 0, atol=1e-10)
    times = np.array([0.0, 30.0 * layout.C**2 * layout.N * 0.01])
    end = integrate_scipy(flows.central_path_field(flows.UNNORMALIZED_FLOW, layout), H, times)[-1]
    np.testing.assert_allclose(end @ end.T, H @ H.T, rtol=1e-7, atol=1e-7 * float(np.linalg.norm(H)) ** 2)


@given(problems())
def test_law_c_s_squares_are_logistic_and_features_collapse(problem: Problem) -> None:
    X, spectrum, layout = start(problem)
    C, N = layout.C, layout.N
    H = oracles.inverse_sqrt(X @ X.T / layout.n) @ X
    m2 = np.linalg.svd(layout.means(H), compute_uv=False)[: C - 1] ** 2 / C
    np.testing.assert_allclose(m2, spectrum.omega**2 / (C + spectrum.omega**2), rtol=1e-8)
    t = 3.0 * C**2 * N
    flows.advance_unnormalized(
        H, snr(H, layout), spectrum.omega, flows.UNNORMALIZED_FLOW.law.omega(np.array(t), spectrum.omega, C, N), layout
    )
    q = np.linalg.svd(layout.means(H), compute_uv=False)[: C - 1] ** 2 / C
    np.testing.assert_allclose(q / (1 - q), m2 / (1 - m2) * np.exp(2 * t / (C**2 * N)), rtol=1e-6)


@given(problems(), st.sampled_from(["renormalized", "embedded"]))
def test_exact_class_mean_step_is_the_flow_in_place(problem: Problem, name: str) -> None:
    X, spectrum, layout = start(problem)
    flow = flows.FLOWS[name]
    t = float(flow.law.time(np.array(2 * spectrum.omega[0]), spectrum.omega[:1], layout.C, layout.N)[0])
    omega = flow.law.omega(np.array(t), spectrum.omega, layout.C, layout.N)
    end = integrate_scipy(flows.central_path_field(flow, layout), X, np.array([0.0, t]))[-1]
    moved = X.copy()
    assert flows.advance_means(moved, spectrum, spectrum.omega, omega, layout) is moved
    np.testing.assert_allclose(moved, end, atol=1e-6 * omega[0])
    np.testing.assert_allclose(layout.deviations(moved), layout.deviations(X), atol=1e-12)
    tensor = torch.from_numpy(X.copy())
    torch_start = snr(torch.from_numpy(problem.H), layout)
    flows.advance_means(tensor, torch_start, torch.from_numpy(spectrum.omega), torch.from_numpy(omega), layout)
    np.testing.assert_allclose(tensor.numpy(), moved, atol=1e-8)


@given(problems())
def test_exact_unnormalized_step_is_the_flow_in_place(problem: Problem) -> None:
    X, spectrum, layout = start(problem)
    H = oracles.inverse_sqrt(X @ X.T / layout.n) @ X
    t = 0.8 * layout.C**2 * layout.N
    omega = flows.UNNORMALIZED_FLOW.law.omega(np.array(t), spectrum.omega, layout.C, layout.N)
    end = integrate_scipy(flows.central_path_field(flows.UNNORMALIZED_FLOW, layout), H, np.array([0.0, t]))[-1]
    np.testing.assert_allclose(flows.advance_unnormalized(H, snr(H, layout), spectrum.omega, omega, layout), end, atol=1e-6)


@given(problems(), st.sampled_from(["renormalized", "embedded"]))
def test_theorem_3_and_corollary_2_neural_collapse_emerges(problem: Problem, name: str) -> None:
    """SNR_t / omega_max -> U V^T, the renormalized features -> (U V^T) kron 1_N^T (Eq. 12), and NC1-NC4 follow."""
    X, spectrum, layout = start(problem)
    C, N = layout.C, layout.N
    assume(spectrum.omega[-1] > 0.01)
    law = flows.FLOWS[name].law
    t = float(law.time(np.array(1e5), spectrum.omega[-1:], C, N)[0])
    omega = law.omega(np.array(t), spectrum.omega, C, N)
    flows.advance_means(X, spectrum, spectrum.omega, omega, layout)
    limit = snr_limit(spectrum.left_vectors, spectrum.V)
    features = renormalized_features_limit(spectrum.left_vectors, spectrum.V, layout)
    np.testing.assert_allclose(layout.means(X) / omega[0], limit, atol=1e-3)
    np.testing.assert_allclose(X / omega[0], features, atol=1e-3)
    np.testing.assert_array_equal(features, np.kron(limit, np.ones(N)))
    stats = block_statistics(X, layout)
    W, b = ls_classifier(stats, 0.0)
    assert phd_nc1(stats) < 1e-8
    assert phd_maximal_angle(stats.centred_means) < 1e-3
    assert phd_nc3(stats, W) < 1e-6
    assert phd_nc4(X.T, W, b, stats.means) == 0
    np.testing.assert_allclose(limit.T @ limit, np.eye(C) - 1 / C, atol=1e-9)  # columns form a simplex ETF


@given(problems(), st.floats(0.01, 0.9))
def test_renormalize_after_step_takes_any_loss(problem: Problem, share: float) -> None:
    X, _, layout = start(problem)
    eta = share * safe_step(layout.C, layout.N)
    T = problem.rng.standard_normal(X.shape)
    gradient = flows.autograd_gradient(lambda X: 0.5 * ((X - torch.from_numpy(T)) ** 2).sum() / layout.n)
    stepped = flows.renormalize_after_step(torch.from_numpy(X), eta / layout.n, gradient, layout).numpy()
    expected = normalized_features.renormalize(X - eta / layout.n * (X - T) / layout.n, layout)
    np.testing.assert_allclose(stepped, expected, atol=1e-9)
    assert normalized_features.constraint_residual(stepped, layout) < 1e-10


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_float32_flows_work_and_lose_digits_only(backend: str) -> None:
    layout = ClassLayout.equal(4, 9)
    rng = np.random.default_rng(0)
    X, spectrum = renormalized_features(rng.standard_normal((7, layout.n)) + layout.spread(rng.standard_normal((7, 4))), layout)
    single = X.astype(np.float32) if backend == "numpy" else torch.from_numpy(X.astype(np.float32))
    G = flows.central_path_gradient(single, layout)
    for value in (G, flows.ls_gradient(single, layout)):
        assert value.dtype == single.dtype
        np.testing.assert_allclose(np.asarray(value), flows.central_path_gradient(X, layout), atol=1e-7)
    for flow in flows.FLOWS.values():
        velocity = flow.velocity(single, G, layout)
        np.testing.assert_allclose(np.asarray(velocity), flow.velocity(X, flows.ls_gradient(X, layout), layout), atol=1e-6)
    stepped = single
    for _ in range(50):
        stepped = flows.renormalize_after_step(stepped, 10.0, lambda X: flows.central_path_gradient(X, layout), layout)
    assert stepped.dtype == single.dtype
    assert float(normalized_features.constraint_residual(stepped, layout)) < 1e-4
    assert spectrum.omega.dtype == np.float64


def test_unequal_classes_are_refused_by_the_closed_gradient_and_taken_by_the_general_one() -> None:
    layout = ClassLayout((5, 9))
    X = np.random.default_rng(0).standard_normal((3, 14))
    with pytest.raises(ValueError, match="subsample every class to 5"):
        flows.central_path_gradient(X, layout)
    assert flows.ls_gradient(X, layout).shape == X.shape


def test_the_limits_refuse_what_has_no_simplex() -> None:
    U, V = np.eye(5)[:, :3], np.eye(4)[:, :3]
    with pytest.raises(ValueError, match="U has 2 columns, V 3"):
        snr_limit(U=U[:, :2], V=V)
    with pytest.raises(ValueError, match="needs C - 1 = 3"):
        snr_limit(U=U[:, :2], V=V[:, :2])
    with pytest.raises(ValueError, match=r"class sizes \(2, 3, 4, 5\)"):
        renormalized_features_limit(U=U, V=V, layout=ClassLayout((2, 3, 4, 5)))
