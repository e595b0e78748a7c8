"""What a name implies of the features at later epochs: descents of the whole tensor pass, and what moves otherwise does not."""

import numpy as np
import pytest

from tests.ufm.compare.descents import descend, entry_of, labelled, white_start
from ufm.compare.conserved import change_of_entries
from ufm.compare.coordinates import Entry
from ufm.compare.implied import SeenStatistics, contradiction, seen_statistics, share_of_kernel, unexcused
from ufm.compare.outcome import NAMED, UNDECIDED, Support
from ufm.compare.selection import _verdict

SIZES = [23, 17, 13, 10]
MOST = 0.1


def descended(r: float = 1.0, decay: float = 0.0, u: float = 1.0) -> SeenStatistics:
    """Plain descent, class means r times as fast as deviations, features shrunk by exp(-decay) an epoch."""
    rng, y = np.random.default_rng(1), labelled(SIZES)
    E = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    start = (E * np.exp(rng.uniform(-0.5, 0.5, 7))) @ E.T @ white_start(rng, SIZES, 7, u)
    return seen_statistics([entry_of(H * np.exp(-decay * k), y) for k, H in enumerate(descend(start, y, 0.8 / r, 1000, 100, r))])


def stretched(by_means: float, by_deviations: float) -> SeenStatistics:
    """Class means that grow and deviations that shrink, each alike in all directions, by a factor an epoch."""
    start = entry_of(white_start(np.random.default_rng(0), SIZES, 7, 1.0), labelled(SIZES))
    return seen_statistics(
        [Entry(start.counts, start.M * np.exp(by_means * k), start.sigma_w * np.exp(-2 * by_deviations * k)) for k in range(5)]
    )


@pytest.mark.parametrize("r", [1.0, 4.0, 0.25])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_descent_is_as_its_model_implies_whatever_its_decay(r: float, decay: float) -> None:
    seen = descended(r, decay)
    factor, left = change_of_entries(seen.conserved, r)
    assert factor == pytest.approx(np.exp(-2 * decay * 10), rel=0.01)
    assert left < 0.01
    undone = seen.split.share.value - 0.5 * np.log(factor) / (seen.split.signal + seen.split.noise).sum(0).mean()
    assert undone == pytest.approx(share_of_kernel(seen.split, r), abs=0.02)
    name, parameter = ("unnormalized", None) if r == 1 else ("kernel", r)
    assert contradiction(name, parameter, [seen], MOST) == ""
    assert contradiction("kernel", r, [seen, None], MOST) == ""


@pytest.mark.parametrize("r", [1.0, 4.0])
@pytest.mark.parametrize("u", [0.3, 1.0])
@pytest.mark.parametrize("rows", [[0, -1], [0, 20, -1]])
def test_few_stored_epochs_of_a_large_growth_are_as_their_model_implies(r: float, u: float, rows: list[int]) -> None:
    """omega grows 15 to 900 fold between the first and the last, and its share is no mean of those at both ends."""
    rng, y = np.random.default_rng(1), labelled(SIZES)
    features = descend(white_start(rng, SIZES, 7, u), y, 0.4, 6000, 150, r)
    split = seen_statistics([entry_of(features[k], y) for k in rows]).split
    assert (split.signal + split.noise).sum(0).mean() > np.log(10)
    assert split.share.value == pytest.approx(share_of_kernel(split, r), abs=0.05)
    if r == 1:
        assert split.predicted == pytest.approx(share_of_kernel(split, 1.0))


def test_what_descent_is_not_is_told() -> None:
    assert "Sigma_T, which it conserves" in contradiction("unnormalized", None, [descended(8.0)], MOST)
    assert "Sigma_W + S S^T / 8, which it conserves" in contradiction("kernel", 8.0, [descended()], MOST)
    for name in ("renormalized", "embedded"):
        assert "of the growth of log omega" in contradiction(name, None, [descended()], MOST)
        assert contradiction(name, None, [stretched(0.2, 0.0)], MOST) == ""
        assert contradiction(name, None, [stretched(0.2, 0.02)], MOST) == ""  # a tenth of the growth, and no more
        assert "class means make 0.80" in contradiction(name, None, [stretched(0.2, 0.05)], MOST)
        assert "class means make 1.25" in contradiction(name, None, [stretched(0.25, -0.05)], MOST)
    one_of_two = contradiction("renormalized", None, [stretched(0.2, 0.0), stretched(0.0, 0.2)], MOST)
    assert one_of_two.startswith("the class means make 0.00 of the growth of log omega (0.00 to 0.00), 1.00 under it")


