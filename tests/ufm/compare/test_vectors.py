"""Frozen singular vectors: angles against scipy's, and the share of SNR that left its frozen directions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from tests.ufm.compare.synthetic import trajectory
from ufm.compare.vectors import Frozen, frozen_vectors, largest_principal_angle
from ufm.laws.trajectory import Trajectory

C, N, P, K = 5, 8, 7, 3


def orthonormal(rng: np.random.Generator, m: int, K: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((m, K)))[0]


def measured(omega: np.ndarray, U: np.ndarray, V: np.ndarray) -> Trajectory:
    return Trajectory(np.arange(len(omega), dtype=float), omega, V[0], C, N, U[0], V, U)


def frozen(omega: np.ndarray, U: np.ndarray, V: np.ndarray) -> Frozen:
    vectors = frozen_vectors(measured(omega, U, V))
    assert vectors is not None
    return vectors


@given(st.floats(-9, 0.19), st.integers(0, 99))  # radians, 1e-9 to pi / 2
def test_the_largest_principal_angle_is_scipys(exponent: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    Q = orthonormal(rng, P, P)
    A, angles = Q[:, :K], 10**exponent * np.array([1, 0.5, 0])
    B = A * np.cos(angles) + Q[:, K : 2 * K] * np.sin(angles)
    B = B @ orthonormal(rng, K, K)
    angle = largest_principal_angle(A, B)
    assert angle == pytest.approx(max(subspace_angles(A, B)), rel=1e-6, abs=1e-15)
    assert angle == pytest.approx(min(10**exponent, np.pi / 2), rel=1e-6, abs=2e-15)
    assert largest_principal_angle(B, A) == pytest.approx(angle, rel=1e-6, abs=2e-15)


def test_the_largest_principal_angle_at_its_ends() -> None:
    A = np.eye(P)[:, :K]
    assert largest_principal_angle(A, -A[:, ::-1]) == 0
    assert largest_principal_angle(A, np.eye(P)[:, [0, 1, 5]]) == pytest.approx(np.pi / 2)


@given(st.integers(0, 99))
def test_frozen_vectors_do_not_rotate_whatever_their_signs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    U, V, T = orthonormal(rng, P, K), orthonormal(rng, C, K), 6
    signs = rng.choice([-1.0, 1.0], size=(T, 1, K))
    vectors = frozen(np.exp(rng.standard_normal((T, K))), U * signs, V * signs)
    for angles in (vectors.subspace_u, vectors.subspace_v, vectors.angle_u, vectors.angle_v):
        assert angles is not None
        assert abs(angles).max() < 1e-14
    assert vectors.rotated is not None
    assert vectors.rotated.max() < 1e-14


@given(st.integers(0, 99))
def test_vectors_of_equal_values_may_turn_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    U, V = orthonormal(rng, P, K), orthonormal(rng, C, K)
    omega = np.tile([2.0, 2.0, 5.0], (4, 1)) * np.array([1, 2, 3, 4.0])[:, None]
    turns = np.stack([np.eye(K) for _ in omega])
    for k in (1, 2, 3):
        turns[k, :2, :2] = orthonormal(rng, 2, 2)
    vectors = frozen(omega, U @ turns, V @ turns)
    assert vectors.rotated is not None
    assert vectors.rotated.max() < 1e-14
    assert vectors.subspace_u is not None
    assert max(vectors.subspace_u.max(), vectors.subspace_v.max()) < 1e-14


def test_a_known_rotation_is_measured() -> None:
    rng = np.random.default_rng(0)
    Q, V = orthonormal(rng, P, P), orthonormal(rng, C, K)
    theta = np.array([0.0, 1e-7, 0.3, 1.2])
    U = np.tile(Q[:, :K], (4, 1, 1))
    U[:, :, 1] = Q[:, 1] * np.cos(theta)[:, None] + Q[:, 5] * np.sin(theta)[:, None]
    omega = np.tile([4.0, 3.0, 1.0], (4, 1))
    vectors = frozen(omega, U, np.tile(V, (4, 1, 1)))
    assert vectors.angle_u is not None
    assert vectors.rotated is not None
    assert vectors.subspace_u is not None
    np.testing.assert_allclose(vectors.angle_u, theta[:, None] * [0, 1, 0], rtol=1e-7, atol=1e-14)
    np.testing.assert_allclose(vectors.subspace_u, theta, rtol=1e-7, atol=1e-14)
    np.testing.assert_allclose(vectors.rotated, 9 * np.sin(theta) ** 2 / 26, atol=1e-14)
    assert vectors.angle_v is not None
    assert vectors.angle_v.max() < 1e-14


def test_left_and_right_vectors_that_turn_apart_are_rotated_even_at_equal_values() -> None:
    rng = np.random.default_rng(0)
    U, V = orthonormal(rng, P, K), orthonormal(rng, C, K)
    cos, sin = np.cos(0.4), np.sin(0.4)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    vectors = frozen(np.tile([2.0, 2.0, 1.0], (2, 1)), np.stack([U, U @ turn]), np.stack([V, V]))
    assert vectors.rotated is not None
    assert vectors.subspace_u is not None
    np.testing.assert_allclose(vectors.rotated, [0, 8 * sin**2 / 9], atol=1e-14)
    assert vectors.subspace_u is not None
    assert vectors.subspace_u.max() < 1e-14


def test_without_vectors_at_every_time_there_is_no_answer() -> None:
    assert frozen_vectors(trajectory(np.zeros((4, K)))) is None
    rng = np.random.default_rng(0)
    V = np.tile(orthonormal(rng, C, K), (3, 1, 1))
    vectors = frozen_vectors(Trajectory(np.arange(3.0), np.ones((3, K)), V[0], C, N, None, V))
    assert vectors is not None
    assert vectors.subspace_u is vectors.angle_u is vectors.rotated is None
    assert vectors.subspace_v.max() < 1e-14
