"""Measuring changes nothing of the caller's: modes, weights trained next, random states, hooks, data order, errors or not."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sims.measure import measure_network
from tests.typed import gradient_of
from ufm.monitor import watch


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Sequential(nn.ReLU(), nn.Linear(6, 3)))


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(60, 4, generator=generator), torch.arange(60) % 3)


def random_state() -> tuple[object, ...]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


def draw_of_numpy() -> object:
    return np.random.rand()  # noqa: NPY002


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def hooks(model: nn.Module) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


def test_a_frozen_batch_norm_stays_frozen() -> None:
    model = network().train()
    model[1].eval()
    before = modes(model)
    measure_network(model, DataLoader(data(), 20), "3.1", 0.0)
    assert modes(model) == before


@pytest.mark.parametrize("own", [False, True], ids=["global generator", "own generator"])
def test_a_shuffling_loader_gives_the_training_the_batches_it_would_have_had(own: bool) -> None:
    def trained(measuring: bool) -> list[Tensor]:
        model = network()
        torch.manual_seed(5)
        generator = torch.Generator().manual_seed(9) if own else None
        loader = DataLoader(data(), 20, shuffle=True, generator=generator)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            for x, y in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
            if measuring:
                measure_network(model, loader, "3.1", 0.0)
        return [parameter.detach().clone() for parameter in model.parameters()]

    assert all(torch.equal(one, two) for one, two in zip(trained(False), trained(True), strict=True))


def by_measure_network(model: nn.Module, loader: Any) -> None:
    measure_network(model, loader, "3.1", 0.0)


def by_watch(model: nn.Module, loader: Any) -> None:
    watch(model, "3.1", inner=("0", "3")).measure(loader)


@pytest.mark.parametrize("measure", [by_measure_network, by_watch])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_or_an_interrupt_in_the_middle_leaves_everything_as_it_was(
    error: type[BaseException], measure: Callable[[nn.Module, Any], None]
) -> None:
    model = network().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before = modes(model), random_state(), hooks(model), [p.requires_grad for p in model.parameters()]

    def dying() -> Iterator[tuple[Tensor, Tensor]]:
        x, y = data()[:]
        yield x, y
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        raise error("stop")

    with pytest.raises(error):
        measure(model, dying())
    assert before == (modes(model), random_state(), hooks(model), [p.requires_grad for p in model.parameters()])


@pytest.mark.parametrize("draw", [random.random, draw_of_numpy, lambda: torch.rand(1)], ids=["python", "numpy", "torch"])
def test_the_random_states_are_those_of_before(draw: Callable[[], object]) -> None:
    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            draw()
            return x

    model = nn.Sequential(Drawing(), nn.Linear(4, 3))
    before = random_state()
    measure_network(model, DataLoader(data(), 20, shuffle=True), "1", 0.0)
    assert random_state() == before
    draw()
    assert random_state() != before


def test_gradients_hooks_and_running_statistics_are_left_alone() -> None:
    model = network().train()
    nn.functional.cross_entropy(model(data()[:][0]), data()[:][1]).backward()
    gradients = [gradient_of(parameter).clone() for parameter in model.parameters()]
    buffers, before = {name: b.clone() for name, b in model.named_buffers()}, hooks(model)
    measure_network(model, DataLoader(data(), 20), "3.1", 0.0)
    assert all(torch.equal(gradient_of(p), g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    assert hooks(model) == before
    assert torch.is_grad_enabled()


def test_measuring_in_the_middle_of_an_epoch_leaves_persistent_workers_to_the_training() -> None:
    loader = DataLoader(
        data(), 20, shuffle=True, num_workers=1, persistent_workers=True, generator=torch.Generator().manual_seed(2)
    )
    expected = [y.tolist() for _, y in DataLoader(data(), 20, shuffle=True, generator=torch.Generator().manual_seed(2))]
    seen = []
    for k, (_, y) in enumerate(loader):
        seen.append(y.tolist())
        if k == 0:
            iterator = loader._iterator
            measure_network(network(), loader, "3.1", 0.0)
            assert loader._iterator is iterator
    assert sorted(y for batch in seen for y in batch) == sorted(y for batch in expected for y in batch)
    assert len(seen) == 3
