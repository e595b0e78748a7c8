"""Features caught on their way are those of the layer, for any batch structure, several layers, tokens and convolutions."""

from collections import UserDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.typed import linear
from ufm.monitor import NeuralCollapse, Watched, measure_features, measure_network, watch
from ufm.monitor.layers import RandomProjection, bare, flattened


def data(n: int = 90, C: int = 3, P: int = 5) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(n) % C)
    x = rng.standard_normal((C, P))[y] + 0.3 * rng.standard_normal((n, P))
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3))


class Keyword(nn.Module):
    """A network called by keyword that returns a mapping, as those of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, inputs: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.net(inputs)}


def test_a_pass_of_the_users_own_gives_what_measure_network_gives() -> None:
    x, y = data()
    model = network().eval()
    expected = measure_network(model, [(x, y)], "3", 0.1)
    with watch(model, "3", lam=0.1) as watched:
        for a, t in zip(x.split(20), y.split(20), strict=True):
            model(a)
            watched.update(t)
    values = watched.compute()
    for name, value in expected.scalars.items():
        assert values[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name  # batch norm in float32, cut elsewhere
    assert not any(module._forward_hooks for module in model.modules())


BATCHES: list[tuple[str, Callable[[Tensor, Tensor], Any], Any]] = [
    ("pair", lambda x, y: (x, y), None),
    ("list", lambda x, y: [x, y], None),
    ("triple", lambda x, y: (x, y, torch.arange(len(y))), None),
    ("dict", lambda x, y: {"inputs": x, "labels": y}, None),
    ("label", lambda x, y: {"inputs": x, "label": y, "scale": torch.ones(len(x))}, None),
    ("UserDict", lambda x, y: UserDict({"inputs": x, "labels": y}), None),
    ("select", lambda x, y: {"a": (y, x)}, lambda batch: (batch["a"][1], batch["a"][0])),
    ("select keywords", lambda x, y: (y, x, 1), lambda batch: ({"inputs": batch[1]}, batch[0])),
]


@pytest.mark.parametrize(("make", "select"), [case[1:] for case in BATCHES], ids=[case[0] for case in BATCHES])
def test_any_structure_of_batches_gives_the_same_numbers(make: Callable[[Tensor, Tensor], Any], select: Any) -> None:
    x, y = data()
    model = Keyword()
    expected = watch(model, "net.3").measure([(x, y)])
    values = watch(model, "net.3", select=select).measure([make(a, t) for a, t in zip(x.split(45), y.split(45), strict=True)])
    assert values == pytest.approx(expected, rel=1e-4, nan_ok=True)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"inputs": torch.zeros(3, 5), "labels": torch.arange(3), "id": [1, 2, 3]},
            "the network takes inputs, scale, and a batch has id too: give select=",
        ),
        (
            {"image": torch.zeros(3, 5), "labels": torch.arange(3)},
            "the network takes inputs, scale, and a batch has image: give select=",
        ),
        ({"inputs": torch.zeros(3, 5)}, "has no 'labels' or 'label': give select="),
        (torch.zeros(3, 5), "a batch is Tensor: give select="),
        ((torch.zeros(3, 5), [0, 1, 2]), "labels are list"),
        ((torch.zeros(3, 5), torch.arange(4)), "3 inputs have 4 labels"),
        ((torch.zeros(1, 5), torch.tensor(2)), "labels are a single number"),
        ((torch.zeros(3, 5), torch.zeros(3, 2), torch.arange(3)), "got shapes"),
        ((torch.zeros(3, 5), torch.zeros(3), torch.arange(3)), "labels are torch.float32"),
    ],
)
def test_a_batch_that_cannot_be_told_apart_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        watch(Keyword(), "net.3").measure([batch])


def test_inner_layers_are_their_outputs_and_a_linear_one_makes_no_collapse() -> None:
    x, y = data()
    model = network()
    watched = watch(model, "3", inner=("0", "1", "2"))
    assert isinstance(watched, Watched)
    values = watched.measure([(x, y)])
    model.eval()
    with torch.no_grad():
        out = model[0](x).numpy()
    W, b = (p.detach().numpy() for p in linear(model[3]).parameters())
    expected = measure_features(out, y.numpy(), W, b, 0.0)
    assert values["0/nc1"] == pytest.approx(expected.scalars["nc1"], rel=1e-9)
    assert values["2/nc1"] == pytest.approx(values["nc1"], rel=1e-12)
    assert "0/nc3" not in values
    rows = watched.by_layer()
    assert [row["layer"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[1]["gain"] == pytest.approx(0, abs=1e-5)  # batch norm in evaluation mode is invertible
    assert watched.undefined.keys() == {name for name, value in values.items() if np.isnan(value)}


def test_convolutions_are_pooled_flattened_or_sketched_without_touching_the_random_state() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    x, y = torch.randn(60, 1, 4, 4) + (torch.arange(60) % 3)[:, None, None, None], torch.arange(60) % 3
    maps = model[0](x).detach()
    state = torch.get_rng_state()
    for reduce, features in (
        (None, maps.mean((2, 3))),
        (flattened, maps.flatten(1)),
        (RandomProjection(6), RandomProjection(6)(maps)),
    ):
        settings: dict[str, Any] = {} if reduce is None else {"reduce": reduce}
        values = watch(model, "2", inner=("0",), **settings).measure([(x, y)])
        expected = measure_features(features.numpy(), y.numpy(), np.ones((3, features.shape[1])), np.zeros(3), 0.0)
        assert values["0/nc1"] == pytest.approx(expected.scalars["nc1"], rel=1e-5)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="size = 0"):
        RandomProjection(0)


class Residual(nn.Module):
    """A block that goes on to write into the output of its first layer, and a head whose input is written over."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.head = nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        hidden += 1
        logits = self.head(self.relu(hidden))
        hidden.zero_()
        return logits


