"""Zhu et al. and the squared-error companions: closed minima from both sides of every threshold, certificates, saddles."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from manifolds.linalg import Array
from tests.ufm.models.oracles import assert_as_predicted
from tests.ufm.models.problems import RATIOS, SEEDS, shapes, split, thresholds
from ufm.models.base import simulate
from ufm.models.dang import DeepLinear, scalar_minimiser
from ufm.models.objective.feasible import Flat
from ufm.models.objective.peeled import Peeled, gaussian_point
from ufm.models.solvers.contract import size
from ufm.models.solvers.curvature import smallest_curvature
from ufm.models.solvers.flat import trust_region
from ufm.models.tirer_bruna import BiasFree, FreeBias
from ufm.models.zhou import DecayedBias
from ufm.models.zhu import Zhu


def autograd(model, point):
    """Value and size of the gradient of torch's own losses at a point (W, H[, b])."""
    leaves = [t.clone().requires_grad_() for t in point]
    W, H, *b = leaves
    labels = torch.as_tensor(model.layout.labels)
    Z = W @ H + (b[0] if b else 0.0)
    if isinstance(model, Zhu):
        loss = torch.nn.functional.cross_entropy(Z.T, labels)
    else:
        loss = 0.5 * ((Z - torch.nn.functional.one_hot(labels, model.C).T) ** 2).sum() / model.layout.n
    loss = loss + model.lambda_w / 2 * (W**2).sum() + model.lambda_h / 2 * (H**2).sum()
    loss = loss + (getattr(model, "lambda_b", 0.0) / 2 * (b[0] ** 2).sum() if b else 0.0)
    gradient = torch.autograd.grad(loss, leaves)
    return float(loss.detach()), float(torch.stack([g.norm() for g in gradient]).norm())


def written_out(model: Zhu, rho: float):
    """The minimiser that the theory names: W a simplex ETF with |W|^2 = rho, H = sqrt(lw/(lh N)) (W (x) 1_N)^T, b = 0."""
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((model.P, model.C - 1)))[0]
    U = np.linalg.svd(np.eye(model.C) - 1 / model.C)[0][:, : model.C - 1]
    W = torch.from_numpy(np.sqrt(rho / (model.C - 1)) * U @ basis.T)
    return W, model.layout.spread(W.mT) * (model.lambda_w / (model.lambda_h * model.N)) ** 0.5, torch.zeros(model.C, 1).double()


@settings(max_examples=13)
@given(shapes(), thresholds(), RATIOS, st.sampled_from([0.0, 0.05]), SEEDS)
def test_zhu_minimum_and_minimiser(shape, c, ratio, decay, seed):
    model = Zhu(**shape, **split(c, ratio, shape["C"], shape["N"]), lambda_b=decay)
    assert_as_predicted(simulate(model, seed))


@settings(max_examples=15)
@given(shapes(), st.floats(0.02, 0.98), RATIOS)
def test_zhu_minimiser_is_stationary_and_has_the_predicted_value(shape, c, ratio):
    model = Zhu(**shape, **split(c, ratio, shape["C"], shape["N"]))
    predicted = model.predicted()
    value, gradient = autograd(model, written_out(model, predicted["W_squared_norm"]))
    assert value == pytest.approx(predicted["minimum"], abs=1e-12)
    assert gradient < 1e-12
    assert autograd(model, written_out(model, 1.01 * predicted["W_squared_norm"]))[0] > value


@pytest.mark.parametrize(("c", "alive"), [(0.995, True), (1.005, False)])
def test_zhu_threshold_from_both_sides(c, alive):
    model = Zhu(C=4, N=5, P=6, **split(c, 1.0, 4, 5), optimizer="trust-region")
    solved = model.solve(0)
    W, H, _ = solved.point
    if alive:
        assert model.value(solved.point) < np.log(4) - 1e-6
        assert float(W.norm() ** 2) == pytest.approx(model.predicted()["W_squared_norm"], abs=1e-7)
        assert float(W.norm() ** 2) > 0.05
    else:
        assert model.value(solved.point) == pytest.approx(np.log(4), abs=1e-12)
        assert float(W.norm() + H.norm()) < 1e-6
    zero = tuple(torch.zeros_like(t) for t in solved.point)
    assert (smallest_curvature(model.objective(), zero) < 0) == alive


@pytest.mark.parametrize("decay", [1e-7, 1e-12])
def test_zhu_converges_where_its_minimum_is_tiny(decay):
    """The stopping rule is relative: with penalties of 1e-12 the minimum is 3e-10 and the logit gap 27."""
    report = simulate(Zhu(lambda_w=decay, lambda_h=decay))
    assert report.deviation["minimum"] < 1e-12 * report.predicted["minimum"]
    assert_as_predicted(report)


