"""What every model refuses, with the number and the way out; the table of models; what stays undeclared."""

from dataclasses import fields
from typing import Any

import pytest

from ufm.models import MODEL_NAMES, model_class
from ufm.models.base import Model, deviation, simulate
from ufm.models.dang import DeepLinear
from ufm.models.ergen_pilanci import ErgenPilanci
from ufm.models.fang import Fang
from ufm.models.han_papyan_donoho import CentralPath
from ufm.models.tirer_bruna import BiasFree
from ufm.models.zhu import Zhu

ETF_MODELS = ("mixon", "lu-steinerberger", "e-wojtowytsch", "poggio-liao", "fang", "zhu", "mse-free-bias", "central-path")
FRAME_MODELS = ("mse-bias-free", "mse-decayed-bias", "deep-linear")


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_model_has_its_facts_and_refuses_bad_sizes(name):
    cls = model_class(name)
    build: Any = cls  # each class has parameters of its own
    assert issubclass(cls, Model)
    assert cls.facts.name == name
    assert all((cls.facts.paper, cls.facts.loss, cls.facts.constraint, cls.facts.theory, cls.facts.domain, cls.facts.needs))
    for parameter, value in (("C", 1), ("N", 0), ("P", 0)):
        with pytest.raises(ValueError, match=f"{parameter} = {value}"):
            build(**{parameter: value})
    with pytest.raises(ValueError, match="optimizer = magic"):
        cls(optimizer="magic")


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_penalties_energies_and_scales_must_be_positive(name):
    cls: Any = model_class(name)
    parameters = {f.name for f in fields(cls)} & {"lambda_w", "lambda_h", "energy_h", "energy_w", "temperature", "beta", "scale"}
    for parameter in parameters:
        for value in (-1.0, 0.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"{parameter} = {value}"):
                cls(**{parameter: value})
    if "lambda_b" in {f.name for f in fields(cls)}:
        with pytest.raises(ValueError, match=r"lambda_b = -0\.1"):
            cls(lambda_b=-0.1)


@pytest.mark.parametrize("name", ETF_MODELS)
def test_too_few_features_for_a_simplex_are_refused_with_the_way_out(name):
    model = model_class(name)(C=7, N=9, P=5)
    with pytest.raises(ValueError, match=r"P = 5 < C - 1 = 6.*use P >= 6"):
        simulate(model)
    model_class(name)(C=7, N=9, P=6).check_domain()


@pytest.mark.parametrize("name", FRAME_MODELS)
def test_too_few_features_for_a_frame_are_refused_with_the_way_out(name):
    with pytest.raises(ValueError, match=r"P = 6 < C = 7.*use P >= 7"):
        simulate(model_class(name)(C=7, N=9, P=6))


def test_other_domains():
    with pytest.raises(ValueError, match=r"P = 2 < C = 3.*neuron"):
        simulate(ErgenPilanci(P=2))
    with pytest.raises(ValueError, match=r"C\(N-1\) = 4 < P = 5"):
        simulate(CentralPath(C=4, N=2, P=5))
    with pytest.raises(ValueError, match="flow = sideways"):
        CentralPath(flow="sideways")
    with pytest.raises(ValueError, match="layers = 0"):
        DeepLinear(layers=0)
    with pytest.raises(ValueError, match="P = 1: the sphere"):
        simulate(model_class("lu-steinerberger")(C=2, P=1))


@pytest.mark.parametrize("cls", [BiasFree, DeepLinear, ErgenPilanci])
def test_given_sizes_must_make_sense(cls):
    for wrong, message in (
        ({"sizes": (3, 2)}, r"sizes = \(3, 2\): 2 sizes for C = 3"),
        ({"sizes": (3, 2, 0)}, r"sizes = \(3, 2, 0\): every class needs"),
        ({"sizes": (3, 2, 1), "majority": 1, "imbalance": 2.0}, "majority or imbalance: give one or the other"),
    ):
        with pytest.raises(ValueError, match=message):
            cls(C=3, **wrong)
    assert cls(C=3, sizes=[6, 4, 2]).N == 2


@pytest.mark.parametrize("cls", [BiasFree, DeepLinear, ErgenPilanci, Fang])
def test_unequal_sizes_must_make_sense(cls):
    for wrong, message in (
        ({"majority": 9}, "majority = 9"),
        ({"majority": -1}, "majority = -1"),
        ({"imbalance": 0.5}, "imbalance = 0.5"),
        ({"imbalance": float("inf"), "majority": 1}, "imbalance = inf"),
        ({"imbalance": 2.0}, "majority = 0"),
    ):
        with pytest.raises(ValueError, match=message):
            cls(**wrong)
    if cls is not Fang:
        with pytest.raises(ValueError, match="whole number"):
            cls(majority=1, imbalance=1.37)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="choose from central-path, mixon"):
        model_class("nobody")


def test_a_model_that_does_not_measure_what_it_predicts_is_an_error(monkeypatch):
    monkeypatch.setattr(Zhu, "measured", lambda self, solved: {"minimum": 0.0})
    with pytest.raises(RuntimeError, match="predicted"):
        simulate(Zhu(C=2, N=3, P=4))


def test_deviation_is_the_largest_absolute_difference():
    assert deviation(1.0, 1.5) == 0.5
    assert deviation([1.0, -2.0], [1.0, 1.0]) == 3.0


def test_measured_values_follow_the_solve_and_not_the_prediction(monkeypatch):
    """With the theory made wrong on purpose, what is measured stays and the deviation shows it."""
    right = simulate(Zhu(C=3, N=4, P=5))
    honest = Zhu.predicted
    monkeypatch.setattr(Zhu, "predicted", lambda self: {**honest(self), "minimum": honest(self)["minimum"] + 0.1})
    wrong = simulate(Zhu(C=3, N=4, P=5))
    assert wrong.measured["minimum"] == right.measured["minimum"]
    assert wrong.deviation["minimum"] == pytest.approx(0.1, abs=1e-9)
