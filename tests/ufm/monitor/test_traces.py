"""What a watch leaves behind and what it is told: copies, generators, modes with effects, compiled networks, wrong layers."""

import copy
import io
import random
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from tests.typed import linear
from tests.ufm.monitor.test_watch import data, network
from ufm.monitor import measure_network, watch
from ufm.monitor.batches import to_device
from ufm.monitor.layers import RandomProjection, check_linear

PAIR = namedtuple("PAIR", "inputs labels")


class Merging(nn.Linear):
    """A low-rank branch that `eval()` merges into the weights and `train()` takes out, as loralib's."""

    def __init__(self, P: int, C: int) -> None:
        super().__init__(P, C)
        self.A, self.B = nn.Parameter(torch.randn(2, P)), nn.Parameter(0.1 * torch.randn(C, 2))
        self.merged = False

    def train(self, mode: bool = True) -> "Merging":
        super().train(mode)
        if self.merged is mode:
            self.weight.data += (-1 if mode else 1) * (self.B @ self.A).data
            self.merged = not mode
        return self

    def forward(self, input: Tensor) -> Tensor:
        own = super().forward(input)
        return own if self.merged else own + input @ self.A.T @ self.B.T


def test_modules_whose_eval_changes_weights_train_on_as_if_nothing_had_been_measured() -> None:
    x, y = data()
    torch.manual_seed(1)
    body = Merging(5, 7)
    model = nn.Sequential(body, nn.Tanh(), nn.Linear(7, 3))
    before = copy.deepcopy(model.state_dict())
    watch(model, "2").measure([(x, y)])
    measure_network(model, [(x, y)], "2", 0.1)
    assert not body.merged
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("how", ["prune", "weight_norm", "spectral_norm"])
def test_a_classifier_made_before_every_pass_is_that_of_this_pass(how: str) -> None:
    x, y = data()
    model = network()
    head = linear(model[3])
    if how == "prune":
        prune.l1_unstructured(head, "weight", 0.3)
    elif how == "weight_norm":
        with pytest.warns(FutureWarning):
            nn.utils.weight_norm(head)
    else:
        nn.utils.spectral_norm(head)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    first = measure_network(model, [(x, y)], "3", 0.1).scalars  # before the weights are made from the new parameters
    model.eval()(x)
    again = measure_network(model, [(x, y)], "3", 0.1).scalars
    assert first == again
    assert watch(model, "3", lam=0.1).measure([(x, y)])["nc3"] == pytest.approx(first["nc3"], rel=1e-6)


class Drawing(Dataset[Any]):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.rng, self.old = x, y, np.random.default_rng(0), np.random.RandomState(0)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + self.rng.standard_normal() + self.old.standard_normal(), self.y[index]


class Order(Sampler[int]):
    def __init__(self, n: int) -> None:
        self.n, self.g, self.rng = n, torch.Generator().manual_seed(0), random.Random(0)

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.n, generator=self.g).tolist()
        self.rng.shuffle(order)
        return iter(order)


def test_generators_under_any_name_draw_on_as_if_nothing_had_been_measured() -> None:
    x, y = data()

    def loader() -> DataLoader[Any]:
        return DataLoader(Subset(Drawing(x, y), list(range(60))), 20, sampler=Order(60))

    measured, alone = loader(), loader()
    watch(network(), "3").measure(measured)
    measure_network(network(), measured, "3", 0.1)
    for (a, _), (b, _) in zip(measured, alone, strict=True):
        assert torch.equal(a, b)


def test_a_copy_and_a_file_of_the_network_made_meanwhile_catch_nothing() -> None:
    x, y = data()
    model = network().eval()
    watched = watch(model, "3", inner="0")
    with watched:
        other = copy.deepcopy(model)
        torch.save(model, stream := io.BytesIO())
        other(x)
        assert not any(watched._caught.values())
        model(x)
        watched.update(y)
    other(x)
    assert not any(watched._caught.values())
    stream.seek(0)
    torch.load(stream, weights_only=False)(x)
    assert watched.compute()["examples"] == 90


