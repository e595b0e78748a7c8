"""The unnormalized flow from any start: the closed P x C system against the full state, crossings, limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifolds.classes import ClassLayout
from tests.strategies import Problem, features, problems
from ufm.flows import UNNORMALIZED, central_path_field
from ufm.integrate import integrate_scipy
from ufm.raw import growth_time, mean_system, run_raw, snr_of_means
from ufm.snr import snr
from ufm.trajectory import follow


@given(problems(few_features=True), st.floats(0.02, 0.4))
def test_the_mean_system_is_the_full_flow(problem: Problem, share: float) -> None:
    layout = problem.layout
    H = problem.H - problem.H.mean(-1, keepdims=True)
    times = np.array([0.0, 0.5, 1.0]) * share * layout.C**2 * layout.N * np.linalg.eigvalsh(H @ H.T / layout.n)[0]
    trajectory = run_raw(mean_system(H, layout), times)
    states = integrate_scipy(central_path_field(UNNORMALIZED, layout), H, times)
    for omega, state in zip(trajectory.omega, states, strict=True):
        np.testing.assert_allclose(np.sort(omega)[::-1], snr(state, layout).omega, rtol=1e-6, atol=1e-9)


def test_from_total_covariance_identity_it_is_law_c() -> None:
    layout = ClassLayout.equal(4, 15)
    H = features(layout, 6, np.random.default_rng(0))
    H -= H.mean(-1, keepdims=True)
    values, E = np.linalg.eigh(H @ H.T / layout.n)
    whitened = (E / np.sqrt(values)) @ E.T @ H
    times = np.linspace(0, 2 * layout.C**2 * layout.N, 5)
    expected = UNNORMALIZED.law.omega(times, snr(whitened, layout).omega, layout.C, layout.N)
    np.testing.assert_allclose(run_raw(mean_system(whitened, layout), times).omega, expected, rtol=1e-8)


def test_singular_values_that_cross_are_followed_by_their_vectors() -> None:
    """Two decoupled directions with different second moments: the slower starts larger and is overtaken."""
    layout = ClassLayout.equal(3, 20)
    rng = np.random.default_rng(0)
    D = layout.deviations(rng.standard_normal((2, layout.n)))
    D = np.linalg.solve(np.linalg.cholesky(D @ D.T / layout.n), D)
    v = np.linalg.qr(np.column_stack([np.ones(3), rng.standard_normal((3, 2))]))[0][:, 1:].T
    H = np.diag([3.0, 0.5]) @ (D + layout.spread(np.diag([2.0, 1.0]) @ v))
    trajectory = run_raw(mean_system(H, layout), np.linspace(0, 60, 30))
    assert (trajectory.omega[0] == np.sort(trajectory.omega[0])[::-1]).all()
    assert trajectory.omega[-1, 1] > trajectory.omega[-1, 0]  # crossed
    assert (np.diff(trajectory.omega, axis=0) > 0).all()  # and each column is smooth: no swap in the middle
    assert abs(np.diff(np.log(trajectory.omega), 2, axis=0)).max() < 0.05


def test_follow_keeps_columns_with_their_vectors() -> None:
    V = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 3)))[0]
    omega, followed = follow(V, np.array([3.0, 2.0, 1.0]), -V[:, [2, 0, 1]])
    np.testing.assert_array_equal(omega, [2.0, 1.0, 3.0])
    np.testing.assert_array_equal(followed, -V)


def test_growth_time_is_where_the_smallest_value_has_grown() -> None:
    layout = ClassLayout.equal(3, 12)
    H = features(layout, 5, np.random.default_rng(1))
    system = mean_system(H, layout)
    t = growth_time(system, 4.0)
    omega = run_raw(system, np.array([0.0, t])).omega
    np.testing.assert_allclose(omega[1].min(), 4 * omega[0].min(), rtol=1e-5)


def test_what_float64_cannot_resolve_is_refused() -> None:
    with pytest.raises(ValueError, match="collapsed past"):
        snr_of_means(np.sqrt(3) * np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]]) / np.sqrt([[2.0], [6.0]]), 3)
    layout = ClassLayout.equal(3, 12)
    H = features(layout, 5, np.random.default_rng(1))
    H[4] = H[3]
    with pytest.raises(ValueError, match="Sigma_T is singular"):
        mean_system(H, layout)
