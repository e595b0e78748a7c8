"""Singular values and vectors through the Gram matrix, beside those of LAPACK on the matrix itself."""

import numpy as np
import pytest
import torch

from ufm.laws.thin_svd import singular_values, thin_svd


def matrix(m: int, c: int, condition: float) -> np.ndarray:
    """Known singular values from `condition` down to 1."""
    rng = np.random.default_rng(m)
    U, V = (np.linalg.qr(rng.standard_normal((size, min(m, c))))[0] for size in (m, c))
    return (U * np.geomspace(condition, 1, min(m, c))) @ V.T


@pytest.mark.parametrize("shape", [(5, 9), (70, 131), (131, 70)])
@pytest.mark.parametrize("condition", [30.0, 1e5, 1e9])
def test_every_singular_value_keeps_its_digits_whatever_the_condition(shape: tuple[int, int], condition: float) -> None:
    Z = matrix(*shape, condition)
    allowed = max(1e-12, 1e-15 * condition * 10)  # of any backward stable method
    known = np.geomspace(condition, 1, min(shape))
    for values in (singular_values(Z), thin_svd(Z)[1], singular_values(torch.from_numpy(Z)).numpy()):
        np.testing.assert_allclose(values, known, rtol=allowed)


@pytest.mark.parametrize("condition", [30.0, 1e5])
def test_the_vectors_are_orthonormal_and_give_the_matrix_back(condition: float) -> None:
    Z = matrix(70, 131, condition)
    for given in (Z, torch.from_numpy(Z)):
        U, sigma, Vt = (np.asarray(x) for x in thin_svd(given))
        np.testing.assert_allclose((U * sigma) @ Vt, Z, atol=1e-13 * condition)
        np.testing.assert_allclose(U.T @ U, np.eye(70), atol=1e-13)
        np.testing.assert_allclose(Vt @ Vt.T, np.eye(70), atol=1e-11)


def test_a_singular_matrix_has_its_zeros() -> None:
    Z = matrix(70, 131, 30.0)
    Z[3] = Z[4]
    assert singular_values(Z)[-1] < 1e-14 < 0.5 < singular_values(Z)[-2]
