"""Lemma 3: the derivative of the SNR singular values, against differences of the SVD and the printed rows."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given

from manifolds.class_centering import ClassLayout
from tests import oracles
from tests.strategies import Problem, problems
from ufm.features.aligned_coordinates import aligned_coordinates
from ufm.features.singular_value_derivative import singular_value_derivative
from ufm.features.snr import Snr, renormalized_features


def rows_of(problem: Problem) -> tuple[np.ndarray, Snr, np.ndarray]:
    X, spectrum = renormalized_features(problem.H, problem.layout)
    return X, spectrum, singular_value_derivative(X, problem.layout, spectrum.left_vectors, spectrum.omega, spectrum.V)


@given(problems(few_features=True))
def test_lemma_3_is_the_slope_of_the_svd_in_every_direction(problem: Problem) -> None:
    X, spectrum, rows = rows_of(problem)
    omega, layout, Z = spectrum.omega, problem.layout, problem.direction() / 10
    assume((-np.diff(omega, append=0) > 0.05 * omega[0]).all())  # elsewhere a value has no derivative of its own
    C_M = oracles.class_centering(layout)

    def values(H: np.ndarray) -> np.ndarray:
        M = layout.means(H) - H.mean(1, keepdims=True)
        return np.linalg.svd(oracles.inverse_sqrt(H @ C_M @ H.T) @ M, compute_uv=False)[: len(omega)]

    slope = oracles.directional_derivative(values, X, Z)
    np.testing.assert_allclose(np.sum(rows * (spectrum.left_vectors.T @ Z), axis=1), slope, rtol=1e-5, atol=1e-6)


@given(problems(few_features=True))
def test_the_rows_are_the_printed_ones_in_aligned_coordinates(problem: Problem) -> None:
    """y_j / N - omega_j x_j C with x_j the j-th row of aligned coordinates, whose y_j is 1 on the j-th block and 0 elsewhere."""
    X, spectrum, _ = rows_of(problem)
    C, N, K = problem.layout.C, problem.layout.N, len(spectrum.omega)
    V = np.linalg.qr(np.column_stack([spectrum.V, np.ones(C), problem.rng.standard_normal((C, C))]))[0][:, :C]
    V[:, :K] = spectrum.V
    aligned = aligned_coordinates(X, problem.layout, spectrum.left_vectors, V)
    y = np.kron(np.eye(C), np.ones(N))[:K]
    printed = y / N - spectrum.omega[:, None] * aligned @ oracles.class_centering(problem.layout)
    rows = singular_value_derivative(aligned, problem.layout, np.eye(K), spectrum.omega, np.eye(C)[:, :K])
    np.testing.assert_allclose(rows, printed, atol=1e-12)


@given(problems(few_features=True))
def test_the_rows_in_the_features_own_coordinates_and_in_torch(problem: Problem) -> None:
    X, spectrum, rows = rows_of(problem)
    U, omega, V, layout = spectrum.left_vectors, spectrum.omega, spectrum.V, problem.layout
    printed = V.T @ oracles.one_hot(layout) / layout.N - omega[:, None] * (U.T @ X @ oracles.class_centering(layout))
    np.testing.assert_allclose(rows, printed, atol=1e-12)
    points, *vectors = map(torch.from_numpy, (X, U, omega, V))
    in_torch = singular_value_derivative(points, layout, *vectors)
    np.testing.assert_allclose(in_torch.numpy(), rows, atol=1e-14)


def test_unequal_classes_and_other_columns_are_refused() -> None:
    X, U, omega, V = np.eye(3, 14), np.eye(3)[:, :1], np.ones(1), np.full((2, 1), 0.5)
    with pytest.raises(ValueError, match="subsample every class to 5"):
        singular_value_derivative(X, ClassLayout((5, 9)), U, omega, V)
    with pytest.raises(ValueError, match="X has 14 columns but the class sizes sum to 12"):
        singular_value_derivative(X, ClassLayout.equal(2, 6), U, omega, V)


def test_vectors_of_other_numbers_are_refused_where_they_would_be_broadcast() -> None:
    layout, rng = ClassLayout.equal(3, 4), np.random.default_rng(0)
    X, spectrum = renormalized_features(rng.standard_normal((6, 12)), layout)
    U, omega, V = spectrum.left_vectors, spectrum.omega, spectrum.V
    for vectors in ((U[:, :1], omega, V), (U, omega[:1], V), (U, omega, V[:, :1]), (U, omega, V.T), (U, omega, np.eye(2))):
        with pytest.raises(ValueError, match=r"U .*, omega .*, V .*: columns of U and V and entries of omega belong together"):
            singular_value_derivative(X, layout, *vectors)


def test_a_batch_is_one_point_after_another() -> None:
    layout, rng = ClassLayout.equal(3, 4), np.random.default_rng(0)
    points = [renormalized_features(rng.standard_normal((2, 12)), layout) for _ in range(2)]  # as many as features
    arguments = [(X, spectrum.left_vectors, spectrum.omega, spectrum.V) for X, spectrum in points]
    X, *vectors = (np.stack(part) for part in zip(*arguments, strict=True))
    each = [singular_value_derivative(X, layout, *vectors) for X, *vectors in arguments]
    np.testing.assert_allclose(singular_value_derivative(X, layout, *vectors), each, atol=1e-14)
