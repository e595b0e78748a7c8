"""The laws solve many values block by block: neither the memory order of their arguments nor the arguments themselves matter."""

import numpy as np
import pytest

from ufm.laws.domain import BLOCK
from ufm.laws.singular_value_dynamics import LAWS, Law


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_a_law_takes_arrays_of_either_memory_order_and_leaves_them_as_they_are(law: Law) -> None:
    omega0 = np.asfortranarray(np.random.default_rng(0).uniform(0.1, 3.0, (BLOCK // 16, 17)))
    t, kept = np.array([0.0, 40.0]), omega0.copy()
    omega = law.omega(t, omega0, 7, 11)
    np.testing.assert_allclose(omega[0], omega0, rtol=1e-14)
    np.testing.assert_allclose(omega[1], [law.omega(40.0, row.copy(), 7, 11) for row in omega0], rtol=1e-14)
    np.testing.assert_array_equal(omega0, kept)
    np.testing.assert_array_equal(t, [0.0, 40.0])
