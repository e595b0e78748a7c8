"""Edges of the models' domains: numbers that are no counts, decays whose products underflow, starts that lead nowhere."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.ufm.models.oracles import assert_as_predicted
from ufm.models import MODEL_NAMES, model_class
from ufm.models.any_target import AnyTarget
from ufm.models.base import simulate
from ufm.models.dang import DeepLinear
from ufm.models.garrod_keating import DeepCrossEntropy
from ufm.models.squared import Optimum
from ufm.models.thrampoulidis import Seli
from ufm.models.zhou_losses import FocalLoss, LabelSmoothing
from ufm.models.zhu import Zhu


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("parameter", ["C", "N", "P"])
def test_counts_are_whole_numbers(name: str, parameter: str) -> None:
    """C = 2.5 classes had a largest margin."""
    build: Any = model_class(name)
    for value in (2.5, 5.0, float("nan"), "3", None):
        with pytest.raises(ValueError, match=f"{parameter} is .*a whole number is needed"):
            build(**{parameter: value})
    assert type(getattr(build(**{parameter: np.int64(getattr(build(), parameter))}), parameter)) is int


def test_layers_and_sizes_are_whole_numbers() -> None:
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        *((model, {"layers": layers}, "layers is") for model in (DeepCrossEntropy, DeepLinear) for layers in (2.5, np.nan, "2")),
        *((model, {"C": 3, "sizes": (3, 2.5, 1)}, r"size of class 1 is 2\.5") for model in (Seli, AnyTarget)),
        *((model, {"majority": 1.5, "imbalance": 2.0}, r"majority is 1\.5") for model in (Seli, AnyTarget)),
    ]
    for model, parameters, message in wrong:
        with pytest.raises(ValueError, match=message):
            model(**parameters)


@pytest.mark.parametrize("decay", [1e-12, 1e-28, 1e-160, 1e-300])
def test_the_focal_loss_of_exponent_zero_is_cross_entropy_however_weak_the_decay(decay: float) -> None:
    shared = {"C": 3, "P": 4, "lambda_w": decay, "lambda_h": decay}
    zhu = Zhu(**shared)
    assert FocalLoss(gamma=0.0, **shared).gap == pytest.approx(zhu.gap, rel=1e-12)
    assert LabelSmoothing(smoothing=0.0, **shared).gap == pytest.approx(zhu.gap, rel=1e-12)


@pytest.mark.parametrize("decay", [1e-30, 1e-160, 1e-300])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_gap_of_the_focal_loss_balances_loss_and_decay(decay: float, gamma: float) -> None:
    """Where the gap is large phi(g) is ((C-1) exp(-g))^(1+gamma): log phi' = log tau gives it; it was cut at 60."""
    model = FocalLoss(C=3, P=4, lambda_w=decay, lambda_h=decay, gamma=gamma)
    expected = np.log(2) - (np.log(model.price) - np.log(1 + gamma)) / (1 + gamma)
    assert model.gap == pytest.approx(expected, rel=1e-8)
    assert model.predicted()["minimum"] == pytest.approx(model.price * (model.gap + 1 / (1 + gamma)), rel=1e-6)


@pytest.mark.parametrize("gamma", [50.0, 1000.0])
def test_a_support_of_the_focal_loss_at_zero_is_judged_at_the_size_of_the_loss(gamma: float) -> None:
    model = FocalLoss(C=3, P=4, gamma=gamma)
    model.check_domain()
    assert model.gap == 0.0
    assert 0 < model.loss_at(0.0) <= model.loss_at(-0.01)
    with pytest.raises(ValueError, match=r"gamma = 1e\+308.*neither"):  # whose loss at zero has underflowed
        FocalLoss(C=3, P=4, gamma=1e308).check_domain()


def test_prices_of_many_layers_or_tiny_decays_do_not_vanish() -> None:
    """lw^M underflowed, and the minimum was zero at a finite size."""
    for layers, decay in ((3, 1e-160), (200, 5e-3), (3, 1e300)):
        price = DeepCrossEntropy(C=2, N=7, P=2, layers=layers, lambda_w=decay, lambda_h=decay).price
        assert price == pytest.approx((layers + 1) / 2 * decay * 7 ** (1 / (layers + 1)), rel=1e-12)
        cost = DeepLinear(C=2, N=7, P=2, layers=layers, lambda_w=decay, lambda_h=1.0).cost
        assert cost == pytest.approx(layers * 2 * decay * 14 ** (1 / layers), rel=1e-12)
    with pytest.raises(ValueError, match="weaker weight decay"):
        DeepCrossEntropy(C=3, P=3, layers=300).check_domain()


def test_a_minimum_for_weak_or_strong_decay_is_neither_lost_nor_infinite() -> None:
    weak = AnyTarget(C=3, P=4, lambda_w=1e-200, lambda_h=1e-200)
    values = np.linalg.svd(weak.Y - weak.Y.mean(1, keepdims=True), compute_uv=False)
    assert weak.optimum.minimum == pytest.approx(1e-200 * values.sum(), rel=1e-12)
    strong = AnyTarget(C=3, P=4, lambda_w=1e300, lambda_h=1e300)
    assert strong.optimum.minimum == pytest.approx((values**2).sum() / (2 * strong.layout.n), rel=1e-12)


def test_targets_of_ones_own_are_checked() -> None:
    Y = np.random.default_rng(0).standard_normal((3, 7))
    best = Optimum.of(Y, 0.1, 0.2, 3, free_bias=True)
    tensor: Any = torch.from_numpy(Y)
    assert Optimum.of(tensor, 0.1, 0.2, 3, free_bias=True).minimum == pytest.approx(best.minimum, rel=1e-14)
    counts = np.array([[1, 0, 2], [0, 3, 1]])
    assert (
        Optimum.of(counts, 0.1, 0.2, 3, free_bias=True).minimum == Optimum.of(1.0 * counts, 0.1, 0.2, 3, free_bias=True).minimum
    )
    named: Any = Y.tolist()
    with pytest.raises(TypeError, match="got list"):
        Optimum.of(named, 0.1, 0.2, 3, free_bias=True)
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((Y, -0.1, -0.2, 3), r"lambda_w = -0\.1"),
        ((Y, 0.1, float("nan"), 3), "lambda_h = nan"),
        ((Y, 0.1, 0.2, 0), "P = 0"),
        ((Y, 0.1, 0.2, 2.5), r"P is 2\.5"),
        ((np.nan * Y, 0.1, 0.2, 3), "NaN or infinite"),
        ((Y[0], 0.1, 0.2, 3), r"\(7,\): targets \(q, n\)"),
        ((Y[:, :0], 0.1, 0.2, 3), r"\(3, 0\)"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            Optimum.of(*arguments, free_bias=True)


@pytest.mark.parametrize(("sizes", "P", "seed"), [((1, 1), 1, 0), ((1, 1), 1, 20), ((1, 1), 2, 7), ((1, 1, 1), 2, 19)])
def test_no_start_leads_the_largest_margin_to_zero(sizes: tuple[int, ...], P: int, seed: int) -> None:
    """Features on the wrong side of their rows led SLSQP to W = H = 0, and to a division by zero."""
    assert_as_predicted(simulate(Seli(C=len(sizes), P=P, sizes=sizes), seed))
