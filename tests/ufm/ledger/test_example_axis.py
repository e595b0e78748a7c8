"""The axis of the examples may be any: a ledger is the same wherever a network puts it, also where sizes coincide."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ufm.ledger import ledger
from ufm.ledger.example_axis import ExampleAxis, by_example, example_axes

Batches = list[tuple[Tensor, Tensor]]


def sequences(T: int, batch: int, n: int = 96) -> Batches:
    generator = torch.Generator().manual_seed(T)
    y = torch.arange(n) % 3
    x = torch.randn(n, T, 2, generator=generator) + 1.5 * torch.randn(3, T, 2, generator=generator)[y]
    return [(x[k : k + batch], y[k : k + batch]) for k in range(0, n, batch)]


class Network(nn.Module):
    """Positions one by one, then all together, with the examples where `order` says."""

    def __init__(self, order: str, T: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.order, self.T = order, T
        self.each, self.act, self.head = nn.Linear(2, 2), nn.ReLU(), nn.Linear(2 * T, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "second":
            return self.head(self.act(self.each(x.transpose(0, 1))).transpose(0, 1).flatten(1))
        if self.order == "last":
            return self.head(self.act(self.each(x).movedim(0, 2)).movedim(2, 0).flatten(1))
        if self.order == "outer":
            return self.head(self.act(self.each(x.reshape(-1, 2))).reshape(-1, 2 * self.T))
        if self.order == "inner":
            h = self.act(self.each(x.transpose(0, 1).reshape(-1, 2)))
            return self.head(h.reshape(self.T, -1, 2).transpose(0, 1).flatten(1))
        return self.head(self.act(self.each(x)).flatten(1))


@pytest.mark.parametrize("order", ["second", "last", "outer", "inner"])
@pytest.mark.parametrize(("T", "batch"), [(8, 8), (16, 8), (4, 8), (5, 7), (3, 96), (4, 1)])
def test_the_ledger_does_not_depend_on_where_the_examples_are(order: str, T: int, batch: int) -> None:
    batches = sequences(T, batch)
    plain, moved = ledger(Network("first", T), batches), ledger(Network(order, T), batches)
    rows = [0, *(1 + moved.operations.index(name) for name in ("each", "act", "head"))]
    expected = plain.omega[[0, *(1 + plain.operations.index(name) for name in ("each", "act", "head"))]]
    np.testing.assert_allclose(moved.omega[rows], expected, rtol=1e-5)
    assert [moved.affine[k] for k in range(len(moved.operations))] == [name != "act" for name in moved.operations]
    between = [k for k in range(len(moved.operations)) if moved.operations[k] not in ("each", "act", "head")]
    np.testing.assert_allclose(moved.gain[between], 0, atol=1e-5)


def test_states_of_recurrent_layers_have_the_examples_second() -> None:
    class Recurrent(nn.Module):
        def __init__(self, first: bool, hidden: bool) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layer, self.head, self.first, self.hidden = nn.GRU(2, 5, 2, batch_first=first), nn.Linear(5, 3), first, hidden

        def forward(self, x: Tensor) -> Tensor:
            out, state = self.layer(x if self.first else x.transpose(0, 1))
            return self.head(state[-1] if self.hidden else out[:, -1] if self.first else out[-1])

    batches = sequences(8, 8)
    ledgers = [ledger(Recurrent(first, hidden), batches) for first in (True, False) for hidden in (True, False)]
    for one in ledgers:
        np.testing.assert_allclose(one.omega[-2:], ledgers[0].omega[-2:], rtol=1e-5)
        assert one.seen == "torch.fx"


def test_hooks_find_the_examples_too() -> None:
    class Untraceable(Network):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if float(x.sum()) < 1e9 else x

    batches = sequences(8, 8)
    by_hooks, plain = ledger(Untraceable("second", 8), batches), ledger(Network("first", 8), batches)
    assert by_hooks.seen == "hooks"
    np.testing.assert_allclose(by_hooks.omega, plain.omega[[0, 1, 2, 4]], rtol=1e-5)


@pytest.mark.parametrize("spoiled", [lambda x: x.mean(0), lambda x: (x.flatten(0, 1) - x.flatten(0, 1).roll(1, 0)).abs()])
def test_tensors_in_which_examples_mix_are_refused(spoiled: Callable[[Tensor], Tensor]) -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(spoiled(x))

    with pytest.raises(ValueError, match="no axis has the examples, or several of them mix there"):
        ledger(Mixing(), sequences(8, 8))


def test_inputs_whose_first_axis_is_not_that_of_the_examples_are_refused_with_the_way_out() -> None:
    batches = [(x.transpose(0, 1), y) for x, y in sequences(5, 8)]
    with pytest.raises(ValueError, match=r"inputs of shape \(5, 8, 2\) with 8 labels: .* give inputs.transpose\(0, 1\)"):
        ledger(Network("first", 5), batches)


@given(st.permutations(range(3)), st.integers(1, 5), st.booleans(), st.integers(1, 9))
@settings(max_examples=30)
def test_the_axis_is_found_and_its_rows_are_the_examples(order: list[int], fold: int, inner: bool, b: int) -> None:
    def placed(examples: Tensor) -> Tensor:
        return (examples.transpose(0, 1) if inner else examples).flatten(0, 1).permute(*order)

    def random(count: int, seed: int) -> Tensor:
        return torch.randn(count, fold, 2, 3, generator=torch.Generator().manual_seed(seed))

    axis = example_axes(lambda x: {"h": placed(x.relu())}, random(b, 0))["h"]
    assert isinstance(axis, ExampleAxis)
    x = random(b, 1)
    rows = by_example(placed(x), b, "h", axis)
    torch.testing.assert_close(by_example(placed(x.flip(0)), b, "h", axis), rows.flip(0))
    torch.testing.assert_close(axis.means_with_neighbours(placed(x)), placed((x + x.roll(1, 0)) / 2))


class By(nn.Module):
    """A function of the examples, and a linear layer after a ReLU and before the end."""

    def __init__(self, function: Callable[["By", Tensor], Tensor], T: int = 8) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.function, self.act, self.head = function, nn.ReLU(), nn.Linear(2 * T, 3)
        self.norm, self.table = nn.BatchNorm1d(2, track_running_stats=False), nn.Embedding(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self, x).flatten(1))


def of_positions(net: By, x: Tensor) -> Tensor:
    return net.act(x.transpose(0, 1).reshape(-1, 2)).reshape(8, -1, 2).transpose(0, 1)


@pytest.mark.parametrize("spoil", [lambda x: x[:4].zero_(), lambda x: x.mul_(0.3).add_(1e4)])
def test_the_axis_does_not_depend_on_the_first_examples(spoil: Callable[[Tensor], Tensor]) -> None:
    batches = sequences(8, 8)
    for x, _ in batches[:1]:
        spoil(x)
    moved, plain = ledger(By(of_positions), batches), ledger(By(lambda net, x: net.act(x)), batches)
    np.testing.assert_allclose(moved.omega[-2:], plain.omega[-2:], rtol=1e-3)


def test_what_is_changed_in_place_later_does_not_hide_the_axis() -> None:
    def function(net: By, x: Tensor) -> Tensor:
        h = x.transpose(0, 1).reshape(-1, 2)
        out = net.act(h).reshape(8, -1, 2).transpose(0, 1).clone()
        h.zero_()
        return out

    batches = sequences(8, 8)
    np.testing.assert_allclose(
        ledger(By(function), batches).omega[-1], ledger(By(lambda net, x: net.act(x)), batches).omega[-1], rtol=1e-5
    )


@pytest.mark.parametrize("batch", [8, 12, 96])
def test_examples_apart_in_a_tensor_that_mixes_them_with_positions_are_refused(batch: int) -> None:
    with pytest.raises(ValueError, match="no axis has the examples, or several of them mix there"):
        ledger(By(lambda net, x: net.act(x.reshape(8, -1, 2)).reshape(-1, 8, 2)), sequences(8, batch))
    with pytest.raises(ValueError, match="no axis has the examples, or several of them mix there"):
        ledger(
            By(lambda net, x: net.act(x.reshape(8, -1, 2).transpose(0, 1)).transpose(0, 1).reshape(-1, 8, 2)), sequences(8, batch)
        )


@pytest.mark.parametrize(
    ("function", "batch"),
    [
        (lambda net, x: net.act(net.norm(x.reshape(-1, 2)).reshape(-1, 8, 2)), 8),  # statistics of the batch
        (lambda net, x: net.act(torch.cat([x, x.new_zeros(-len(x) % 8, 8, 2)]))[: len(x)], 8),  # padding
        (lambda net, x: net.act(torch.softmax(-0.1 * torch.cdist(x.flatten(1), x.flatten(1)), 1) @ x.flatten(1)), 96),
    ],
)
def test_networks_that_look_at_the_whole_batch_have_their_first_axis(
    function: Callable[[By, Tensor], Tensor], batch: int
) -> None:
    assert np.isfinite(ledger(By(function), sequences(8, batch)).omega[-1]).all()


def test_modules_without_examples_are_no_part_of_a_state_seen_by_hooks() -> None:
    def function(net: By, x: Tensor) -> Tensor:
        return net.act(x + net.table(torch.arange(8))) if float(x.sum()) < 1e9 else x

    result = ledger(By(function), sequences(8, 8))
    assert (result.seen, result.operations) == ("hooks", ("act", "head"))


def test_a_last_batch_of_one_that_loses_its_axis_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="no axis has the examples"):
        ledger(By(lambda net, x: net.act(x.transpose(0, 1)[..., 0]).squeeze().T.repeat(1, 2)), sequences(8, 19))
