"""A classifier whose weight is sharded over processes: a message that says what to do, and no training that ends by it."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.ufm.monitor import test_callbacks
from tests.ufm.monitor.test_callbacks import network as network_of_callbacks
from tests.ufm.monitor.test_watch import data, network
from ufm.monitor import NeuralCollapse, watch
from ufm.monitor.logs import CsvLog
from ufm.monitor.network import measure_network

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

SAID = r"the weight of the classifier is sharded over processes .* leave the last layer out of the sharding"


@pytest.fixture(autouse=True)
def one_process(tmp_path: Path) -> Iterator[None]:
    """A job of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sharded(net: nn.Sequential, name: str) -> nn.Sequential:
    """The network; the weight of its classifier is a DTensor outside of the forward pass, as that of fully_shard is."""
    head: Any = net.get_submodule(name)
    mesh, whole = init_device_mesh("cpu", (1,)), head.weight
    pieces = nn.Parameter(distribute_tensor(whole.detach(), mesh))
    head.register_forward_pre_hook(lambda layer, _: setattr(layer, "weight", whole))
    head.register_forward_hook(lambda layer, *_: setattr(layer, "weight", pieces))
    head.weight = pieces
    return net


def test_a_dtensor_is_refused_before_anything_is_taken_in() -> None:
    x, y = data()
    watched = watch(sharded(network().eval(), "3"), "3")
    with pytest.raises(ValueError, match=SAID):
        watched.measure([(x, y)])
    with pytest.raises(ValueError, match=SAID):
        measure_network(sharded(network(), "3"), [(x, y)], "3", 0.1)
    metric = NeuralCollapse(3)
    head: Any = watched.model.get_submodule("3")
    features = torch.randn(90, head.in_features)
    for classifier in (head, (head.weight, None)):
        with pytest.raises(ValueError, match=SAID):
            metric.update(features, y, classifier=classifier)
    metric.update(features, y, classifier=(head.weight.full_tensor(), head.bias))
    assert metric.compute()["nc3"] > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("on", ["train", "validation", "transformers"])
def test_no_training_ends_by_it_and_it_is_said_once(on: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = network_of_callbacks()
    monkeypatch.setattr(test_callbacks, "network", lambda: sharded(network_of_callbacks(), "4"))
    log = tmp_path / "log.csv"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if on == "transformers":
            net, history = test_callbacks.trained(tmp_path, test_callbacks.ForTransformers("net.4", logs=[CsvLog(log)]))
            assert round(history[-1]["epoch"]) == 3
        else:
            net, _ = test_callbacks.fit(tmp_path, test_callbacks.ForLightning("net.4", on=on, logs=[CsvLog(log)]))
    assert not torch.equal(net.state_dict()["net.0.weight"], plain.state_dict()["0.weight"])
    assert [re.search(SAID, str(warning.message)) is not None for warning in said if "measured" in str(warning.message)] == [True]
    assert not log.exists()


@pytest.mark.parametrize("piece", [(0,), (7,)])
def test_a_flat_or_an_empty_piece_is_refused_too(piece: tuple[int, ...]) -> None:
    head = nn.Linear(4, 3)
    head.weight = nn.Parameter(torch.zeros(piece))
    with pytest.raises(ValueError, match=SAID):
        NeuralCollapse(3).update(torch.randn(6, 4), torch.arange(6) % 3, classifier=head)
    head.weight = nn.Parameter(torch.zeros(3, 5))  # a layer that was given another weight is whole
    NeuralCollapse(3).update(torch.randn(6, 5), torch.arange(6) % 3, classifier=head)