def test_zhu_zero_is_a_strict_saddle_with_the_predicted_curvature():
    model = Zhu(C=3, N=4, P=5, lambda_w=0.02, lambda_h=0.05)
    zero = tuple(torch.zeros(shape, dtype=torch.float64) for shape in model.shapes)
    value, gradient = autograd(model, zero)
    assert gradient < 1e-15
    assert value == pytest.approx(np.log(3), abs=1e-15)
    coupling = 1 / (3 * 2)  # 1/(C sqrt N)
    expected = np.linalg.eigvalsh([[0.02, coupling], [coupling, 0.05]])[0]
    assert smallest_curvature(model.objective(), zero) == pytest.approx(expected, abs=1e-10)


@dataclass(frozen=True, eq=False)
class Tied:
    """An objective where some classes share one classifier and one feature: W = T w, H = h S^T, b = T beta, S = T (x) 1_N."""

    inner: Peeled
    T: Array  # (C, distinct)
    S: Array  # (n, distinct)

    def spread(self, point):
        w, h, b = point
        return self.T @ w, h @ self.S.mT, self.T @ b

    def gathered(self, g_W, g_H, g_b):
        return self.T.mT @ g_W, g_H @ self.S, self.T.mT @ g_b

    def value_and_gradient(self, point):
        value, gradient = self.inner.value_and_gradient(self.spread(point))
        return value, self.gathered(*gradient)

    def curvature_at(self, point):
        inner = self.inner.curvature_at(self.spread(point))
        return lambda d: self.gathered(*inner(self.spread(d)))


@settings(max_examples=8)
@given(shapes(classes=(3, 6)), st.data(), SEEDS)
def test_zhu_other_critical_points_are_strict_saddles(shape, data, seed):
    """Points that tie classes exactly: by symmetry critical for the whole problem, above the minimum, with negative curvature."""
    C = shape["C"]
    kept = data.draw(st.integers(1, C - 2), label="classes that are told apart")
    model = Zhu(**shape, **split(0.3, 1.0, C, shape["N"]))
    pattern = torch.eye(kept + 1, dtype=torch.float64)[np.minimum(np.arange(C), kept)]
    tied, sizes = (
        Tied(model.objective(), pattern, pattern.repeat_interleave(model.N, 0)),
        ((kept + 1, model.P), (model.P, kept + 1), (kept + 1, 1)),
    )
    point = tied.spread(trust_region(tied, (Flat(),) * 3, gaussian_point(sizes, seed), None))
    assert float((point[0][kept:] - point[0][kept]).abs().max()) == 0
    gradient = model.objective().value_and_gradient(point)[1]
    assert size(gradient) < 1e-10
    assume(float(point[0].norm()) > 1e-3)  # not zero, which has a test of its own
    assert model.value(point) > model.predicted()["minimum"] + 1e-4
    assert smallest_curvature(model.objective(), point) < -1e-5


@settings(max_examples=10)
@given(shapes(least=0), thresholds(), RATIOS, st.sampled_from([1.0, 2.0, 3.0]), SEEDS)
def test_bias_free_minimum_for_equal_and_unequal_classes(shape, c, ratio, imbalance, seed):
    majority = 1 if imbalance > 1 else 0
    model = BiasFree(**shape, **split(c, ratio, shape["C"], shape["N"]), majority=majority, imbalance=imbalance)
    assert_as_predicted(simulate(model, seed))


def test_bias_free_drops_each_class_at_its_own_threshold():
    sizes = {"C": 3, "N": 4, "P": 5, "majority": 1, "imbalance": 4.0}
    n = BiasFree(**sizes).layout.n
    for n_k, k in ((16, 0), (4, 2)):
        for factor, alive in ((0.97, True), (1.03, False)):
            decay = factor * n_k**0.5 / n
            model = BiasFree(**sizes, lambda_w=decay, lambda_h=decay)
            kept = model.measured(model.solve(0))["logits"][k]
            assert (kept > 0.02) == alive
            assert kept == pytest.approx(max(1 - factor, 0), abs=1e-8)


@settings(max_examples=8)
@given(shapes(), thresholds(), RATIOS, SEEDS)
def test_free_bias_minimum(shape, c, ratio, seed):
    assert_as_predicted(simulate(FreeBias(**shape, **split(c, ratio, shape["C"], shape["N"])), seed))


@settings(max_examples=10)
@given(shapes(least=0), thresholds(), st.floats(0.05, 8.0), RATIOS, SEEDS)
def test_decayed_bias_minimum_on_both_sides_of_its_onset(shape, c, times_onset, ratio, seed):
    onset = c / (1 - c) if c < 1 else 1.0
    model = DecayedBias(**shape, **split(c, ratio, shape["C"], shape["N"]), lambda_b=times_onset * onset)
    assert_as_predicted(simulate(model, seed))