@pytest.mark.parametrize("in_place", [True, False])
def test_a_compiled_network_that_ran_before_is_measured(in_place: bool) -> None:
    x, y = data()
    expected = watch(network(), "3").measure([(x, y)])
    model: Any = network()
    if in_place:
        model.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    model.eval()(x), model(x[:8])
    assert watch(model, "3").measure([(x, y)])["nc1"] == expected["nc1"]
    assert measure_network(model, [(x, y)], "3", 0.1).scalars["nc1"] == pytest.approx(expected["nc1"], rel=1e-6)
    watched = watch(model, "3")
    with watched:
        for module in model.modules():
            module._forward_hooks.clear()  # as the compiled code has none
        model(x)
        with pytest.raises(ValueError, match=r"torch.compiler.set_stance\('force_eager'\)"):
            watched.update(y)


class Branch(nn.Linear):
    factor, low = 1.0, 0.0

    def forward(self, input: Tensor) -> Tensor:
        out = super().forward(input) * self.factor
        return out + self.low * input[:, :1]


@pytest.mark.parametrize("mean", [0.0, 3.0, 30.0])
@pytest.mark.parametrize("P", [16, 2048])
def test_one_percent_beside_w_h_plus_b_is_refused_in_float32(mean: float, P: int) -> None:
    torch.manual_seed(0)
    h = torch.randn(8, P) + mean
    for attributes in ({"factor": 1.01}, {"low": 0.01 if mean else 0.1}):
        head = Branch(P, 10)
        check_linear(head, "fc", h, head(h))
        vars(head).update(attributes)
        with pytest.raises(ValueError, match="does not give W h"):
            check_linear(head, "fc", h, head(h))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("P", [1, 64, 4096])
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_honest_heads_of_any_precision_pass(dtype: torch.dtype, P: int, mean: float) -> None:
    torch.manual_seed(0)
    for scale in (1e-3, 1.0, 20.0):
        head = nn.Linear(P, 40)
        with torch.no_grad():
            head.weight.mul_(scale)
        h = (torch.randn(8, P) + mean).relu()
        narrow = copy.deepcopy(head).to(dtype)
        check_linear(narrow, "fc", h.to(dtype), narrow(h.to(dtype)))
        if dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype):
                check_linear(head, "fc", h, head(h))


class Calling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.body(x))


def test_a_head_called_by_keyword_is_measured() -> None:
    x, y = data()
    model = Calling()
    plain = nn.Sequential(model.body, model.head)
    assert watch(model, "head", lam=0.1).measure([(x, y)]) == watch(plain, "1", lam=0.1).measure([(x, y)])
    assert measure_network(model, [(x, y)], "head", 0.1).scalars == measure_network(plain, [(x, y)], "1", 0.1).scalars


def test_a_hidden_layer_taken_for_the_last_one_is_refused_and_softmax_is_not() -> None:
    x, y = data()
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="predicts other classes than that of its layer '0'"):
        watch(nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 3)), "0").measure([(x, y)])
    head = nn.Linear(5, 3)
    plain = watch(nn.Sequential(head), "0", lam=0.1).measure([(x, y)])
    for last in (nn.Softmax(1), nn.LogSoftmax(1)):
        assert watch(nn.Sequential(head, last), "0", lam=0.1).measure([(x, y)]) == plain


def test_an_interrupt_leaves_nothing_measured() -> None:
    x, y = data()

    def batches() -> Iterator[Any]:
        yield x, y
        raise KeyboardInterrupt

    watched = watch(network(), "3", inner="0")
    with pytest.raises(KeyboardInterrupt):
        watched.measure(batches())
    assert not watched.metrics["3"].update_called
    with watched:
        watched.model(x)
        watched.update(y)
        with pytest.raises(ValueError, match="already catching"):
            watched.measure([(x, y)])
        assert watched.compute()["examples"] == 90


def test_values_are_the_callers_own() -> None:
    x, y = data()
    watched = watch(network(), "3", inner="0")
    values = watched.measure([(x, y)])
    kept = dict(values)
    values.clear()
    assert watched.compute() == kept
    for metric in (watched.metrics["3"], copy.deepcopy(watched.metrics["3"])):
        metric.compute().clear()
        assert metric.compute()["nc1"] == kept["nc1"]
    assert repr(watched) == "Watched('3', '0': P = 7, C = 3, classes = 'all', lam = None)"


