"""The inverse of moderate kernel ratios: every T that float64 holds, values that do not see each other, torch with its slope."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ufm.laws.kernel_ratio import RenormalizedKernelRatio
from ufm.laws.kernel_ratio_inverse import MODERATE, moderate_root

ratios = st.floats(*MODERATE)
targets = st.one_of(st.floats(-680, 30), st.floats(0, 300).map(lambda e: 10.0**e))


def left_hand_side(v: mpmath.mpf, r: mpmath.mpf) -> mpmath.mpf:
    return mpmath.log(v) + r * v - (r - 1) ** 2 * mpmath.log1p(v / r)


@given(ratios, targets)
def test_the_root_is_right_to_what_rounding_of_the_target_leaves(r: float, T: float) -> None:
    got = float(moderate_root(np.array([T]), r)[0])
    with mpmath.workdps(60):
        v, exact = mpmath.mpf(got), mpmath.mpf(r)
        slope = exact * (1 + v) ** 2 / (exact + v)
        error = float((left_hand_side(v, exact) - mpmath.mpf(T)) / slope)
    assert abs(error) <= 2.0**-52 * (4 + r / 4 + max(1.0, -T))


@pytest.mark.parametrize("r", [1.0, 1 + 1e-9, 4.0, 100.0])
def test_the_first_step_leaves_no_more_than_its_statement_over_a_dense_grid(r: float) -> None:
    v = np.exp(np.linspace(-30, 60, 2001))
    T = np.log(v) + r * v - (r - 1) ** 2 * np.log1p(v / r)
    assert (abs(moderate_root(T, r) / v - 1) <= 1e-14 + 1e-15 * abs(T.clip(max=0))).all()


def test_what_becomes_of_a_value_does_not_depend_on_its_neighbours() -> None:
    law, t = RenormalizedKernelRatio(4.0), np.array([1.0])
    omega0 = np.geomspace(1e-3, 1e3, 300)
    together = law.omega(t, omega0, C=4, N=7)
    alone = np.array([law.omega(t, omega0[k : k + 1], C=4, N=7)[0, 0] for k in range(len(omega0))])
    assert (abs(together[0] / alone - 1) <= 4e-16).all()


def test_both_sides_of_the_last_moderate_ratio_agree() -> None:
    t, omega0 = np.geomspace(1e-3, 1e12, 40), np.geomspace(1e-4, 1e4, 9)
    inside, beyond = (RenormalizedKernelRatio(r, 0.3).omega(t, omega0, C=4, N=7) for r in (100.0, np.nextafter(100.0, 200.0)))
    assert (abs(inside / beyond - 1) <= 1e-13).all()


def test_torch_keeps_the_slope_in_the_start_and_the_time() -> None:
    law = RenormalizedKernelRatio(4.0, 0.2)
    omega0, t = torch.tensor([0.7, 2.0], dtype=torch.float64, requires_grad=True), torch.tensor(30.0, requires_grad=True)
    omega = law.omega(t, omega0, C=4, N=7)
    by_t = torch.autograd.grad(omega.sum(), t, retain_graph=True)[0]
    assert abs(float(by_t) / float(law.rate(omega.detach(), C=4, N=7).sum()) - 1) < 1e-6  # the time is of float32
    slope = torch.autograd.grad(omega.sum(), omega0)[0].numpy()
    rate_0, rate = (law.rate(x.detach(), C=4, N=7).numpy() for x in (omega0, omega))
    assert (abs(slope / (rate / rate_0) - 1) < 1e-10).all()
