"""The closed laws of a class-block kernel: 1e-13 against 50 digits, limits and neighbours, and the flow of the whole tensor."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import Problem, problems
from tests.ufm.laws import oracles
from ufm.features.snr import snr
from ufm.laws.kernel_ratio import RenormalizedKernelRatio, UnnormalizedKernelRatio, log1p_excess, log1p_remainder
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED, UNNORMALIZED

sizes = st.tuples(st.integers(2, 200), st.integers(1, 3000))
log10_r = st.floats(-4, 9)
ridges = st.sampled_from([0.0, 0.03, 1.7])
Law = RenormalizedKernelRatio | UnnormalizedKernelRatio


@st.composite
def laws(draw: st.DrawFn) -> Law:
    r = 10.0 ** draw(log10_r)
    return RenormalizedKernelRatio(r, draw(ridges)) if draw(st.booleans()) else UnnormalizedKernelRatio(r)


def phi_exact(law: Law, u: mpmath.mpf) -> mpmath.mpf:
    """Phi of docs/mathematics-beyond.md with 60 digits."""
    r = mpmath.mpf(law.kernel_ratio)
    if isinstance(law, UnnormalizedKernelRatio):
        return mpmath.log(u) / r**2 + (1 - 1 / r**2) * mpmath.log(r + u) + ((r - 1) ** 2 / r) / (r + u)
    s = 1 + mpmath.mpf(law.ridge)
    return s * (u / s + mpmath.log(u / s) / r - ((r - 1) ** 2 / r) * mpmath.log(r + u / s))


def slope_exact(law: Law, u: mpmath.mpf) -> mpmath.mpf:
    """d Phi / d log u"""
    r = mpmath.mpf(law.kernel_ratio)
    if isinstance(law, UnnormalizedKernelRatio):
        return ((1 + u) / (r + u)) ** 2
    s = 1 + mpmath.mpf(law.ridge)
    return (s + u) ** 2 / (r * s + u)


@given(laws(), sizes, st.floats(-8, 8), st.one_of(st.just(0.0), st.floats(-12, 14).map(lambda e: 10.0**e)))
def test_the_inverse_is_right_to_1e_13(law: Law, CN: tuple[int, int], e: float, tau: float) -> None:
    C, N = CN
    omega0, t = math.sqrt(C * 10.0**e), tau * C * C * N / 2
    got = float(law.log_omega(np.array(t), np.array(omega0), C, N))
    with mpmath.workdps(60):
        u0 = mpmath.mpf(omega0) ** 2 / C
        target = phi_exact(law, u0) + 2 * mpmath.mpf(t) / (C * C * N)
        y = 2 * mpmath.mpf(got) - mpmath.log(C)
        # Newton's correction of what we found is its error, since Phi is smooth in log u and the correction is tiny
        correction = (phi_exact(law, mpmath.exp(y)) - target) / slope_exact(law, mpmath.exp(y)) / 2
        assert abs(correction) <= 1e-13 * max(1, abs(got))


@given(laws(), sizes, st.floats(-5, 5), st.floats(-9, 3))
def test_time_inverts_omega_without_cancellation(law: Law, CN: tuple[int, int], e: float, log_growth: float) -> None:
    C, N = CN
    omega0 = np.array([10.0**e])
    omega = omega0 * (1 + 10.0**log_growth)
    t = float(law.time(omega, omega0, C, N)[0])
    with mpmath.workdps(60):
        u, u0 = (mpmath.mpf(float(w[0])) ** 2 / C for w in (omega, omega0))
        exact = (phi_exact(law, u) - phi_exact(law, u0)) * C * C * N / 2
        assert abs(t - exact) <= 1e-13 * abs(exact)


@given(laws(), sizes, st.floats(-3, 3))
def test_phi_has_the_rate_of_its_law(law: Law, CN: tuple[int, int], e: float) -> None:
    C, N = CN
    omega = np.array([10.0**e])
    u = omega**2 / C
    slope = (law.phi(u * np.exp(1e-4)) - law.phi(u * np.exp(-1e-4))) / 2e-4
    np.testing.assert_allclose(slope, float(slope_exact(law, mpmath.mpf(float(u[0])))), rtol=1e-5)
    np.testing.assert_allclose(law.rate(omega, C, N) * slope / omega, 1 / (C * C * N), rtol=1e-5)  # half of d log u


@given(sizes, st.floats(-3, 3), st.floats(-3, 3))
def test_ratio_one_is_laws_a_and_c_and_large_ratios_law_b(CN: tuple[int, int], e: float, log_t: float) -> None:
    C, N = CN
    omega0, t = np.array([10.0**e]), np.array([10.0**log_t * C * C * N])
    near = RenormalizedKernelRatio(1.0).omega(t, omega0, C, N)
    np.testing.assert_allclose(near, RENORMALIZED.omega(t, omega0, C, N), rtol=1e-13)
    r = 1e12
    expected = EMBEDDED.omega(t, omega0, C, N)
    np.testing.assert_allclose(RenormalizedKernelRatio(r).omega(t / r, omega0, C, N), expected, rtol=1e-5)
    np.testing.assert_allclose(UnnormalizedKernelRatio(r).omega(t / r**2, omega0, C, N), expected, rtol=1e-5)
    if log_t < 2:
        unit = UnnormalizedKernelRatio(1.0).omega(t, omega0, C, N)
        np.testing.assert_allclose(unit, UNNORMALIZED.omega(t, omega0, C, N), rtol=1e-12)


@given(problems(few_features=True), st.sampled_from([0.3, 1.0, 4.0, 30.0]), ridges, st.floats(0.1, 3))
def test_the_renormalized_law_is_the_flow_of_the_whole_tensor(problem: Problem, r: float, ridge: float, share: float) -> None:
    layout, X = problem.layout, problem.X - problem.X.mean(1, keepdims=True)
    C, N, kernel = layout.C, layout.N, oracles.class_kernel(layout, r)
    t = share * layout.n * C / (2 * max(r, 1))
    state = oracles.integrated(lambda X: oracles.renormalized_velocity(X, layout, ridge, kernel), X, np.array([t]))[0]
    omega = RenormalizedKernelRatio(r, ridge).omega(np.array(t), snr(X, layout).omega, C, N)
    np.testing.assert_allclose(omega, oracles.singular_values(state, layout), rtol=1e-9, atol=1e-9)


@given(problems(few_features=True), st.sampled_from([0.3, 1.0, 4.0, 30.0]), st.floats(0.1, 2))
def test_the_unnormalized_law_is_the_flow_of_the_whole_tensor(problem: Problem, r: float, share: float) -> None:
    """From r Sigma_W + M M^T / C = I."""
    layout, X = problem.layout, problem.X - problem.X.mean(1, keepdims=True)
    C, N, kernel = layout.C, layout.N, oracles.class_kernel(layout, r)
    M = layout.means(X)
    values, E = np.linalg.eigh(r * np.eye(len(X)) + M @ M.T / C)
    H = (E / np.sqrt(values)) @ E.T @ X
    t = share * layout.n * C / (2 * max(r, 1) ** 2)
    state = oracles.integrated(lambda H: -oracles.ridge_gradient(H, layout, 0.0) @ kernel, H, np.array([t]))[0]
    law, omega0 = UnnormalizedKernelRatio(r), snr(H, layout).omega
    np.testing.assert_allclose(law.omega(np.array(t), omega0, C, N), oracles.singular_values(state, layout), rtol=1e-9, atol=1e-9)
    step = -oracles.ridge_gradient(H, layout, 0.0) @ kernel * (1e-3 * C * C * N / max(r, 1) ** 2)  # omega moves by 1e-4 to 1e-3

    def growth(direction: np.ndarray) -> np.ndarray:
        ahead, behind = (oracles.singular_values(H + sign * direction, layout) for sign in (1, -1))
        return np.log(ahead / behind)

    share_of_signal = growth(layout.spread(layout.means(step))) / growth(step)
    np.testing.assert_allclose(share_of_signal, law.signal_share(omega0**2 / C), rtol=1e-5)


@given(problems(few_features=True), st.sampled_from([0.3, 1.0, 4.0, 30.0]), st.floats(0, 2))
def test_r_is_read_off_features_of_neighbouring_epochs_without_a_clock(problem: Problem, r: float, share: float) -> None:
    """r = u share / (1 - share), share that of the signal: class means of one epoch with deviations of the other, both ways."""
    layout, X = problem.layout, problem.X - problem.X.mean(1, keepdims=True)
    kernel, M = oracles.class_kernel(layout, r), layout.means(X)
    values, E = np.linalg.eigh(r * np.eye(len(X)) + M @ M.T / layout.C)
    H = (E / np.sqrt(values)) @ E.T @ X
    unit = layout.n * layout.C / (2 * max(r, 1) ** 2)
    t = np.array([share, share + 1e-3]) * unit
    first, second = oracles.integrated(lambda H: -oracles.ridge_gradient(H, layout, 0.0) @ kernel, H, t)
    moved = layout.spread(layout.means(second) - layout.means(first))

    def logs(H: np.ndarray) -> np.ndarray:
        return np.log(oracles.singular_values(H, layout))

    old, new, signal, noise = logs(first), logs(second), logs(first + moved), logs(second - moved)
    u = np.exp(old + new) / layout.C
    of_signal = (signal - old + new - noise) / 2 / (new - old)
    known = (u / r > 1e-3) & (new - old > 1e-6)
    np.testing.assert_allclose((u * of_signal / (1 - of_signal))[known], r, rtol=1e-3)
    np.testing.assert_allclose((1 - of_signal)[known], (u / (r + u))[known], rtol=1e-3)


def test_the_helpers_are_right_to_the_last_digits() -> None:
    for x in [-0.999, -0.5, -0.49, -1e-3, -1e-12, 1e-12, 1e-5, 0.3, 0.999, 1.0, 7.0, 1e9]:
        with mpmath.workdps(60):
            exact = mpmath.mpf(x)
            g, k = exact - mpmath.log1p(exact), mpmath.log1p(exact) - exact / (1 + exact)
        np.testing.assert_allclose(log1p_remainder(np.array(x)), float(g), rtol=3e-15)
        np.testing.assert_allclose(log1p_excess(np.array(x)), float(k), rtol=3e-15)
    assert log1p_remainder(np.array(0.0)) == log1p_excess(np.array(0.0)) == 0


@given(laws())
def test_torch_zeros_and_shapes(law: Law) -> None:
    t, omega0 = np.array([[0.0, 1.0], [5.0, 9.0]]), np.array([0.0, 0.5, 3.0])
    scale = 1 if law.kernel_ratio < 1 else law.kernel_ratio**2
    omega = law.omega(t / scale, omega0, 3, 7)
    assert omega.shape == (2, 2, 3)
    assert (omega[..., 0] == 0).all()
    tensor = law.omega(torch.from_numpy(t / scale), torch.from_numpy(omega0), 3, 7)
    np.testing.assert_allclose(tensor.numpy(), omega, rtol=1e-13)
    assert law.omega(t / scale, omega0.astype(np.float32), 3, 7).dtype == np.float32


@pytest.mark.parametrize("r", [0.0, -1.0, 1e-101, 1e101, math.inf, math.nan])
def test_ratios_that_make_no_sense_are_refused(r: float) -> None:
    for kind in (RenormalizedKernelRatio, UnnormalizedKernelRatio):
        with pytest.raises(ValueError, match="kernel_ratio"):
            kind(r)
    with pytest.raises(ValueError, match="ridge"):
        RenormalizedKernelRatio(1.0, -0.1)


def test_the_unnormalized_law_never_overflows_silently() -> None:
    law, t = UnnormalizedKernelRatio(3.0), np.array([1e7])
    with pytest.raises(OverflowError, match="log_omega"):
        law.omega(t, np.array([1.0]), 4, 12)
    log_omega = law.log_omega(np.array([1e7, 2e7]), np.array([1.0]), 4, 12)
    np.testing.assert_allclose(log_omega[1] - log_omega[0], 1e7 / (16 * 12), rtol=1e-12)
