"""Mixon, Parshall & Pi and the central path: laws along whole trajectories, conserved quantities, the start that fails."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from manifolds.class_centering import ClassLayout
from tests.ufm.models.oracles import assert_as_predicted
from tests.ufm.models.problems import SEEDS, shapes
from ufm.features.measures import tirer_trace_ratio
from ufm.features.statistics import block_statistics
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED
from ufm.models.base import simulate
from ufm.models.han_papyan_donoho import CentralPath
from ufm.models.mixon import Mixon
from ufm.models.solvers.gradient_flow import gradient_flow
from ufm.tensor.integrate import integrate_scipy
from ufm.tensor.renormalized_flow import ls_gradient


def residual(model: Mixon, point):
    """R = W H + b 1^T - Y, from the labels."""
    W, H, b = point
    return W @ H + b - torch.nn.functional.one_hot(torch.as_tensor(model.layout.labels), model.C).T


@settings(max_examples=8)
@given(shapes(classes=(2, 5)), SEEDS)
def test_law_on_the_invariant_subspace_along_the_whole_trajectory(shape, seed):
    """sigma_j(t) to 5e-12 relative at nine times, singular vectors frozen, the subspace never left."""
    model = Mixon(**shape)
    times = np.linspace(0, 3, 9) / model.rate
    path = gradient_flow(model.objective(), model.subspace_start(seed), times, rtol=1e-13)
    law = model.law(times, model.subspace_singular_values)
    for expected, (W, H, b) in zip(law, path, strict=True):
        assert torch.linalg.svdvals(W)[: model.C - 1].numpy() == pytest.approx(expected, rel=5e-12)
        assert float(W.sum(0).abs().max()) < 1e-11
        assert torch.allclose(H, model.layout.spread(W.mT) / model.rate, atol=1e-11)
        assert torch.allclose(b, torch.full_like(b, 1 / model.C), atol=1e-12)
    W0, W1 = path[0][0], path[-1][0]
    U0, V0 = torch.linalg.svd(W0, full_matrices=False)[0], torch.linalg.svd(W0, full_matrices=False)[2]
    turned = (U0.mT @ W1 @ V0.mT)[: model.C - 1, : model.C - 1]
    assert float((turned - turned.diagonal().diag()).abs().max()) < 1e-10


@settings(max_examples=8)
@given(shapes(classes=(2, 5)), SEEDS, st.floats(0.05, 1.0))
def test_the_field_and_its_conserved_quantity(shape, seed, scale):
    model = Mixon(**shape, scale=scale)
    point = model.start(seed)
    W, H, _ = point
    gradient = model.objective().value_and_gradient(point)[1]
    R = residual(model, point)
    for part, expected in zip(gradient, (R @ H.mT, W.mT @ R, R.sum(1, keepdim=True)), strict=True):
        assert torch.allclose(part, expected, atol=1e-12)
    end = gradient_flow(model.objective(), point, np.array([0.0, 1.0 / model.rate]), rtol=2.3e-14)[-1]
    drift = (end[0].mT @ end[0] - end[1] @ end[1].mT) - (W.mT @ W - H @ H.mT)
    assert float(drift.norm()) < 5e-15 * float((W.mT @ W).norm() + (H @ H.mT).norm())
    assert float((end[0] - W).norm()) > 1e-3  # it moved


@settings(max_examples=8)
@given(shapes(classes=(2, 5)), SEEDS)
def test_linearised_flow_is_the_exponential_of_its_generator_and_the_limit_of_the_flow(shape, seed):
    model = Mixon(**shape, scale=1e-5)
    W, H, b = model.start(seed)
    start = (W, H, b + 1 / model.C)
    t = 2.0 / model.rate
    Yt = torch.nn.functional.one_hot(torch.as_tensor(model.layout.labels), model.C).T.double() - 1 / model.C
    n, P, C = model.layout.n, model.P, model.C
    # the generator on stacked (W^T, H), columns of features: W'^T = H Yt^T, H' = W^T Yt
    generator = torch.zeros(C + n, C + n, dtype=torch.float64)
    generator[:C, C:], generator[C:, :C] = Yt, Yt.mT
    moved = torch.cat([W.mT, H], 1) @ torch.linalg.matrix_exp(t * generator)
    linear = model.linearised(t, start)
    assert torch.allclose(linear[0], moved[:, :C].mT, rtol=1e-9, atol=1e-14)
    assert torch.allclose(linear[1], moved[:, C:], rtol=1e-9, atol=1e-14)
    flow = gradient_flow(model.objective(), start, np.array([0.0, t]))[-1]
    for a, c in zip(linear[:2], flow[:2], strict=True):
        assert float((a - c).norm() / c.norm()) < 2e-5
    assert moved.shape == (P, C + n)


def test_a_small_start_reaches_strong_collapse_at_the_rate_of_its_size():
    defects = []
    for scale in (1e-3, 1e-5):
        report = simulate(Mixon(C=4, N=6, P=5, scale=scale), seed=1)
        assert report.deviation["minimum"] < 1e3 * scale**4  # 1^T W and H off the span of W meet at order scale^2, for ever
        assert report.deviation["subspace_law"] < 1e-10
        if scale == 1e-5:
            assert_as_predicted(report)
        defects.append(max(report.deviation["gram_defect"], report.deviation["singular_values"]))
    assert defects[1] < 1e-6
    assert defects[1] < 1e-2 * defects[0]


def test_a_large_start_interpolates_and_keeps_its_within_class_part():
    """The counter-example: the loss reaches round-off, the within-class share of |H| stays above .85, the defect above 1.15."""
    report = simulate(Mixon(C=4, N=10, P=8, scale=0.7), seed=0)
    assert report.measured["minimum"] < 1e-20
    assert report.measured["NC1"] ** 0.5 > 0.85
    assert report.measured["gram_defect"] > 1.15
    assert report.measured["subspace_law"] == pytest.approx(report.predicted["subspace_law"], abs=1e-10)  # on S nothing changes


@settings(max_examples=5)
@given(shapes(classes=(2, 4)), st.sampled_from(["renormalized", "embedded"]), st.floats(0.3, 3.0), SEEDS)
def test_central_path_follows_its_law(shape, flow, scale, seed):
    assume(shape["C"] * (shape["N"] - 1) >= shape["P"])
    model = CentralPath(**shape, flow=flow, scale=scale)
    report = simulate(model, seed)
    assert_as_predicted(report)
    if model.C > 2:  # with two classes there is one omega
        assert report.measured["omega_ratio"] < model.omega0[0] / model.omega0[-1]


def test_the_two_laws_of_the_central_path_differ():
    """The printed Proposition 2 belongs to the embedded flow: integrating one flow and asking the other law fails loudly."""
    model = CentralPath(C=4, N=6, P=7)
    measured = np.array(model.measured(model.solve(0))["omega"])
    t = float(model.times[-1])
    assert RENORMALIZED.omega(t, model.omega0, 4, 6) == pytest.approx(measured, rel=1e-8)
    assert np.abs(EMBEDDED.omega(t, model.omega0, 4, 6) - measured).min() > 0.5


@settings(max_examples=5)
@given(shapes(classes=(2, 4)), st.sampled_from([0.0, 0.01]), SEEDS)
def test_trace_ratio_falls_along_the_plain_flow_of_the_least_squares_loss(shape, decay, seed):
    """Tirer et al. 2022 (2210.16658): tr Sigma_W / tr Sigma_B decreases along dH/dt = -grad min_W L(W, H); so do its parts."""
    layout, rng = ClassLayout.equal(shape["C"], shape["N"] + shape["P"]), np.random.default_rng(seed)
    H = rng.standard_normal((shape["P"], layout.n)) + layout.spread(rng.standard_normal((shape["P"], layout.C)))
    times = np.linspace(0, 2.0 * layout.n, 7)
    states = integrate_scipy(lambda X: -ls_gradient(X, layout, decay), H - H.mean(-1, keepdims=True), times, tolerance=1e-9)
    statistics = [block_statistics(X, layout) for X in states]
    pairs = [(s.sigma_w, s.sigma_b) for s in statistics]
    ratios = np.array([tirer_trace_ratio(s) for s in statistics])
    within, between = (np.array([float(np.trace(sigma)) for sigma in sigmas]) for sigmas in zip(*pairs, strict=True))
    assert (np.diff(ratios) < 0).all()
    assert (np.diff(within) < 0).all()
    assert (np.diff(between) > 0).all() or decay > 0  # decay shrinks everything in the end
