"""Heads that are more than a Linear: parametrised ones are left as they are, those that give something else are refused."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ufm.features import measures
from ufm.features.statistics import StreamingStatistics
from ufm.monitor import NeuralCollapse, measure_network, watch
from ufm.monitor.network import _about

C, P = 4, 7


def examples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(40) % C
    return torch.randn(C, P, generator=generator)[y] + torch.randn(40, P, generator=generator), y


class CosineHead(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 10 * nn.functional.normalize(input) @ nn.functional.normalize(self.weight).mT


def measured(network: nn.Module, way: str) -> Any:
    if way == "watch":
        return watch(model=network, layer="1", lam=0.1).measure([examples()])
    return measure_network(network, [examples()], "1", 0.1).scalars


@pytest.mark.parametrize("way", ["watch", "measure_network"])
def test_measuring_leaves_a_spectral_norm_in_training_mode_as_it_was(way: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(P, P), parametrizations.spectral_norm(nn.Linear(P, C)))
    before = copy.deepcopy(network.state_dict())
    values = measured(network, way)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    body, head = network.eval()
    assert isinstance(head, nn.Linear)
    metric = NeuralCollapse(C, lam=0.1)
    x, y = examples()
    metric.update(body(x), y, classifier=head)
    assert values["nc3"] == pytest.approx(metric.compute()["nc3"], rel=1e-12)


def test_a_pass_in_training_mode_makes_the_steps_of_the_network_alone() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(P, P), parametrizations.spectral_norm(nn.Linear(P, C)))
    other, (x, y) = copy.deepcopy(network), examples()
    watched = watch(model=network, layer="1")
    with watched:
        network(x)
        watched.update(labels=y)
    other(x)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("way", ["watch", "measure_network"])
def test_a_head_that_gives_something_else_than_its_product_is_refused(way: str) -> None:
    torch.manual_seed(0)
    hooked = nn.Sequential(nn.Linear(P, P), nn.Linear(P, C))
    hooked[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    for network in (nn.Sequential(nn.Linear(P, P), CosineHead(P, C)), hooked):
        with pytest.raises(ValueError, match=r"the layer '1' does not give W h \+ b of its weights"):
            measured(network, way)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_linear_head_is_taken_in_any_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(P, 600), nn.Linear(600, C)).to(dtype)
    x, y = examples()
    assert np.isfinite(watch(model=network, layer="1").measure([(x.to(dtype) + 30, y)])["nc1"])
    single = network.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.isfinite(watch(model=single, layer="1").measure([(x + 30, y)])["nc1"])


def test_tokens_of_an_inner_layer_with_a_label_an_example_ask_for_reduce() -> None:
    class Pooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.head = nn.Linear(P, P), nn.Linear(P, C)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.tokens(x[:, None].expand(-1, 3, -1)).mean(1))

    with pytest.raises(ValueError, match="gives 3 tokens an example, and there is one label an example: give reduce="):
        watch(model=Pooling(), layer="head", inner=("tokens",)).measure([examples()])
    taken = watch(model=Pooling(), layer="head", inner=("tokens",), reduce=lambda tokens: tokens.mean(1)).measure([examples()])
    assert taken["tokens/nc1"] == pytest.approx(taken["nc1"], rel=1e-4)


def test_nc1_about_the_means_of_the_training_set_keeps_its_digits_far_from_the_origin() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    near = rng.integers(-8, 9, (60, 2)) / 2**26 + rng.integers(-8, 9, (3, 2))[y] / 2**20
    train, test = (
        StreamingStatistics(3).update(torch.tensor(h), torch.tensor(y)).compute() for h in (near + 2.0**25, near[::-1] + 2.0**25)
    )
    exact_train, exact_test = (
        StreamingStatistics(3).update(torch.tensor(h), torch.tensor(y)).compute() for h in (near, near[::-1].copy())
    )
    expected = measures.phd_nc1(_about(exact_train, exact_test))
    assert measures.phd_nc1(_about(train, test)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_network_compiled_as_one_graph_is_measured_in_the_users_own_pass() -> None:
    torch.manual_seed(0)
    network, (x, y) = nn.Sequential(nn.Linear(P, P), nn.Linear(P, C)).eval(), examples()
    expected = watch(model=network, layer="1", lam=0.1).measure([(x, y)])
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    watched = watch(model=compiled, layer="1", lam=0.1)
    with torch.no_grad(), watched:
        for part in (slice(0, 20), slice(20, 40)):
            compiled(x[part])
            watched.update(labels=y[part])
    assert watched.compute() == pytest.approx(expected, rel=1e-5)
