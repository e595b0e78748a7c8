"""Tiles of pairs give what all pairs at once give, however many classes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ufm.features import measures
from ufm.monitor.pairs import tiled_angles


@given(st.integers(0, 2**32 - 1), st.integers(2, 17), st.integers(2, 5), st.integers(1, 20), st.sampled_from([1.0, 1e-6]))
def test_tiled_angles_are_those_of_all_pairs(seed: int, C: int, P: int, tile: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = torch.from_numpy(rng.standard_normal((P, 1)) + spread * rng.standard_normal((P, C)))
    std, distance = tiled_angles(vectors, tile)
    assert std == pytest.approx(measures.phd_equiangular(vectors), rel=1e-4, abs=1e-14)
    assert distance == pytest.approx(measures.phd_maximal_angle(vectors), rel=1e-12)


def test_a_zero_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="a vector is zero"):
        tiled_angles(torch.eye(3, 5, dtype=torch.float64), 2)
