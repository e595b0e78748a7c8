"""The closed laws (a), (b), (c): accuracy against 50 digits, their differential equations, invariants, inverses, limits."""

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from tests import oracles
from ufm.arrays import as_numpy
from ufm.laws.discrete_singular_values import run_discrete
from ufm.laws.kernel_ratio import RenormalizedKernelRatio, UnnormalizedKernelRatio
from ufm.laws.singular_value_dynamics import EMBEDDED, LAWS, RENORMALIZED, UNNORMALIZED, Law

laws = st.sampled_from(list(LAWS.values()))
sizes = st.tuples(st.integers(2, 200), st.integers(1, 3000))
log10_u = st.floats(-12, 12)


def phi_exact(law: Law, u: mpmath.mpf) -> mpmath.mpf:
    """Phi written out with 50 digits."""
    return {
        "renormalized": lambda: mpmath.log(u) + u,
        "embedded": lambda: mpmath.log(u) + 2 * u + u * u / 2,
        "unnormalized": lambda: mpmath.log(u),
    }[law.name]()


def solve_exact(law: Law, s: mpmath.mpf) -> mpmath.mpf:
    """log u with Phi(u) = s, by bisection-safe Newton in log u with 50 digits."""
    if law is UNNORMALIZED:
        return s
    y = s if s < 0 else mpmath.log(1 + s) / (1 if law is RENORMALIZED or s < 10 else 2)
    for _ in range(300):
        u = mpmath.exp(y)
        slope = 1 + u if law is RENORMALIZED else (1 + u) ** 2
        step = (phi_exact(law, u) - s) / slope
        y -= step
        if abs(step) < mpmath.mpf(10) ** -40:
            return y
    raise AssertionError("the reference did not converge")


@given(laws, sizes, log10_u, st.one_of(st.just(0.0), st.floats(-20, 300).map(lambda e: 10.0**e)))
def test_closed_form_is_right_to_1e_13_for_every_start_and_time(law: Law, CN: tuple[int, int], e: float, t: float) -> None:
    C, N = CN
    omega0 = math.sqrt(C * 10.0**e)
    with mpmath.workdps(50):
        s = phi_exact(law, mpmath.mpf(omega0) ** 2 / C) + 2 * mpmath.mpf(t) / (C * C * N)
        log_omega = (solve_exact(law, s) + mpmath.log(C)) / 2
        got = float(law.log_omega(np.array(t), np.array(omega0), C, N))
        # one unit in the last place of log omega is all that float64 can hold of it
        assert abs(got - log_omega) <= 1e-13 * max(1, abs(log_omega))
        if log_omega < 345:
            omega = mpmath.exp(log_omega)
            allowed = 1e-13 * (1 if law is not UNNORMALIZED else max(1, abs(log_omega)))
            assert abs(float(law.omega(np.array(t), np.array(omega0), C, N)) - omega) <= allowed * omega


@given(laws, sizes, st.floats(-3, 3), st.floats(1.0001, 30))
def test_closed_form_solves_its_differential_equation(law: Law, CN: tuple[int, int], e: float, growth: float) -> None:
    C, N = CN
    omega0 = np.array([10.0**e, 1.7 * 10.0**e])
    t_end = float(law.time(np.array(growth * omega0[0]), omega0[:1], C, N)[0])
    solution = solve_ivp(
        lambda t, y: law.rate(np.exp(y), C, N) / np.exp(y), (0, t_end), np.log(omega0), method="DOP853", rtol=1e-11, atol=1e-12
    )
    np.testing.assert_allclose(np.exp(solution.y[:, -1]), law.omega(np.array(t_end), omega0, C, N), rtol=1e-8)


@given(laws, sizes, st.floats(-5, 5), st.floats(-6, 3))
def test_time_inverts_omega(law: Law, CN: tuple[int, int], e: float, log_growth: float) -> None:
    C, N = CN
    omega0 = np.array([10.0**e])
    omega = omega0 * (1 + 10.0**log_growth)
    t = law.time(omega, omega0, C, N)
    np.testing.assert_allclose(law.omega(t, omega0, C, N)[:, 0] - omega0, omega - omega0, rtol=1e-6)
    with mpmath.workdps(50):
        u, u0 = (mpmath.mpf(float(w[0])) ** 2 / C for w in (omega, omega0))
        exact = (phi_exact(law, u) - phi_exact(law, u0)) * C * C * N / 2
        assert abs(float(t[0]) - exact) <= 1e-13 * abs(exact)  # no cancellation, however close omega is to omega0


