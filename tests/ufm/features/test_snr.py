"""Definitions 2-5, Observations 1-3 and Lemma 1: SNR matrix, renormalized features, aligned coordinates, spectral loss."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manifolds.class_centering import ClassLayout
from manifolds.linalg import congruence_residual, inverse_cholesky
from manifolds.normalized_features import constraint_residual
from manifolds.whitening import degenerate_deviation, symmetric_root, triangular_root, whiten
from tests import oracles
from tests.strategies import Problem, features, problems
from ufm.features import spectral_loss
from ufm.features.aligned_coordinates import aligned_coordinates
from ufm.features.least_squares import ls_classifier
from ufm.features.loss_decomposition import decompose
from ufm.features.measures import phd_equiangular, phd_equinorm, phd_maximal_angle, phd_nc1, phd_nc3
from ufm.features.ranges import reduce_to_range, snr_in_range
from ufm.features.snr import renormalized_features, snr, snr_spectrum
from ufm.features.statistics import block_statistics


def dense_snr(problem: Problem) -> np.ndarray:
    H, layout = problem.H, problem.layout
    M = layout.means(H) - H.mean(-1, keepdims=True)
    return oracles.inverse_sqrt(H @ oracles.class_centering(layout) @ H.T) @ M


@given(problems(balanced=False, few_features=True))
def test_definition_2_svd_of_the_snr_matrix(problem: Problem) -> None:
    spectrum = snr(problem.H, problem.layout)
    K = min(problem.layout.C - 1, problem.P)
    assert spectrum.omega.shape == (K,)
    assert (np.diff(spectrum.omega) <= 0).all()
    np.testing.assert_allclose((spectrum.left_vectors * spectrum.omega) @ spectrum.V.T, dense_snr(problem), atol=1e-8)
    np.testing.assert_allclose(spectrum.left_vectors.T @ spectrum.left_vectors, np.eye(K), atol=1e-12)
    np.testing.assert_allclose(spectrum.V.T @ spectrum.V, np.eye(K), atol=1e-12)
    cheap = snr_spectrum(problem.H, problem.layout)
    np.testing.assert_allclose(cheap.omega, spectrum.omega, rtol=1e-9)
    if len(spectrum.omega) < 2 or (-np.diff(spectrum.omega) > 1e-3 * spectrum.omega[0]).all():
        np.testing.assert_allclose(abs(cheap.V), abs(spectrum.V), atol=1e-7)
    with pytest.raises(ValueError, match="not snr_spectrum"):
        _ = cheap.left_vectors


@given(problems(balanced=False))
def test_torch_gives_the_same_svd(problem: Problem) -> None:
    spectrum, tensors = snr(problem.H, problem.layout), snr(torch.from_numpy(problem.H), problem.layout).to_numpy()
    np.testing.assert_allclose(tensors.omega, spectrum.omega, rtol=1e-10)
    np.testing.assert_allclose(
        (tensors.left_vectors * tensors.omega) @ tensors.V.T, (spectrum.left_vectors * spectrum.omega) @ spectrum.V.T, atol=1e-9
    )
    assert tensors.whitening.residual < 1e-11


@given(problems())
def test_lemma_1_the_loss_and_its_parts_are_spectral(problem: Problem) -> None:
    layout, C = problem.layout, problem.layout.C
    stats = block_statistics(problem.H, layout)
    parts = decompose(stats, *ls_classifier(stats, 0.0), 0.0)
    omega = snr(problem.H, layout).omega
    np.testing.assert_allclose(spectral_loss.spectral_loss(omega, C), parts.ls, rtol=1e-9)
    np.testing.assert_allclose(spectral_loss.spectral_loss_nc1(omega, C), parts.nc1, rtol=1e-8)
    np.testing.assert_allclose(spectral_loss.spectral_loss_nc23(omega, C), parts.nc23, rtol=1e-8)
    printed = 0.5 * np.sum((omega**2 / (omega**2 + C) - 1) ** 2 / C)
    np.testing.assert_allclose(spectral_loss.spectral_loss_nc23(omega, C), printed, rtol=1e-9)
    slope = oracles.directional_derivative(lambda w: spectral_loss.spectral_loss(w, C), omega, np.eye(len(omega))[0])
    np.testing.assert_allclose(slope, -spectral_loss.loss_slope(omega, C)[0], rtol=1e-6)


@given(problems(few_features=True).filter(lambda p: p.layout.C - 1 > p.P))
def test_fewer_features_than_classes_leave_a_loss_that_no_flow_removes(problem: Problem) -> None:
    """K = P < C - 1 values; the missing ones are zero and add (C - 1 - K) / (2 C)."""
    layout, C = problem.layout, problem.layout.C
    stats = block_statistics(problem.H, layout)
    parts = decompose(stats, *ls_classifier(stats, 0.0), 0.0)
    omega = snr(problem.H, layout).omega
    np.testing.assert_allclose(spectral_loss.spectral_loss(omega, C), parts.ls, rtol=1e-9)
    np.testing.assert_allclose(spectral_loss.spectral_loss_nc23(omega, C), parts.nc23, rtol=1e-9)
    np.testing.assert_allclose(spectral_loss.spectral_loss(omega * 1e9, C), (C - 1 - problem.P) / (2 * C), rtol=1e-12)


@given(problems())
def test_measures_along_a_law_are_those_of_the_renormalized_features(problem: Problem) -> None:
    layout = problem.layout
    X, spectrum = renormalized_features(problem.H, layout)
    stats = block_statistics(X, layout)
    W, _ = ls_classifier(stats, 0.0)
    M = stats.centred_means
    np.testing.assert_allclose(spectral_loss.spectral_nc1(spectrum.omega), phd_nc1(stats), rtol=1e-8)
    np.testing.assert_allclose(spectral_loss.spectral_equinorm(spectrum.omega, spectrum.V), phd_equinorm(M), atol=1e-9)
    np.testing.assert_allclose(spectral_loss.spectral_equiangular(spectrum.omega, spectrum.V), phd_equiangular(M), atol=1e-8)
    np.testing.assert_allclose(spectral_loss.spectral_maximal_angle(spectrum.omega, spectrum.V), phd_maximal_angle(M), atol=1e-8)
    np.testing.assert_allclose(spectral_loss.spectral_nc3(spectrum.omega, layout.C), phd_nc3(stats, W), atol=1e-10)


@given(problems(balanced=False))
def test_definition_5_renormalized_features_and_their_means(problem: Problem) -> None:
    X, spectrum = renormalized_features(problem.H, problem.layout)
    assert constraint_residual(X, problem.layout) < 1e-11
    np.testing.assert_allclose(X.mean(-1), 0, atol=1e-12)
    np.testing.assert_allclose(problem.layout.means(X), (spectrum.left_vectors * spectrum.omega) @ spectrum.V.T, atol=1e-9)
    np.testing.assert_allclose(X, dense_renormalized(problem), atol=1e-7)


def dense_renormalized(problem: Problem) -> np.ndarray:
    H = problem.H - problem.H.mean(-1, keepdims=True)
    return oracles.inverse_sqrt(H @ oracles.class_centering(problem.layout) @ H.T) @ H


@given(problems())
def test_definitions_3_to_5_aligned_coordinates_diagonalise_the_snr(problem: Problem) -> None:
    layout = problem.layout
    C, N = layout.C, layout.N
    X, spectrum = renormalized_features(problem.H, layout)
    aligned = aligned_coordinates(X, layout, spectrum.left_vectors, spectrum.V)
    K = len(spectrum.omega)
    np.testing.assert_allclose(aligned, spectrum.left_vectors.T @ X @ np.kron(spectrum.V, np.eye(N)), atol=1e-10)
    # Observations 1 and 3: Omega = X Y^T / N is diagonal
    means = aligned.reshape(K, K, N).mean(-1)
    np.testing.assert_allclose(means, np.diag(spectrum.omega), atol=1e-9)
    # Observation 2 with all C columns: the null vector of the means completes U and V
    V = np.column_stack([spectrum.V, np.full(C, C**-0.5)])
    U = np.linalg.qr(np.column_stack([spectrum.left_vectors, problem.rng.standard_normal(problem.P)]))[0]
    U[:, :K] = spectrum.left_vectors
    square = aligned_coordinates(X, layout, U, V)
    np.testing.assert_allclose(square @ oracles.class_centering(layout) @ square.T, np.eye(C), atol=1e-8)


def exact_omega(H: np.ndarray, layout: ClassLayout) -> np.ndarray:
    """SNR singular values with 50 digits, from the eigenvalues of Mbar^T Sigma_W^{-1} Mbar."""
    with mpmath.workdps(50):
        P, n, C, N = len(H), layout.n, layout.C, layout.N
        wide = mpmath.matrix(H.tolist())
        M = mpmath.matrix(P, C)
        for p in range(P):
            for c in range(C):
                M[p, c] = mpmath.fsum(wide[p, c * N + i] for i in range(N)) / N
        D = mpmath.matrix(P, n)
        for p in range(P):
            for i in range(n):
                D[p, i] = wide[p, i] - M[p, i // N]
            mean = mpmath.fsum(M[p, c] for c in range(C)) / C
            for c in range(C):
                M[p, c] -= mean
        gram = M.T * (mpmath.inverse(D * D.T / n) * M)
        values = mpmath.eigsy((gram + gram.T) / 2, eigvals_only=True)
        return np.sqrt(np.array(sorted((float(v) for v in values), reverse=True)[: C - 1]))


@pytest.mark.parametrize("condition", [1e2, 1e5, 1e6, 1e9, 1e12])
@pytest.mark.parametrize("measure", [snr, snr_spectrum])
def test_whitening_is_right_up_to_condition_1e12(condition: float, measure: object) -> None:
    layout, P = ClassLayout.equal(3, 20), 5
    rng = np.random.default_rng(int(np.log10(condition)))
    left, right = (np.linalg.qr(rng.standard_normal((P, P)))[0] for _ in range(2))
    H = left @ np.diag(np.geomspace(1, condition**-0.5, P)) @ right @ features(layout, P, rng)
    value = measure(H, layout)  # type: ignore[operator]
    np.testing.assert_allclose(value.omega, exact_omega(H, layout), rtol=1e-10)
    assert value.whitening.residual < 1e-12
    X, _ = renormalized_features(H, layout)
    assert constraint_residual(X, layout) < 1e-12


def test_means_far_from_the_origin_cost_no_accuracy() -> None:
    """Ave h h^T - M M^T would lose twelve digits here; the deviations are formed instead."""
    layout = ClassLayout.equal(3, 20)
    H = features(layout, 5, np.random.default_rng(0)) + 1e6
    np.testing.assert_allclose(snr_spectrum(H, layout).omega, exact_omega(H, layout), rtol=1e-9)


@pytest.mark.parametrize("rotate", [False, True])
def test_one_quiet_feature_far_from_the_origin_costs_no_accuracy(rotate: bool) -> None:
    """The mean square is that of the other features, so no test on traces sees it: 38^2 eps / 0.03^2 would be lost."""
    layout, P = ClassLayout.equal(3, 30), 8
    rng = np.random.default_rng(1)
    H = features(layout, P, rng)
    H[0] = 0.03 * rng.standard_normal(layout.n) + 38 + layout.spread(np.array([[0.03, 0.0, -0.03]]))[0]
    if rotate:
        H = np.linalg.qr(rng.standard_normal((P, P)))[0] @ H
    for spectrum in (snr(H, layout), snr_spectrum(H, layout)):
        np.testing.assert_allclose(spectrum.omega, exact_omega(H, layout), rtol=1e-11)
        assert spectrum.whitening.residual < 1e-12
    assert constraint_residual(renormalized_features(H, layout)[0], layout) < 1e-12


@given(problems(balanced=False), st.integers(1, 3))
def test_rank_deficient_features_are_refused_and_reduced(problem: Problem, dead: int) -> None:
    layout, P = problem.layout, problem.P
    if P < 3:
        return
    dead = min(dead, P - 2)
    H = problem.H.copy()
    H[:dead] = 0.0
    rotated = np.linalg.qr(problem.rng.standard_normal((P, P)))[0] @ H  # no coordinate is zero any more
    for matrix in (H, rotated):
        with pytest.raises(ValueError, match=f"{dead} of {P} directions"):
            snr(matrix, layout)
        reduced, reduction = reduce_to_range(matrix, layout)
        assert reduced.shape == (P - dead, layout.n)
        assert reduction.dropped == dead
        assert reduction.lost_signal < 1e-12
        np.testing.assert_allclose(snr(reduced, layout).omega, snr(H[dead:], layout).omega, rtol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_direction_is_empty_up_to_sqrt_p_roundings_of_the_features(dtype: type) -> None:
    """A within-class deviation of s sqrt(P) eps sqrt(Ave ||h||^2): s = 1/2 is dropped, though above eps; s = 4 is kept."""
    rng, P, layout = np.random.default_rng(3), 64, ClassLayout.equal(3, 60)
    H = layout.deviations(rng.standard_normal((P, layout.n)))
    H[:3] += layout.spread(np.eye(3))
    signs = np.tile([1.0, -1.0], layout.n // 2)  # mean 0 and deviation 1 in every class
    for s, kept in ((0.5, P - 1), (4.0, P)):
        H[-1] = 0
        H[-1] = s * P**0.5 * np.finfo(dtype).eps * np.mean((H**2).sum(0)) ** 0.5 * signs
        assert len(reduce_to_range(H.astype(dtype), layout)[0]) == kept


def test_signal_outside_the_range_is_reported() -> None:
    layout = ClassLayout.equal(3, 20)
    H = features(layout, 5, np.random.default_rng(0))
    H[4] = layout.spread(np.array([[10.0, 0.0, -10.0]]))[0]
    _, reduction = reduce_to_range(H, layout)
    M = layout.means(H) - H.mean(-1, keepdims=True)
    np.testing.assert_allclose(reduction.lost_signal, np.sum(M[4] ** 2) / np.sum(M**2), rtol=1e-9)
    with pytest.raises(ValueError, match="Sigma_W = 0"):
        reduce_to_range(layout.spread(M), layout)


@pytest.mark.parametrize("measure", [snr, snr_spectrum])
@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-150, 1e150, 1e200, 1e300])
def test_features_whose_squares_leave_float64_are_refused_with_the_number(scale: float, measure: object) -> None:
    layout = ClassLayout.equal(3, 20)
    H = features(layout, 5, np.random.default_rng(0))
    assert callable(measure)
    with pytest.raises(ValueError, match=r"the largest of features is \d"):  # a warning of numpy's would be an error too
        measure(scale * H / abs(H).max(), layout)


def test_too_few_examples_are_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"C\(N-1\) = 6 < P = 7"):
        snr(np.random.default_rng(0).standard_normal((7, 9)), ClassLayout.equal(3, 3))


def test_float32_features_are_measured_in_float64_and_their_rounding_counts_as_noise() -> None:
    layout = ClassLayout.equal(3, 40)
    H = features(layout, 5, np.random.default_rng(0)).astype(np.float32)
    np.testing.assert_allclose(snr(H, layout).omega, exact_omega(H.astype(np.float64), layout), rtol=1e-12)
    H[4] = H[3] + H[2]  # dependent up to float32 rounding only
    with pytest.raises(ValueError, match="1 of 5 directions"):
        snr(H, layout)


@given(st.integers(1, 200), st.integers(0, 2**31))
def test_blockwise_kernels_equal_the_plain_ones(P: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    D = rng.standard_normal((P, 3 * P + 5))
    S = D @ D.T / D.shape[1]
    inverse = inverse_cholesky(S)
    np.testing.assert_allclose(inverse @ np.linalg.cholesky(S), np.eye(P), atol=1e-10)
    np.testing.assert_allclose(np.triu(inverse, 1), 0)
    perturbed = S + 1e-3 * np.diag(rng.uniform(size=P))
    np.testing.assert_allclose(
        congruence_residual(inverse, perturbed), np.linalg.norm(inverse @ perturbed @ inverse.T - np.eye(P)), rtol=1e-8
    )
    degenerate = degenerate_deviation(1.0, P, 2.2e-16)
    for root in (triangular_root, symmetric_root):
        whitening = whiten(D, degenerate, root)
        A = whitening.apply(np.eye(P))
        np.testing.assert_allclose(A @ S @ A.T, np.eye(P), atol=1e-9)
        assert whitening.condition >= np.linalg.cond(S) * (1 - 1e-9)


@pytest.mark.parametrize(("shift", "condition", "apart"), [(1e14, 1, 1), (1e8, 1e12, 1), (0, 1, 1e12), (0, 1e6, 1e10)])
def test_far_means_cost_no_digits_of_what_is_stored(shift: float, condition: float, apart: float) -> None:
    layout, P = ClassLayout.equal(4, 15), 6
    rng = np.random.default_rng(0)
    H = rng.standard_normal((P, layout.n)) * np.geomspace(1, condition**-0.5, P)[:, None]
    H += layout.spread(apart * rng.standard_normal((P, 4))) + shift
    expected = exact_omega(H, layout)
    for matrix in (H, reduce_to_range(H, layout)[0]):
        np.testing.assert_allclose(snr(matrix, layout).omega, expected, rtol=1e-13)
        np.testing.assert_allclose(snr_spectrum(matrix, layout).omega, expected, rtol=1e-13)


def test_a_reduction_that_drops_a_direction_keeps_the_digits_of_the_others() -> None:
    layout, P = ClassLayout.equal(4, 15), 6
    rng = np.random.default_rng(0)
    H = rng.standard_normal((P, layout.n)) + layout.spread(1e12 * rng.standard_normal((P, 4)))
    dead = np.vstack([H[:2], np.zeros((1, layout.n)), H[2:], layout.spread(rng.standard_normal((1, 4)))])
    reduced, reduction = reduce_to_range(dead, layout)
    assert reduction.dropped == 2
    np.testing.assert_array_equal(reduced, H)
    np.testing.assert_array_equal(reduction.basis.T @ dead, H)
    np.testing.assert_allclose(snr(reduced, layout).omega, exact_omega(H, layout), rtol=1e-13)


@pytest.mark.parametrize("apart", [1e6, 1e8, 1e10])
@pytest.mark.parametrize("precision", [np.float64, np.float32])
def test_digits_that_features_do_not_hold_are_estimated(apart: float, precision: type) -> None:
    apart = apart if precision is np.float64 else apart**0.5
    layout, P = ClassLayout.equal(4, 15), 6
    rng = np.random.default_rng(0)
    H = rng.standard_normal((P, layout.n)) * np.geomspace(1, 0.1, P)[:, None]
    H += layout.spread(rng.standard_normal((P, 4)))
    stored = (H + apart).astype(precision)
    for measure in (snr, snr_spectrum):
        measured = measure(stored, layout)
        error = abs(measured.omega / exact_omega(H, layout) - 1).max()
        assert error <= measured.relative_error <= 1e4 * error
        assert measured.relative_error < 20 * np.finfo(precision).eps * apart / 0.1 * P


@pytest.mark.parametrize("apart", [1e3, 1e8, 1e12])
def test_digits_that_a_change_of_basis_costs_are_estimated(apart: float) -> None:
    layout, P = ClassLayout.equal(4, 15), 6
    rng = np.random.default_rng(0)
    H = rng.standard_normal((P, layout.n)) + layout.spread(apart * rng.standard_normal((P, 4)))
    dependent = np.vstack([H, H[:2]])  # two rows twice: the empty directions are no rows
    reduced, reduction = reduce_to_range(dependent, layout)
    assert reduction.dropped == 2
    measured = snr(reduced, layout)
    error = abs(measured.omega / exact_omega(H, layout) - 1).max()
    assert error <= measured.relative_error <= 1e4 * error


def test_statistics_know_how_far_their_snr_can_be_trusted() -> None:
    layout, P = ClassLayout.equal(3, 17), 5
    rng = np.random.default_rng(0)
    for condition in (1.0, 1e8, 1e13):
        H = rng.standard_normal((P, layout.n)) * np.geomspace(1, condition**-0.5, P)[:, None]
        H += layout.spread(rng.standard_normal((P, 3)) * np.geomspace(1, condition**-0.5, P)[:, None])
        measured = snr_in_range(block_statistics(H, layout), np.finfo(float).eps)
        error = abs(measured.omega / exact_omega(H, layout) - 1).max()
        assert error <= max(10 * measured.rounding, 1e-13)
        assert condition / 10 < measured.rounding / np.finfo(float).eps < condition * 10


def test_statistics_in_range_are_the_same_in_numpy_and_torch() -> None:
    layout = ClassLayout((15, 22, 31))
    H = features(layout, 5, np.random.default_rng(3))
    H[2] = 0
    stats = block_statistics(H, layout)
    tensors = block_statistics(torch.from_numpy(H), layout)
    ours, theirs = (snr_in_range(s, 1e-16) for s in (stats, tensors))
    assert ours.dropped == theirs.dropped == 1
    for name in ("omega", "V", "U"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-12)
