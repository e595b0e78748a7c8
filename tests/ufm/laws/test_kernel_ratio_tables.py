"""The tabulated inverse of both kernel-ratio laws: every u that float64 holds, no value sees another, torch with its slope."""

import math
import warnings

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ufm.laws.kernel_ratio import RenormalizedKernelRatio, UnnormalizedKernelRatio, _forward, _inverse

RATIOS = 1e-6, 0.01, 0.05, 0.5, 1 - 1e-12, 1.0, 4.0, 100.0, 200.0, 1e8
BETWEEN = 0.01, 0.5, 100.0, 200.0  # ratios between others of the default run
Law = RenormalizedKernelRatio | UnnormalizedKernelRatio
ALONE = [kind(r) for kind in (RenormalizedKernelRatio, UnnormalizedKernelRatio) for r in RATIOS]
RIDGED = [RenormalizedKernelRatio(r, ridge) for r in (0.05, 3.0) for ridge in (0.03, 1e8)]
LAWS = [
    *(pytest.param(law, marks=[pytest.mark.slow] * (law.kernel_ratio in BETWEEN)) for law in ALONE),
    *(pytest.param(law) for law in RIDGED),
]


def phi_exact(law: Law, u: mpmath.mpf) -> mpmath.mpf:
    """Phi with the constants of the module, by its direct formula."""
    r, x = mpmath.mpf(law.kernel_ratio), u
    if isinstance(law, UnnormalizedKernelRatio):
        if r >= 1:
            z = x / r
            return (mpmath.log(x) + 2 * (r - 1) * mpmath.log1p(z) + (r - 1) ** 2 * (mpmath.log1p(z) - z / (1 + z))) / r**2
        w = r / x
        return mpmath.log(r + x) - (2 - r) / (r + x) - (mpmath.log1p(w) - w / (1 + w)) / r**2
    s = 1 + mpmath.mpf(law.ridge)
    v = x / s
    if r >= 1:
        return s * (v + (mpmath.log(v) - (r - 1) ** 2 * mpmath.log1p(v / r)) / r)
    return s * (v - mpmath.log1p(r / v) / r + (2 - r) * mpmath.log(r + v))


def slope_exact(law: Law, u: mpmath.mpf) -> mpmath.mpf:
    """d Phi / d log u"""
    r, s = mpmath.mpf(law.kernel_ratio), mpmath.mpf(law._s)
    return ((1 + u) / (r + u)) ** 2 if isinstance(law, UnnormalizedKernelRatio) else (s + u) ** 2 / (r * s + u)


@pytest.mark.parametrize("law", LAWS)
def test_the_inverse_has_its_digits_over_a_dense_grid(law: Law) -> None:
    """From u = 1e-250 to 1e250: across every cell and both ends of the table."""
    scales = math.log(law._s), math.log(law._s * law.kernel_ratio)
    for y in (np.linspace(-575, 575, 40_001), np.linspace(min(scales) - 45, max(scales) + 45, 100_001)):
        gap = law._log_root(law.phi(np.exp(y))) - y
        assert (abs(gap) <= 2.0**-52 * (16 + 4 * abs(y) + 4 * math.log(law._s))).all()


def cells(law: Law) -> np.ndarray:
    """Phi at edges, centres and in between of every 40th cell, both end cells, and far outside."""
    table = _inverse(law)
    centres = table.rows[0]
    k = np.unique(np.concatenate([np.arange(0, len(centres) - 1, 40), [1, len(centres) - 2]]))
    phi = np.concatenate([centres[k] + share * (centres[k + 1] - centres[k]) for share in (0.0, 0.25, 0.4999, 0.5, 0.7)])
    return phi[phi <= table.top]


