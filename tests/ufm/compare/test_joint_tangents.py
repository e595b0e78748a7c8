"""The variational equations of the joint flow, against central differences of its steps."""

from dataclasses import replace

import numpy as np
import pytest

from tests.ufm.compare.test_response import anisotropic_entry
from ufm.compare.joint_motion import joint_motion
from ufm.compare.joint_tangents import JointTangents


@pytest.mark.parametrize("decay", [0.0, 0.4])
@pytest.mark.parametrize("kappa", [0.5, 20.0])
def test_tangents_are_the_derivative_of_a_step_and_of_its_gram(kappa: float, decay: float) -> None:
    """In any direction of the classifier, the means and the factor of Sigma_W at once."""
    rng, many, size, h = np.random.default_rng(0), 3, 1e-5, 0.3
    entry = replace(anisotropic_entry(rng), decay_w=decay / 2, decay_h=decay)
    plain, tangents = joint_motion(entry, kappa), JointTangents(entry, kappa)
    assert plain.quick is not None
    P, C = entry.M.shape
    dW, db, dM, dD = (rng.standard_normal((many, *shape)) for shape in ((C, P), (C,), (P, C), (P, P)))
    dZ = np.concatenate([dW, db[..., None]], axis=2).transpose(1, 0, 2)
    dX = np.concatenate([dM, dD], axis=2).transpose(1, 0, 2)
    halves, whole = tangents.both((*plain.state, dZ, dX), h)
    moved = tuple((4 * fine - coarse) / 3 for fine, coarse in zip(halves, whole, strict=True))
    for array, expected in zip(moved[:4], plain.quick(plain.state, h), strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-10, atol=1e-12)
    grams = tangents.gram(moved)
    np.testing.assert_allclose(grams[0], plain.gram(moved[:4]), rtol=1e-10)
    for k in range(many):
        ends = []
        for sign in (1, -1):
            start = tuple(x + sign * size * d[k] for x, d in zip(plain.state, (dW, db, dM, dD), strict=True))
            ends.append(plain.quick(start, h))
        W, b, M, D = ((one - other) / (2 * size) for one, other in zip(*ends, strict=True))
        np.testing.assert_allclose(moved[4][:, k], np.hstack([W, b[:, None]]), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(moved[5][:, k], np.hstack([M, D]), rtol=1e-6, atol=1e-7)
        change = (plain.gram(ends[0]) - plain.gram(ends[1])) / (2 * size)
        np.testing.assert_allclose(grams[1 + k] - grams[0], change, rtol=1e-6, atol=1e-6 * abs(change).max())
