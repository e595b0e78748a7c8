"""Angles of all pairs, a few of them at a time."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ufm.features.spectral_loss import spectral_maximal_angle
from ufm.features.vectors import maximal_angle, pair_cosines


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@given(st.integers(0, 2**32 - 1), st.integers(2, 17), st.integers(1, 5), st.sampled_from([(), (3,), (2, 3)]), st.integers(1, 400))
def test_the_maximal_angle_a_few_cosines_at_a_time_is_that_of_all_pairs(
    kind, seed: int, C: int, P: int, batch: tuple[int, ...], at_a_time: int
) -> None:
    vectors = kind(np.random.default_rng(seed).standard_normal((*batch, P, C)))
    expected = abs(pair_cosines(vectors) + 1 / (C - 1)).mean(-1)
    np.testing.assert_allclose(maximal_angle(vectors, at_a_time), expected, rtol=1e-12)


def test_the_angles_of_thousands_of_classes_along_a_flow_need_no_table_of_pairs() -> None:
    C, K = 2003, 3
    omega, V = np.ones((9, K)), np.random.default_rng(3).standard_normal((C, K))
    tracemalloc.start()
    angle = spectral_maximal_angle(omega, V)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert angle.shape == (9,)
    assert peak < 9 * C * C * 8 / 3
