"""`rng` of every public function that draws: a seed, a generator that is drawn from, or None (scientific-python SPEC 7)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import manifolds
from manifolds.class_centering import ClassLayout
from manifolds.rng import RNG, seed_from
from ufm.features.labels import balance
from ufm.ledger import ledger_of_features
from ufm.models import model_class
from ufm.models.base import simulate

LAYOUT = ClassLayout((9, 5, 7))
LABELS = np.asarray(LAYOUT.labels)
H = np.random.default_rng(8).standard_normal((4, LAYOUT.n)) + 3 * np.random.default_rng(9).standard_normal((4, 3))[:, LABELS]


def intervals(rng: RNG) -> np.ndarray:
    """The bootstrap's interval of a ledger."""
    result = ledger_of_features({"input": H.T, "last": H.T**3}, LABELS, rng=rng)
    return result.corrected_interval


DRAWS: dict[str, Callable[[Any], Any]] = {
    "random_point": lambda rng: manifolds.random_point(LAYOUT, 4, rng),
    "geoopt": lambda rng: manifolds.geoopt.NormalizedFeatures(LAYOUT, rng=rng).random(4, LAYOUT.n).detach().numpy(),
    "geoopt, of its own": lambda rng: manifolds.geoopt.EmbeddedNormalizedFeatures(LAYOUT).random(4, LAYOUT.n, rng=rng).numpy(),
    "pymanopt": lambda rng: manifolds.pymanopt.NormalizedFeatures(LAYOUT, 4, rng=rng).random_point(),
    "balance": lambda rng: balance(H, LAYOUT, rng)[0],
    "ledger": intervals,
    "simulate": lambda rng: simulate(model_class("mse-bias-free")(), rng=rng).history["objective"],
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_repeats_and_a_generator_goes_on(name: str) -> None:
    draw = DRAWS[name]
    np.testing.assert_array_equal(draw(3), draw(3))
    generator = np.random.default_rng(3)
    before = generator.bit_generator.state
    first = draw(generator)
    assert generator.bit_generator.state != before
    np.testing.assert_array_equal(first, draw(np.random.default_rng(3)))
    assert not np.array_equal(first, draw(generator))


@pytest.mark.parametrize("name", ["random_point", "geoopt", "pymanopt"])
def test_none_is_fresh_entropy(name: str) -> None:
    assert not np.array_equal(DRAWS[name](None), DRAWS[name](None))


def test_the_seed_of_a_generator_is_drawn_from_it() -> None:
    assert seed_from(None, 5) == 5
    assert seed_from(7, 5) == 7
    assert seed_from(np.random.default_rng(1), 5) == np.random.default_rng(1).integers(2**31)