@pytest.mark.parametrize("law", LAWS)
def test_every_cell_is_right_to_rounding_against_60_digits(law: Law) -> None:
    """Newton's correction with exact Phi is the error; Phi given is exact."""
    for phi in cells(law):
        got = float(law._log_root(phi))
        with mpmath.workdps(60):
            u = mpmath.exp(mpmath.mpf(got))
            error = float((phi_exact(law, u) - mpmath.mpf(float(phi))) / slope_exact(law, u))
        assert abs(error) <= 2.0**-52 * (8 + 2 * abs(got) + 2 * math.log(law._s))


@pytest.mark.parametrize("law", LAWS)
def test_phi_from_its_table_is_right_to_rounding_against_60_digits(law: Law) -> None:
    """In units of its slope in log u: every 40th cell from edge to edge, and far outside."""
    table = _forward(law)
    centres = 1 / table.rows[0, ::40]
    u = np.concatenate([centres * share for share in (0.9962, 0.998, 1.0, 1.002, 1.0038)] + [[1e-290, 1e-100, 1e100, 1e290]])
    for value, got in zip(u, table.phi(u), strict=True):
        with mpmath.workdps(60):
            x = mpmath.mpf(float(value))
            exact = phi_exact(law, x)
            error, unit = abs(mpmath.mpf(float(got)) - exact), slope_exact(law, x)
        assert error <= 2.0**-52 * (8 * unit + 2 * abs(exact))


@given(st.sampled_from([*ALONE, *RIDGED]), st.floats(-300, 300))
def test_every_u_of_float64_comes_back(law: Law, e: float) -> None:
    """Against 60 digits: what rounding Phi to float64 moves log u by, and 4 units."""
    with mpmath.workdps(60):
        y = mpmath.log(mpmath.mpf(10) ** e)
        u = mpmath.exp(y)
        phi = phi_exact(law, u)
        moved = float(abs(phi) / slope_exact(law, u))
        got = float(law._log_root(np.array(float(phi))))
        assert abs(got - y) <= 2.0**-53 * (moved + 16 + 4 * abs(float(y)) + 4 * math.log(law._s))


@pytest.mark.parametrize("law", LAWS)
def test_log_u_is_continuous_across_cells_and_ends(law: Law) -> None:
    table = _inverse(law)
    edges = np.concatenate([[0.0], -table.unit * (2.0 ** np.arange(1, 5) - 1), table.unit * (2.0 ** np.arange(1, 5) - 1)])
    edges = np.append(edges, table.top if math.isfinite(table.top) else table.rows[0, -1])
    below, above = (law._log_root(np.nextafter(edges, side)) for side in (-np.inf, np.inf))
    assert (abs(above - below) <= 2.0**-52 * (8 + 4 * abs(below))).all()


@pytest.mark.parametrize("law", LAWS)
def test_what_becomes_of_a_value_does_not_depend_on_its_neighbours(law: Law) -> None:
    phi = law.phi(np.exp(np.linspace(-100, 100, 301)))
    alone = np.array([law._log_root(phi[k : k + 1])[0] for k in range(len(phi))])
    assert (law._log_root(phi) == alone).all()


@pytest.mark.parametrize("law", LAWS[:20])
def test_torch_has_the_same_digits_and_the_slope_in_the_time(law: Law) -> None:
    omega0 = torch.tensor([0.7, 2.0], dtype=torch.float64, requires_grad=True)
    start = omega0.detach().numpy()
    t = torch.tensor(float(law.time(np.array([5.0]), start[:1], 4, 7)[0]), dtype=torch.float64, requires_grad=True)
    omega = law.omega(t, omega0, C=4, N=7)
    np.testing.assert_allclose(omega.detach().numpy(), law.omega(t.detach().numpy(), start, 4, 7), rtol=1e-13)
    by_t, by_start = torch.autograd.grad(omega.sum(), (t, omega0))
    rate, rate_0 = (law.rate(x.detach(), C=4, N=7) for x in (omega, omega0))
    assert abs(float(by_t) / float(rate.sum()) - 1) < 1e-11
    assert (abs(by_start / (rate / rate_0) - 1) < 1e-11).all()


