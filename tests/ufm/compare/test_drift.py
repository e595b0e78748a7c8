"""The drift of the laws' invariants: none where the law holds, what the formulas say elsewhere."""

import numpy as np
import pytest

from tests.ufm.compare.synthetic import C, K, noisy, of_law
from ufm.compare.drift import Drift, drift_of, share_interval
from ufm.compare.exponent import resample
from ufm.laws.singular_value_dynamics import EMBEDDED, LAWS, RENORMALIZED, UNNORMALIZED, Law

EVERY = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


def log_omega(log_u: np.ndarray) -> np.ndarray:
    return (log_u + np.log(C)) / 2


@EVERY
def test_the_invariants_of_a_law_stay_and_the_others_move(law: Law) -> None:
    path = log_omega(of_law(law, np.random.default_rng(2)))
    for other in LAWS.values():
        drift = drift_of(other, path, C, {})
        scale = abs(other.phi(np.exp(2 * path) / C)).max()
        assert drift.measured.shape == (len(path), K * (K - 1) // 2)
        assert (drift.rms < 1e-11 * scale) == (other is law)


def test_drifts_computed_by_hand_for_every_pair() -> None:
    omega = np.array([[1.0, 2.0, 4.0], [2.0, 2.0, 8.0]])
    u = omega**2 / 5
    a = np.log(u) + u
    b = np.log(u) + 2 * u + u**2 / 2
    for law, phi in ((RENORMALIZED, a), (EMBEDDED, b), (UNNORMALIZED, np.log(u))):
        drift = drift_of(law, np.log(omega), 5, {}).measured
        moved = phi[1] - phi[0]
        np.testing.assert_allclose(
            drift, [[0, 0, 0], [moved[0] - moved[1], moved[0] - moved[2], moved[1] - moved[2]]], atol=1e-13
        )
    np.testing.assert_allclose(drift_of(UNNORMALIZED, np.log(omega), 5, {}).measured[1], [np.log(4), 0, -np.log(4)], atol=1e-13)


def test_the_share_compares_with_the_least_of_the_other_laws() -> None:
    def row(value: float) -> np.ndarray:
        return np.vstack([np.zeros(3), np.full((4, 3), value)])

    drift = Drift(RENORMALIZED, row(1.0), {"renormalized": row(0.1), "embedded": row(4.0), "unnormalized": row(5.0)})
    assert drift.rms == pytest.approx(1.0)
    assert drift.share == pytest.approx(1 / 4)
    still = Drift(RENORMALIZED, row(1.0), {"renormalized": row(0.1), "embedded": row(0.0), "unnormalized": row(5.0)})
    assert np.isnan(still.share)
    assert np.isnan(Drift(RENORMALIZED, np.zeros((5, 0)), {}).rms)
    assert share_interval([drift], [np.ones((1, 3), dtype=int)], 0.95) == pytest.approx((1 / 4, 1 / 4))
    assert np.isnan(share_interval([still], [np.ones((1, 3), dtype=int)], 0.95)).all()


@EVERY
def test_the_interval_of_the_share_contains_it_and_narrows_with_runs(law: Law) -> None:
    rng = np.random.default_rng(4)
    paths = {name: log_omega(of_law(other, np.random.default_rng(9))) for name, other in LAWS.items()}  # the same starts
    runs = [drift_of(law, log_omega(noisy(of_law(law, np.random.default_rng(9)), rng)), C, paths) for _ in range(8)]
    low, high = share_interval(runs[:1], resample([K], 1000, rng), 0.95)
    assert low < runs[0].share < high
    pooled = share_interval(runs, resample([K] * 8, 1000, rng), 0.95)
    assert pooled[1] - pooled[0] < high - low