def test_features_are_those_of_the_layer_whatever_is_written_over_them_later() -> None:
    x, y = data()
    torch.manual_seed(0)
    model = Residual()
    with torch.no_grad():
        out = model.first(x)
        features = (out + 1).relu()
    expected = [measure_features(h.numpy(), y.numpy(), np.ones((3, 7)), np.zeros(3), 0.0).scalars["nc1"] for h in (out, features)]
    values = watch(model, "head", inner=("first",)).measure([(x, y)])
    assert [values["first/nc1"], values["nc1"]] == pytest.approx(expected, rel=1e-5)
    assert measure_network(model, [(x, y)], "head", 0.0).scalars["nc1"] == pytest.approx(expected[1], rel=1e-5)


def test_features_are_reduced_in_their_own_precision_whatever_autocast_the_pass_has() -> None:
    x, y = data()
    torch.manual_seed(0)
    model, sketch = nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 3)), RandomProjection(4)
    exact = measure_features(sketch(model[0](x).detach()).numpy(), y.numpy(), np.ones((3, 4)), np.zeros(3), 0.0)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), watch(model, "1", inner=("0",), reduce=sketch) as watched:
        model(x)
        watched.update(y)
    assert watched.compute()["0/nc1"] == pytest.approx(exact.scalars["nc1"], rel=1e-5)


def test_labels_that_are_no_tensor_and_layers_without_classes_are_refused_with_the_way_out() -> None:
    x, y = data()
    model = network().eval()
    for labels in (y.tolist(), y.numpy(), torch.tensor(1)):
        with watch(model, "3") as watched:
            model(x)
            with pytest.raises(TypeError, match="a tensor with one an example is needed"):
                watched.update(labels)  # type: ignore[arg-type]
    targets = watch(model, "3", targets="regression")
    targets.measure([(x, x[:, :3])])
    with pytest.raises(ValueError, match="layers are compared by their classes"):
        targets.by_layer()


def test_tokens_of_a_language_model_and_what_is_ignored() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 6), nn.Tanh(), nn.Linear(6, 9))
    tokens = torch.randint(0, 9, (7, 12))
    labels = torch.where(torch.rand(7, 12) < 0.2, -100, tokens)
    watched = watch(model, "2", classes="seen", ignore_index=-100, shift=True)
    values = watched.measure([(tokens, labels)])
    assert values["examples"] == int((labels[:, 1:] != -100).sum())
    assert values["classes_seen"] == len(labels[:, 1:][labels[:, 1:] != -100].unique())