def test_values_in_blocks_are_those_alone() -> None:
    """30,000 values of a million-fold range in one call, as omega and as its logarithm."""
    for law in (RenormalizedKernelRatio(0.05), UnnormalizedKernelRatio(4.0)):
        omega0 = np.geomspace(1e-6, 1e3, 30_000)
        omega, log_omega = law.omega(2.0, omega0, 4, 7), law.log_omega(2.0, omega0, 4, 7)
        np.testing.assert_allclose(np.log(omega), log_omega, rtol=0, atol=2e-14)
        some = np.arange(0, 30_000, 997)
        assert (law.omega(2.0, omega0[some], 4, 7) == omega[some]).all()


def test_zeros_beside_a_start_that_grows_far_stay_zero_without_a_warning() -> None:
    """What stays at 0 is computed from u = 1 and must not overflow where a tiny start does not."""
    law = UnnormalizedKernelRatio(0.05)
    t = law.time(np.array([1e70]), np.array([1e-140]), 4, 7)
    assert (law.omega(t, np.array([0.0, 1e-140]), 4, 7)[:, 0] == 0).all()
    np.testing.assert_allclose(law.log_omega(t, np.array([0.0, 1e-140]), 4, 7)[0], [-np.inf, math.log(1e70)], rtol=1e-12)


HUGE = [kind(r) for kind in (RenormalizedKernelRatio, UnnormalizedKernelRatio) for r in (1e-100, 1e-40, 1e40, 1e50, 1e80, 1e100)]
HUGE += [RenormalizedKernelRatio(r, ridge) for r in (1e-80, 1.5, 1e80) for ridge in (1e10, 1e60)]


@pytest.mark.parametrize("law", HUGE)
def test_ratios_at_the_ends_of_their_range_keep_the_digits_too(law: Law) -> None:
    """Phi given is exact, Newton's correction is the error; r^4 cancels, hence 500 digits."""
    for phi in cells(law)[::7]:
        got = float(law._log_root(phi))
        with mpmath.workdps(500):
            u = mpmath.exp(mpmath.mpf(got))
            error = float((phi_exact(law, u) - mpmath.mpf(float(phi))) / slope_exact(law, u))
        assert abs(error) <= 2.0**-52 * (16 + 2 * abs(got) + 2 * math.log(law._s))


@pytest.mark.parametrize("law", HUGE)
def test_times_keep_their_digits_from_the_smallest_start_to_the_largest_value(law: Law) -> None:
    C, N, values = 4, 7, 10.0 ** np.array([-149.9, -139, -120, -75, -40, -10, 0, 30, 49, 70])
    pairs = [(a, b) for i, a in enumerate(values) for b in [a * (1 + 1e-9), 1.7 * a, *values[i + 1 :]]]
    omega0, omega = np.array(pairs).T
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = law.time(omega, omega0, C, N)
    with mpmath.workdps(500):
        u, u0 = ([mpmath.mpf(float(x)) ** 2 / C for x in w] for w in (omega, omega0))
        exact = [(phi_exact(law, b) - phi_exact(law, a)) * C * C * N / 2 for a, b in zip(u0, u, strict=True)]
        worst = max(abs(t / x - 1) for t, x in zip(got, exact, strict=True))
    assert worst <= 2e-13


def test_a_start_that_underflows_beside_its_ridge_is_refused() -> None:
    law, t = RenormalizedKernelRatio(3.0, 1e60), np.array([1.0])
    for f in (law.omega, law.log_omega):
        with pytest.raises(ValueError, match=r"omega\^2 / \(C \(1 \+ lambda\)\) = 2\.\d*e-321 underflows"):
            f(t, np.array([1e-130, 1.0]), 4, 7)
    with pytest.raises(ValueError, match="ridge = 1e\\+61"):
        RenormalizedKernelRatio(3.0, 1e61)
