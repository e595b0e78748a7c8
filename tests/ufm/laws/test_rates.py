"""The rates of every closed law against 60 digits, however small or large omega is: nothing squared overflows."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ufm.laws.kernel_ratio import RenormalizedKernelRatio, UnnormalizedKernelRatio
from ufm.laws.singular_value_dynamics import EMBEDDED, LAWS, RENORMALIZED, UNNORMALIZED, Law

SMALLEST_NORMAL = 2.3e-308


@st.composite
def any_law(draw: st.DrawFn) -> Law:
    r, ridge = 10.0 ** draw(st.floats(-4, 9)), draw(st.sampled_from([0.0, 0.7, 1e30]))
    return draw(st.sampled_from([*LAWS.values(), RenormalizedKernelRatio(r, ridge), UnnormalizedKernelRatio(r)]))


def rate_exact(law: Law, omega: float, C: int, N: int) -> mpmath.mpf:
    w = mpmath.mpf(omega)
    u = w * w / C
    if isinstance(law, UnnormalizedKernelRatio):
        return w * ((law.kernel_ratio + u) / (1 + u)) ** 2 / (C * C * N)
    if isinstance(law, RenormalizedKernelRatio):
        s = 1 + mpmath.mpf(law.ridge)
        return w * (law.kernel_ratio * s + u) / (C * C * N * (s + u) ** 2)
    shapes = {RENORMALIZED: 1 / (1 + u), EMBEDDED: 1 / (1 + u) ** 2, UNNORMALIZED: mpmath.mpf(1)}
    return w * shapes[law] / (C * C * N)


@given(any_law(), st.integers(2, 200), st.integers(1, 3000), st.floats(-300, 300))
def test_the_rate_of_every_law_is_right_wherever_float64_holds_it(law: Law, C: int, N: int, decade: float) -> None:
    omega = np.array([10.0**decade])
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        rate = law.rate(omega, C, N)
    with mpmath.workdps(60):
        exact = rate_exact(law, float(omega[0]), C, N)
        assert abs(mpmath.mpf(float(rate[0])) - exact) <= max(1e-14 * exact, SMALLEST_NORMAL)


@pytest.mark.parametrize("law", [*LAWS.values(), RenormalizedKernelRatio(3.0, 0.5), UnnormalizedKernelRatio(3.0)])
def test_the_rate_of_float32_integers_and_zero(law: Law) -> None:
    for omega in (np.array([0.0, 2.0, 1e25], np.float32), torch.tensor([0.0, 2.0, 1e25])):
        rate = law.rate(omega, 3, 7)
        assert rate.dtype == omega.dtype
        with mpmath.workdps(60):
            exact = [float(rate_exact(law, float(w), 3, 7)) for w in omega]
        np.testing.assert_allclose(np.asarray(rate), exact, rtol=1e-6, atol=1e-38)
    np.testing.assert_allclose(law.rate(np.array([40_000]), 3, 7), law.rate(np.array([4e4]), 3, 7))
