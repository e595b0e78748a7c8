"""One run beside the laws: the API on two trajectories gives the same numbers, and a law is told beside itself."""

import numpy as np
import pytest

from tests.ufm.compare.synthetic import C, N, noisy, of_law, trajectory
from ufm.compare.clock import law_from
from ufm.compare.comparison import SCHEME, compare, compare_trajectories
from ufm.compare.spectra import SPECTRUM_MEASURES
from ufm.features.measures import phd_nc1
from ufm.features.statistics import statistics_of
from ufm.laws.singular_value_dynamics import LAWS, RENORMALIZED, UNNORMALIZED, Law

EVERY = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


@EVERY
def test_two_trajectories_compare_as_a_run_and_a_law(law: Law) -> None:
    rng = np.random.default_rng(1)
    measured = trajectory(noisy(of_law(RENORMALIZED, rng, T=12, K=9), rng))
    inside = compare(measured).pairs[law.name]
    t = law_from(law, measured.omega[0], 2 * float(measured.omega.max()), C, N, points=4001)
    beside = compare_trajectories(t, measured)
    np.testing.assert_allclose(beside.clock.tau, inside.clock.tau, rtol=1e-5, atol=1e-6 * inside.clock.tau[-1])
    np.testing.assert_allclose(beside.clock.predicted, inside.clock.predicted, atol=1e-5)  # flat in the clock where a law errs
    assert beside.clock.rms == pytest.approx(inside.clock.rms, abs=1e-6)
    assert set(beside.simulated) == set(beside.measured) == set(SPECTRUM_MEASURES)
    for name in SPECTRUM_MEASURES:
        np.testing.assert_allclose(beside.simulated[name], inside.simulated[name], rtol=1e-4, atol=1e-9)
        np.testing.assert_array_equal(beside.measured[name], inside.measured[name])


@EVERY
def test_a_law_without_noise_is_explained_by_itself_alone_and_its_numbers_agree(law: Law) -> None:
    measured = trajectory(of_law(law, np.random.default_rng(4)))
    comparison = compare(measured)
    assert set(comparison.pairs) == {*LAWS, SCHEME}
    assert [name for name, pair in comparison.pairs.items() if pair.clock.rms < 1e-6] == [law.name]
    assert (comparison.pairs[SCHEME].clock.rms < 1e-2) == (law is RENORMALIZED)  # the limit of small steps
    own = comparison.pairs[law.name]
    for name in SPECTRUM_MEASURES:
        np.testing.assert_allclose(own.simulated[name], own.measured[name], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(own.measured["loss"], measured.loss, rtol=1e-12)
    np.testing.assert_allclose(own.measured["spread"], measured.omega.max(1) / measured.omega.min(1), rtol=1e-12)
    np.testing.assert_allclose(comparison.log_u, np.log(measured.omega**2 / C))
    assert comparison.frozen is None


def test_nc1_of_the_spectra_is_that_of_renormalized_features() -> None:
    rng = np.random.default_rng(0)
    from ufm.compare.spectra import spectra
    from ufm.features.labels import class_blocks
    from ufm.features.snr import renormalized_features

    labels = np.repeat(np.arange(4), 9)
    H, layout = class_blocks(rng.standard_normal((36, 6)) + 2 * np.eye(4, 6)[labels], labels)
    X, snr = renormalized_features(H, layout)
    measures = spectra(snr.omega[None], snr.V[None], 4)
    assert measures["nc1"][0] == pytest.approx(phd_nc1(statistics_of(X.T, labels, 4)), rel=1e-9)


def test_a_run_that_falls_leaves_the_clock_at_rest() -> None:
    x = of_law(UNNORMALIZED, np.random.default_rng(1))[::-1]
    comparison = compare(trajectory(x))
    for name in LAWS:
        np.testing.assert_array_equal(comparison.pairs[name].clock.tau, 0)
    assert SCHEME not in comparison.pairs


def test_different_classes_or_numbers_of_values_are_refused() -> None:
    rng = np.random.default_rng(1)
    one = trajectory(of_law(RENORMALIZED, rng, C=7, K=4), C=7)
    with pytest.raises(ValueError, match="C = 10 simulated and C = 7 measured"):
        compare_trajectories(trajectory(of_law(RENORMALIZED, rng, K=4)), one)
    with pytest.raises(ValueError, match="5 singular values simulated and 4 measured"):
        compare_trajectories(trajectory(of_law(RENORMALIZED, rng, C=7, K=5), C=7), one)
    zero = trajectory(np.full((5, 4), -np.inf), C=7)
    with pytest.raises(ValueError, match="a measured singular value is 0"):
        compare_trajectories(one, zero)
    with pytest.raises(ValueError, match="a simulated singular value is 0"):
        compare_trajectories(zero, one)
