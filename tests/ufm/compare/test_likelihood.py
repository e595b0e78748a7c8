"""The most likely clock: its dynamic programming against every never-decreasing path there is."""

from itertools import combinations_with_replacement

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ufm.compare.likelihood import _monotone

COSTS = st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(1, 5)).flatmap(
    lambda shape: arrays(float, shape, elements=st.one_of(st.integers(-2, 2), st.floats(-1e3, 1e3)))
)


@given(COSTS)
def test_the_clock_is_the_cheapest_of_all_that_never_decrease_the_latest_where_several_are(cost: np.ndarray) -> None:
    """Of equally cheap ones the earliest end, then from the end backwards the latest moments; the first epoch costs nothing."""
    exact = np.round(cost * 2.0**20) / 2.0**20  # sums of which are exact in any order
    T, G = cost.shape[1:]
    paths = np.array([(0, *path) for path in combinations_with_replacement(range(G), T - 1)])
    for one, index in zip(exact, _monotone(exact), strict=True):
        total = one[np.arange(1, T), paths[:, 1:]].sum(1)
        cheapest = paths[total == total.min()]
        expected = min(cheapest.tolist(), key=lambda path: (path[-1], [-moment for moment in path[-2::-1]]))
        np.testing.assert_array_equal(index, expected)
