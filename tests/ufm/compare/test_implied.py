"""What a name implies of the features at later epochs: descents of the whole tensor pass, and what moves otherwise does not."""

import numpy as np
import pytest

from tests.ufm.compare.descents import descend, entry_of, labelled, white_start
from ufm.compare.conserved import change_of_entries
from ufm.compare.coordinates import Entry
from ufm.compare.implied import SeenStatistics, contradiction, seen_statistics, share_of_kernel
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