def test_labels_belong_to_the_forward_passes_since_the_last_update() -> None:
    x, y = data()
    model = network().eval()
    with watch(model, "3") as watched:
        with pytest.raises(ValueError, match="saw no batch since the last update"):
            watched.update(y)
        model(x)
        model(x)
        with pytest.raises(ValueError, match="saw 180 examples in 2 calls, and there are 90 labels"):
            watched.update(y)
        model(x[:50])
        model(x[50:])
        watched.update(y)
        with pytest.raises(ValueError, match="already catching"), watched:
            pass
    assert watched.compute()["examples"] == 90
    model(x)
    assert not any(watched._caught.values())


def test_the_hooks_are_gone_after_an_interrupt() -> None:
    model = network()
    with pytest.raises(KeyboardInterrupt), watch(model, "3", inner=("0",)):
        raise KeyboardInterrupt
    assert not any(module._forward_hooks for module in model.modules())


def test_wrapped_networks_are_watched_inside_and_wrong_names_refused() -> None:
    x, y = data()
    compiled = torch.compile(network(), backend="eager")
    assert isinstance(compiled, nn.Module)
    assert watch(compiled, "3").measure([(x, y)])["examples"] == 90
    assert bare(compiled) is not compiled
    with pytest.raises(ValueError, match="no linear layer called 'fc'; it has: 0, 3"):
        watch(network(), "fc")
    with pytest.raises(ValueError, match="no layer called 'body'; it has: 0, 1"):
        watch(network(), "3", inner=("body",))


def test_regression_is_watched_too() -> None:
    x, _ = data()
    values = watch(network(), "3", targets="regression").measure(DataLoader(TensorDataset(x, x[:, :3]), 20))
    assert {"nrc1", "nrc2", "nrc3", "mse"} <= values.keys()
    with pytest.raises(ValueError, match="leave inner= out"):
        watch(network(), "3", inner=("0",), targets="regression")


def test_layers_are_given_by_name_or_by_themselves() -> None:
    model, loader = network(), DataLoader(TensorDataset(*data()), batch_size=30)
    head = linear(model[3])
    assert watch(model, head, inner=[model[2]], lam=0).measure(loader) == watch(model, "3", inner=["2"], lam=0).measure(loader)
    with pytest.raises(ValueError, match="no layer of this network"):
        watch(model, nn.Linear(7, 3))
    metric, of_weights = NeuralCollapse(3), NeuralCollapse(3)
    x, y = data()
    with torch.no_grad():
        metric.update(model[:3](x), y, classifier=head)
        of_weights.update(model[:3](x), y, classifier=(head.weight, head.bias))
    assert metric.compute()["nc3"] == of_weights.compute()["nc3"]


def test_one_hot_labels_are_refused_with_the_way_out() -> None:
    x, y = data()
    with pytest.raises(ValueError, match="argmax"):
        NeuralCollapse(3).update(x, nn.functional.one_hot(y))


def test_an_update_after_the_step_says_that_it_comes_before() -> None:
    x, y = data()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for before in (True, False):
        watched = watch(model, "3")
        with watched:
            nn.functional.cross_entropy(model(x), y).backward()
            if before:
                watched.update(y)
            optimizer.step()
            if not before:
                with pytest.raises(
                    ValueError, match="if the optimizer has made a step since the forward pass, call update before that step"
                ):
                    watched.update(y)


def test_a_class_without_example_and_a_loader_without_batch_have_their_way_out() -> None:
    x, y = data()
    watched = watch(network(), "3")
    watched.measure([(x[y != 1], y[y != 1])])
    assert watched.undefined["nc1"].startswith("class 1 has no example, and every one of the 3 classes needs one: classes='seen'")
    batches = iter([(x, y)])
    assert np.isfinite(watched.measure(batches)["nc1"])
    with pytest.warns(UserWarning, match="before the ``update``"):
        watched.measure(batches)
    assert watched.undefined["nc1"] == "no example has been seen: a loader that an earlier pass has used up gives none"


def test_what_makes_features_of_a_layer_is_named_where_watch_is() -> None:
    import ufm.monitor

    assert {"RandomProjection", "flattened", "pooled"} <= set(ufm.monitor.__all__)
    assert ufm.monitor.RandomProjection is RandomProjection
