"""The unnormalized flow from any start: the closed P x C system against the full state, crossings, limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifolds.class_centering import ClassLayout
from tests.strategies import Problem, features, problems
from ufm.features.snr import snr
from ufm.interrupt import Interrupted
from ufm.laws.mean_run import growth_time, run_raw
from ufm.laws.mean_system import mean_system
from ufm.laws.trajectory import follow
from ufm.tensor.integrate import integrate_scipy
from ufm.tensor.renormalized_flow import UNNORMALIZED_FLOW, central_path_field


@given(problems(few_features=True), st.floats(0.02, 0.4))
def test_the_mean_system_is_the_full_flow(problem: Problem, share: float) -> None:
    layout = problem.layout
    H = problem.H - problem.H.mean(-1, keepdims=True)
    times = np.array([0.0, 0.5, 1.0]) * share * layout.C**2 * layout.N * np.linalg.eigvalsh(H @ H.T / layout.n)[0]
    trajectory = run_raw(mean_system(H, layout, snr(H, layout)), times)
    states = integrate_scipy(central_path_field(UNNORMALIZED_FLOW, layout), H, times)
    for omega, state in zip(trajectory.omega, states, strict=True):
        np.testing.assert_allclose(np.sort(omega)[::-1], snr(state, layout).omega, rtol=1e-6, atol=1e-9)


def test_from_total_covariance_identity_it_is_law_c() -> None:
    layout = ClassLayout.equal(4, 15)
    H = features(layout, 6, np.random.default_rng(0))
    H -= H.mean(-1, keepdims=True)
    values, E = np.linalg.eigh(H @ H.T / layout.n)
    whitened = (E / np.sqrt(values)) @ E.T @ H
    times = np.linspace(0, 2 * layout.C**2 * layout.N, 5)
    expected = UNNORMALIZED_FLOW.law.omega(times, snr(whitened, layout).omega, layout.C, layout.N)
    np.testing.assert_allclose(run_raw(mean_system(whitened, layout, snr(whitened, layout)), times).omega, expected, rtol=1e-8)


def test_singular_values_that_cross_are_followed_by_their_vectors() -> None:
    """Two decoupled directions with different second moments: the slower starts larger and is overtaken."""
    layout = ClassLayout.equal(3, 20)
    rng = np.random.default_rng(0)
    D = layout.deviations(rng.standard_normal((2, layout.n)))
    D = np.linalg.solve(np.linalg.cholesky(D @ D.T / layout.n), D)
    v = np.linalg.qr(np.column_stack([np.ones(3), rng.standard_normal((3, 2))]))[0][:, 1:].T
    H = np.diag([3.0, 0.5]) @ (D + layout.spread(np.diag([2.0, 1.0]) @ v))
    trajectory = run_raw(mean_system(H, layout, snr(H, layout)), np.linspace(0, 60, 30))
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
    system = mean_system(H, layout, snr(H, layout))
    t = growth_time(system, 4.0)
    omega = run_raw(system, np.array([0.0, t])).omega
    np.testing.assert_allclose(omega[1].min(), 4 * omega[0].min(), rtol=1e-5)


def test_far_into_collapse_nothing_cancels() -> None:
    """1 - q = 1e-14 at the end, of which the class means themselves keep one digit."""
    layout = ClassLayout.equal(4, 15)
    H = features(layout, 6, np.random.default_rng(0))
    H -= H.mean(-1, keepdims=True)
    values, E = np.linalg.eigh(H @ H.T / layout.n)
    whitened = (E / np.sqrt(values)) @ E.T @ H
    spectrum = snr(whitened, layout)
    times = np.array([0.0, 15.0 * layout.C**2 * layout.N])
    expected = UNNORMALIZED_FLOW.law.omega(times, spectrum.omega, layout.C, layout.N)
    np.testing.assert_allclose(run_raw(mean_system(whitened, layout, spectrum), times).omega, expected, rtol=1e-7)


@pytest.mark.parametrize("condition", [1e4, 1e12])
def test_an_ill_conditioned_start_keeps_its_singular_values(condition: float) -> None:
    layout, P = ClassLayout.equal(3, 20), 5
    rng = np.random.default_rng(3)
    left, right = (np.linalg.qr(rng.standard_normal((P, P)))[0] for _ in range(2))
    H = left @ np.diag(np.geomspace(1, condition**-0.5, P)) @ right @ features(layout, P, rng)
    spectrum = snr(H, layout)
    system = mean_system(H, layout, spectrum)
    np.testing.assert_allclose(system.snr(system.Z)[0], spectrum.omega, rtol=1e-8)


def test_columns_do_not_depend_on_the_output_times() -> None:
    for seed in range(6):
        layout = ClassLayout.equal(4, 15)
        rng = np.random.default_rng(seed)
        H = np.diag(np.geomspace(0.3, 3, 6)) @ features(layout, 6, rng)
        system = mean_system(H, layout, snr(H, layout))
        T = 0.5 * layout.C**2 * layout.N
        few, many = (run_raw(system, np.linspace(0, T, count)).omega[-1] for count in (2, 200))
        np.testing.assert_allclose(few, many, rtol=1e-7)


def test_an_interrupted_run_keeps_the_times_reached() -> None:
    layout = ClassLayout.equal(3, 12)
    H = features(layout, 5, np.random.default_rng(1))
    system = mean_system(H, layout, snr(H, layout))
    times = np.linspace(0, 200, 100)

    def stop(share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interrupted:
        run_raw(system, times, progress=stop)
    assert isinstance(interrupted.value, Interrupted)
    part, whole = interrupted.value.partial, run_raw(system, times)
    assert 40 < len(part.t) < 100
    np.testing.assert_array_equal(part.omega, whole.omega[: len(part.t)])
