"""The optimizer of whole steps as torch's: groups that are added, copies and pickles."""

import copy
import pickle

import geoopt
import pytest
import torch

from manifolds.geoopt import EmbeddedNormalizedFeatures
from manifolds.torch_optimizer import RiemannianDescent, projected_rule
from tests.manifolds.points import LAYOUT, point
from tests.typed import parameter_on


def optimizer() -> RiemannianDescent:
    x = parameter_on(EmbeddedNormalizedFeatures(LAYOUT), torch.from_numpy(point()))
    return RiemannianDescent([x], lr=0.1, rule=projected_rule)


def test_an_added_group_on_another_manifold_is_refused_and_left_out() -> None:
    ours = optimizer()
    with pytest.raises(ValueError, match=r"use geoopt\.optim"):
        ours.add_param_group({"params": [parameter_on(geoopt.EuclideanStiefel(), torch.eye(3))]})
    assert len(ours.param_groups) == 1
    ours.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.5})
    assert len(ours.param_groups) == 2


@pytest.mark.parametrize("again", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copied_or_pickled_optimizer_makes_the_same_step(again) -> None:
    ours = optimizer()
    ends = []
    for each in (again(ours), ours):
        (x,) = each.param_groups[0]["params"]
        x.grad = torch.ones_like(x).cumsum(1)
        each.step()
        ends.append(x.detach())
    torch.testing.assert_close(*ends, rtol=0, atol=0)
    assert not torch.equal(ends[0], torch.from_numpy(point()))
