"""Ergen & Pilanci: the minimum in the batch-normalised variables, class drop-out at sqrt(n_c), and the change of variables."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ufm.models.oracles import assert_as_predicted
from tests.ufm.models.problems import SEEDS
from ufm.models.base import simulate
from ufm.models.ergen_pilanci import ErgenPilanci, batch_normalized_value, unfold
from ufm.models.objective.losses import one_hot
from ufm.models.objective.peeled import gaussian_point


@pytest.mark.parametrize("beta", [0.3, 1.0, 1.6, 2.2])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (6, 4, 2)])
def test_minimum_and_logits(beta, sizes):
    """The cases of the derivation; beta = 2.2 is beyond the roots of 4 and 2, 1.6 beyond that of 2."""
    model = ErgenPilanci(sizes=sizes, beta=beta)
    assert model.layout.sizes == sizes
    assert_as_predicted(simulate(model))


@pytest.mark.parametrize("model", [ErgenPilanci(beta=2.0), ErgenPilanci(N=1), ErgenPilanci(N=1, sizes=(4, 1, 1), beta=1.0)])
def test_at_the_threshold_itself(model):
    """At beta = sqrt(n_c) the gradient is of order s^{3/2} in the logit s, so that 1e-9 of it leaves s known to 1e-6 only."""
    report = simulate(model)
    assert model.kept.min() == 0
    assert report.deviation["minimum"] < 1e-10
    assert max(report.deviation[name] for name in ("logits", "logits_spread", "logits_off_diagonal")) < 1e-6


def test_one_example_a_class_is_inside_the_theory():
    assert_as_predicted(simulate(ErgenPilanci(C=4, N=1, P=7, beta=0.4)))


@settings(max_examples=6)
@given(st.integers(2, 4), st.integers(2, 5), st.floats(0.1, 2.6), st.sampled_from([1.0, 2.0, 3.0]), SEEDS)
def test_minimum_in_general(C, N, beta, imbalance, seed):
    majority = 1 if imbalance > 1 else 0
    for size in (N, N * imbalance):
        if abs(beta - size**0.5) < 0.05:
            return
    model = ErgenPilanci(C=C, N=N, P=3 * C + 1, beta=beta, majority=majority, imbalance=imbalance)
    assert_as_predicted(simulate(model, seed))


@pytest.mark.parametrize(("factor", "alive"), [(0.98, True), (1.02, False)])
@pytest.mark.parametrize("k", [0, 2])
def test_a_class_drops_out_at_the_root_of_its_size(k, factor, alive):
    model = ErgenPilanci(N=2, majority=2, imbalance=3.0)
    beta = factor * model.layout.sizes[k] ** 0.5
    model = ErgenPilanci(N=2, majority=2, imbalance=3.0, beta=beta)
    kept = model.measured(model.solve(0))["logits"][k]
    assert (kept > 0.01) == alive
    assert kept == pytest.approx(max(1 - factor, 0), abs=1e-5)


def test_unfolding_is_the_inverse_of_batch_normalisation():
    (H,) = gaussian_point(((5, 8),), 0)
    H = H.clamp(min=0)
    H[3] = 0  # a neuron that never fires
    V, g, a = unfold(H)
    centred = V - V.mean(1, keepdim=True)
    back = g * centred / centred.norm(dim=1, keepdim=True) + a / 8**0.5
    assert torch.allclose(back, H, atol=1e-14)
    assert torch.allclose(g**2 + a**2, (H**2).sum(1, keepdim=True))


@settings(max_examples=15)
@given(SEEDS, st.floats(0.05, 2.5), st.floats(0.05, 2.0))
def test_no_point_of_the_batch_normalised_problem_lies_below_the_minimum(seed, beta, scale):
    model = ErgenPilanci(N=2, majority=2, imbalance=2.0, beta=beta)
    n = model.layout.n
    W, V, g, a = gaussian_point(((3, 6), (6, n), (6, 1), (6, 1)), seed, scale)
    value = batch_normalized_value(W, V, g, a, one_hot(model.layout), beta)
    assert float(value) >= model.predicted()["minimum"] - 1e-12


def test_plain_descent_in_the_batch_normalised_variables_ends_at_the_same_minimum():
    """The honest problem, autograd through ReLU and normalisation, best of four starts: never below, and within 1e-6."""
    model = ErgenPilanci(beta=1.0)
    Y, minimum, ends = one_hot(model.layout), model.predicted()["minimum"], []
    for seed in range(4):
        W, V, g, a = (t.requires_grad_() for t in gaussian_point(((3, 12), (12, 12), (12, 1), (12, 1)), seed))
        options: dict[str, Any] = {"max_iter": 800, "history_size": 20, "line_search_fn": "strong_wolfe", "tolerance_change": 0}
        optimizer = torch.optim.LBFGS([W, V, g, a], **options)

        def closure(W=W, V=V, g=g, a=a, optimizer=optimizer):
            optimizer.zero_grad()
            value = batch_normalized_value(W, V, g, a, Y, 1.0)
            value.backward()
            return value

        optimizer.step(closure)
        ends.append(float(closure().detach()))
    assert min(ends) >= minimum - 1e-12
    assert min(ends) == pytest.approx(minimum, abs=1e-6)


def test_each_neuron_fires_on_one_class_and_centred_means_are_a_simplex():
    model = ErgenPilanci(beta=0.5)
    W, H = model.solve(0).point
    M = model.layout.means(H)
    strong = M.max(1).values > 1e-3
    assert ((M[strong] > 1e-4).sum(1) == 1).all()
    centred = M - M.mean(1, keepdim=True)
    unit = centred / centred.norm(dim=0)
    gram = (unit.mT @ unit).numpy()
    assert gram[~np.eye(3, dtype=bool)] == pytest.approx(-0.5, abs=1e-5)
    assert W.shape == (3, 12)