@given(laws, sizes, st.floats(0.01, 20), st.floats(1.1, 30))
def test_phi_differences_are_constant_in_time(law: Law, CN: tuple[int, int], low: float, ratio: float) -> None:
    C, N = CN
    omega0 = np.array([low * ratio, low])
    times = np.linspace(0, float(law.time(np.array(3 * low), omega0[1:], C, N)[0]), 7)
    phi = law.phi(law.omega(times, omega0, C, N) ** 2 / C)
    difference = phi[:, 0] - phi[:, 1]
    np.testing.assert_allclose(difference, difference[0], rtol=1e-11, atol=1e-11 * abs(phi).max())


@given(st.sampled_from([RENORMALIZED, EMBEDDED]), sizes, st.floats(0.01, 5), st.floats(1.01, 50))
def test_corollary_1_all_values_diverge_together(law: Law, CN: tuple[int, int], low: float, ratio: float) -> None:
    C, N = CN
    omega0 = np.array([low * ratio, low])
    t = np.array([1e8, 1e14, 1e20]) * C * C * N * (1 + (low * ratio) ** 4)
    omega = law.omega(t, omega0, C, N)
    np.testing.assert_allclose(omega[-1] / law.asymptote(t, omega0, C, N)[-1], 1, rtol=1e-6)
    spread = omega[:, 0] / omega[:, 1] - 1
    assert (np.diff(spread) <= 0).all()
    assert spread[-1] < 1e-6


def test_corollary_1_s_rate_belongs_to_the_embedded_flow_alone() -> None:
    """The printed (t/c_3)^{1/4}, c_3 = N/4, is law (b)'s; Eq. 5 with Proposition 4 grows as sqrt(2 t / (C N))."""
    C, N, t, omega0 = 4, 12, np.array([1e12, 1e16]), np.array([1.0])
    printed = (t / (N / 4)) ** 0.25
    np.testing.assert_allclose(EMBEDDED.omega(t, omega0, C, N)[:, 0], printed, rtol=1e-4)
    ratio = RENORMALIZED.omega(t, omega0, C, N)[:, 0] / printed
    assert ratio[0] > 100
    assert ratio[1] > 9 * ratio[0]


def test_law_c_keeps_every_ratio_so_the_spread_never_vanishes() -> None:
    omega0 = np.array([3.0, 1.0])
    omega = UNNORMALIZED.omega(np.linspace(0, 1e4, 5), omega0, 4, 12)
    np.testing.assert_allclose(omega[:, 0] / omega[:, 1], 3, rtol=1e-12)


def test_law_c_never_overflows_silently() -> None:
    t, omega0 = np.array([0.0, 1e300]), np.array([1.0, 2.0])
    with pytest.raises(OverflowError, match="log_omega"):
        UNNORMALIZED.omega(t, omega0, 10, 500)
    log_omega = UNNORMALIZED.log_omega(t, omega0, 10, 500)
    np.testing.assert_allclose(log_omega[1], 1e300 / 5e4, rtol=1e-14)
    np.testing.assert_allclose(log_omega[0], np.log(omega0), rtol=1e-15)


@given(laws)
def test_a_singular_value_that_starts_at_zero_stays_zero(law: Law) -> None:
    omega = law.omega(np.array([0.0, 10.0, 1e3]), np.array([2.0, 0.0]), 4, 12)
    assert (omega[:, 1] == 0).all()
    assert (np.diff(omega[:, 0]) > 0).all()
    assert law.log_omega(np.array(1.0), np.array([0.0]), 4, 12)[0] == -math.inf
    assert law.asymptote(np.array([1.0]), np.array([0.0, 1.0]), 4, 12)[0, 0] == 0


starts = st.lists(st.one_of(st.just(0.0), st.floats(-12, 12).map(lambda e: 10.0**e)), min_size=1, max_size=5)
every_law = st.one_of(
    laws,
    st.tuples(st.floats(0.01, 100), st.floats(0, 2)).map(lambda args: RenormalizedKernelRatio(*args)),
    st.floats(0.01, 100).map(UnnormalizedKernelRatio),
)


