"""Every solver on one problem each: the same minimum, a small gradient, a monotone end; and a loud stop where it fails."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from manifolds.linalg import Array
from ufm.models.base import simulate
from ufm.models.fang import Fang
from ufm.models.lu_steinerberger import LuSteinerberger
from ufm.models.objective.feasible import Flat, NonNegative
from ufm.models.objective.losses import SquaredError
from ufm.models.objective.peeled import Peeled, gaussian_point
from ufm.models.poggio_liao import PoggioLiao
from ufm.models.solvers.contract import check_stationary, projected_move, size, tangent_gradient
from ufm.models.solvers.curvature import largest_curvature, smallest_curvature
from ufm.models.solvers.flat import FLAT_SOLVERS, bounded_lbfgs
from ufm.models.solvers.gradient_flow import gradient_flow
from ufm.models.solvers.manifold import MANIFOLD_SOLVERS
from ufm.models.solvers.projected_gradient import spectral_projected_gradient
from ufm.models.zhu import Zhu


@pytest.mark.parametrize("name", FLAT_SOLVERS)
def test_collapse_does_not_depend_on_the_algorithm(name):
    """Zhu et al., observation 1: SGD, Adam, L-BFGS and a trust region reach one minimum."""
    report = simulate(Zhu(C=4, N=5, P=6, lambda_w=1e-2, lambda_h=2e-2, optimizer=name), seed=3)
    assert report.deviation["minimum"] < 1e-10
    assert report.deviation["NC2"] < 1e-5
    assert report.history["objective"][0] > report.history["objective"][-1] + 0.1


@pytest.mark.parametrize("name", MANIFOLD_SOLVERS)
@pytest.mark.parametrize(
    "model", [LuSteinerberger(C=4, P=5), Fang(C=4, N=3, P=5), PoggioLiao(C=4, N=3, P=5)], ids=lambda m: m.facts.name
)
def test_both_manifold_libraries_reach_the_minimum_and_stay_on_the_manifold(model, name):
    solver, objective, start = MANIFOLD_SOLVERS[name], model.objective(), model.start(1)
    point = solver(objective, model.feasible, start, None)
    assert model.value(point) == pytest.approx(model.predicted()["minimum"], abs=1e-10)
    assert size(tangent_gradient(objective, model.feasible, point)) < 1e-6
    for space, tensor in zip(model.feasible, point, strict=True):
        assert torch.allclose(space.onto(tensor), tensor, atol=1e-12)


@dataclass(frozen=True, eq=False)
class Bowl:
    """1/2 |x - c|^2 + 1: positive, as every objective here."""

    centre: Array

    def value_and_gradient(self, point):
        move = point[0] - self.centre
        return (move**2).sum() / 2 + 1, (move,)

    def curvature_at(self, point):
        return lambda direction: direction


@pytest.mark.parametrize("solver", [bounded_lbfgs, spectral_projected_gradient])
def test_bounded_solvers_find_the_projection(solver):
    (centre,) = gaussian_point(((4, 3),), 0)
    (minimiser,) = solver(Bowl(centre), (NonNegative(),), (torch.ones(4, 3, dtype=torch.float64),), None)
    assert torch.allclose(minimiser, centre.clamp(min=0), atol=1e-8)
    assert (centre < 0).any()


def test_gradient_flow_of_a_bowl_is_exponential():
    (centre, start) = gaussian_point(((4, 3), (4, 3)), 1)
    times = np.array([0.0, 0.5, 2.0])
    for t, (x,) in zip(times, gradient_flow(Bowl(centre), (start,), times), strict=True):
        assert torch.allclose(x, centre + np.exp(-t) * (start - centre), atol=1e-9)


def test_curvatures_are_the_eigenvalues_of_the_dense_hessian():
    Y = gaussian_point(((3, 4),), 7)[0]
    objective, point = (
        Peeled(SquaredError(Y, torch.ones(4, dtype=torch.float64)), (0.1, 0.2)),
        gaussian_point(((3, 2), (2, 4)), 2),
    )
    columns, hessian = [], objective.curvature_at(point)
    for k in range(14):
        unit = torch.zeros(14, dtype=torch.float64)
        unit[k] = 1
        moved = hessian((unit[:6].view(3, 2), unit[6:].view(2, 4)))
        columns.append(torch.cat([t.reshape(-1) for t in moved]))
    values = torch.linalg.eigvalsh(torch.stack(columns))
    assert smallest_curvature(objective, point) == pytest.approx(float(values[0]), abs=1e-9)
    assert largest_curvature(objective, point) == pytest.approx(float(values.abs().max()), rel=1e-2)


def test_a_point_that_is_not_stationary_is_an_error():
    (centre,) = gaussian_point(((2, 2),), 0)
    gradient = projected_move(Bowl(centre), (Flat(),), (centre + 1,))  # four entries of 1 over an objective of 3
    with pytest.raises(RuntimeError, match=r"stopped at a gradient of 6\.67e-01 times the objective"):
        check_stationary(gradient, "nothing")


class Slope:
    """Unbounded below: no solver may call its end a minimum."""

    def value_and_gradient(self, point):
        return point[0].sum(), (torch.ones_like(point[0]),)

    def curvature_at(self, point):
        return lambda direction: (0 * direction[0],)


def test_an_unbounded_problem_raises():
    with pytest.raises(RuntimeError, match="not a stationary point"):
        FLAT_SOLVERS["adam"](Slope(), (Flat(),), (torch.zeros(2, 2, dtype=torch.float64),), None)


def test_the_starts_are_seeded_and_the_prediction_knows_no_seed():
    model = Zhu(C=3, N=4, P=5)
    one, two, again = (model.solve(seed).point for seed in (0, 1, 0))
    assert torch.equal(one[0], again[0])
    assert not torch.allclose(one[0], two[0])  # a rotation apart ...
    assert model.value(one) == pytest.approx(model.value(two), abs=1e-12)  # ... at one minimum
