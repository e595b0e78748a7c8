"""Velocities of features against cases of known answer: free features, linear layers, kernels written out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sims import train as command
from sims.training.protocol import TrainConfig
from sims.training.velocity import (
    cosine,
    feature_gradient,
    features_of,
    gains,
    kernel_product,
    measure_velocity,
    split,
    velocity_cosines,
)
from tests.sims.runs import final_weights, tiny

MSE = TrainConfig(weight_decay=0.0)


def problem(sizes: tuple[int, ...] = (7, 12, 9), d: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return torch.randn(len(labels), d, generator=generator, dtype=torch.float64) + labels[:, None], labels


def network(*layers: nn.Module, P: int = 5) -> tuple[nn.Sequential, nn.Linear]:
    torch.manual_seed(1)
    head = nn.Linear(P, 3)
    return nn.Sequential(*layers, head).double(), head


def test_split_is_class_means_and_deviations() -> None:
    x, y = problem()
    parts = split(x, y)
    torch.testing.assert_close(parts["means"] + parts["deviations"], x)
    for c in range(3):
        torch.testing.assert_close(parts["means"][y == c], x[y == c].mean(0).expand(int((y == c).sum()), -1))
    assert abs(float((parts["means"] * parts["deviations"]).sum())) < 1e-10


def test_free_features_move_by_their_own_gradient() -> None:
    x, y = problem()
    G = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = velocity_cosines(-0.3 * G, G, 2.5 * G, y)
    for part in ("means", "deviations"):
        assert values[part]["gradient"] == pytest.approx(1, abs=1e-12)
        assert values[part]["kernel"] == pytest.approx(1, abs=1e-12)
        assert values[part]["speed"] == pytest.approx(0.3)
    assert values["ratio"] == pytest.approx(1)
    parts = split(-G, y)  # a block kernel: class means r = 4 times as fast
    assert velocity_cosines(4 * parts["means"] + parts["deviations"], G, G, y)["ratio"] == pytest.approx(4)
    assert np.isnan(cosine(0 * G, G))


def test_the_kernel_of_a_linear_layer_is_its_inputs_gram_matrix() -> None:
    x, y = problem()
    layer = nn.Linear(6, 5)
    model, head = network(layer)
    pull = torch.randn(len(x), 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = (x @ x.T + 1) @ pull  # 1: the bias
    batches = [(x[:11], y[:11]), (x[11:], y[11:])]
    torch.testing.assert_close(kernel_product(model, head, batches, pull), expected, rtol=1e-10, atol=1e-10)
    layer.bias.requires_grad_(False)
    torch.testing.assert_close(kernel_product(model, head, batches, pull), x @ x.T @ pull, rtol=1e-10, atol=1e-10)
    layer.weight.requires_grad_(False)
    assert not kernel_product(model, head, batches, pull).any()


def test_the_kernel_of_a_network_is_its_jacobian_written_out() -> None:
    x, y = problem()
    model, head = network(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Linear(4, 5), nn.Tanh())
    model(x)  # running statistics of its own
    pull = torch.randn(len(x), 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    model.eval()
    below = [p for layer in list(model)[:-1] for p in layer.parameters()]
    features = model[:-1](x)
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(f, below, retain_graph=True)]) for f in features.flatten()]
    J = torch.stack(rows)
    model.train()
    product = kernel_product(model, head, [(x, y)], pull)
    torch.testing.assert_close(product, (J @ (J.T @ pull.flatten())).view_as(pull), rtol=1e-9, atol=1e-10)
    assert model.training
    assert not head._forward_pre_hooks


def test_one_small_step_of_a_network_is_that_of_its_kernel() -> None:
    x, y = problem()
    model, head = network(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    batches = [(x, y)]
    H = features_of(model, head, batches)
    G = feature_gradient(head, H, y, MSE)
    onehot = torch.nn.functional.one_hot(y, 3).double()
    torch.testing.assert_close(G, 2 / 3 * (head(H) - onehot).detach() @ head.weight.detach() / len(y))
    h = 1e-6
    below = [p for layer in list(model)[:-1] for p in layer.parameters()]
    loss = ((model(x) - onehot) ** 2).mean()
    gradients = torch.autograd.grad(loss, below)
    with torch.no_grad():
        for p, g in zip(below, gradients, strict=True):
            p -= h * g
    moved = features_of(model, head, batches) - H
    with torch.no_grad():
        for p, g in zip(below, gradients, strict=True):
            p += h * g
    values = measure_velocity(model, head, batches, MSE, moved)
    for part in ("means", "deviations"):
        assert values[part]["kernel"] == pytest.approx(1, abs=1e-6)
        assert values[part]["gradient"] < 0.999
    shifted = measure_velocity(model, head, batches, MSE, moved - 1e3 * h * G, offset_rate=1e3)
    assert shifted["deviations"]["kernel"] == pytest.approx(1, abs=1e-6)


def test_forces_balance_where_the_layer_below_is_linear_in_the_features() -> None:
    x, y = problem()
    model, head = network(nn.Linear(6, 6, bias=False), P=6)
    H = features_of(model, head, [(x, y)])
    onehot = torch.nn.functional.one_hot(y, 3).double()
    wide = torch.cat([H, torch.ones(len(H), 1, dtype=torch.float64)], 1)
    best = torch.linalg.lstsq(wide, onehot).solution
    with torch.no_grad():
        head.weight.copy_(best[:-1].T)
        head.bias.copy_(best[-1])
    values = measure_velocity(model, head, [(x, y)], MSE, H)
    assert values["forces"]["cosine"] == pytest.approx(-1, abs=1e-9)  # grad_H L_LS H^T = 0
    assert values["forces"]["ratio"] < 1e-9


def test_a_penalty_on_the_features_is_part_of_the_forces() -> None:
    x, y = problem()
    model, head = network(nn.Linear(6, 5, bias=False))
    H = features_of(model, head, [(x, y)])
    values = measure_velocity(model, head, [(x, y)], TrainConfig(feature_decay=1e9), H)  # beside which the loss is nothing
    expected = (H.T @ x).norm() / (split(H, y)["means"].T @ x).norm()
    assert values["forces"]["ratio"] == pytest.approx(float(expected), rel=1e-6)


def test_no_linear_operation_gains_and_the_ledger_adds_up() -> None:
    x, y = problem((20, 30, 25))
    model, head = network(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 4), nn.ReLU(inplace=True), P=4)
    values = gains(model, head, [(x[:40], y[:40]), (x[40:], y[40:])])
    assert all(gain <= 1e-9 for gain in values["linear"])
    total = values["input"] + sum(values["linear"]) + sum(values["between"])
    assert total == pytest.approx(values["features"], abs=1e-9)
    assert values["linear"][0] < -1e-3  # six inputs into five
    linear, head = network(nn.Linear(6, 6), P=6)
    same = gains(linear, head, [(x, y)])
    assert same["linear"] == pytest.approx([0], abs=1e-9)
    assert same["between"] == pytest.approx([0], abs=1e-9)


def test_velocities_of_a_run_are_stored_and_change_no_bit_of_it(tmp_path: Path) -> None:
    full = {
        "batch_size": 300,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "batch_norm": False,
        "robustness": 0,
        "decays": (),
        "lr": 1e-3,
    }
    command.train(tiny(3, **full, velocity=(1, 3)), tmp_path / "with")
    command.train(tiny(3, **full), tmp_path / "without")
    first, second = (final_weights(tmp_path / name) for name in ("with", "without"))
    assert all(torch.equal(first[name], second[name]) for name in second)
    assert sorted(path.name for path in (tmp_path / "with").glob("velocity*")) == ["velocity-0001.json", "velocity-0003.json"]
    values = json.loads((tmp_path / "with" / "velocity-0003.json").read_text())
    assert values["epoch"] == 3
    for part in ("means", "deviations"):  # one full-batch step of plain gradient descent, in float32
        assert values[part]["kernel"] > 0.999
    assert len(values["gains"]["linear"]) == 2


def test_velocity_is_of_measured_epochs() -> None:
    with pytest.raises(ValueError, match="velocities are taken at measured epochs only, and epoch 2 is not one"):
        TrainConfig(measured=(1, 350), velocity=(2,))
    assert TrainConfig(velocity=(350,)).scaled(10).velocity == (10,)
