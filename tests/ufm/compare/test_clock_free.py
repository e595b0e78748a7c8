"""Conservation, split and rotation on descents of the whole tensor: as predicted, and not where something else moves."""

import numpy as np
import pytest

from tests.ufm.compare.descents import descend, entry_of, labelled, measured, white_start
from ufm.compare.clock_free import conservation, growth_split, predicted_split, rotation
from ufm.compare.coordinates import Entry, frame_of, log_gram

SIZES = {"equal": [14] * 4, "unequal": [23, 17, 13, 10]}
EVERY = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())


def features(sizes: list[int], r: float = 1.0, seed: int = 1) -> tuple[list[np.ndarray], np.ndarray]:
    rng, y = np.random.default_rng(seed), labelled(sizes)
    E = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    start = (E * np.exp(rng.uniform(-0.5, 0.5, 7))) @ E.T @ white_start(rng, sizes, 7, 1.0)
    return descend(start, y, 0.2 / max(r, 1), 2400, 300, r), y


@EVERY
def test_plain_descent_conserves_sigma_t_and_decay_multiplies_it(sizes: list[int]) -> None:
    seen, y = features(sizes)
    entries = [entry_of(H, y) for H in seen]
    kept = conservation(entries)
    assert kept.change.max() < 2e-3  # of the descent's steps; nothing else
    assert abs(kept.last_factor.value - 1) < 1e-3
    assert kept.last_rest.value < 2e-3
    decayed = [entry_of(H * np.exp(-0.1 * k), y) for k, H in enumerate(seen)]  # feature decay is a change of scale and clock
    changed = conservation(decayed)
    np.testing.assert_allclose(changed.factor, np.exp(-0.2 * np.arange(len(seen))), rtol=1e-3)
    assert changed.last_factor.low <= changed.last_factor.value <= changed.last_factor.high < 0.3
    assert changed.last_rest.value < 2e-3
    other, _ = features(sizes, r=4.0)
    moved = [entry_of(H, y) for H in other]
    assert conservation(moved).last_rest.value > 0.02
    assert conservation(moved, r=4.0).change.max() < 5e-3


@EVERY
def test_the_signal_has_the_share_that_plain_descent_predicts(sizes: list[int]) -> None:
    seen, y = features(sizes)
    entries = [entry_of(H, y) for H in seen]
    parts = growth_split(entries)
    frame = frame_of(entries[0].gram())
    grown = np.diagonal(log_gram(entries[-1].gram(), frame) - log_gram(entries[0].gram(), frame))
    np.testing.assert_allclose((parts.signal + parts.noise).sum(0), grown, rtol=1e-9)
    assert parts.share.value == pytest.approx(parts.predicted, abs=0.01)
    assert parts.r == pytest.approx(1.0, abs=0.05)
    assert parts.share.low <= parts.share.value <= parts.share.high
    fast, _ = features(sizes, r=4.0)
    assert growth_split([entry_of(H, y) for H in fast]).r > 2
    frozen = [Entry(entries[0].counts, entries[0].M * np.exp(0.1 * k), entries[0].sigma_w) for k in range(4)]
    assert growth_split(frozen).share.value == pytest.approx(1.0)


def test_from_a_white_total_the_share_is_one_over_one_plus_u() -> None:
    C, u = 4, np.array([0.4, 1.0, 2.5])
    V = np.linalg.qr(np.eye(C) - 1 / C)[0][:, : C - 1]
    shrunk = 1 / (1 + u)
    entry = Entry(np.full(C, 10), (V * np.sqrt(C * u * shrunk)).T, np.diag(shrunk))
    frame = frame_of(entry.gram())
    by_means, by_deviations = predicted_split(entry, frame)
    np.testing.assert_allclose(by_means / (by_means + by_deviations), 1 / (1 + u[::-1]), rtol=1e-5)


def test_vectors_turn_as_plain_descent_predicts_and_not_where_they_are_frozen() -> None:
    seen, y = features(SIZES["unequal"])
    run = measured(seen, y)
    turned = rotation(run)
    assert turned.size > 0.01
    assert turned.coefficient.value == pytest.approx(1.0, abs=0.05)
    assert turned.coefficient.low <= turned.coefficient.value <= turned.coefficient.high
    run = measured(*features(SIZES["equal"]))  # of equal classes, frozen V is a diagonal Y
    assert rotation(run).coefficient.value == pytest.approx(1.0, abs=0.05)
    still = rotation(type(run)(run.t, run.omega, np.broadcast_to(run.V[0], run.V.shape), run.counts, run.entry))
    assert still.size > 0.01
    assert still.coefficient.value == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="class statistics"):
        rotation(type(run)(run.t, run.omega, run.V, run.counts))


def test_statistics_that_cannot_be_compared_say_so() -> None:
    seen, y = features(SIZES["equal"])
    one = entry_of(seen[0], y)
    with pytest.raises(ValueError, match="at least 2"):
        conservation([one])
    with pytest.raises(ValueError, match="one basis"):
        conservation([one, entry_of(seen[1][:5], y)])
    with pytest.raises(ValueError, match="counts"):
        growth_split([one, Entry(one.counts + 1, one.M, one.sigma_w)])
