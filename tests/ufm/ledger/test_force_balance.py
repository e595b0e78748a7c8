"""Forces: their sum is the gradient; class means pull along class averages alone; nothing of the caller's changes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn
from torch.nn import functional as F

from tests.strategies import Problem, problems
from tests.typed import gradient_of
from tests.ufm.laws import oracles
from ufm.ledger.force_balance import force_balance


def problem(dtype: torch.dtype = torch.float64) -> tuple[nn.Sequential, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype)
    y = torch.arange(45) % 3
    y[:5] = 0
    x = torch.randn(45, 5, dtype=dtype) + y[:, None]
    return net, [(x[k : k + 20], y[k : k + 20]) for k in range(0, 45, 20)]


def test_the_sum_of_the_forces_is_the_gradient() -> None:
    net, batches = problem()
    balance = force_balance(net, batches, net[4], F.cross_entropy)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    F.cross_entropy(net(x), y).backward()
    expected = [float(gradient_of(p).norm()) for p in list(net.parameters())[:4]]
    assert balance.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    np.testing.assert_allclose(balance.total[:-1], expected, rtol=1e-10)
    assert balance.total[-1] == pytest.approx(float(np.linalg.norm(expected)))
    np.testing.assert_allclose(
        balance.total**2, balance.means**2 + balance.deviations**2 + 2 * balance.cosine * balance.means * balance.deviations
    )
    np.testing.assert_allclose(balance.ratio, balance.total / balance.means)


def test_a_penalty_on_the_features_is_part_of_the_forces() -> None:
    net, batches = problem()
    balance = force_balance(net, batches, net[4], F.cross_entropy, feature_decay=0.3)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    (F.cross_entropy(net(x), y) + 0.15 * net[:4](x).square().sum(1).mean()).backward()
    expected = [float(gradient_of(p).norm()) for p in list(net.parameters())[:4]]
    np.testing.assert_allclose(balance.total[:-1], expected, rtol=1e-10)


def test_batch_norm_as_in_training_has_the_gradient_of_training() -> None:
    torch.manual_seed(2)
    first = nn.Linear(5, 7)
    net = nn.Sequential(first, nn.BatchNorm1d(7, eps=1e-12), nn.ReLU(), nn.Dropout(), nn.Linear(7, 3)).double()
    x, y = (torch.cat(parts) for parts in zip(*problem()[1], strict=True))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    balance = force_balance(net, [(x, y)], net[4], F.cross_entropy, batch_statistics=True)
    evaluated = force_balance(net, [(x, y)], net[4], F.cross_entropy)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    net[3].eval()
    F.cross_entropy(net(x), y).backward()
    expected = [float(gradient_of(p).norm()) for p in list(net.parameters())[:4]]
    np.testing.assert_allclose(balance.total[:-1], expected, rtol=1e-9, atol=1e-15)
    assert abs(balance.cosine[-1] - evaluated.cosine[-1]) > 1e-3
    assert (
        abs(float((gradient_of(first.weight) * first.weight.detach()).sum())) < 1e-9
    )  # a batch norm does not see how long a weight is
    assert balance.decay_cosine[0] == pytest.approx(0, abs=1e-9)


def test_the_pull_of_the_class_means_is_that_of_averaged_gradients() -> None:
    net, batches = problem()
    balance = force_balance(net, batches, net[4], F.cross_entropy)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    H = net[:4](x)
    G = torch.autograd.grad(F.cross_entropy(net[4](H), y), H, retain_graph=True)[0]
    averages = torch.stack([G[y == c].mean(0) for c in range(3)])[y]
    pulls = torch.autograd.grad(H, list(net[:4].parameters()), averages)
    np.testing.assert_allclose(balance.means[:-1], [float(p.norm()) for p in pulls], rtol=1e-10)


def test_on_the_central_path_a_linear_layer_above_fixed_features_is_at_rest() -> None:
    """grad L_LS H^T = 0: with the least-squares classifier the two forces on a last linear map cancel exactly, cosine -1."""
    torch.manual_seed(1)
    y = torch.arange(40) % 4
    x = torch.randn(40, 6).double() + 2 * torch.randn(4, 6).double()[y]
    below, head = nn.Linear(6, 6).double(), nn.Linear(6, 4).double()
    with torch.no_grad():
        H = below(x)
        extended = torch.cat([H, torch.ones(40, 1).double()], 1)
        fit = torch.linalg.lstsq(extended, F.one_hot(y, 4).double()).solution
        head.weight.copy_(fit[:6].T)
        head.bias.copy_(fit[6])
    net = nn.Sequential(below, head)
    balance = force_balance(net, [(x, y)], head, lambda out, t: F.mse_loss(out, F.one_hot(t, 4).to(out.dtype)))
    assert balance.cosine[-1] == pytest.approx(-1, abs=1e-9)
    assert balance.ratio[-1] < 1e-6
    assert balance.means[-1] > 1e-3


@given(problems(balanced=False))
def test_the_gradient_of_the_central_path_is_orthogonal_to_what_the_features_are_linear_in(problem: Problem) -> None:
    """grad_H L_LS H^T = 0, so that Z = B H has grad Z^T = 0 for every B, any class sizes; another Z has not."""
    H = problem.H
    gradient = oracles.ridge_gradient(H, problem.layout, 0.0)
    size = float(np.linalg.norm(gradient)) * float(np.linalg.norm(H))
    np.testing.assert_allclose(gradient @ H.T, np.zeros((problem.P, problem.P)), atol=1e-9 * size)
    B = problem.rng.standard_normal((problem.P + 3, problem.P))
    np.testing.assert_allclose(gradient @ (B @ H).T, np.zeros((problem.P, problem.P + 3)), atol=1e-8 * size)
    bent = np.tanh(H)
    assert abs(gradient @ bent.T).max() > 1e-7 * float(np.linalg.norm(gradient) * np.linalg.norm(bent))


def test_against_decay_and_momentum() -> None:
    net, batches = problem()
    net[3] = nn.Tanh()  # smooth, so that gradient descent converges
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    for _ in range(1500):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    balance = force_balance(net, batches, net[4], F.cross_entropy, weight_decay=0.01, optimizer=optimizer)
    assert balance.decay_cosine[-1] == pytest.approx(1, abs=0.01)  # at rest the remainder is what decay takes
    assert balance.decay_ratio[-1] == pytest.approx(1, abs=0.02)
    assert np.isfinite(balance.momentum_cosine).all()


def test_nothing_of_the_callers_changes() -> None:
    net, batches = problem(torch.float32)
    net[2].weight.requires_grad_(False)
    net.train()
    state, random = torch.get_rng_state(), [p.clone() for p in net.parameters()]
    balance = force_balance(net, batches, net[4], F.cross_entropy)
    assert balance.names == ("0.weight", "0.bias", "2.bias")
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert not net[4]._forward_pre_hooks
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), random, strict=True))
    assert np.isnan(balance.decay_ratio).all()


def test_bad_layers_are_refused() -> None:
    net, batches = problem()
    with pytest.raises(ValueError, match="not a module of the model"):
        force_balance(net, batches, nn.Linear(2, 2), F.cross_entropy)
    with pytest.raises(ValueError, match="no trained parameter"):
        force_balance(net[4:], batches, net[4], F.cross_entropy)
