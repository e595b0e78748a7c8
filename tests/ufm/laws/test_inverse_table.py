"""The tabulated inverse of both kernel-ratio laws: every u that float64 holds, no value sees another, torch with its slope."""

import mpmath
import numpy as np
import pytest
import torch

from ufm.laws.inverse_table import InverseTable, step_of_fourth_order
from ufm.laws.kernel_ratio import RenormalizedKernelRatio, UnnormalizedKernelRatio

LAWS = [kind(r) for kind in (RenormalizedKernelRatio, UnnormalizedKernelRatio) for r in (1e-6, 0.01, 0.5, 1 - 1e-12, 200.0, 1e8)]
LAWS += [UnnormalizedKernelRatio(r) for r in (1.0, 4.0, 100.0)]
Law = RenormalizedKernelRatio | UnnormalizedKernelRatio


@pytest.mark.parametrize("law", LAWS)
def test_the_inverse_has_its_digits_over_a_dense_grid(law: Law) -> None:
    """From u = 1e-250 to 1e250: across both ends of the table and of every cell."""
    y = np.linspace(-575, 575, 40_001)
    solved = np.log(law._solve(law.phi(np.exp(y))))
    assert (abs(solved - y) <= 2e-14 * np.maximum(1, abs(y))).all()


@pytest.mark.parametrize("law", LAWS)
def test_the_table_alone_leaves_little_to_the_step(law: Law) -> None:
    """Fourth order takes 6e-4 to rounding."""
    r, power = law.kernel_ratio, 2 if isinstance(law, UnnormalizedKernelRatio) else 1
    scale, as_u = max(r, 1.0) ** power, power == 1
    table = InverseTable.of(lambda u: scale * law.phi(u), (1.0, r), (scale / r**power, scale), as_u)
    y = np.linspace(np.log(min(1, r)) - 300, np.log(max(1, r)) + 300, 40_001)
    assert (abs(np.log(table.start(scale * law.phi(np.exp(y)))) - y) <= 6e-4).all()


def test_the_step_is_of_fourth_order() -> None:
    """On Phi = u + log u, whose slope in log u is 1 + u, with 60 digits."""
    errors = []
    for off in ("1e-3", "1e-4"):
        with mpmath.workdps(60):
            exact, u = mpmath.mpf(2), 2 * mpmath.exp(mpmath.mpf(off))
            slope = 1 + u
            missing = (exact + mpmath.log(exact) - u - mpmath.log(u)) / slope
            w = u / slope
            errors.append(abs(float(step_of_fourth_order(u, missing, w, w * (1 - w)) / exact - 1)))  # type: ignore[type-var]
    assert errors[0] < 1e-12
    assert errors[1] < 1.2e-4 * errors[0]


@pytest.mark.parametrize("law", LAWS)
def test_what_becomes_of_a_value_does_not_depend_on_its_neighbours(law: Law) -> None:
    phi = law.phi(np.exp(np.linspace(-100, 100, 301)))
    alone = np.array([law._solve(phi[k : k + 1])[0] for k in range(len(phi))])
    np.testing.assert_allclose(law._solve(phi), alone, rtol=4e-16)


@pytest.mark.parametrize("law", LAWS)
def test_torch_has_the_same_digits_and_the_slope_in_the_time(law: Law) -> None:
    omega0 = torch.tensor([0.7, 2.0], dtype=torch.float64)
    t = torch.tensor(float(law.time(np.array([5.0]), omega0[:1].numpy(), 4, 7)[0]), dtype=torch.float64, requires_grad=True)
    omega = law.omega(t, omega0, C=4, N=7)
    np.testing.assert_allclose(omega.detach().numpy(), law.omega(t.detach().numpy(), omega0.numpy(), 4, 7), rtol=1e-13)
    by_t = float(torch.autograd.grad(omega.sum(), t)[0])
    assert abs(by_t / float(law.rate(omega.detach(), C=4, N=7).sum()) - 1) < 1e-9