@given(every_law, sizes, starts, st.sampled_from(["float64", "float32"]))
def test_every_law_begins_at_its_start_to_the_last_bit(law: Law, CN: tuple[int, int], start: list[float], dtype: str) -> None:
    omega0 = np.array(start, dtype)
    t = np.array([[0.0, 1.0], [-0.0, 3.0]])
    omega = law.omega(t / 1e4, omega0, *CN)
    np.testing.assert_array_equal(omega[:, 0], np.stack([omega0, omega0]))
    np.testing.assert_array_equal(law.omega(0.0, omega0, *CN), omega0)
    np.testing.assert_array_equal(
        law.log_omega(0.0, omega0, *CN)[omega0 > 0], np.log(omega0[omega0 > 0].astype(float)).astype(dtype)
    )
    assert float(law.omega(0.0, omega0[0], *CN)) == omega0[0]
    tensor = torch.from_numpy(omega0)
    for times in (torch.from_numpy(t / 1e4), (t / 1e4).tolist(), t / 1e4):
        from_torch = law.omega(times, tensor, *CN)
        np.testing.assert_array_equal(as_numpy(from_torch)[:, 0], omega[:, 0])
        np.testing.assert_allclose(as_numpy(from_torch), omega, rtol=1e-6 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_at_the_start_torch_differentiates_the_law(law: Law) -> None:
    t, omega0 = torch.zeros(1, dtype=torch.float64, requires_grad=True), torch.tensor([0.4, 2.0], dtype=torch.float64)
    slope = torch.stack([torch.autograd.grad(omega, t, retain_graph=True)[0][0] for omega in law.omega(t, omega0, 4, 12)[0]])
    np.testing.assert_allclose(slope.numpy(), law.rate(omega0, 4, 12).numpy(), rtol=1e-6)


@given(laws, sizes)
def test_rate_is_the_slope_of_omega(law: Law, CN: tuple[int, int]) -> None:
    C, N = CN
    omega0 = np.array([0.3, 2.0, 15.0])
    scale = C * C * N
    slope = oracles.directional_derivative(
        lambda t: law.omega(t, omega0, C, N)[0], np.array([0.05 * scale]), np.array([0.05 * scale])
    )
    omega = law.omega(np.array([0.05 * scale]), omega0, C, N)[0]
    np.testing.assert_allclose(slope / (0.05 * scale), law.rate(omega, C, N), rtol=1e-7)


@given(laws, sizes, st.integers(1, 3), st.integers(1, 5))
def test_shapes_blocks_and_torch_agree(law: Law, CN: tuple[int, int], rows: int, K: int) -> None:
    C, N = CN
    rng = np.random.default_rng(rows * 10 + K)
    t, omega0 = rng.uniform(0, C * C * N, (rows, 1500)), rng.uniform(0.1, 5, K)  # more than one block of values
    omega = law.omega(t, omega0, C, N)
    assert omega.shape == (rows, 1500, K)
    np.testing.assert_allclose(law.omega(t[0, :3], omega0, C, N), omega[0, :3], rtol=1e-15)
    tensor = law.omega(torch.from_numpy(t), torch.from_numpy(omega0), C, N)
    np.testing.assert_allclose(tensor.numpy(), omega, rtol=1e-13)
    single = law.omega(t.astype(np.float32), omega0.astype(np.float32), C, N)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single.astype(float), omega, rtol=1e-5)
    np.testing.assert_allclose(law.omega([0.0, 1.0], [1.0, 2.0], C, N)[0], [1.0, 2.0], rtol=1e-14)  # type: ignore[bad-specialization]


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize(
    ("t", "omega0", "C", "message"),
    [
        (0.0, [-1.0], 4, "non-negative"),
        (0.0, [np.nan], 4, "omega has NaN"),
        (np.inf, [1.0], 4, "time t has NaN"),
        (0.0, [1.0], 1, "C = 1"),
        (0.0, [1e-160], 4, "square underflows float64"),
        (0.0, [1e80], 4, "fourth power overflows float64"),
    ],
)
def test_bad_input_is_refused_with_the_reason(law: Law, t: float, omega0: list[float], C: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        law.omega(np.array(t), np.array(omega0), C, 12)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_time_of_a_zero_is_refused(law: Law) -> None:
    with pytest.raises(ValueError, match="fixed point"):
        law.time(np.array([1.0]), np.array([0.0]), 4, 12)


def test_backwards_in_time_works_until_float64_ends() -> None:
    for law in (RENORMALIZED, EMBEDDED):
        there = law.omega(np.array(-5e3), np.array([1.0, 2.0]), 4, 12)
        assert (there < [1.0, 2.0]).all()
        np.testing.assert_allclose(law.omega(np.array(5e3), there, 4, 12), [1.0, 2.0], rtol=1e-10)
        with pytest.raises(ValueError, match="choose a later time"):
            law.omega(np.array(-1e6), np.array([1.0]), 4, 12)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_float32_is_computed_in_float64_and_small_integers_do_not_overflow(law: Law) -> None:
    omega0 = np.array([1e-23, 0.5, 1e10], dtype=np.float32)
    expected = law.omega(np.array(1e4), omega0.astype(np.float64), 300, 50)
    np.testing.assert_allclose(law.omega(np.array(1e4), omega0, 300, 50), np.asarray(expected, float), rtol=1e-6)
    C: Any = np.int16(300)
    N: Any = np.int16(50)
    np.testing.assert_array_equal(law.omega(np.array(1e4), omega0.astype(np.float64), C, N), expected)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize(("law", "t"), [(RENORMALIZED, 1e80), (EMBEDDED, 1e160), (UNNORMALIZED, 4500.0)], ids=LAWS)
def test_a_result_that_overflows_float32_is_an_overflow_error(law: Law, t: float, kind: str) -> None:
    times, omega0 = np.array([0.0, t]), np.array([0.0, 1.0], np.float32)
    assert np.isfinite(law.omega(times, omega0.astype(np.float64), 3, 5)).all()
    if kind == "torch":
        times, omega0 = torch.from_numpy(times), torch.from_numpy(omega0)
    with pytest.raises(OverflowError, match=r"overflows .*float32: give float64"):
        law.omega(times, omega0, 3, 5)
    assert law.log_omega(times[:1], omega0, 3, 5)[0, 0] == -np.inf  # infinite in float64 too: no overflow


NO_REAL_NUMBERS = {
    "complex": np.array([1 + 0j, 2 + 3j]),
    "text": np.array(["1", "2"]),
    "times": np.array([1, 2], dtype="M8[s]"),
    "objects": np.array([1.0, 2.0], dtype=object),
    "masked": np.ma.masked_greater(np.array([1.0, 2.0]), 1.5),
    "complex tensor": torch.tensor([1 + 0j, 2 + 3j]),
    "list": ["1", "2"],
}


@pytest.mark.parametrize("kind", sorted(NO_REAL_NUMBERS))
@pytest.mark.parametrize("law", [*LAWS.values(), RenormalizedKernelRatio(2.0)], ids=lambda law: law.name)
def test_what_holds_no_real_numbers_is_no_spectrum_and_no_time(law: Law, kind: str) -> None:
    value: Any = NO_REAL_NUMBERS[kind]
    with pytest.raises(ValueError, match=r"masked|real numbers"):
        law.omega(0.5, value, 3, 5)
    with pytest.raises(ValueError, match=r"masked|real numbers"):
        law.omega(value, np.array([1.0, 2.0]), 3, 5)


@pytest.mark.parametrize(("C", "N", "message"), [(2.9, 5, "C is 2.9"), (3, 10.9, "N is 10.9")])
@pytest.mark.parametrize("law", [*LAWS.values(), RenormalizedKernelRatio(2.0)], ids=lambda law: law.name)
def test_sizes_that_are_no_whole_numbers_are_refused_not_cut_off(law: Law, C: Any, N: Any, message: str) -> None:
    omega = np.array([1.0, 2.0])
    for compute in (law.omega, law.log_omega, law.time):
        with pytest.raises(ValueError, match=message):
            compute(omega, omega, C, N)
    with pytest.raises(ValueError, match=message):
        run_discrete(omega, 0.1, 3, C, N)
