"""Lu & Steinerberger, E & Wojtowytsch, Poggio & Liao: minima, minimisers, and what happens outside their domains."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.ufm.models.oracles import assert_as_predicted
from tests.ufm.models.problems import SEEDS, shapes
from ufm.models.base import simulate
from ufm.models.e_wojtowytsch import EWojtowytsch, SpectralBall, UnitBalls
from ufm.models.lu_steinerberger import LuSteinerberger
from ufm.models.objective.losses import one_hot
from ufm.models.poggio_liao import PoggioLiao, critical_residual


@settings(max_examples=10)
@given(shapes(), st.floats(0.2, 6.0), SEEDS)
def test_lu_steinerberger_reaches_the_simplex_bound(shape, temperature, seed):
    assume(shape["P"] >= 2)
    assert_as_predicted(simulate(LuSteinerberger(**shape, temperature=temperature), seed))


@pytest.mark.parametrize("temperature", [30.0, 300.0])
def test_lu_steinerberger_converges_where_its_loss_is_exponentially_small(temperature):
    report = simulate(LuSteinerberger(temperature=temperature))
    assert report.deviation["minimum"] < 1e-9 * report.predicted["minimum"] < 1e-20
    assert_as_predicted(report)


@pytest.mark.parametrize("n", [3, 5, 6])
def test_lu_steinerberger_value_is_that_of_the_written_out_simplex(n):
    simplex = np.eye(n) - 1 / n
    unit = simplex / np.linalg.norm(simplex, axis=0)
    losses = [np.log(np.exp(unit @ unit[:, i]).sum()) - unit[i] @ unit[:, i] for i in range(n)]
    assert LuSteinerberger(C=n, P=n).predicted()["minimum"] == pytest.approx(np.mean(losses), abs=1e-14)


@pytest.mark.parametrize(("temperature", "known", "bound"), [(1.0, 1.24246, 1.17321), (4.0, 0.187856, 0.069901)])
def test_too_few_dimensions_stay_above_the_simplex_bound(temperature, known, bound):
    model = LuSteinerberger(C=8, P=3, temperature=temperature)
    lowest = min(model.value(model.solve(seed).point) for seed in range(5))
    assert model.predicted()["minimum"] == pytest.approx(bound, abs=1e-5)
    assert lowest == pytest.approx(known, abs=1e-5)
    with pytest.raises(ValueError, match=r"P = 3 < C - 1 = 7"):
        model.check_domain()
    enough = LuSteinerberger(C=8, P=7, temperature=temperature)
    assert enough.value(enough.solve(0).point) == pytest.approx(bound, abs=1e-5)


@settings(max_examples=10)
@given(shapes(classes=(2, 7)), SEEDS)
def test_e_wojtowytsch_reaches_its_minimum_with_an_isometry(shape, seed):
    assert_as_predicted(simulate(EWojtowytsch(**shape), seed))


def test_e_wojtowytsch_classifier_is_free_off_the_span_of_the_features():
    """NC3 holds for W on span(H) only: another singular value of at most 1 elsewhere changes nothing."""
    model = EWojtowytsch(C=3, N=4, P=7)
    W, H = model.solve(0).point
    U = torch.linalg.svd(model.layout.means(H), full_matrices=True)[0]
    other = W + 0.9 * torch.ones(3, 1, dtype=torch.float64) / 3**0.5 @ U[:, -1:].mT
    assert torch.linalg.svdvals(other)[0] <= 1 + 1e-9
    assert (other - W).norm() > 0.5
    assert model.value((other, H)) == pytest.approx(model.predicted()["minimum"], abs=1e-10)
    M = model.layout.means(H)
    assert float((other / other.norm() - M.mT / M.norm()).norm()) > 0.1  # unrestricted self-duality fails ...
    assert model.collapse((other, H))["NC3"] < 1e-6  # ... and the restricted one holds


def test_the_two_norm_constraints_are_different_problems():
    assert EWojtowytsch(C=5).predicted()["minimum"] > LuSteinerberger(C=5).predicted()["minimum"] + 0.05


def test_projections_on_the_balls():
    x = torch.diag(torch.tensor([3.0, 0.5, 1.5], dtype=torch.float64))
    assert torch.allclose(SpectralBall().onto(x).diagonal(), torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64))
    assert torch.allclose(UnitBalls().onto(x).norm(dim=0), torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64))


@settings(max_examples=10)
@given(shapes(), st.floats(0.02, 3.0), SEEDS)
def test_poggio_liao_minimum_and_equilibrium_norm(shape, decay, seed):
    assert_as_predicted(simulate(PoggioLiao(**shape, lambda_w=decay), seed))


@pytest.mark.parametrize("decay", [0.05, 0.3, 2.0])
def test_published_equilibrium_norm_holds_to_1e_9(decay):
    report = simulate(PoggioLiao(C=4, N=5, P=6, lambda_w=decay))
    assert report.deviation["norm"] < 1e-9
    assert report.deviation["published_norm"] < 1e-9


def test_published_binary_norm_minimises_the_published_loss():
    """sum (1 - rho y f)^2 + lam rho^2, y = +-1: its only stationary point is rho = sum y f / (lam + sum f^2)."""
    rng = np.random.default_rng(0)
    f, y, lam = rng.standard_normal(9), rng.choice([-1, 1], 9), 0.7
    rho = (y * f).sum() / (lam + (f**2).sum())
    loss = lambda r: ((1 - r * y * f) ** 2).sum() + lam * r**2  # noqa: E731
    assert loss(rho) < min(loss(rho + 1e-4), loss(rho - 1e-4))


def test_poggio_liao_critical_points_satisfy_the_published_condition():
    model = PoggioLiao(C=4, N=5, P=6, lambda_w=0.2)
    assert critical_residual(model, model.solve(0).point) < 1e-8
    assert critical_residual(model, model.start(0)) > 0.1


def test_poggio_liao_minimum_is_that_of_the_convex_problem_in_the_logits():
    """min 1/2 |Z - (Y - 1/C)|^2 + lam/2 |Z|_*^2, solved by a scalar search along the shrunken targets and off them."""
    model = PoggioLiao(C=4, N=3, P=6, lambda_w=0.4)
    target = (one_hot(model.layout) - 1 / model.C).numpy()
    value = lambda Z: 0.5 * ((Z - target) ** 2).sum() + 0.2 * np.linalg.norm(Z, "nuc") ** 2  # noqa: E731
    shrink = 1 / (1 + 0.4 * 3)
    minimum = model.predicted()["minimum"]
    assert value(shrink * target) == pytest.approx(minimum, abs=1e-12)
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-1, 1.0):
        assert value(shrink * target + size * rng.standard_normal(target.shape)) > minimum


@pytest.mark.parametrize(("temperature", "known"), [(1e-2, 1e-8), (1e-3, 1e-6), (1e-4, 1e-3)])
def test_small_temperatures_keep_the_minimum_and_know_the_simplex_as_documented(temperature, known):
    """The simplex is chosen by terms of order temperature^2: at 1e-5 they drown in the round-off of the loss."""
    report = simulate(LuSteinerberger(temperature=temperature))
    assert report.deviation["minimum"] < 1e-14
    assert report.deviation["cosine"] < known