def test_a_batch_that_one_layer_refuses_is_taken_in_by_none() -> None:
    x, y = data()
    watched = watch(network(), "3", inner="0", reduce=lambda f: f / f.detach().new_tensor(broken))
    for broken in (1.0, 0.0):
        with watched:
            watched.model(x)
            if broken:
                watched.update(y)
                continue
            with pytest.raises(ValueError, match="layer '0': 90 examples have NaN or infinite features"):
                watched.update(y)
    assert {metric.compute()["examples"] for metric in watched.metrics.values()} == {90}


def test_a_layer_that_was_replaced_is_refused() -> None:
    model = network()
    watched = watch(model, "3")
    model[3] = nn.Linear(7, 3)
    with pytest.raises(ValueError, match="the layer '3' of the network was replaced after watch"):
        watched.measure([data()])
    with pytest.raises(ValueError, match="has 1 output, and collapse"):
        watch(nn.Sequential(nn.Linear(3, 1)), "0")


def test_rows_of_reduced_layers_are_marked() -> None:
    x = torch.randn(60, 2, 4, 4)
    y = torch.arange(60) % 3
    model = nn.Sequential(nn.Conv2d(2, 5, 1), nn.Flatten(), nn.Linear(80, 9), nn.Linear(9, 3))
    rows = {row["layer"]: row["reduced"] for row in _measured(model, x, y)}
    assert rows == {"0": 1.0, "2": 0.0, "3": 0.0}


def _measured(model: nn.Module, x: Tensor, y: Tensor) -> list[dict[str, float | str]]:
    watched = watch(model, "3", inner=("0", "2"))
    watched.measure([(x, y)])
    return watched.by_layer()


def test_a_projection_does_not_depend_on_what_it_saw_before() -> None:
    x = torch.randn(6, 40)
    fresh, used = RandomProjection(8), RandomProjection(8)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        used(x.to(dtype))
    assert torch.equal(fresh(x), used(x))
    assert used(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("select", "message"),
    [(lambda b: b[0], "select returned Tensor: the pair"), (lambda b: None, "select returned NoneType: the pair")],
)
def test_a_select_that_gives_no_pair_is_named(select: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        watch(network(), "3", select=select).measure([data()])


def test_select_serves_inputs_with_their_examples_along_another_axis() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(5, 7), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][-1])

    x, y = data()
    values = watch(Recurrent(), "head", select=lambda batch: batch).measure([(torch.stack([x, x]), y)])
    assert values["examples"] == 90


def test_named_tuples_packed_sequences_and_tuples_of_the_users_own_are_moved() -> None:
    class Own(tuple[Tensor, ...]):
        def __new__(cls, a: Tensor, b: Tensor) -> "Own":
            return super().__new__(cls, (a, b))

    x, y = data()
    there = torch.device("meta")
    pair = to_device(PAIR(x, y), there)
    assert (type(pair), pair.inputs.device.type) == (PAIR, "meta")
    assert [part.device.type for part in to_device(Own(x, y), there)] == ["meta", "meta"]
    packed = pack_padded_sequence(torch.randn(4, 2, 3), torch.tensor([4, 2]))
    assert to_device(packed, torch.device("cpu")).data is packed.data


def test_parameters_of_inference_mode_are_measured() -> None:
    with torch.inference_mode():
        model = network()
    state = torch.get_rng_state()
    x, y = data()
    assert watch(model, "3").measure([(x, y)])["examples"] == 90
    assert torch.equal(torch.get_rng_state(), state)


def test_what_the_backward_pass_computes_again_is_forgotten_by_a_reset() -> None:
    """Gradient checkpointing calls the layers again, behind the update of their batch."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    optimizer, x, y = torch.optim.SGD(net.parameters(), 0.1), torch.randn(30, 4), torch.arange(30) % 3
    with watch(net, "2", inner="0") as watched:
        for _ in range(2):
            watched.reset()
            logits = checkpoint(net, x, use_reentrant=False)
            watched.update(y)
            values = watched.compute()
            nn.functional.cross_entropy(logits, y).backward()
            optimizer.step()
    assert values["examples"] == 30


def test_a_layer_that_gives_no_tensor_is_named() -> None:
    class Mapped(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"x": x}

    class Out(nn.Linear):
        def forward(self, x: dict[str, Tensor]) -> Tensor:  # type: ignore[bad-override]
            return super().forward(x["x"])

    with pytest.raises(ValueError, match="the layer '0' gives dict, a tensor is needed: name a layer inside"):
        watch(nn.Sequential(Mapped(), Out(5, 3)), "1", inner="0").measure([data()])
