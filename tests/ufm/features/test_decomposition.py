"""Proposition 1 (corrected, and false as printed), Theorems 1 and 2, Equations 7 and 8, for any lambda and any class sizes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import oracles
from tests.strategies import Problem, problems
from ufm.features.central_path_classifier import central_path_classifier
from ufm.features.least_squares import extended_ls_classifier, lambda_of_weight_decay, ls_classifier
from ufm.features.loss_decomposition import decompose, mse_loss
from ufm.features.statistics import ClassStatistics, block_statistics, statistics_of

lambdas = st.sampled_from([1e-6, 1e-2, 0.3, 5.0])
any_lambda = st.one_of(st.just(0.0), lambdas)


def rows_and_labels(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    return problem.H.T, problem.layout.labels


def classifier(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    return problem.rng.standard_normal((problem.layout.C, problem.P)), problem.rng.standard_normal(problem.layout.C)


@given(problems(balanced=False), any_lambda)
def test_proposition_1_corrected_minimises_the_loss(problem: Problem, lam: float) -> None:
    features, labels = rows_and_labels(problem)
    W, b = ls_classifier(block_statistics(problem.H, problem.layout), lam)
    reference = oracles.least_squares(features, labels, problem.layout.C, lam)
    np.testing.assert_allclose(np.column_stack([W, b]), reference, atol=1e-9)


@given(problems(), lambdas)
def test_proposition_1_extended_form_with_the_global_mean(problem: Problem, lam: float) -> None:
    features, labels = rows_and_labels(problem)
    C = problem.layout.C
    M, mu, sigma_t, _ = oracles.extended_moments(features, labels, C)
    corrected = M.T @ np.linalg.inv(sigma_t + np.outer(mu, mu) + lam * np.eye(len(mu))) / C
    stats = block_statistics(problem.H, problem.layout)
    np.testing.assert_allclose(extended_ls_classifier(stats, lam), corrected, atol=1e-8 * abs(corrected).max())
    W, b = ls_classifier(stats, lam)
    np.testing.assert_allclose(corrected, np.column_stack([W, b]), atol=1e-8 * abs(corrected).max())


@given(problems(), lambdas)
def test_erratum_1_proposition_1_as_printed_is_not_stationary(problem: Problem, lam: float) -> None:
    features, labels = rows_and_labels(problem)
    C, n = problem.layout.C, problem.layout.n
    M, mu, sigma_t, _ = oracles.extended_moments(features, labels, C)
    printed = M.T @ np.linalg.inv(sigma_t + lam * np.eye(len(mu))) / C
    H = np.hstack([features, np.ones((n, 1))])

    def gradient(W: np.ndarray) -> float:
        return float(np.linalg.norm((W @ H.T - np.eye(C)[labels].T) @ H / n + lam * W))

    right = gradient(extended_ls_classifier(block_statistics(problem.H, problem.layout), lam))
    assert right < 1e-9
    assert gradient(printed) > 1e-3
    # and at lambda = 0 it does not exist: the extended total covariance is singular
    assert np.linalg.matrix_rank(sigma_t) <= problem.P


@given(problems(balanced=False), any_lambda)
def test_theorem_1_the_loss_is_the_least_squares_part_plus_the_deviation(problem: Problem, lam: float) -> None:
    features, labels = rows_and_labels(problem)
    C = problem.layout.C
    W, b = classifier(problem)
    stats = block_statistics(problem.H, problem.layout)
    parts = decompose(stats, W, b, lam)
    loss = oracles.mse(features, labels, W, b, lam)
    np.testing.assert_allclose(parts.loss, loss, rtol=1e-12)
    np.testing.assert_allclose(parts.nc1 + parts.nc23 + parts.perp, loss, rtol=1e-12)
    np.testing.assert_allclose(parts.ls, oracles.mse(features, labels, *ls_classifier(stats, lam), lam), rtol=1e-10)
    _, mu, sigma_t, _ = oracles.extended_moments(features, labels, C)
    D = np.column_stack([W, b]) - extended_ls_classifier(stats, lam)
    A = sigma_t + np.outer(mu, mu) + lam * np.eye(len(mu))
    np.testing.assert_allclose(parts.perp, 0.5 * np.trace(D @ A @ D.T), rtol=1e-9)


@given(problems(), any_lambda)
def test_theorem_2_the_parts_are_the_printed_ones(problem: Problem, lam: float) -> None:
    features, labels = rows_and_labels(problem)
    C = problem.layout.C
    stats = block_statistics(problem.H, problem.layout)
    M, _, _, sigma_w = oracles.extended_moments(features, labels, C)
    W = oracles.least_squares(features, labels, C, lam)
    parts = decompose(stats, *ls_classifier(stats, lam), lam)
    nc1 = 0.5 * np.trace(W @ (sigma_w + lam * np.eye(len(sigma_w))) @ W.T)
    np.testing.assert_allclose(parts.nc1, nc1, rtol=1e-8)
    np.testing.assert_allclose(parts.nc23, np.sum((W @ M - np.eye(C)) ** 2) / (2 * C), rtol=1e-7, atol=1e-14)
    assert abs(parts.perp) < 1e-14 * max(1, np.sum(W**2))


@given(problems(balanced=False), any_lambda)
def test_theorem_2_with_priors_for_unequal_classes(problem: Problem, lam: float) -> None:
    features, labels = rows_and_labels(problem)
    stats = block_statistics(problem.H, problem.layout)
    W, b = ls_classifier(stats, lam)
    parts = decompose(stats, W, b, lam)
    between = sum(
        pi * np.sum((W @ mu + b - e) ** 2)
        for pi, mu, e in zip(problem.layout.priors, stats.means.T, np.eye(problem.layout.C), strict=True)
    )
    np.testing.assert_allclose(parts.nc23, between / 2, rtol=1e-12)
    np.testing.assert_allclose(parts.nc1 + parts.nc23, oracles.mse(features, labels, W, b, lam), rtol=1e-12)


@given(problems())
def test_equation_7_at_lambda_zero(problem: Problem) -> None:
    stats = block_statistics(problem.H, problem.layout)
    C = problem.layout.C
    M, mu = stats.centred_means, stats.global_mean
    expected = M.T @ np.linalg.inv(stats.sigma_t) / C
    for W, b in (ls_classifier(stats, 0.0), central_path_classifier(stats)):
        np.testing.assert_allclose(W, expected, atol=1e-10)
        np.testing.assert_allclose(b, 1 / C - expected @ mu, atol=1e-10)


@given(problems(balanced=False))
def test_equation_8_predictions_are_invariant_under_every_invertible_map(problem: Problem) -> None:
    H, layout = problem.H, problem.layout
    A = np.eye(problem.P) + 0.5 * problem.rng.standard_normal((problem.P, problem.P)) / np.sqrt(problem.P)  # not symmetric
    shift = problem.rng.standard_normal((problem.P, 1))
    W, b = ls_classifier(block_statistics(H, layout), 0.0)
    W_mapped, b_mapped = ls_classifier(block_statistics(A @ H + shift, layout), 0.0)
    np.testing.assert_allclose(W_mapped @ (A @ H + shift) + b_mapped[:, None], W @ H + b[:, None], atol=1e-8)


@given(problems(), st.floats(-9, -4))
def test_the_undecayed_classifier_stays_exact_under_collapse(problem: Problem, log_ratio: float) -> None:
    """Sigma_T is nearly singular there; the SNR route must not care."""
    layout = problem.layout
    M = problem.rng.standard_normal((problem.P, layout.C))
    collapsed = layout.spread(M) + 10.0**log_ratio * layout.deviations(problem.H)
    stats = block_statistics(collapsed, layout)
    W, b = ls_classifier(stats, 0.0)
    whitened = np.linalg.solve(np.linalg.cholesky(stats.sigma_w), stats.centred_means)
    omega = np.linalg.svd(whitened, compute_uv=False)[: layout.C - 1]
    np.testing.assert_allclose(mse_loss(stats, W, b, 0.0), 0.5 * np.sum(1 / (omega**2 + layout.C)), rtol=1e-6)


def test_lambda_of_a_trained_network_makes_l_perp_vanish_and_the_notebook_s_does_not() -> None:
    """A linear head trained to its optimum with MSELoss and SGD weight decay wd is least squares for lambda = C wd / 2."""
    rng = np.random.default_rng(3)
    C, n, P, wd = 4, 120, 6, 0.05
    labels = np.arange(n) % C
    features = rng.standard_normal((n, P)) + rng.standard_normal((C, P))[labels]
    head = torch.nn.Linear(P, C, dtype=torch.float64)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.3, weight_decay=wd)
    inputs, targets = torch.from_numpy(features), torch.eye(C, dtype=torch.float64)[labels]
    for _ in range(1500):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(head(inputs), targets).backward()
        optimizer.step()
    W, b = head.weight.detach().numpy(), head.bias.detach().numpy()
    stats = statistics_of(features, labels, C)
    right = decompose(stats, W, b, lambda_of_weight_decay(wd, C))
    wrong = decompose(stats, W, b, wd / 2)  # what the authors' notebook uses
    assert right.perp < 1e-15 * right.ls
    assert wrong.perp > 1e-3 * wrong.ls


def test_torch_statistics_give_the_same_decomposition() -> None:
    rng = np.random.default_rng(5)
    features, labels = rng.standard_normal((40, 6)), np.arange(40) % 3
    W, b = rng.standard_normal((3, 6)), rng.standard_normal(3)
    for lam in (0.0, 0.1):
        expected = decompose(statistics_of(features, labels, 3), W, b, lam)
        tensors = statistics_of(torch.from_numpy(features), torch.from_numpy(labels), 3)
        got = decompose(tensors, torch.from_numpy(W), torch.from_numpy(b), lam)
        np.testing.assert_allclose(list(vars(got).values()), list(vars(expected).values()), rtol=1e-11)
        extended = extended_ls_classifier(tensors, 0.1).numpy()
        np.testing.assert_allclose(extended, extended_ls_classifier(statistics_of(features, labels, 3), 0.1), rtol=1e-9)


def singular_statistics(zero_within: bool) -> ClassStatistics:
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((30, 4)), np.arange(30) % 3
    features[:, 2] = np.eye(3)[labels][:, 0] if zero_within else 0.0
    return statistics_of(features, labels, 3)


def test_a_singular_within_covariance_is_fine_while_the_total_one_is_not_singular() -> None:
    stats = singular_statistics(zero_within=True)
    W, b = ls_classifier(stats, 0.0)
    assert abs(W[0] @ stats.means[:, 0] + b[0] - 1) < 1e-12  # a feature that tells class 0 apart without noise
    np.testing.assert_allclose(W, (stats.centred_means * stats.priors).T @ np.linalg.inv(stats.sigma_t), atol=1e-10)


def test_a_singular_total_covariance_and_a_negative_lambda_are_refused() -> None:
    with pytest.raises(ValueError, match="singular in 1 of 4 directions"):
        ls_classifier(singular_statistics(zero_within=False), 0.0)
    with pytest.raises(ValueError, match="lambda = -1"):
        ls_classifier(singular_statistics(zero_within=True), -1.0)


@pytest.mark.parametrize("shapes", [((1, 4), (3,)), ((4, 3), (3,)), ((3, 4), (3, 1)), ((3, 4), (1,))])
def test_classifiers_of_another_shape_are_refused_and_never_broadcast(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    W, b = (np.zeros(shape) for shape in shapes)
    stats = singular_statistics(zero_within=True)
    for evaluate in (decompose, mse_loss):
        with pytest.raises(ValueError, match="these features need"):
            evaluate(stats, W, b, 0.1)
    with pytest.raises(TypeError, match="got list"):
        decompose(stats, np.zeros((3, 4)), [0.0, 0.0, 0.0], 0.1)  # type: ignore[bad-argument-type]


@pytest.mark.parametrize("condition", [1e4, 1e8, 1e11])
@pytest.mark.parametrize("lam", [0.0, 1e-6, 0.1])
def test_the_parts_sum_to_the_loss_however_ill_conditioned(condition: float, lam: float) -> None:
    rng = np.random.default_rng(2)
    P, labels = 6, np.repeat(np.arange(4), 30)
    left, right = (np.linalg.qr(rng.standard_normal((P, P)))[0] for _ in range(2))
    noise = rng.standard_normal((120, P)) + rng.standard_normal((4, P))[labels]
    features = noise @ left @ np.diag(np.geomspace(1, condition**-0.5, P)) @ right
    W, b = rng.standard_normal((4, P)), rng.standard_normal(4)
    parts = decompose(statistics_of(features, labels, 4), W, b, lam)
    np.testing.assert_allclose(parts.nc1 + parts.nc23 + parts.perp, oracles.mse(features, labels, W, b, lam), rtol=1e-12)


def test_the_extended_form_refuses_what_the_other_refuses() -> None:
    with pytest.raises(ValueError, match="singular in 1 of 4 directions"):
        extended_ls_classifier(singular_statistics(zero_within=False), 0.0)
    with pytest.raises(ValueError, match="lambda = -1"):
        extended_ls_classifier(singular_statistics(zero_within=True), -1.0)
    stats = statistics_of(np.random.default_rng(0).standard_normal((30, 4)), np.arange(30) % 3, 3)
    np.testing.assert_allclose(extended_ls_classifier(stats, 0.0), extended_ls_classifier(stats, 1e-13), atol=1e-9)
