"""Edges of what the laws take: backward times, zeros, accuracies, growths, ridges beside which G is small."""

import math
import warnings
from collections.abc import Callable
from functools import partial

import mpmath
import numpy as np
import pytest

from ufm.laws.general import GeneralLaw
from ufm.laws.general_discrete import run_general_discrete
from ufm.laws.general_run import run_general
from ufm.laws.general_states import time_of_growth
from ufm.laws.joint_decay import JointDecayLaw, balanced_start
from ufm.laws.kernel_ratio import RenormalizedKernelRatio, UnnormalizedKernelRatio
from ufm.laws.singular_value_dynamics import LAWS, UNNORMALIZED, Law

FAMILIES: list[Callable[[float], Law]] = [
    RenormalizedKernelRatio,
    partial(RenormalizedKernelRatio, ridge=1e8),
    UnnormalizedKernelRatio,
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("r", [1e-6, 0.5, 100.0, 1e8])
def test_a_time_that_leads_below_the_smallest_omega_is_refused_and_no_zero_returned(
    family: Callable[[float], Law], r: float
) -> None:
    law, omega0 = family(r), np.array([1.0])
    back = float(law.time(np.array([1e-140]), omega0, 4, 7)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        there = law.omega(np.array([back]), omega0, 4, 7)
        np.testing.assert_allclose(there, 1e-140, rtol=1e-9)  # rounding of log omega = -322
        with pytest.raises(ValueError, match="choose a later time"):
            law.omega(np.array([2 * back]), omega0, 4, 7)
        with pytest.raises(ValueError, match="choose a later time"):
            law.log_omega(np.array([2 * back]), omega0, 4, 7)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("r", [1e-6, 0.5, 1.0, 4.0, 1e8])
def test_a_little_backwards_from_a_small_start_is_no_underflow(family: Callable[[float], Law], r: float) -> None:
    law, omega0 = family(r), np.array([1e-8])
    t = -1e-3 * float(law.time(np.array([2e-8]), omega0, 4, 7)[0])
    np.testing.assert_allclose(law.omega(np.array([t]), omega0, 4, 7), 1e-8 * 2**-1e-3, rtol=1e-6)


@pytest.mark.parametrize("law", [*LAWS.values(), *(family(r) for family in FAMILIES for r in (0.5, 4.0, 1e8))])
@pytest.mark.parametrize("shrunk", [0.5, 1e-10, 1e-30])
def test_the_time_back_is_the_time_there(law: Law, shrunk: float) -> None:
    omega0, omega = np.array([3.0]), np.array([3.0 * shrunk])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(law.time(omega, omega0, 4, 7), -law.time(omega0, omega, 4, 7))
    if law is UNNORMALIZED:
        np.testing.assert_allclose(law.time(omega, omega0, 4, 7), 4 * 4 * 7 * math.log(shrunk), rtol=1e-14)


@pytest.mark.parametrize("name", ["renormalized", "embedded"])
def test_a_zero_does_not_refuse_a_time_for_its_neighbours(name: str) -> None:
    t, omega0 = np.array([-1e6]), np.array([1e10, 0.0])
    omega = LAWS[name].omega(t, omega0, 3, 4)
    np.testing.assert_array_equal(omega[:, :1], LAWS[name].omega(t, omega0[:1], 3, 4))
    assert omega[0, 1] == 0


def test_law_c_refuses_a_square_that_underflows_and_takes_nothing() -> None:
    with pytest.raises(ValueError, match="choose a later time"):
        UNNORMALIZED.omega(np.array([-1e308]), np.array([1.0]), 3, 4)
    assert UNNORMALIZED.omega(np.array([]), np.array([1.0, 2.0]), 3, 4).shape == (0, 2)
    assert UNNORMALIZED.omega(np.array([1.0]), np.array([]), 3, 4).shape == (1, 0)
    assert UnnormalizedKernelRatio(2.0).omega(np.array([]), np.array([1.0]), 3, 4).shape == (0, 1)


def start(law: GeneralLaw, P: int, size: float = 1.0) -> np.ndarray:
    return law.scaled_means(size * np.random.default_rng(3).standard_normal((P, law.C)))


@pytest.mark.parametrize("accuracy", [0.0, -1e-9, math.nan, math.inf, 1.0])
def test_an_accuracy_that_is_none_is_refused(accuracy: float) -> None:
    law = GeneralLaw((7, 9, 20, 4))
    with pytest.raises(ValueError, match="accuracy"):
        run_general(law, start(law, 5), np.array([1.0]), accuracy)


@pytest.mark.parametrize("counts", [(7, 9, 20, 4), (5, 5, 5, 5)])
@pytest.mark.parametrize("growth", [0.5, -1.0, math.nan, math.inf])
def test_a_growth_that_is_none_is_refused(counts: tuple[int, ...], growth: float) -> None:
    law = GeneralLaw(counts)
    with pytest.raises(ValueError, match="growth"):
        time_of_growth(law, start(law, 5), growth)


def test_no_features_and_no_whole_number_of_steps_are_refused() -> None:
    law = GeneralLaw((7, 9))
    with pytest.raises(ValueError, match="P >= 1"):
        run_general(law, np.zeros((0, 2)), np.array([1.0]))
    with pytest.raises(ValueError, match="steps"):
        run_general_discrete(law, start(law, 2), 1.0, 2.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("P", "r"), [(2, 0.0), (2, 0.3), (3, 1e-6), (5, 1e-9)])
def test_the_velocity_keeps_its_digits_where_g_is_small_beside_the_ridge(P: int, r: float) -> None:
    """r -> 0 leaves S K Pi K G J: with a large ridge a difference of two nearly equal terms."""
    law = GeneralLaw((7, 9, 20, 4), 1e8, r or 1e-12)
    S = start(law, P, 0.3)
    with mpmath.workdps(60):
        pi = [mpmath.mpf(n) / law.n for n in law.counts]
        q, s = mpmath.matrix([mpmath.sqrt(p) for p in pi]), 1 + mpmath.mpf(law.ridge)
        X = mpmath.matrix(S.tolist())
        X = X - (X * q) * q.T
        G = X.T * X
        K = mpmath.inverse(s * mpmath.eye(law.C) + G)
        exact = X * K * mpmath.diag(pi) * K * (law.kernel_ratio * s * mpmath.eye(law.C) + G) / law.n
        exact = np.array((exact - (exact * q) * q.T).tolist(), dtype=float)
    np.testing.assert_allclose(law.velocity(S), exact, rtol=1e-11, atol=1e-12 * abs(exact).max())


def test_the_unnormalized_law_is_refused_right_past_its_largest_omega() -> None:
    law, omega0 = UnnormalizedKernelRatio(2.0), np.array([1.0])
    at = float(law.time(np.array([1e75]), omega0, 4, 7)[0]) * 2  # log omega grows like t there
    assert 1e145 < law.omega(np.array([0.98 * at]), omega0, 4, 7)[0, 0] < 1e150
    with pytest.raises(OverflowError, match="log_omega"):
        law.omega(np.array([1.01 * at]), omega0, 4, 7)


def test_law_e_is_at_rest_at_the_last_time_of_float64_and_keeps_its_start() -> None:
    rng, Y = np.random.default_rng(0), np.repeat(np.eye(3), (4, 2, 1), axis=1)
    W, H = balanced_start(0.1 * rng.standard_normal((3, 4)), rng.standard_normal((4, 7)))
    for decay in (0.0, 0.3, 5.0):
        law = JointDecayLaw(Y, decay, W, H)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_allclose(law.logits(1e308), law.limit(), atol=1e-14)
    law, given = JointDecayLaw(Y, 0.3, W, H), Y.copy()
    Y *= 2  # after construction: the law has its own
    np.testing.assert_array_equal(law.Y, given)


def test_law_e_refuses_what_is_no_real_matrix() -> None:
    W, H = np.zeros((2, 1)), np.zeros((1, 3))
    with pytest.raises(ValueError, match="real numbers"):
        JointDecayLaw(np.zeros((2, 3), dtype=complex), 0.1, W, H)
    with pytest.raises(ValueError, match="matrices"):
        JointDecayLaw(np.zeros(3), 0.1, W, H)