@pytest.mark.parametrize(("factor", "orthogonal_part"), [(0.97, False), (1.03, True)])
def test_decayed_bias_onset_is_sharp(factor, orthogonal_part):
    c = 0.3
    model = DecayedBias(C=4, N=5, P=6, **split(c, 1.0, 4, 5), lambda_b=factor * c / (1 - c))
    solved = model.solve(0)
    along = model.measured(solved)["singular_values"][-1]
    assert (along > 0.01) == orthogonal_part
    assert along == pytest.approx(max(1 - c - (1 - c) / factor, 0), abs=1e-8)


@settings(max_examples=10)
@given(shapes(least=0, classes=(2, 4)), st.floats(-3.5, -0.5), RATIOS, st.integers(1, 3), st.data(), SEEDS)
def test_deep_linear_minimum(shape, power, ratio, layers, data, seed):
    """From weak decay to one that loses every class, for equal classes and for any sizes: the global minimum each time."""
    sizes = data.draw(st.just(()) | st.lists(st.integers(1, 9), min_size=shape["C"], max_size=shape["C"]), label="sizes")
    decay = 10.0**power
    model = DeepLinear(**shape, lambda_w=decay, lambda_h=ratio * decay, layers=layers, sizes=tuple(sizes))
    jump = (layers - 1) ** ((layers - 1) / layers) / layers if layers > 1 else 1.0
    assume(np.abs(model.cost / jump - 1).min() > 0.02)  # at the jump itself two minima have one value
    assert_as_predicted(simulate(model, seed))


def test_deep_linear_finds_the_pattern_of_lost_classes_that_is_lowest():
    """Two groups under strong decay: solves from random starts alone end 4e-3 above the minimum now and then."""
    for seed in range(3):
        model = DeepLinear(C=4, N=2, P=5, majority=2, imbalance=4.0, layers=2, lambda_w=0.035, lambda_h=0.035)
        assert 0 < (model.roots > 0).sum() < 4  # the minority is lost
        assert_as_predicted(simulate(model, seed))


@settings(max_examples=30)
@given(st.integers(1, 5), st.floats(1e-4, 2.0))
def test_deep_linear_root_is_the_global_minimiser_of_its_scalar_function(M, price):
    x = scalar_minimiser(M, price)
    g = lambda x: 1 / (1 + x**M) + price * x  # noqa: E731
    grid = np.concatenate([[0.0], np.geomspace(1e-6, 1e4, 20001)])
    assert g(x) <= g(grid).min() + 1e-12
    if x > 0:
        assert price == pytest.approx(M * x ** (M - 1) / (x**M + 1) ** 2, rel=1e-9)


@pytest.mark.parametrize("M", [2, 3])
def test_deep_linear_jumps_to_zero_where_the_theory_says(M):
    """The logit falls from above 0.4 to 0 at b/n_k = ((M-1)^{(M-1)/M})/M: both branches have one value there."""
    jump = (M - 1) ** ((M - 1) / M) / M
    assert scalar_minimiser(M, 1.001 * jump) == 0
    x = scalar_minimiser(M, 0.999 * jump)
    assert x**M / (1 + x**M) > 0.4
    for factor, alive in ((0.97, True), (1.03, False)):
        level = factor * jump / (M * 12)  # b / n_k = M n (n lw^M lh)^{1/M} / n_k with C = 3, N = 4, lw = lh
        decay = (level * 4 / 12 ** (1 / M) * 12 / 12) ** (M / (M + 1))
        model = DeepLinear(C=3, N=4, P=5, layers=M, lambda_w=decay, lambda_h=decay)
        assert model.cost[0] == pytest.approx(factor * jump, rel=1e-12)
        report = simulate(model)
        assert report.deviation["minimum"] < 1e-10
        assert (min(report.measured["logits"]) > 0.4) == alive


def test_one_deep_linear_layer_is_the_bias_free_model():
    sizes = {"C": 4, "N": 3, "P": 5, "lambda_w": 0.01, "lambda_h": 0.03, "majority": 2, "imbalance": 2.0}
    deep, flat = DeepLinear(**sizes, layers=1).predicted(), BiasFree(**sizes).predicted()
    assert deep["minimum"] == pytest.approx(flat["minimum"], abs=1e-14)
    assert deep["logits"] == pytest.approx(flat["logits"], abs=1e-12)


def test_squared_minimisers_are_stationary_for_autograd():
    for model in (BiasFree(C=4, N=3, P=5), FreeBias(C=4, N=3, P=5), DecayedBias(C=4, N=3, P=5)):
        value, gradient = autograd(model, model.solve(0).point)
        if isinstance(model, FreeBias | BiasFree | DecayedBias):
            assert gradient < 1e-6
            assert value == pytest.approx(model.predicted()["minimum"], abs=1e-10)
