"""Fang et al.: balanced minimum, exact optimum for unequal classes, R0 from both sides, the relaxation, the penalised rule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manifolds.class_centering import ClassLayout
from tests.ufm.models.oracles import assert_as_predicted
from tests.ufm.models.problems import SEEDS, shapes
from ufm.models.base import simulate
from ufm.models.fang import Fang, mean_squared_distance, penalised_minorities_collapse
from ufm.models.fang_relaxation import semidefinite_minimum
from ufm.models.fang_theory import Reduced, Spectrum, collapse_ratio, dense_logits, lowered, optimum
from ufm.models.objective.losses import CrossEntropy, column_weights, one_hot
from ufm.models.objective.peeled import Peeled, gaussian_point
from ufm.models.solvers.contract import size
from ufm.models.zhu import Zhu

FIVE = {
    (4, 2, 1.0, 1.0): 3.3805,
    (4, 2, 5.0, 1.0): 47.685,
    (10, 5, 5.0, 1.0): 12.192,
    (10, 7, 5.0, 1.0): 4.0005,
    (10, 5, 1.0, 1.0): 1.7354,
}


def dense_loss(Z: np.ndarray, priors: np.ndarray) -> float:
    """sum_k pi_k CE(Z e_k), written out."""
    return float(sum(p * (np.log(np.exp(Z[:, k]).sum()) - Z[k, k]) for k, p in enumerate(priors)))


@settings(max_examples=10)
@given(shapes(), st.floats(0.3, 4.0), st.floats(0.3, 4.0), SEEDS)
def test_balanced_minimum(shape, energy_h, energy_w, seed):
    assert_as_predicted(simulate(Fang(**shape, energy_h=energy_h, energy_w=energy_w), seed))


@settings(max_examples=8)
@given(shapes(least=0, classes=(3, 6)), st.data(), st.floats(1.05, 30.0), st.floats(0.3, 3.0), SEEDS)
def test_unequal_minimum_is_the_reduced_one(shape, data, ratio, energy_h, seed):
    majority = data.draw(st.integers(1, shape["C"] - 1))
    model = Fang(**shape, majority=majority, imbalance=ratio, energy_h=energy_h)
    solved = model.solve(seed)
    best = model.exact()
    assert model.value(solved.point) == pytest.approx(best.value, abs=1e-10)
    W, H = model.classifier_and_features(solved.point)
    assert (W @ model.layout.means(H)).numpy() == pytest.approx(dense_logits(best, majority, model.C - majority), abs=1e-6)
    assert float((W**2).sum()) == pytest.approx(model.C * model.energy_w)  # both energies are spent
    assert float((H**2).sum()) == pytest.approx(model.C * model.N * energy_h)


def test_columns_that_stand_for_a_class_change_nothing():
    """The model with its n_k real columns, by plain torch on flat space, ends at the minimum of N weighted columns a class."""
    sizes, energy = (6, 6, 2, 2), 1.5
    layout = ClassLayout(sizes)
    root = torch.as_tensor(np.repeat(np.sqrt(sizes), sizes))  # sum_i |h_ki|^2 / n_k is the energy of class k
    leaves = [t.requires_grad_() for t in gaussian_point(((4, 5), (5, layout.n)), 0)]

    def loss():
        W, H = leaves
        Z = (W / W.norm() * 4**0.5) @ (H / H.norm() * (4 * energy) ** 0.5 * root)
        return torch.nn.functional.cross_entropy(Z.T, torch.as_tensor(layout.labels))

    optimizer = torch.optim.LBFGS(leaves, max_iter=2000, tolerance_grad=1e-11, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    weighted = Fang(C=4, N=3, P=5, majority=2, imbalance=3.0, energy_h=energy, energy_w=1.0).exact().value
    assert float(loss().detach()) == pytest.approx(weighted, abs=1e-10)


@pytest.mark.parametrize(("case", "R0"), FIVE.items())
def test_threshold_of_the_five_cases(case, R0):
    K, K_A, energy_h, energy_w = case
    digits = 10.0 ** (int(np.floor(np.log10(R0))) - 4)
    assert collapse_ratio(K, K_A, energy_h, energy_w) == pytest.approx(R0, abs=digits)


@pytest.mark.parametrize("case", list(FIVE))
def test_minorities_collapse_exactly_past_the_threshold_and_not_before(case):
    K, K_A, energy_h, energy_w = case
    R0 = collapse_ratio(*case)
    cosines = []
    for factor in (0.98, 1.02):
        model = Fang(C=K, N=1, P=K + 2, majority=K_A, imbalance=factor * R0, energy_h=energy_h, energy_w=energy_w)
        W = model.classifier_and_features(model.solve(0).point)[0][K_A:]
        cosines.append(1 - mean_squared_distance(W) / (2 * float((W**2).sum(1).mean())))
    assert 0.7 < cosines[0] < 0.99
    assert cosines[1] > 1 - 1e-9


@pytest.mark.parametrize("case", list(FIVE))
def test_threshold_is_the_operator_norm_of_the_dense_gradient(case):
    """n_B/n <= |(I - softmax Z) diag(pi)|_op off the minority differences, with Z the tied optimum: equality at R0 only."""
    K, K_A, energy_h, energy_w = case
    K_B, R0 = K - K_A, collapse_ratio(*case)
    excess = []
    for factor in (0.9, 1.0, 1.1):
        ratio = factor * R0
        best = optimum(K_A, K_B, ratio, K * np.sqrt(energy_h * energy_w), tied=True)
        priors = np.r_[np.full(K_A, ratio), np.ones(K_B)] / (K_A * ratio + K_B)
        Z = dense_logits(best, K_A, K_B)
        p = np.exp(Z) / np.exp(Z).sum(0)
        gradient = (np.eye(K) - p) * priors
        B = np.r_[np.zeros(K_A), np.ones(K_B)]
        minority = np.diag(B) - np.outer(B, B) / K_B
        off = gradient @ (np.eye(K) - minority)
        norm = np.linalg.svd(off, compute_uv=False)[0]
        assert norm == pytest.approx(best.multiplier, rel=1e-7)
        assert np.linalg.norm(gradient @ minority, 2) == pytest.approx(priors[-1], rel=1e-9)
        excess.append(norm - priors[-1])
        assert best.value == pytest.approx(dense_loss(Z, priors), abs=1e-12)
        assert np.linalg.svd(Z, compute_uv=False).sum() == pytest.approx(K * np.sqrt(energy_h * energy_w), rel=1e-9)
    assert excess[0] < 0 < excess[2]
    assert abs(excess[1]) < 1e-8


@settings(max_examples=8)
@given(st.integers(1, 4), st.integers(2, 4), st.floats(1.0, 20.0), st.floats(0.5, 20.0), SEEDS)
def test_reduced_optimum_beats_every_other_point_of_the_nuclear_ball(K_A, K_B, ratio, budget, seed):
    best, rng = optimum(K_A, K_B, ratio, budget), np.random.default_rng(seed)
    K = K_A + K_B
    priors = np.r_[np.full(K_A, ratio), np.ones(K_B)] / (K_A * ratio + K_B)
    Z0 = dense_logits(best, K_A, K_B)
    assert dense_loss(Z0, priors) == pytest.approx(best.value, abs=1e-12)
    for scale in (1e-3, 0.1, 1.0):
        Z = Z0 + scale * rng.standard_normal((K, K))
        Z *= budget / max(np.linalg.svd(Z, compute_uv=False).sum(), budget)
        assert dense_loss(Z, priors) >= best.value - 1e-10


def test_reduced_gradient_is_a_finite_difference():
    reduced = Reduced(3, 2, 0.25, 0.125)
    x = torch.tensor([0.7, 0.4, 0.9, 0.3], dtype=torch.float64)
    slope = reduced.value_and_gradient((x,))[1][0]
    for k in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[k] = 1e-5
        central = (reduced.value_and_gradient((x + step,))[0] - reduced.value_and_gradient((x - step,))[0]) / 2e-5
        assert float(central) == pytest.approx(float(slope[k]), abs=1e-9)


@settings(max_examples=15)
@given(st.lists(st.floats(0, 5), min_size=3, max_size=3), st.lists(st.floats(0.2, 2), min_size=3, max_size=3), st.floats(0.1, 3))
def test_projection_on_the_weighted_simplex(sizes, weights, share):
    sizes, weights = np.array(sizes), np.array(weights)
    budget = share * 0.3 * (sizes @ weights) + 1e-3
    if sizes @ weights <= budget:
        return
    fit = lowered(sizes, weights, budget)
    assert fit @ weights == pytest.approx(budget, rel=1e-9)
    for direction in np.random.default_rng(0).standard_normal((20, 3)):  # nearest: no feasible neighbour is closer
        other = np.maximum(fit + 1e-3 * direction, 0)
        other *= min(1, budget / (other @ weights))
        assert np.linalg.norm(other - sizes) >= np.linalg.norm(fit - sizes) - 1e-12


def test_projection_keeps_a_feasible_spectrum():
    x = torch.tensor([0.1, 0.1, 0.1, 0.1], dtype=torch.float64)
    assert torch.equal(Spectrum(3, 3, 10.0).onto(x), x)
    assert float(Spectrum(3, 3, 10.0, tied=True).onto(x)[1]) == 0


@pytest.mark.parametrize("ratio", [1.0, 3.0, 4.0])
def test_semidefinite_relaxation_is_tight(ratio):
    pytest.importorskip("cvxpy")
    priors = np.array([ratio, ratio, 1, 1]) / (2 * ratio + 2)
    minimum, X = semidefinite_minimum(priors, 1.0)
    assert minimum == pytest.approx(optimum(2, 2, ratio, 4.0).value, abs=1e-7)
    assert np.linalg.eigvalsh(X)[0] > -1e-7
    model = Fang(C=4, N=3, P=8, majority=2, imbalance=ratio, energy_h=1.0, optimizer="sdp")
    solved = model.solve(0)
    assert model.value(solved.point) == pytest.approx(minimum, abs=1e-6)
    assert solved.point[0].shape == (4, 8)


def test_minority_cosine_and_measured_threshold():
    report = simulate(Fang(C=4, N=2, P=6, majority=2, imbalance=2.0, energy_h=1.0), seed=5)
    assert "majority_squared_distance" in report.deviation
    assert_as_predicted(report)
    assert report.measured["R0"] != report.predicted["R0"]  # bisected on solves, not copied


@pytest.mark.parametrize("sizes", [{}, {"majority": 2, "imbalance": 3.0}], ids=["equal", "unequal"])
def test_exponentially_small_losses_converge_and_a_threshold_beyond_reach_is_left_out(sizes):
    """At E_H E_W = 1000 the minimum is of the order of 1e-17 or below; no ratio up to 1e9 collapses the minorities."""
    report = simulate(Fang(energy_h=100.0, energy_w=10.0, **sizes))
    assert report.predicted["minimum"] < 1e-14
    assert report.deviation["minimum"] < 1e-9 * report.predicted["minimum"]
    assert "R0" not in report.predicted
    assert_as_predicted(report)
    assert np.isinf(collapse_ratio(5, 2, 100.0, 10.0))


def test_threshold_needs_minorities():
    with pytest.raises(ValueError, match="two minority classes"):
        collapse_ratio(4, 3, 1.0, 1.0)
    with pytest.raises(ValueError, match="two minority classes"):
        collapse_ratio(4, 0, 1.0, 1.0)


@pytest.mark.parametrize("K_B", [2, 4])
@pytest.mark.parametrize(("factor", "collapsed"), [(0.97, False), (1.03, True)])
def test_penalised_minorities_collapse_by_sample_size_alone(K_B, factor, collapsed):
    """sqrt(n_B) <= n sqrt(lw lh), whatever the number of classes: minorities of 5 against majorities of 20."""
    sizes = (20, 20, *(5,) * K_B)
    layout = ClassLayout(sizes)
    decay = factor * 5**0.5 / layout.n
    assert penalised_minorities_collapse(5, layout.n, decay, decay) == collapsed
    model = Zhu(C=2 + K_B, N=5, P=K_B + 4)
    objective = Peeled(CrossEntropy(one_hot(layout), column_weights(layout, 1 / layout.n)), (decay, decay))
    start = gaussian_point(((2 + K_B, K_B + 4), (K_B + 4, layout.n)), 0)
    W, H = model.solvers["trust-region"](objective, (model.feasible[0],) * 2, start, None)
    spread = float((W[2:] - W[2:].mean(0)).norm() / W[2:].norm())
    if collapsed:
        assert spread < 3e-7
    else:
        assert spread == pytest.approx({2: 0.32, 4: 0.58}[K_B], abs=0.005)
    assert size(objective.value_and_gradient((W, H))[1]) < 1e-8