def test_where_class_means_are_all_of_sigma_t_the_share_tells_what_conservation_does_not() -> None:
    """omega of 30: under plain descent, too, nearly all growth is the deviations'."""
    start = entry_of(white_start(np.random.default_rng(0), SIZES, 7, 900.0), labelled(SIZES))

    def seen(by_means: float) -> SeenStatistics:
        grown = [Entry(start.counts, start.M * np.exp(by_means * k), start.sigma_w * np.exp(-0.08 * k)) for k in range(5)]
        return seen_statistics(grown)

    assert contradiction("unnormalized", None, [seen(0.0)], MOST) == ""
    assert change_of_entries(seen(0.01).conserved, 1.0) == (
        1.0,
        pytest.approx(np.expm1(0.08), abs=2e-3),
    )
    assert "the class means make 0.20" in contradiction("unnormalized", None, [seen(0.01)], MOST)


@pytest.mark.parametrize("name", ["joint", "layer"])
def test_models_without_such_a_consequence_are_not_held_against_it(name: str) -> None:
    assert contradiction(name, None, [descended(), stretched(0.0, 0.2)], MOST) == ""


@pytest.mark.parametrize(("by_deviations", "outcome"), [(0.0, NAMED), (0.2, UNDECIDED)])
def test_no_model_is_named_against_its_features(by_deviations: float, outcome: str) -> None:
    support = {name: Support(0.0, None, 0.1, 9.0, 0.0, 0.001, 1.0, True) for name in ("embedded", "unnormalized", "kernel")}
    support["renormalized"] = Support(9.0, None, 0.01, 0.0, 0.0, 1.0, 1.0, False)
    verdict = _verdict(support, {}, 1.0, [None, stretched(0.2, by_deviations)])
    assert (verdict.outcome, verdict.compatible) == (outcome, ("renormalized",))
    assert (verdict.name == "renormalized") is (outcome == NAMED)


def test_of_several_models_left_those_that_the_features_contradict_are_told() -> None:
    support = {name: Support(0.0, None, 0.1, 0.0, 0.0, 1.0, 1.0, False) for name in ("renormalized", "unnormalized")}
    verdict = _verdict(support, {}, 1.0, [stretched(0.2, 0.0)])
    assert (verdict.outcome, verdict.compatible) == (UNDECIDED, ("renormalized", "unnormalized"))
    assert verdict.reason.endswith("renormalized, unnormalized; later features are not as unnormalized implies")
    assert _verdict(support, {}, 1.0).reason.endswith("told apart here: renormalized, unnormalized")


@pytest.mark.parametrize(("behind", "left"), [(10.0, ["unnormalized"]), (1.0, ["renormalized", "unnormalized"])])
def test_what_the_tolerance_keeps_is_lost_only_to_a_likelier_model_that_features_do_not_contradict(
    behind: float, left: list[str]
) -> None:
    """Both below the tolerance, features as plain descent has them: renormalized is behind, or as likely."""
    support = {name: Support(50.0, None, 8e-4, 0.0, 9.0, 1.0, 0.001, False, negligible=True) for name in left[-1:]}
    support["renormalized"] = Support(50.0 - behind, None, 8e-4, 0.0, 9.0, 1.0, 0.001, False, negligible=True)
    after = unexcused(support, [descended()], MOST, 100.0)
    assert sorted(name for name, own in after.items() if not own.refuted) == left
    assert all(own.negligible is not own.refuted for own in after.values())


def test_features_seen_in_a_basis_that_moves_do_not_refute_the_likeliest_model_for_another() -> None:
    """Plain descent whose features are stored with Sigma_W = I at every epoch: no name, of the renormalized flow neither."""
    rng, y, stored = np.random.default_rng(1), labelled(SIZES), list[Entry]()
    for H in descend(white_start(rng, SIZES, 7, 1.0), y, 0.8, 1000, 100):
        values, E = np.linalg.eigh(entry_of(H, y).sigma_w)
        stored.append(entry_of((E / np.sqrt(values)) @ E.T @ H, y))
    seen = [seen_statistics(stored)]
    support = {
        "unnormalized": Support(50.0, None, 2e-4, 0.0, 9.0, 1.0, 0.001, False, negligible=True),
        "renormalized": Support(20.0, None, 8e-4, 30.0, 9.0, 0.001, 0.001, False, negligible=True),
        "kernel": Support(90.0, 4.0, 0.1, 0.0, 9.0, 0.001, 0.001, True),  # refuted: what it has is no evidence for another
    }
    assert [bool(contradiction(name, None, seen, MOST)) for name in ("unnormalized", "renormalized")] == [True, False]
    after = unexcused(support, seen, MOST, 100.0)
    assert after == support
    verdict = _verdict(after, {}, 1.0, seen)
    assert (verdict.outcome, verdict.compatible) == (UNDECIDED, ("unnormalized", "renormalized"))
    assert verdict.reason.endswith("; later features are not as unnormalized implies")
